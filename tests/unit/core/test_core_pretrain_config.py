"""Recipes: what is refused, what decides a resumed run, and that every shipped one loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from microsnoop.core.config_file import load_settings
from microsnoop.core.pretrain_config import PretrainConfig

RECIPES = sorted((Path(__file__).parents[3] / "configs" / "pretrain").glob("*.yaml"))


def _build(**changes: Any) -> PretrainConfig:
    base: dict[str, Any] = {
        "run_dir": "r",
        "pool": {"shards": "tiles"},
        "phases": [{"input_px": 64, "steps": 10, "batch": 8}],
    }
    return PretrainConfig.model_validate(base | changes)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads(path: Path) -> None:
    assert load_settings(path, PretrainConfig).total_steps > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": {}}, "exactly one of shards and images"),
        ({"pool": {"shards": "a", "images": {"folder": "b"}}}, "exactly one of shards and images"),
        ({"phases": []}, "at least 1"),
        ({"phases": [{"input_px": 100, "steps": 1, "batch": 8}]}, "multiple of 16 and of patch_px"),
        (
            {"phases": [{"input_px": 64, "steps": 1, "batch": 9}], "execution": {"workers": 2}},
            "cannot be shared",
        ),
        ({"mask": {"ratio": 0}}, "the masked loss has no pixel"),
        ({"mask": {"ratio": 1.0}}, "less than 1"),
        ({"objective": {}}, "at least 1"),
        ({"objective": {"magic": 1}}, "'masked', 'vicreg', 'barlow' or 'dino'"),
        ({"objective": {"masked": 0}}, "greater than 0"),
        ({"views": {"scale": [1.0, 0.5]}}, "0 < low <= high"),
        ({"views": {"clip": [0.5, 3]}}, "around 0"),
        ({"surprise": 1}, "Extra inputs"),
    ],
)
def test_wrong_recipes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _build(**changes)


def test_only_the_recipe_decides_whether_a_run_may_go_on() -> None:
    one = _build()
    moved = _build(run_dir="elsewhere", name="other", execution={"workers": 2}, report={"log_every": 1})
    assert one.recipe() == moved.recipe()
    for change in ({"seed": 1}, {"objective": {"masked": 1}}, {"optimiser": {"peak_lr": 1e-4}}):
        assert one.recipe() != _build(**change).recipe()


def test_views_follow_the_objective() -> None:
    assert _build(objective={"masked": 1}).views_per_tile == 1
    assert _build(objective={"masked": 1, "barlow": 1}).views_per_tile == 2
