"""Settings of slides: defaults of the specification, what is refused; errors that cross process borders."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from microsnoop.core.errors import MicrosnoopError
from microsnoop.core.slide_config import SlideConfig, TilingConfig, TissueConfig
from microsnoop.core.slide_errors import SlideCode, SlideError

SPECIFIED = {"decode_error", "untiled", "mpp_missing", "anisotropic", "no_tissue", "too_few_tiles"}


def test_defaults_are_those_of_the_specification() -> None:
    tissue, tiling = TissueConfig(), TilingConfig()
    assert (tissue.mask_mpp, tissue.method, tissue.border) == (8.0, "otsu", 1 / 30)
    assert (tissue.range, tissue.t_max, tissue.morph_um) == ((0.1, 0.98), 0.92, 16.0)
    assert (tissue.min_area_um2, tissue.fill_holes_um2) == (50_000, 20_000)
    assert not tissue.pen_filter
    assert not tissue.whole_slide
    assert (tiling.tile_px, tiling.target_mpp, tiling.overlap_px) == (224, 0.5, 0)
    assert (tiling.min_tissue, tiling.max_tiles, tiling.min_tiles) == (0.75, None, 10)
    assert not tiling.allow_upsample
    assert not SlideConfig().reading.allow_objective_guess
    assert SlideConfig().reading.max_bad_tiles == 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tiling": {"overlap_px": 224}}, "below tile_px"),
        ({"tiling": {"overlap_px": -1}}, "greater than or equal to 0"),
        ({"tiling": {"tile_size": 224}}, "Extra inputs"),
        ({"tiling": {"min_tissue": 1.5}}, "less than or equal to 1"),
        ({"tissue": {"range": (0.5, 0.2)}}, "low < high"),
        ({"tissue": {"range": (-0.1, 0.2)}}, "low < high"),
        ({"tissue": {"t_max": 0.05}}, "above the lower end"),
        ({"tissue": {"method": "user"}}, "needs user_masks"),
        ({"tissue": {"user_masks": "masks"}}, "needs method user"),
        ({"tissue": {"border": 0.5}}, "less than 0.5"),
        ({"tissue": {"method": "user", "user_masks": "m"}, "compat": {"mask": True}}, "brings one"),
        ({"compat": {"level": -1}}, "greater than or equal to 0"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SlideConfig.model_validate(changes)


def test_the_largest_overlap_leaves_one_pixel() -> None:
    assert TilingConfig(tile_px=64, overlap_px=63).overlap_px == 63


def test_every_setting_is_described() -> None:
    for group in (SlideConfig, *(field.annotation for field in SlideConfig.model_fields.values())):
        assert all(field.description for field in group.model_fields.values()), group  # type: ignore[union-attr]


def test_every_specified_code_is_there() -> None:
    assert {code.value for code in SlideCode} >= SPECIFIED


def test_an_error_survives_a_process_border() -> None:
    error = SlideError("untiled", "a.tif: one piece", "convert it")
    make, arguments = error.__reduce__()[:2]
    again = make(*arguments)
    assert isinstance(again, SlideError)
    assert isinstance(again, (ValueError, MicrosnoopError))
    assert (again.code, again.message, again.hint, str(again)) == (
        SlideCode.UNTILED,
        "a.tif: one piece",
        "convert it",
        "a.tif: one piece",
    )
    with pytest.raises(ValueError, match="no_such"):
        SlideError("no_such", "a code that is none")
