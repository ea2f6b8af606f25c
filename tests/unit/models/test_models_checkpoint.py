"""What the importer refuses, and what is written to disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from microsnoop.core.errors import EncoderError
from microsnoop.models.card import EncoderCard, sha256
from microsnoop.models.checkpoint import (
    adapt_published,
    import_checkpoint,
    load_weights,
    read_encoder,
    write_encoder,
)

FIRST_CONV = "encoder.downsample.down.res_down_0.conv.conv_0.2.weight"
STATISTICS = "encoder.downsample.down.res_down_1.conv.conv_3.0.running_var"
NOT_RAISED = pytest.fail.Exception  # what pytest.raises raises when nothing was raised
STYLE = "decoder.upsample.up.res_up_2.conv.conv_3.full.weight"


def make_card(name: str = "mine", **changes) -> EncoderCard:
    fields = {"architecture": "microsnoop-cnn", "trained": True, "description": "x", "licence": "x", "dim": 2}
    return EncoderCard(name=name, **(fields | changes))


def save(state, folder: Path, name: str = "source.pth") -> Path:
    torch.save(state, folder / name)
    return folder / name


class RunsCode:
    """Unpickling an instance creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", [FIRST_CONV, STATISTICS, STYLE, "decoder.base_conv.bias"])
def test_missing_tensor_is_refused(published_state, name):
    del published_state[name]
    with pytest.raises(EncoderError, match=r"1 problem\(s\), first: missing (encoder|decoder)\."):
        adapt_published(published_state)


@pytest.mark.parametrize("name", ["head.weight", "encoder.foo", "encoder.stages.0.convs.0.conv.weight"])
def test_unknown_tensor_is_refused_by_name(published_state, name):
    published_state[name] = torch.zeros(3)
    with pytest.raises(EncoderError, match=f"'{name}' does not belong"):
        adapt_published(published_state)


@pytest.mark.parametrize(
    "name",
    [
        "encoder.downsample.down.res_down_4.proj.1.weight",  # a deeper network
        "encoder.downsample.down.res_down_0.conv.conv_4.2.weight",  # a longer stage
        "decoder.upsample.up.res_up_4.conv.conv_0.2.bias",
        "encoder.downsample.down.res_down_0.conv.conv_0.0.scale",  # another kind of layer
    ],
)
def test_surplus_tensor_of_a_plausible_name_is_refused(published_state, name):
    published_state[name] = torch.zeros(3)
    with pytest.raises(EncoderError):
        adapt_published(published_state)


def test_a_name_with_and_without_prefix_is_refused(published_state):
    published_state[f"module.{FIRST_CONV}"] = published_state[FIRST_CONV] + 1
    with pytest.raises(EncoderError):
        adapt_published(published_state)


@pytest.mark.parametrize(
    ("name", "shape"),
    [(FIRST_CONV, (32, 3, 3, 3)), (STATISTICS, (63,)), (STYLE, (256, 64)), ("decoder.base_bn.weight", ())],
)
def test_tensor_of_another_shape_is_refused(published_state, name, shape):
    if name == STYLE:
        assert tuple(published_state[name].shape) != shape
    published_state[name] = torch.zeros(shape)
    with pytest.raises(EncoderError, match=r"1 problem\(s\), first: .* is \(.*\) \w+, not \("):
        adapt_published(published_state)


def test_code_in_a_checkpoint_is_refused_and_not_run(published_state, tmp_path):
    witness = tmp_path / "created"
    source = save({"model": published_state, "extra": RunsCode(witness)}, tmp_path)
    with pytest.raises(EncoderError, match="cannot read tensors") as caught:
        import_checkpoint(source, name="evil", folder=tmp_path / "models")
    assert not witness.exists()
    assert not (tmp_path / "models").exists()
    assert "never run" in caught.value.hint


def test_the_refusal_does_not_say_how_to_run_the_code(tmp_path):
    source = save(RunsCode(tmp_path / "created"), tmp_path)
    with pytest.raises(EncoderError) as caught:
        import_checkpoint(source, name="evil", folder=tmp_path / "models")
    assert "\x1b" not in caught.value.message
    assert "can still be loaded" not in caught.value.message


def test_code_in_the_old_file_format_is_not_run(tmp_path):
    witness = tmp_path / "created"
    source = tmp_path / "old.pth"
    torch.save(RunsCode(witness), source, _use_new_zipfile_serialization=False)
    with pytest.raises(EncoderError):
        import_checkpoint(source, name="evil", folder=tmp_path / "models")
    assert not witness.exists()


def test_the_witness_of_the_two_tests_above_works(tmp_path):
    """With the loader that runs code, the file does appear."""
    witness = tmp_path / "created"
    torch.load(save(RunsCode(witness), tmp_path), weights_only=False).close()
    assert witness.exists()


def test_pickle_named_safetensors_is_refused(tmp_path):
    witness = tmp_path / "created"
    source = save(RunsCode(witness), tmp_path, "evil.safetensors")
    with pytest.raises(EncoderError, match="cannot read tensors"):
        import_checkpoint(source, name="evil", folder=tmp_path / "models")
    assert not witness.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(published_state, tmp_path, value):
    broken = published_state[FIRST_CONV].clone()
    broken[3, 0, 1, 1] = value
    state = {n: v for n, v in published_state.items() if n.startswith("encoder.")} | {FIRST_CONV: broken}
    with pytest.raises(EncoderError, match="not finite"):
        import_checkpoint(save(state, tmp_path), name="nan", folder=tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("junk.pth", b"hello" * 100),
        ("zip.pth", b"PK\x03\x04"),
        ("empty.safetensors", b""),
        ("junk.safetensors", b"\xff" * 64),
        ("empty.pth", b""),
        ("two_bytes.pth", b"\x80\x02"),
    ],
)
def test_files_that_are_no_checkpoints_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EncoderError, match="cannot read tensors"):
        import_checkpoint(tmp_path / name, name="junk", folder=tmp_path / "models")


def test_truncated_and_missing_files_are_refused(published_state, tmp_path):
    source = save({FIRST_CONV: published_state[FIRST_CONV]}, tmp_path)
    source.write_bytes(source.read_bytes()[:-200])
    for path in (source, tmp_path / "absent.pth", tmp_path):
        with pytest.raises(EncoderError, match="cannot read tensors"):
            import_checkpoint(path, name="cut", folder=tmp_path / "models")


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(3)],
        torch.zeros(3),
        {"model": {"a": 1}},
        {"a": "b"},
        {1: torch.zeros(3)},
    ],
)
def test_other_contents_are_refused(tmp_path, content):
    with pytest.raises(EncoderError):
        import_checkpoint(save(content, tmp_path), name="other", folder=tmp_path / "models")


def test_empty_dictionary_is_refused():
    with pytest.raises(EncoderError, match="140 problem"):
        adapt_published({})


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_tensors_beside_other_entries_are_found(published_state, tmp_path, key):
    encoder_only = {name: v for name, v in published_state.items() if name.startswith("encoder.")}
    source = save({key: encoder_only, "epoch": 999, "optimizer": {"lr": 0.1}}, tmp_path)
    path, _ = import_checkpoint(source, name="full", folder=tmp_path)
    assert len(safetensors.torch.load_file(path)) == 140


def test_half_precision_weights_are_kept_and_loaded_as_float32(published_state, tmp_path):
    state = {
        name: v.half() if v.is_floating_point() else v
        for name, v in published_state.items()
        if name.startswith("encoder.")
    }
    path, _ = import_checkpoint(save(state, tmp_path), name="half", folder=tmp_path)
    from microsnoop.models.cnn import CnnEncoder

    encoder = CnnEncoder()
    load_weights(encoder, path.read_bytes(), prefix="encoder.")
    weight = encoder.stages[0].convs[0].conv.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state[FIRST_CONV].float())


def test_integer_weights_are_refused(published_state):
    published_state[FIRST_CONV] = (10 * published_state[FIRST_CONV]).to(torch.int8)
    with pytest.raises(EncoderError):
        adapt_published(published_state)


def test_tensors_that_share_memory_are_imported(published_state, tmp_path):
    norm = "encoder.downsample.down.res_down_{}.conv.conv_{}.0.bias"
    published_state[norm.format(0, 1)] = published_state[norm.format(0, 2)]
    state = {name: v for name, v in published_state.items() if name.startswith("encoder.")}
    import_checkpoint(save(state, tmp_path), name="shared", folder=tmp_path)


@pytest.mark.parametrize("name", ["../escaped", "a/b", "", "..", "a.safetensors"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    folder = tmp_path / "inner" / "models"
    with pytest.raises((EncoderError, ValueError)):
        write_encoder({"a": torch.zeros(2)}, make_card(name), folder=folder)


def test_writing_and_reading_back(tmp_path):
    state = {"a": torch.arange(4.0), "b": torch.tensor(3)}
    path, card = write_encoder(state, make_card("v1.5"), folder=tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "v1.5.safetensors"
    bundle = read_encoder(path)
    assert bundle.card == card
    assert bundle.card.weights_sha256 == sha256(path.read_bytes()) == sha256(bundle.weights)
    assert torch.equal(safetensors.torch.load(bundle.weights)["a"], state["a"])
    assert sorted(p.name for p in path.parent.iterdir()) == ["v1.5.json", "v1.5.safetensors"]  # no partials


@pytest.mark.parametrize("position", [0, 40, -1])
def test_tampered_weights_are_refused(tmp_path, position):
    path, _ = write_encoder({"a": torch.arange(400.0)}, make_card(), folder=tmp_path)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(EncoderError, match="not the file its card describes") as caught:
        read_encoder(path)
    assert caught.value.hint


@pytest.mark.parametrize("absent", [".json", ".safetensors"])
def test_missing_half_of_an_encoder_is_named(tmp_path, absent):
    path, _ = write_encoder({"a": torch.zeros(4)}, make_card(), folder=tmp_path)
    path.with_suffix(absent).unlink()
    with pytest.raises(EncoderError, match=rf"mine\{absent} does not exist") as caught:
        read_encoder(path)
    assert "models import" in caught.value.hint


@pytest.mark.parametrize("text", ["", "[]", "{", '{"name": "x"}', "\x00"])
def test_damaged_card_is_refused(tmp_path, text):
    path, _ = write_encoder({"a": torch.zeros(4)}, make_card(), folder=tmp_path)
    path.with_suffix(".json").write_text(text)
    with pytest.raises(EncoderError, match=r"mine\.json is not valid"):
        read_encoder(path)


def test_unknown_field_in_a_card_is_refused(tmp_path):
    path, card = write_encoder({"a": torch.zeros(4)}, make_card(), folder=tmp_path)
    path.with_suffix(".json").write_text(json.dumps(card.model_dump() | {"surprise": 1}))
    with pytest.raises(EncoderError, match="surprise"):
        read_encoder(path)


def test_load_weights_is_strict():
    layer = nn.Linear(2, 3)
    good = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    load_weights(layer, safetensors.torch.save(good))
    assert float(layer.weight.detach().sum()) == 6.0
    for bad in (
        {"weight": good["weight"]},
        good | {"more": torch.zeros(1)},
        good | {"bias": torch.zeros(4)},
    ):
        with pytest.raises(EncoderError, match="do not fit"):
            load_weights(layer, safetensors.torch.save(bad))
    with pytest.raises(EncoderError, match="not a readable safetensors"):
        load_weights(layer, b"")


def test_load_weights_takes_one_prefix_only():
    layer = nn.Linear(2, 1, bias=False)
    both = {"encoder.weight": torch.full((1, 2), 2.0), "decoder.weight": torch.full((1, 2), 5.0)}
    load_weights(layer, safetensors.torch.save(both), prefix="encoder.")
    assert torch.equal(layer.weight.detach(), torch.full((1, 2), 2.0))
