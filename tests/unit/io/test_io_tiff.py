# ruff: noqa: PT017  (pixels or a reject: either is right, and both are looked at)
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as PillowImage

from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import Flag, RejectCode
from microsnoop.io.images import ImageSource, open_image, read_image

ENCODINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (32, 48)},
    "deflate": {"compression": "zlib"},
    "deflate-strips": {"compression": "zlib", "rowsperstrip": 5},
    "deflate-predictor": {"compression": "zlib", "predictor": True},
    "deflate-tiles": {"compression": "zlib", "tile": (64, 32), "predictor": True},
    "lzw": {"compression": "lzw"},
    "lzw-predictor": {"compression": "lzw", "predictor": True, "rowsperstrip": 16},
    "zstd": {"compression": "zstd"},
    "zstd-tiles": {"compression": "zstd", "tile": (16, 16)},
    "lzma": {"compression": "lzma"},
    "packbits": {"compression": "packbits"},
    "bigtiff": {"bigtiff": True},
    "bigtiff-deflate": {"bigtiff": True, "compression": "zlib"},
    "big-endian": {"byteorder": ">"},
    "big-endian-lzw-predictor": {"byteorder": ">", "compression": "lzw", "predictor": True},
    "big-endian-bigtiff-tiles": {"byteorder": ">", "bigtiff": True, "tile": (32, 32)},
    "no-metadata": {"metadata": None},
    "ome": {"ome": True},
    "imagej": {"imagej": True},
}
IMAGEJ_DTYPES = ("u1", "u2", "f4")


def _save(path: Path, array: NDArray, **options: Any) -> str:
    options.setdefault("photometric", "minisblack")
    tifffile.imwrite(path, array, **options)
    return str(path)


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_gives_the_exact_planes_in_order(
    tmp_path: Path, planes: Callable[..., NDArray], encoding: str, dtype: str
) -> None:
    truth = planes(5, dtype)
    image = read_image(_save(tmp_path / "x.tif", truth, **ENCODINGS[encoding]))
    assert image.planes.dtype == truth.dtype
    assert image.planes.dtype.isnative
    np.testing.assert_array_equal(image.planes, truth)
    assert image.channels == ("c0", "c1", "c2", "c3", "c4")
    assert image.flags == ()
    assert image.pixel_size_um is None


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_one_plane_of_every_encoding(tmp_path: Path, planes: Callable[..., NDArray], encoding: str) -> None:
    truth = planes(1)
    image = read_image(_save(tmp_path / "x.tif", truth[0], **ENCODINGS[encoding]))
    np.testing.assert_array_equal(image.planes, truth)
    assert image.channels == ("c0",)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_samples_become_channels(
    tmp_path: Path, planes: Callable[..., NDArray], planar: str, compression: str | None
) -> None:
    truth = planes(3, "u2")
    stored = np.moveaxis(truth, 0, -1) if planar == "contig" else truth
    path = _save(tmp_path / "x.tif", stored, photometric="rgb", planarconfig=planar, compression=compression)
    image = read_image(path)
    np.testing.assert_array_equal(image.planes, truth)
    assert image.channels == ("red", "green", "blue")


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (32, 32)])
def test_samples_that_are_not_colours_keep_plain_names(
    tmp_path: Path, planes: Callable[..., NDArray], planar: str, tile: tuple[int, int] | None
) -> None:
    truth = planes(4, "u1")
    stored = np.moveaxis(truth, 0, -1) if planar == "contig" else truth
    image = read_image(_save(tmp_path / "x.tif", stored, planarconfig=planar, tile=tile))
    np.testing.assert_array_equal(image.planes, truth)
    assert image.channels == ("c0", "c1", "c2", "c3")


def test_jpeg_compression_is_decoded(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(96), np.arange(128)).astype("u1")
    image = read_image(_save(tmp_path / "x.tif", smooth, compression="jpeg"))
    assert image.planes.shape == (1, 96, 128)
    assert np.abs(image.planes[0].astype(int) - smooth).max() <= 6


def test_jpeg_compressed_colour_comes_back_as_red_green_blue(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(96), np.arange(128)).astype("u1")
    colour = np.stack([ramp, 255 - ramp, np.full_like(ramp, 90)], axis=-1)
    image = read_image(_save(tmp_path / "x.tif", colour, photometric="rgb", compression="jpeg"))
    assert image.channels == ("red", "green", "blue")
    assert np.abs(image.planes.astype(int) - np.moveaxis(colour, -1, 0)).max() <= 12


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ("u1", "u1"),
        ("u2", "u2"),
        ("i1", "i4"),
        ("i2", "i4"),
        ("i4", "i4"),
        ("u4", "i4"),
        ("i8", "i4"),
        ("f2", "f4"),
        ("f4", "f4"),
        ("f8", "f4"),
        ("?", "u1"),
    ],
)
def test_every_dtype_becomes_one_of_four_without_changing_a_value(
    tmp_path: Path, stored: str, wanted: str
) -> None:
    truth = (np.arange(96 * 128).reshape(96, 128) % 120).astype(stored)
    if np.dtype(stored).kind in "if":
        truth = (truth - 60).astype(stored)
    image = read_image(_save(tmp_path / "x.tif", truth))
    assert image.planes.dtype == np.dtype(wanted)
    np.testing.assert_array_equal(image.planes[0], truth.astype(wanted))
    assert image.flags == ((Flag.FLOAT64_NARROWED,) if stored == "f8" else ())


def test_integers_beyond_32_bits_are_rejected_not_wrapped(tmp_path: Path) -> None:
    path = _save(tmp_path / "x.tif", np.full((96, 128), 2**31, "u4"))
    with pytest.raises(RowRejected, match="do not fit 32 bits") as error:
        read_image(path)
    assert error.value.code == RejectCode.DECODE_ERROR
    assert path in error.value.message


def test_complex_pixels_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(RowRejected, match="complex64"):
        read_image(_save(tmp_path / "x.tif", np.ones((96, 128), "c8")))


def test_packed_twelve_bit_pixels_are_unpacked(tmp_path: Path, planes: Callable[..., NDArray]) -> None:
    truth = planes(1)[0] >> 4
    image = read_image(_save(tmp_path / "x.tif", truth, bitspersample=12))
    assert image.planes.dtype == np.uint16
    np.testing.assert_array_equal(image.planes[0], truth)


@pytest.mark.parametrize("compression", ["group4", "tiff_lzw", "raw"])
def test_one_bit_pixels_become_zero_and_one(tmp_path: Path, compression: str) -> None:
    truth = np.add.outer(np.arange(96), np.arange(128)) % 7 == 0
    path = tmp_path / "x.tif"
    PillowImage.fromarray(truth).save(path, compression=compression)
    image = read_image(str(path))
    assert image.planes.dtype == np.uint8
    np.testing.assert_array_equal(image.planes[0], truth)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_files_of_another_writer(
    tmp_path: Path, planes: Callable[..., NDArray], compression: str | None
) -> None:
    truth = planes(1, "u1")
    path = tmp_path / "x.tif"
    PillowImage.fromarray(truth[0]).save(path, compression=compression)
    np.testing.assert_array_equal(read_image(str(path)).planes, truth)


@pytest.mark.parametrize(
    ("axes", "stored", "channel_axis"),
    [("CYX", (5, 96, 128), 0), ("YXC", (96, 128, 5), -1), ("QYX", (5, 96, 128), 0), ("IYX", (5, 96, 128), 0)],
)
def test_axis_names_decide_where_the_channels_are(
    tmp_path: Path, axes: str, stored: tuple[int, ...], channel_axis: int
) -> None:
    array = np.arange(np.prod(stored)).reshape(stored).astype("u2")
    image = read_image(_save(tmp_path / "x.tif", array, metadata={"axes": axes}))
    np.testing.assert_array_equal(image.planes, np.moveaxis(array, channel_axis, 0))


@pytest.mark.parametrize("axis", list("TZRAVLH"))
def test_time_depth_and_positions_are_no_channels(
    tmp_path: Path, planes: Callable[..., NDArray], axis: str
) -> None:
    path = _save(tmp_path / "x.tif", planes(4), metadata={"axes": f"{axis}YX"})
    with pytest.raises(RowRejected, match=f"{axis} 4.*input.stack") as error:
        read_image(path)
    assert error.value.code == RejectCode.SHAPE_MISMATCH
    assert path in error.value.message


def test_two_stack_axes_are_refused_even_as_a_stack(
    tmp_path: Path, planes: Callable[..., NDArray], read_index: Callable[..., Any]
) -> None:
    array = np.stack([planes(3), planes(3, seed=1)])
    path = _save(tmp_path / "x.tif", array, metadata={"axes": "TZYX"})
    with pytest.raises(RowRejected, match="T 2, Z 3") as error:
        read_index(path, 0)
    assert error.value.code == RejectCode.SHAPE_MISMATCH


@pytest.mark.parametrize("shape", [(1, 1), (1, 128), (96, 1), (3, 1, 128)], ids=str)
@pytest.mark.parametrize("options", [{}, {"ome": True}, {"imagej": True}, {"metadata": None}], ids=str)
def test_sides_of_one_pixel_keep_their_axes(
    tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    array = np.arange(1, 1 + np.prod(shape)).reshape(shape).astype("u2")
    image = read_image(_save(tmp_path / "x.tif", array, **options))
    np.testing.assert_array_equal(image.planes, array if array.ndim == 3 else array[None])


def test_sixty_channels_are_read_and_sixty_one_refused(tmp_path: Path) -> None:
    array = np.arange(61 * 6 * 8).reshape(61, 6, 8).astype("u2")
    image = read_image(_save(tmp_path / "ok.tif", array[:60]))
    np.testing.assert_array_equal(image.planes, array[:60])
    path = _save(tmp_path / "many.tif", array)
    with pytest.raises(RowRejected, match="at most 60") as error:
        read_image(path)
    assert error.value.code == RejectCode.CHANNEL_MISMATCH
    assert path in error.value.message


# alpha


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_declared_transparency_is_dropped_and_said(
    tmp_path: Path, planes: Callable[..., NDArray], kind: str, dtype: str
) -> None:
    truth = planes(4, dtype)
    path = _save(tmp_path / "x.tif", np.moveaxis(truth, 0, -1), photometric="rgb", extrasamples=[kind])
    image = read_image(path)
    np.testing.assert_array_equal(image.planes, truth[:3])
    assert image.channels == ("red", "green", "blue")
    assert image.flags == (Flag.ALPHA_DROPPED,)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_fully_opaque_transparency_needs_no_flag(
    tmp_path: Path, planes: Callable[..., NDArray], dtype: str
) -> None:
    truth = planes(4, dtype)
    truth[3] = np.iinfo(dtype).max
    path = _save(
        tmp_path / "x.tif", np.moveaxis(truth, 0, -1), photometric="rgb", extrasamples=["unassalpha"]
    )
    assert read_image(path).flags == ()


def test_grey_with_transparency_is_one_channel(tmp_path: Path, planes: Callable[..., NDArray]) -> None:
    truth = planes(2, "u1")
    path = _save(
        tmp_path / "x.tif", np.moveaxis(truth, 0, -1), planarconfig="contig", extrasamples=["unassalpha"]
    )
    image = read_image(path)
    np.testing.assert_array_equal(image.planes, truth[:1])
    assert image.channels == ("c0",)
    assert image.flags == (Flag.ALPHA_DROPPED,)


# names and pixel size


def test_ome_channel_names_and_pixel_size(tmp_path: Path, planes: Callable[..., NDArray]) -> None:
    metadata = {
        "axes": "CYX",
        "Channel": {"Name": ["DAPI", "ER µ", "Golgi"]},
        "PhysicalSizeX": 0.65,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 0.65,
    }
    truth = planes(3)
    image = read_image(_save(tmp_path / "x.ome.tif", truth, metadata=metadata))
    np.testing.assert_array_equal(image.planes, truth)
    assert image.channels == ("DAPI", "ER µ", "Golgi")
    assert image.pixel_size_um == pytest.approx(0.65)


@pytest.mark.parametrize(
    ("size", "unit", "wanted"),
    [
        (650.0, "nm", 0.65),
        (0.65, "µm", 0.65),
        (0.00065, "mm", 0.65),
        (650000.0, "pm", 0.65),
        (6.5e-5, "cm", 0.65),
        (6.5e-7, "m", 0.65),
        (1.0, "pixel", None),
        (1.0, "reference frame", None),
    ],
)
def test_units_of_the_ome_pixel_size(
    tmp_path: Path, planes: Callable[..., NDArray], size: float, unit: str, wanted: float | None
) -> None:
    metadata = {"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeXUnit": unit}
    found = read_image(_save(tmp_path / "x.ome.tif", planes(1)[0], metadata=metadata)).pixel_size_um
    assert found == (None if wanted is None else pytest.approx(wanted))


def _with_ome_xml(path: Path, array: NDArray, pixels: str, channels: str = "") -> str:
    c, y, x = array.shape
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="{x}" '
        f'SizeY="{y}" SizeC="{c}" SizeZ="1" SizeT="1" {pixels}>{channels}<TiffData/></Pixels></Image></OME>'
    )
    with tifffile.TiffWriter(path) as writer:
        for i, plane in enumerate(array):
            writer.write(plane, description=xml.encode() if i == 0 else None, metadata=None)
    return str(path)


def test_ome_pixel_size_without_unit_is_in_microns(tmp_path: Path, planes: Callable[..., NDArray]) -> None:
    path = _with_ome_xml(tmp_path / "x.ome.tif", planes(2), 'PhysicalSizeX="0.5"')
    assert read_image(path).pixel_size_um == 0.5


@pytest.mark.parametrize(
    "size",
    [
        "0",
        "-1",
        "",
        "many",
        "nan",
        pytest.param("inf"),
    ],
)
def test_nonsense_for_a_pixel_size_is_no_pixel_size(
    tmp_path: Path, planes: Callable[..., NDArray], size: str
) -> None:
    truth = planes(2)
    image = read_image(_with_ome_xml(tmp_path / "x.ome.tif", truth, f'PhysicalSizeX="{size}"'))
    np.testing.assert_array_equal(image.planes, truth)
    assert image.pixel_size_um is None


def test_ome_dyes_stand_in_for_missing_names_and_repeats_are_numbered(
    tmp_path: Path, planes: Callable[..., NDArray]
) -> None:
    channels = (
        '<Channel ID="Channel:0" Name="DAPI"/><Channel ID="Channel:1" Fluor="Cy3"/>'
        '<Channel ID="Channel:2" Name="DAPI"/><Channel ID="Channel:3"/>'
    )
    path = _with_ome_xml(tmp_path / "x.ome.tif", planes(4), "", channels)
    assert read_image(path).channels == ("DAPI", "Cy3", "DAPI_2", "c3")


def test_ome_names_for_another_number_of_channels_are_not_used(
    tmp_path: Path, planes: Callable[..., NDArray]
) -> None:
    path = _with_ome_xml(tmp_path / "x.ome.tif", planes(3), "", '<Channel ID="Channel:0" Name="DAPI"/>')
    assert read_image(path).channels == ("c0", "c1", "c2")


def test_planes_of_a_multi_file_ome_that_are_elsewhere_are_refused(
    tmp_path: Path, planes: Callable[..., NDArray]
) -> None:
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:00000000-0000-0000-0000-000000000001"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        'DimensionOrder="XYCZT" Type="uint16" SizeX="128" SizeY="96" SizeC="2" SizeZ="1" SizeT="1">'
        '<TiffData FirstC="0" IFD="0" PlaneCount="1"><UUID FileName="a.ome.tif">'
        "urn:uuid:00000000-0000-0000-0000-000000000001</UUID></TiffData>"
        '<TiffData FirstC="1" IFD="0" PlaneCount="1"><UUID FileName="b.ome.tif">'
        "urn:uuid:00000000-0000-0000-0000-000000000002</UUID></TiffData></Pixels></Image></OME>"
    )
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, planes(1)[0], description=xml.encode(), metadata=None)
    with pytest.raises(RowRejected) as error:
        read_image(str(path))
    assert str(path) in error.value.message


def test_imagej_labels_and_calibration(tmp_path: Path, planes: Callable[..., NDArray]) -> None:
    path = _save(
        tmp_path / "x.tif",
        planes(3),
        imagej=True,
        resolution=(1 / 0.65, 1 / 0.65),
        metadata={"axes": "CYX", "unit": "um", "Labels": ["DAPI", "ER", "Golgi"]},
    )
    image = read_image(path)
    assert image.channels == ("DAPI", "ER", "Golgi")
    assert image.pixel_size_um == pytest.approx(0.65, rel=1e-6)


def test_imagej_without_a_length_unit_has_no_pixel_size(
    tmp_path: Path, planes: Callable[..., NDArray]
) -> None:
    path = _save(tmp_path / "x.tif", planes(1)[0], imagej=True, resolution=(72, 72))
    assert read_image(path).pixel_size_um is None


def test_resolution_tags_of_a_plain_tiff_are_not_believed(
    tmp_path: Path, planes: Callable[..., NDArray]
) -> None:
    path = _save(tmp_path / "x.tif", planes(1)[0], resolution=(72, 72), resolutionunit="INCH")
    assert read_image(path).pixel_size_um is None


def test_names_in_tifffiles_own_metadata(tmp_path: Path, planes: Callable[..., NDArray]) -> None:
    path = _save(tmp_path / "x.tif", planes(2), metadata={"axes": "CYX", "channels": ["DAPI", "ER"]})
    assert read_image(path).channels == ("DAPI", "ER")


def test_a_small_first_image_is_refused_by_its_header_alone(
    tmp_path: Path, planes: Callable[..., NDArray], counted: list[Any]
) -> None:
    path = _save(tmp_path / "x.tif", planes(1)[0])
    with pytest.raises(RowRejected, match="megapixels"):
        read_image(path, limit_px=96 * 128 - 1)
    assert counted[0].n_bytes < 4096
    assert counted[0].closed
    assert read_image(path, limit_px=96 * 128).planes.shape == (1, 96, 128)


# several images in one file


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (32, 32)}], ids=str)
def test_a_writer_that_adds_page_after_page_loses_none(
    tmp_path: Path, planes: Callable[..., NDArray], options: dict[str, Any]
) -> None:
    truth = planes(5)
    path = tmp_path / "x.tif"
    with tifffile.TiffWriter(path) as writer:
        for plane in truth:
            writer.write(plane, metadata=None, **options)
    np.testing.assert_array_equal(read_image(str(path)).planes, truth)


def test_pages_added_with_tifffiles_default_metadata_are_not_lost_silently(
    tmp_path: Path, planes: Callable[..., NDArray]
) -> None:
    truth = planes(5)
    path = tmp_path / "x.tif"
    with tifffile.TiffWriter(path) as writer:
        for plane in truth:
            writer.write(plane)
    try:
        image = read_image(str(path))
    except RowRejected as error:
        assert str(path) in error.message  # a refusal would do as well
    else:
        np.testing.assert_array_equal(image.planes, truth)


def test_appended_files_of_a_stack_are_not_lost_silently(
    tmp_path: Path, planes: Callable[..., NDArray]
) -> None:
    path = tmp_path / "x.tif"
    for i, plane in enumerate(planes(4)):
        tifffile.imwrite(path, plane, append=i > 0)
    try:
        file = open_image(str(path), stack=True)
    except RowRejected:
        return
    file.close()
    assert file.info.n_images == 4


def test_pages_of_different_size_are_not_lost_silently(
    tmp_path: Path, planes: Callable[..., NDArray]
) -> None:
    path = tmp_path / "x.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(planes(1)[0], metadata=None)
        writer.write(planes(1)[0, :90], metadata=None)
    with pytest.raises(RowRejected):
        read_image(str(path))


def test_a_pyramid_is_read_at_full_resolution(tmp_path: Path, planes: Callable[..., NDArray]) -> None:
    truth = planes(3, "u1")
    path = tmp_path / "x.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(truth, subifds=1, tile=(32, 32), photometric="minisblack", metadata={"axes": "CYX"})
        writer.write(truth[:, ::2, ::2], subfiletype=1, tile=(32, 32), photometric="minisblack")
    np.testing.assert_array_equal(read_image(str(path)).planes, truth)


# stacks


@pytest.mark.parametrize(
    "options",
    [
        {"metadata": {"axes": "TCYX"}},
        {"metadata": {"axes": "ZCYX"}, "compression": "zlib"},
        {"metadata": {"axes": "RCYX"}, "tile": (32, 48), "compression": "lzw"},
        {"imagej": True, "metadata": {"axes": "TCYX"}},
        {"imagej": True, "metadata": {"axes": "ZCYX"}, "compression": "zlib"},
        {"ome": True, "metadata": {"axes": "TCYX"}},
        {"ome": True, "metadata": {"axes": "ZCYX"}, "compression": "zlib"},
        {"byteorder": ">", "metadata": {"axes": "QCYX"}},
        {"bigtiff": True},
        {},
        {"truncate": True},
    ],
    ids=str,
)
def test_each_index_of_a_stack_is_one_image(
    tmp_path: Path, planes: Callable[..., NDArray], read_index: Callable[..., Any], options: dict[str, Any]
) -> None:
    truth = np.stack([planes(5, seed=seed) for seed in range(4)])
    path = _save(tmp_path / "x.tif", truth, **options)
    for index in (3, 0, 2):
        image = read_index(path, index)
        np.testing.assert_array_equal(image.planes, truth[index])
        assert len(image.channels) == 5
    with pytest.raises(RowRejected, match="has 4 images, index 4") as error:
        read_index(path, 4)
    assert error.value.code == RejectCode.SHAPE_MISMATCH
    with pytest.raises(RowRejected, match="index -1"):
        read_index(path, -1)


@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"metadata": None}, {"imagej": True}], ids=str
)
def test_pages_of_unknown_meaning_are_channels_or_as_a_stack_images(
    tmp_path: Path, planes: Callable[..., NDArray], read_index: Callable[..., Any], options: dict[str, Any]
) -> None:
    truth = planes(5)
    path = _save(tmp_path / "x.tif", truth, **options)
    assert read_image(path).planes.shape == (5, 96, 128)
    if "imagej" in options:
        return  # says itself that they are channels
    np.testing.assert_array_equal(read_index(path, 3).planes, truth[3:4])


def test_a_stack_whose_channels_come_first_is_read_by_its_axis_names(
    tmp_path: Path, planes: Callable[..., NDArray], read_index: Callable[..., Any]
) -> None:
    truth = np.stack([planes(3, seed=seed) for seed in range(4)])
    path = _save(tmp_path / "x.tif", truth.swapaxes(0, 1), metadata={"axes": "CTYX"})
    np.testing.assert_array_equal(read_index(path, 2).planes, truth[2])


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_stack_of_colour_images(
    tmp_path: Path, planes: Callable[..., NDArray], read_index: Callable[..., Any], planar: str
) -> None:
    truth = np.stack([planes(3, "u1", seed=seed) for seed in range(4)])
    stored = np.moveaxis(truth, 1, -1) if planar == "contig" else truth
    path = _save(tmp_path / "x.tif", stored, photometric="rgb", planarconfig=planar)
    image = read_index(path, 2)
    np.testing.assert_array_equal(image.planes, truth[2])
    assert image.channels == ("red", "green", "blue")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}),
        {"ome": True, "metadata": {"axes": "TCYX"}},
        {"imagej": True, "metadata": {"axes": "TCYX"}},
    ],
    ids=str,
)
def test_a_stack_of_one_image_keeps_its_channels(
    tmp_path: Path, planes: Callable[..., NDArray], read_index: Callable[..., Any], options: dict[str, Any]
) -> None:
    truth = planes(5)
    path = _save(tmp_path / "x.tif", truth[None], **options)
    file = open_image(path, stack=True)
    file.close()
    assert file.info.n_images == 1
    np.testing.assert_array_equal(read_index(path, 0).planes, truth)


def test_one_plain_image_is_a_stack_of_one(
    tmp_path: Path, planes: Callable[..., NDArray], read_index: Callable[..., Any]
) -> None:
    truth = planes(1)
    path = _save(tmp_path / "x.tif", truth[0])
    np.testing.assert_array_equal(read_index(path, 0).planes, truth)


def test_the_header_describes_the_pixels_that_come(tmp_path: Path, planes: Callable[..., NDArray]) -> None:
    path = _save(tmp_path / "x.tif", planes(3, "f4"), metadata={"axes": "CYX", "channels": list("abc")})
    file = open_image(path, stack=False)
    pixels = file.read(0)
    file.close()
    info = file.info
    assert (info.n_images, info.height_px, info.width_px, info.dtype) == (1, 96, 128, "float32")
    assert info.channels == ("a", "b", "c")
    assert pixels.planes.shape == (3, 96, 128)


def test_separate_stacks_one_per_channel(tmp_path: Path, planes: Callable[..., NDArray]) -> None:
    dapi, er = planes(4), planes(4, seed=1)
    uris = (_save(tmp_path / "d.tif", dapi), _save(tmp_path / "e.tif", er))
    image = read_image(ImageSource(uris, ("DAPI", "ER"), index=2))
    np.testing.assert_array_equal(image.planes, np.stack([dapi[2], er[2]]))
