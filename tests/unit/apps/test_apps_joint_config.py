"""The configuration of a joint analysis: what is refused, and how file, options and ``--set`` go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from microsnoop.core.config_file import build_config
from microsnoop.core.errors import ConfigError
from microsnoop.core.joint_config import METHODS, JointConfig
from microsnoop_apps.joint.settings import joint_config
from microsnoop_apps.reference import reference

ROOT = Path(__file__).resolve().parents[3]
BOTH = {"rna": "a.h5ad", "image": "b.h5ad"}


def made(**settings: Any) -> JointConfig:
    return build_config({"input": BOTH} | settings, overrides=None, model=JointConfig, where="test")


def test_defaults_compare_every_method_with_five_seeds() -> None:
    config = made()
    assert config.methods == list(METHODS) == [
        "transcripts", "images", "concat", "wnn", "mofa", "muse", "shuffled"
    ]  # fmt: skip
    assert (config.seeds, config.seed, config.resolutions) == (5, 0, [0.2, 0.5, 1.0, 2.0])
    assert (config.transcripts.n_genes, config.image.components, config.muse.gate) == (
        2_000,
        50,
        "replicability",
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"input": {}}, "exactly one of mudata, rna, spots, seqfish is needed, got none"),
        ({"input": BOTH | {"mudata": "c.h5mu"}}, "got mudata and rna"),
        ({"input": {"mudata": "c.h5mu", "image": "b.h5ad"}}, "leave image out"),
        ({"input": {"rna": "a.h5ad"}}, "rna needs image"),
        ({"input": {"spots": {"source": "x"}}}, "spots needs image"),
        ({"input": {"seqfish": {"folder": "x"}}}, "seqfish needs image"),
        ({"input": BOTH, "simulation": {}}, "exactly one of input and simulation"),
        ({"input": None}, "exactly one of input and simulation"),
        ({"methods": ["images", "muse"]}, "must hold transcripts"),
        ({"methods": ["transcripts", "images"]}, "must hold muse"),
        ({"methods": ["transcripts", "images", "muse", "muse"]}, "names one twice"),
        ({"methods": ["transcripts", "images", "muse", "umap"]}, "methods"),
        ({"labels": ["a", "a"]}, "labels names one twice: a, a"),
        ({"muse": {"seed": 1}}, "muse.seed is given under seed"),
        ({"muse": {"image_components": None}}, "given under image.components"),
        ({"muse": {"image_standardise": "no"}}, "given under image.standardise"),
        ({"muse": {"gate": "open"}}, "muse.gate"),
        ({"seeds": 0}, "seeds"),
        ({"resolutions": []}, "resolutions"),
        ({"resolutions": [0.0]}, "resolutions"),
        ({"label": "kind"}, "label: Extra inputs"),
        ({"input": {"spots": {"source": "x", "pixel_size_um": 0}, "image": "y"}}, "pixel_size_um"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace(".", r"\.").replace("(", r"\(")):
        made(**settings)


def test_a_simulation_may_set_all_of_muse() -> None:
    config = JointConfig.model_validate({"simulation": {}, "muse": {"seed": 3, "image_components": 20}})
    assert config.simulation is not None
    assert config.muse.seed == 3


def write(folder: Path, **settings: Any) -> Path:
    path = folder / "joint.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_options_and_set_go_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, input=BOTH, labels=["old"], seeds=2, out="there")
    config = joint_config(
        path, {"out": "here", "seed": 4}, labels=["kind"], settings=["seeds=3", "muse.k=12"]
    )
    assert (config.out, config.seed, config.labels, config.seeds, config.muse.k) == (
        "here",
        4,
        ["kind"],
        3,
        12,
    )


def test_an_option_takes_the_place_of_another_source(tmp_path: Path) -> None:
    path = write(tmp_path, input={"spots": {"source": "her2st", "section": "B4"}, "image": "runs/b4"})
    assert joint_config(path, {"input.rna": "a.h5ad"}, labels=[], settings=[]).input.model_dump(
        exclude_defaults=True
    ) == {"rna": "a.h5ad", "image": "runs/b4"}
    with_both = joint_config(path, {"input.mudata": "c.h5mu"}, labels=[], settings=[])
    assert with_both.input is not None
    assert (with_both.input.mudata, with_both.input.image, with_both.input.spots) == ("c.h5mu", None, None)


def test_without_a_file_options_are_enough_and_nothing_is_not() -> None:
    config = joint_config(None, {f"input.{k}": v for k, v in BOTH.items()}, labels=["kind"], settings=[])
    assert config.input is not None
    assert (config.input.rna, config.labels) == ("a.h5ad", ["kind"])
    with pytest.raises(ConfigError, match="no cells") as caught:
        joint_config(None, {"out": "x"}, labels=["kind"], settings=["seeds=2"])
    assert "--rna" in caught.value.hint


@pytest.mark.parametrize("path", sorted((ROOT / "configs/joint").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_right(path: Path) -> None:
    config = joint_config(path, {}, labels=[], settings=[])
    assert (config.input is None) == (path.stem == "simulation")


def test_her2st_reports_say_where_labels_and_encoder_come_from() -> None:
    for section in ("b4", "c2"):
        config = joint_config(ROOT / f"configs/joint/her2st-{section}.yaml", {}, labels=[], settings=[])
        notes = " ".join(config.notes)
        assert "made from the counts" in notes
        assert "snoop-trial was trained on" in notes
        assert config.input is not None
        assert config.input.spots is not None
        assert (config.input.spots.section, config.input.image) == (section.upper(), f"runs/her2st-{section}")


def test_every_key_is_in_the_reference_with_sections_inside_optional_ones() -> None:
    page = reference()
    rows = page[page.index("# Configuration of a joint analysis") :]
    for key in (
        "input.spots.section",
        "input.seqfish.tissue",
        "muse.gate",
        "simulation.cells.n",
        "genes.groups",
    ):
        assert f"| `{key}` |" in rows
    assert all(
        line.count("|") - line.count("\\|") == 5 for line in rows.splitlines() if line.startswith("| `")
    )
