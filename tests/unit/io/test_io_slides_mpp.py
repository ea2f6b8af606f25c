"""µm per pixel: the order of sources, their valid range, square pixels, and the places files state it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from microsnoop.core.slide_errors import SlideCode, SlideError, SlideFlag
from microsnoop.io.slide_mpp import (
    MppHints,
    hints_of_aperio,
    hints_of_openslide,
    mpp_of_ome,
    mpp_of_tags,
    resolve_mpp,
)
from microsnoop.io.slides import open_slide

EVERYTHING: dict[str, Any] = {
    "slide": (0.25, 0.25),
    "ome": (0.3, 0.3),
    "tiff_tags": (0.4, 0.4),
    "objective": 20.0,
}
APERIO = "Aperio Image Library v11\r\n46000x32914 (240x240) JPEG/RGB Q=30|AppMag = 40|Title = x|MPP = 0.2527|Left = 2"


def _ome(sizes: str) -> str:
    space = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    return (
        f'<OME xmlns="{space}"><Image ID="I:0"><Pixels ID="P:0" {sizes}/></Image>'
        '<Image ID="I:1"><Pixels PhysicalSizeX="9" PhysicalSizeY="9"/></Image></OME>'
    )


def test_the_order_of_sources() -> None:
    left = dict(EVERYTHING)
    found = resolve_mpp(MppHints(**left), name="a", override=0.45, allow_objective_guess=True)
    assert (found.x_um, found.y_um, found.source, found.flags) == (0.45, 0.45, "override", ())
    for source in ("slide", "ome", "tiff_tags", "objective"):
        found = resolve_mpp(MppHints(**left), name="a", allow_objective_guess=True)
        assert found.source == source
        value = left.pop(source)
        assert (found.x_um, found.y_um) == ((0.5, 0.5) if source == "objective" else value)


@pytest.mark.parametrize(("power", "mpp"), [(40.0, 0.25), (20.0, 0.5), (10.0, 1.0)])
def test_an_objective_is_a_guess_that_must_be_allowed(power: float, mpp: float) -> None:
    hints = MppHints(objective=power)
    found = resolve_mpp(hints, name="a", allow_objective_guess=True)
    assert (found.mean_um, found.flags) == (mpp, (SlideFlag.MPP_GUESSED,))
    with pytest.raises(SlideError, match=f"objective of {power:g} would mean") as caught:
        resolve_mpp(hints, name="a.svs")
    assert caught.value.code == SlideCode.MPP_MISSING
    assert "a.svs" in caught.value.message


def test_an_unusual_objective_is_no_guess() -> None:
    with pytest.raises(SlideError, match="no usual value"):
        resolve_mpp(MppHints(objective=63.0), name="a", allow_objective_guess=True)


@pytest.mark.parametrize(
    ("mpp", "valid"),
    [(0.05, True), (5.0, True), (0.0499, False), (5.01, False), (352.8, False), (-0.5, False)],
)
def test_the_valid_range(mpp: float, valid: bool) -> None:
    for options in ({"override": mpp}, {}):
        hints = MppHints() if options else MppHints(tiff_tags=(mpp, mpp))
        if valid:
            assert resolve_mpp(hints, name="a", **options).mean_um == mpp
            continue
        with pytest.raises(SlideError, match=r"between 0\.05 and 5") as caught:
            resolve_mpp(hints, name="a", **options)
        assert caught.value.code == SlideCode.MPP_MISSING


def test_what_is_out_of_range_is_passed_over() -> None:
    found = resolve_mpp(MppHints(slide=(352.8, 352.8), tiff_tags=(0.5, 0.5)), name="a")
    assert (found.source, found.flags) == ("tiff_tags", ())


@pytest.mark.parametrize(("y_um", "square"), [(0.505, True), (0.4951, True), (0.506, False), (0.49, False)])
def test_pixels_are_square_within_1_percent(y_um: float, square: bool) -> None:
    for options in ({"override": (0.5, y_um)}, {}):
        hints = MppHints() if options else MppHints(slide=(0.5, y_um), tiff_tags=(0.5, 0.5))
        if square:
            found = resolve_mpp(hints, name="a", **options)
            assert (found.x_um, found.y_um) == (0.5, y_um)
            assert found.mean_um == pytest.approx((0.5 + y_um) / 2)
            continue
        with pytest.raises(SlideError, match="not square") as caught:
            resolve_mpp(hints, name="a", **options)
        assert caught.value.code == SlideCode.ANISOTROPIC


def test_sources_that_disagree_are_flagged() -> None:
    assert resolve_mpp(MppHints(slide=(0.5, 0.5), tiff_tags=(0.503, 0.5)), name="a").flags == ()
    found = resolve_mpp(MppHints(slide=(0.5, 0.5), tiff_tags=(0.25, 0.25)), name="a")
    assert (found.mean_um, found.flags) == (0.5, (SlideFlag.MPP_CONFLICT,))


@pytest.mark.parametrize(
    ("x", "y", "unit", "wanted"),
    [
        ((20000, 1), (10000, 1), 3, (0.5, 1.0)),
        (50800, 50800.0, 2, (0.5, 0.5)),
        ("28.35", "28,35", 3, (352.73, 352.73)),
        ((20000, 1), (20000, 1), 1, None),
        ((20000, 1), (20000, 1), None, None),
        ((1, 0), (1, 1), 3, None),
        ((0, 1), (1, 1), 3, None),
        (None, None, 3, None),
    ],
)
def test_resolution_tags(x: Any, y: Any, unit: Any, wanted: Any) -> None:
    assert mpp_of_tags(x, y, unit) == (None if wanted is None else pytest.approx(wanted, rel=1e-4))


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.5"', (0.25, 0.5)),
        (
            'PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.00025" PhysicalSizeYUnit="mm"',
            (0.25, 0.25),
        ),
        ('PhysicalSizeX="0.25"', None),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1"', None),
        ("", None),
    ],
)
def test_ome(sizes: str, wanted: Any) -> None:
    assert mpp_of_ome(_ome(sizes)) == (None if wanted is None else pytest.approx(wanted))


def test_no_ome() -> None:
    assert mpp_of_ome(None) is None
    assert mpp_of_ome("<OME") is None


def test_aperio_and_openslide() -> None:
    found = hints_of_aperio(APERIO)
    assert (found.slide, found.objective) == ((0.2527, 0.2527), 40.0)
    assert hints_of_aperio("Aperio |AppMag = 20") == MppHints(objective=20.0)
    properties = {
        "openslide.mpp-x": "0.25",
        "openslide.mpp-y": "0.251",
        "openslide.objective-power": "40",
        "tiff.XResolution": "40000",
        "tiff.YResolution": "40000",
        "tiff.ResolutionUnit": "centimeter",
    }
    assert hints_of_openslide(properties) == MppHints((0.25, 0.251), None, (0.25, 0.25), 40.0)
    assert hints_of_openslide({"tiff.ResolutionUnit": "inch", "openslide.mpp-x": "0.25"}) == MppHints()


def test_an_aperio_file_without_openslide(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    with tifffile.TiffWriter(path) as tif:
        tif.write(
            np.zeros((96, 128, 3), np.uint8),
            tile=(32, 32),
            photometric="rgb",
            metadata=None,
            description=APERIO,
        )
    with open_slide(str(path), reader="tiff") as reader:
        assert reader.mpp == (0.2527, 0.2527)
        assert reader.resolved_mpp().source == "slide"
        # neither title nor position: what is kept says nothing about the patient
        assert reader.properties == {"reader": "tiff", "format": "aperio", "objective_power": "40"}


def test_resolution_in_pixels_of_a_screen_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        np.zeros((96, 128, 3), np.uint8),
        tile=(32, 32),
        photometric="rgb",
        resolution=(72, 72),
        resolutionunit="INCH",
    )
    with open_slide(str(path)) as reader:
        assert reader.mpp is None
        with pytest.raises(SlideError, match=r"a\.tif: .*tiff_tags says 352\.8"):
            reader.resolved_mpp()
    with open_slide(str(path), mpp=(0.5, 0.502)) as reader:
        assert reader.mpp == (0.5, 0.502)
