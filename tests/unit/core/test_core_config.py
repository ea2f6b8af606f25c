"""Settings: what is refused, what overrides do, what stands in the key of a row, and every shipped file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from microsnoop.core.config import (
    EmbedConfig,
    ExecutionConfig,
    InputConfig,
    NativeConfig,
    NormaliseConfig,
    TileConfig,
    digest,
)
from microsnoop.core.config_file import build_config, load_config, load_settings
from microsnoop.core.errors import ConfigError, MicrosnoopError
from microsnoop.core.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
DID_NOT_RAISE = pytest.fail.Exception
SHIPPED = sorted((ROOT / "configs" / "embed").glob("*.yaml"))
MINIMAL: dict[str, Any] = {"input": {"folder": "images"}, "run_dir": "runs/x"}


def build(overrides: dict[str, Any] | None = None, data: dict[str, Any] | None = None) -> EmbedConfig:
    return build_config(
        MINIMAL if data is None else data, overrides=overrides, model=EmbedConfig, where="test"
    )


@pytest.fixture
def yaml_file(tmp_path: Path) -> Any:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "embed.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


# ---------------------------------------------------------------- files that are shipped


def test_there_are_shipped_configurations() -> None:
    assert {"demo.yaml", "folder.yaml", "jurkat.yaml", "plate.yaml"} <= {path.name for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path: Path) -> None:
    cfg = load_config(path)
    assert cfg.version == 1
    assert cfg.run_dir.startswith("runs/")
    assert load_config(path) == cfg


def test_keys_of_a_shipped_file_arrive_where_they_belong() -> None:
    cfg = load_config(ROOT / "configs" / "embed" / "demo.yaml")
    assert cfg.input.cell_size_px == 96
    assert cfg.input.channels == {"DNA": 0}
    assert (cfg.mode, cfg.input_px, cfg.encoder) == ("native", 96, "snoop-trial")


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("modee", "tile", "Extra inputs are not permitted"),
        ("input.foldr", "x", "Extra inputs are not permitted"),
        ("normalise.lo", 1, "Extra inputs are not permitted"),
        ("native.factor", 1, "Extra inputs are not permitted"),
        ("tile.over_lap", 0.1, "Extra inputs are not permitted"),
        ("execution.gpu", 1, "Extra inputs are not permitted"),
        ("version", 2, "Input should be 1"),
        ("version", None, "Input should be 1"),
        ("mode", "slide", "'rescale', 'native', 'tile' or 'crop'"),
        ("input_px", 225, "input_px must be a multiple of 8, got 225"),
        ("input_px", 228, "input_px must be a multiple of 8, got 228"),
        ("input_px", 0, "greater than or equal to 8"),
        ("input_px", 7, "greater than or equal to 8"),
        ("seed", -1, "greater than or equal to 0"),
        ("compat", ["crop_geometry"], "pad_before_normalize"),
        ("compat", "pad_before_normalize", "valid list"),
        ("fuse", "add", "'concat', 'mean' or 'chans'"),
        ("export", "csv", "'h5ad', 'zarr' or 'none'"),
        ("max_reject_fraction", 1.01, "less than or equal to 1"),
        ("max_reject_fraction", -0.01, "greater than or equal to 0"),
        ("max_reject_fraction", float("nan"), "max_reject_fraction"),
        ("input.manifest", "m.csv", "exactly one of manifest, folder and pattern"),
        ("input.pattern", "{channel}.tif", "exactly one of manifest, folder and pattern"),
        ("input.folder", None, "exactly one of manifest, folder and pattern, got none"),
        ("input.cell_size_px", 0, "greater than or equal to 1"),
        ("input.pixel_size_um", 0, "greater than 0"),
        ("input.max_image_mpx", 0, "greater than 0"),
        ("input.min_side_px", 0, "greater than or equal to 1"),
        ("input.limit", 0, "greater than or equal to 1"),
        ("input.channels", 3, "input.channels"),
        ("normalise.low", -0.1, "greater than or equal to 0"),
        ("normalise.low", 100, "less than 100"),
        ("normalise.low", float("nan"), "normalise.low"),
        ("normalise.high", 0, "greater than 0"),
        ("normalise.high", 100.1, "less than or equal to 100"),
        ("normalise.high", 1, "low (1.0) must be below high (1.0)"),
        ("normalise.clip", "published", "normalise.clip"),
        ("normalise.clip", [10, -1], "clip must be [low, high] with low < high, got [10.0, -1.0]"),
        ("normalise.clip", [1, 1], "clip must be [low, high]"),
        ("normalise.clip", [-1, 0, 1], "normalise.clip"),
        ("normalise.pad", "constant", "'zero', 'edge_median' or 'reflect'"),
        ("normalise.constant_plane", "drop", "'flag' or 'reject'"),
        ("native.rescale_factor", 0, "greater than 0"),
        ("native.target_um_per_px", 0, "greater than 0"),
        ("native.on_oversize", "crop", "'reject' or 'tile'"),
        ("tile.foreground", 1.1, "less than or equal to 1"),
        ("segment.diameter_px", 3.9, "greater than or equal to 4"),
        ("segment.method", "magic", "'threshold', 'cellpose', 'stardist' or 'instanseg'"),
        ("segment.model", "x.pt", "method threshold has no weights"),
        ("crop.ratio", 0, "greater than 0"),
        ("crop.kind", "box", "'region', 'fixed', 'bbox' or 'mask'"),
        ("crop.max_area_px", 3, "max_area_px (3.0) is below min_area_px (16.0)"),
        ("crop.every_nth", 0, "greater than or equal to 1"),
        ("input.masks", "masks", "input.masks is for mode crop, not rescale"),
        ("input.missing_channel", "zero", "'reject' or 'mask'"),
        ("input.block_px", 8, "greater than or equal to 64"),
        ("tile.overlap", 0.049, "greater than or equal to 0.05"),  # spec 9: raised, never clamped
        ("tile.overlap", 0.51, "less than or equal to 0.5"),
        ("tile.overlap", float("nan"), "tile.overlap"),
        ("tile.rate", 0, "greater than 0"),
        ("tile.rate", 1.01, "less than or equal to 1"),
        ("tile.norm", "plate", "'tile' or 'image'"),
        ("execution.device", "gpu", "'auto', 'cpu', 'cuda' or 'mps'"),
        ("execution.precision", "fp16", "'auto', 'fp32' or 'bf16'"),
        ("execution.memory_gb", 0, "greater than 0"),
        ("execution.batch_planes", 0, "greater than or equal to 1"),
        ("execution.actors", 0, "greater than or equal to 1"),
        ("execution.num_gpus_per_actor", 0, "greater than 0"),
        ("execution.num_gpus_per_actor", 1.5, "less than or equal to 1"),
        ("execution.rows_per_part", 0, "greater than or equal to 1"),
        ("execution.flush_seconds", 0, "greater than 0"),
        ("run_dir", 7, "valid string"),
    ],
)
def test_wrong_setting_is_refused_with_its_key(key: str, value: Any, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build({key: value})
    message = caught.value.message
    assert message.startswith("test has ")
    assert complaint in message
    assert key.split(".")[0] in message
    assert "docs/configuration.md" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tile.overlap", 0.05),
        ("tile.overlap", 0.5),
        ("tile.rate", 1),
        ("tile.rate", 1e-6),
        ("normalise.low", 0),
        ("normalise.high", 100),
        ("normalise.clip", "none"),
        ("normalise.clip", [-1, 10]),
        ("input_px", 8),
        ("input_px", None),
        ("max_reject_fraction", 0),
        ("max_reject_fraction", 1),
        ("input.channels", ["DNA", 2]),
        ("input.channels", {"DNA": 0, "ER": "channel 2"}),
        ("compat", ["pad_before_normalize"]),
        ("execution.num_gpus_per_actor", 1),
        ("native.target_um_per_px", 0.65),
    ],
)
def test_values_on_the_border_are_accepted(key: str, value: Any) -> None:
    found: Any = build({key: value})
    for part in key.split("."):
        found = getattr(found, part)
    assert found == (tuple(value) if key == "normalise.clip" and value != "none" else value)


@pytest.mark.parametrize("missing", ["input", "run_dir"])
def test_required_key_is_named(missing: str) -> None:
    data = {key: value for key, value in MINIMAL.items() if key != missing}
    with pytest.raises(ConfigError, match=f"{missing}: Field required"):
        build(data=data)


def test_all_wrong_settings_are_listed_at_once() -> None:
    with pytest.raises(ConfigError, match="wrong settings") as caught:
        build({"mode": "x", "tile.rate": 7, "nonsense": 1})
    for key in ("mode:", "tile.rate:", "nonsense:"):
        assert f"  {key}" in caught.value.message


def test_stack_and_cells_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="stack and cells exclude each other"):
        build({"input.stack": True, "input.cells": "cells.csv"})
    assert build({"input.stack": True}).input.stack
    assert build({"input.cells": "cells.csv"}).input.cells == "cells.csv"


def test_native_takes_one_scale_only() -> None:
    with pytest.raises(ConfigError, match="rescale_factor or target_um_per_px, not both"):
        build({"native.rescale_factor": 0.5, "native.target_um_per_px": 0.65})


def test_an_unknown_key_gets_no_word_from_the_library_underneath() -> None:
    with pytest.raises(ConfigError) as caught:
        build({"modee": 1})
    assert "pydantic" not in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, MicrosnoopError)


@pytest.mark.parametrize(
    "model", [InputConfig, NormaliseConfig, NativeConfig, TileConfig, ExecutionConfig, EmbedConfig]
)
def test_every_model_is_frozen_closed_and_described(model: type[Settings]) -> None:
    assert model.model_config["frozen"]
    assert model.model_config["extra"] == "forbid"
    assert all(field.description for field in model.model_fields.values())


def test_checked_settings_cannot_be_changed() -> None:
    cfg = build()
    with pytest.raises(ValidationError, match="frozen"):
        cfg.mode = "tile"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        cfg.tile.rate = 0.5  # type: ignore[misc]


# ---------------------------------------------------------------- overrides


def test_overrides_lie_over_the_file_and_leave_the_rest() -> None:
    data = {**MINIMAL, "tile": {"overlap": 0.2, "rate": 0.5}, "mode": "tile"}
    cfg = build({"tile.rate": 0.25, "seed": 3}, data)
    assert (cfg.tile.overlap, cfg.tile.rate, cfg.mode, cfg.seed) == (0.2, 0.25, "tile", 3)


def test_overrides_make_sections_that_the_file_lacks() -> None:
    cfg = build({"input.pattern": "{channel}.tif", "run_dir": "r", "execution.actors": 2}, {})
    assert (cfg.input.pattern, cfg.execution.actors) == ("{channel}.tif", 2)


def test_an_override_of_none_takes_a_value_of_the_file_away() -> None:
    cfg = build({"input.folder": None, "input.manifest": "m.csv"})
    assert cfg.input.folder is None


def test_later_overrides_win() -> None:
    assert build({"tile": {"rate": 0.5}, "tile.rate": 0.75}).tile.rate == 0.75


def test_overrides_change_neither_the_file_data_nor_each_other() -> None:
    data = {"input": {"folder": "a"}, "run_dir": "r", "tile": {"rate": 0.5}}
    build({"tile.rate": 0.25, "input.folder": "b"}, data)
    assert data == {"input": {"folder": "a"}, "run_dir": "r", "tile": {"rate": 0.5}}


def test_a_date_in_the_file_is_read_as_text(yaml_file: Any) -> None:
    assert load_config(yaml_file("{input: {folder: f}, run_dir: 2024-01-02}")).run_dir == "2024-01-02"


@pytest.mark.parametrize("text", ["{run_dir: a, run_dir: b}", "{1: a}", "{tile: {rate: 1, rate: 0.5}}"])
def test_a_key_that_stands_twice_or_is_not_text_is_refused(yaml_file: Any, text: str) -> None:
    with pytest.raises(ConfigError, match="stands twice or is not text"):
        load_config(yaml_file(text))


@pytest.mark.parametrize(
    ("data", "overrides"),
    [
        ({"run_dir": "r", "input": None}, {"input.pattern": "{channel}.tif"}),  # `input:` left empty in YAML
        ({**MINIMAL, "tile": None}, {"tile.rate": 0.5}),
        ({**MINIMAL, "mode": "tile"}, {"mode.rate": 0.5}),
    ],
)
def test_an_override_below_an_empty_or_scalar_key_never_ends_in_a_traceback(
    data: dict[str, Any], overrides: dict[str, Any]
) -> None:
    try:
        cfg = build(overrides, data)
    except ConfigError:
        return
    assert isinstance(cfg, EmbedConfig)


def test_a_date_as_key_is_a_wrong_setting_not_a_traceback(yaml_file: Any) -> None:
    with pytest.raises(ConfigError):
        load_config(yaml_file("run_dir: r\ninput: {folder: x}\n2024-01-02: x\n"))


@pytest.mark.parametrize(
    "key", ["native.rescale_factor", "native.target_um_per_px", "input.pixel_size_um", "execution.memory_gb"]
)
def test_infinite_lengths_and_sizes_are_refused(key: str) -> None:
    with pytest.raises(ConfigError):
        build({key: float("inf")})


def test_a_truth_value_is_no_channel() -> None:
    with pytest.raises(ConfigError):
        build({"input.channels": [True]})


@pytest.mark.parametrize("nothing", [[], {}])
def test_an_empty_choice_of_channels_is_refused(nothing: Any) -> None:
    with pytest.raises(ConfigError):
        build({"input.channels": nothing})


# ---------------------------------------------------------------- reading files


def test_a_file_is_read_and_overridden(yaml_file: Any) -> None:
    path = yaml_file("input:\n  folder: images\nrun_dir: r\nnormalise: {clip: [-1, 5], pad: reflect}\n")
    cfg = load_config(path, overrides={"normalise.low": 2})
    assert cfg.normalise.clip == (-1.0, 5.0)
    assert (cfg.normalise.low, cfg.normalise.high, cfg.normalise.pad) == (2.0, 99.0, "reflect")


def test_any_settings_model_can_be_read(yaml_file: Any) -> None:
    assert load_settings(yaml_file("{overlap: 0.2}"), TileConfig) == TileConfig(overlap=0.2)
    with pytest.raises(ConfigError, match=r"embed\.yaml has wrong settings:\n  rate: "):
        load_settings(yaml_file("{rate: 2}"), TileConfig)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("input: [", "is not valid YAML"),
        ("a: b: c", "is not valid YAML"),
        ("a:\n\t- b", "is not valid YAML"),
        ("x: !!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("a: \x00", "is not valid YAML"),
        ("", "must hold keys and values, got NoneType"),
        ("# only a comment", "must hold keys and values, got NoneType"),
        ("- input", "must hold keys and values, got list"),
        ("just words", "must hold keys and values, got str"),
        (b"run_dir: \xff\xfe", "cannot read the configuration"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_by_name(
    yaml_file: Any, text: str | bytes, complaint: str
) -> None:
    path = yaml_file(text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_config(path)
    assert str(path) in caught.value.message


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(tmp_path)


# ---------------------------------------------------------------- what changes numbers

# leaf setting -> another legal value; every setting must stand in exactly one of the two lists
CHANGES_NUMBERS: dict[str, Any] = {
    "mode": "tile",
    "input_px": 96,
    "antialias": False,
    "l2": False,
    "pooling": "paper",
    "seed": 1,
    "compat": ["pad_before_normalize"],
    "normalise.enabled": False,
    "normalise.low": 2.0,
    "normalise.high": 98.0,
    "normalise.clip": [-1, 5],
    "normalise.pad": "reflect",
    "normalise.constant_plane": "reject",
    "native.rescale_factor": 0.5,
    "native.target_um_per_px": 0.65,
    "native.on_oversize": "tile",
    "tile.overlap": 0.2,
    "tile.rate": 0.5,
    "tile.norm": "image",
    "tile.foreground": 0.1,
    "input.missing_channel": "mask",
    "input.channels": ["DNA"],
    "input.cell_size_px": 64,
    # these two decide which rows are rejected
    "input.min_side_px": 8,
    "input.max_image_mpx": 1.0,
}
CHANGES_NUMBERS_OF_CROPS: dict[str, Any] = {
    "input.block_px": 4096,  # what is segmented on the fly is segmented in blocks
    "input.mask_kind": "binary",
    "segment.method": "cellpose",
    "segment.channel": "DNA",
    "segment.polarity": "dark",
    "segment.threshold": "local",
    "segment.diameter_px": 20.0,
    "segment.diameter_um": 9.0,
    "segment.split": False,
    "segment.halo_px": 64,
    "crop.kind": "mask",
    "crop.mask_of": "cell",
    "crop.ratio": 3.0,
    "crop.window_um": 20.0,
    "crop.window_px": 64,
    "crop.oversize": "shrink",
    "crop.align": "crop",
    "crop.fill": True,
    "crop.exclude_border": False,
    "crop.border_margin_px": 2,
    "crop.min_area_px": 20.0,
    "crop.max_area_px": 900.0,
    "crop.every_nth": 2,
    "crop.max_cells": 10,
}
CHANGES_NO_NUMBER: dict[str, Any] = {
    "run_dir": "elsewhere",
    "encoder": "untrained",  # stands in the identity of a run by the hash of its weights
    "fuse": "mean",  # applied at export, to vectors that are stored per channel
    "export": "zarr",
    "max_reject_fraction": 0.5,
    "input.folder": "other",  # sources stand in the record key
    "input.manifest": None,
    "input.pattern": None,
    "input.root": "/data",
    "input.columns": {"uri": "file"},
    "input.stack": True,
    "input.cells": "cells.csv",
    "input.cells_columns": {"image": "file"},
    "input.limit": 3,
    "segment.model": None,  # only with a foreign method, tested below
    "execution.device": "cpu",
    "execution.precision": "fp32",  # stands in the identity of a run as it was resolved
    "execution.compile": True,
    "execution.memory_gb": 2.0,
    "execution.batch_planes": 8,
    "execution.actors": 2,
    "execution.num_gpus_per_actor": 0.5,
    "execution.address": "auto",
    "execution.rows_per_part": 7,
    "execution.flush_seconds": 1.0,
}
# a constant; part of the record key, tested below; part of the record key by the files it finds
ELSEWHERE = {"version", "input.pixel_size_um", "input.masks"}


def leaves(model: type[Settings], prefix: str = "") -> set[str]:
    names: set[str] = set()
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            names |= leaves(inner, f"{prefix}{name}.")
        else:
            names.add(prefix + name)
    return names


def test_every_setting_is_known_to_these_tests() -> None:
    listed = [*CHANGES_NUMBERS, *CHANGES_NUMBERS_OF_CROPS, *CHANGES_NO_NUMBER, *ELSEWHERE]
    assert sorted(listed) == sorted(leaves(EmbedConfig))


@pytest.mark.parametrize("key", CHANGES_NUMBERS)
def test_a_setting_that_changes_numbers_changes_the_processing_key(key: str) -> None:
    assert digest(build({key: CHANGES_NUMBERS[key]}).processing()) != digest(build().processing())


@pytest.mark.parametrize("key", CHANGES_NUMBERS_OF_CROPS)
def test_a_setting_of_crops_changes_the_processing_key_of_crops_alone(key: str) -> None:
    setting = {key: CHANGES_NUMBERS_OF_CROPS[key]}
    crops = {"mode": "crop"}
    assert digest(build(crops | setting).processing()) != digest(build(crops).processing())
    assert build(setting).processing() == build().processing()


def test_the_model_of_a_foreign_segmenter_changes_the_processing_key() -> None:
    crops = {"mode": "crop", "segment.method": "cellpose"}
    assert (
        build({**crops, "segment.model": "a"}).processing()
        != build({**crops, "segment.model": "b"}).processing()
    )


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"mode": "crop", "input.cells": "cells.csv"}, "mode crop finds the cells itself"),
        ({"mode": "crop", "input.masks": "m", "input.cells": "c.csv"}, "masks and cells exclude each other"),
        ({"crop.ratio": 2.0, "crop.window_um": 9.0}, "ratio or window_um, not both"),
        ({"crop.ratio": 2.0, "crop.kind": "bbox"}, "belong to kind region, not bbox"),
        ({"segment.diameter_px": 8.0, "segment.diameter_um": 9.0}, "diameter_px or diameter_um, not both"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        build(settings)


@pytest.mark.parametrize(
    ("settings", "ratio", "oversize"),
    [
        ({}, 2.0, "cap"),
        ({"crop.mask_of": "cell"}, 1.0, "cap"),
        ({"crop.ratio": 2.5, "crop.mask_of": "cell"}, 2.5, "cap"),
        ({"crop.kind": "mask"}, 2.0, "shrink"),
        ({"crop.kind": "bbox", "crop.oversize": "reject"}, 2.0, "reject"),
    ],
)
def test_defaults_of_crops_follow_what_the_mask_outlines(
    settings: dict[str, Any], ratio: float, oversize: str
) -> None:
    crop = build(settings).crop
    assert (crop.used_ratio, crop.used_oversize) == (ratio, oversize)


@pytest.mark.parametrize("key", CHANGES_NO_NUMBER)
def test_a_setting_that_changes_no_number_leaves_the_processing_key(key: str) -> None:
    assert build({key: CHANGES_NO_NUMBER[key]}).processing() == build().processing()


def test_processing_is_plain_json() -> None:
    clip = build({"normalise.clip": [-1, 10]}).processing()["normalise"]["clip"]
    assert clip == [-1.0, 10.0]
    assert type(clip) is list
    assert build({"native.rescale_factor": 1}).processing() == build().processing()  # 1 and 1.0 are one


def test_the_default_pooling_stands_in_no_key() -> None:
    """Runs begun before the setting existed go on."""
    assert "pooling" not in build({"pooling": "encoder"}).processing()
    assert build({"pooling": "paper"}).processing()["pooling"] == "paper"


def test_golden_processing_key() -> None:
    # changing this makes every run begun before stale: do it on purpose or not at all
    assert digest(build().processing()) == "a014009ba007e09515f1e0a68ef169dc"


def test_another_pixel_size_gives_another_row_key_where_it_sets_the_scale(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    from microsnoop.io.images import ImageReader, ImageSource
    from microsnoop.io.manifest import read_records
    from microsnoop.pipelines.fields import ReadJob
    from microsnoop.pipelines.samples import samples_of

    plane = np.arange(96 * 128, dtype=np.uint32).reshape(96, 128) % 251
    Image.fromarray(plane.astype(np.uint8)).save(tmp_path / "a.png")
    found = []
    for pixel_size_um in (0.5, 0.25):
        cfg = build(
            {
                "input.folder": str(tmp_path),
                "mode": "native",
                "native.target_um_per_px": 0.5,
                "input.pixel_size_um": pixel_size_um,
            }
        )
        (record,) = read_records(cfg.input).records.to_pylist()
        with ImageReader(limit_px=10**6) as reader:
            names = reader.read(ImageSource.of(record)).channels
            job = ReadJob(cfg, tuple(names), 224, digest(cfg.processing()), session="1")
            (row,) = samples_of(record, reader, job)
        found.append((row["factor"], row["row_key"]))
    (factor_a, key_a), (factor_b, key_b) = found
    assert (factor_a, factor_b) == (1.0, 0.5)
    assert key_a != key_b


# ---------------------------------------------------------------- digest


def test_digest_is_known() -> None:
    assert digest({"a": 1, "b": [1.5, None, "é"]}) == "8e7d386a22d3c27dbe1cffe9bb219085"


def test_digest_ignores_the_order_of_keys_but_not_of_lists() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest([1, 2]) != digest([2, 1])


@pytest.mark.parametrize(
    ("one", "other"), [({"a": 1}, {"a": "1"}), ({"a": None}, {}), ([], {}), ([["a"], "b"], ["a", ["b"]])]
)
def test_digest_tells_values_apart(one: Any, other: Any) -> None:
    assert digest(one) != digest(other)


def test_digest_takes_paths_as_text() -> None:
    assert digest(Path("a/b")) == digest("a/b")
