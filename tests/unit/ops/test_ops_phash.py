"""Perceptual hashes on real images: the same picture is found, another one is not, an empty one has no hash."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage.transform import resize

from microsnoop.io.images import read_image
from microsnoop.ops.phash import HIT_BITS, close_pairs, dct_hash, similarity, thumbnail


@pytest.fixture(scope="module")
def fields(examples: Path) -> list[NDArray[np.uint8]]:
    planes = [read_image(str(path)).planes[0] for path in sorted((examples / "images").glob("*.tif"))]
    return [np.round(255.0 * (p - p.min()) / (p.max() - p.min())).astype(np.uint8) for p in planes]


def bits(a: NDArray, b: NDArray) -> int:
    first, second = dct_hash(thumbnail(a)), dct_hash(thumbnail(b))
    assert first is not None
    assert second is not None
    return (first ^ second).bit_count()


def test_the_same_picture_is_found(fields: list[NDArray]) -> None:
    for field in fields:
        data = io.BytesIO()
        Image.fromarray(field).save(data, "JPEG", quality=80)
        assert bits(field, np.asarray(Image.open(data))) <= HIT_BITS
        small = resize(field.astype(float), (np.array(field.shape) * 0.7).astype(int), anti_aliasing=True)
        assert bits(field, small) <= HIT_BITS
        assert bits(field, field.astype(np.uint16) * 13 + 400) <= HIT_BITS
        assert similarity(thumbnail(field), thumbnail(small)) > 0.98


def test_other_pictures_are_not(fields: list[NDArray]) -> None:
    hashes = [dct_hash(thumbnail(field)) or 0 for field in fields]
    assert len(set(hashes) - {0}) == len(fields)
    assert min((a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]) > HIT_BITS
    assert bits(fields[0], np.fliplr(fields[0])) > HIT_BITS


def test_a_plane_without_a_picture_has_no_hash() -> None:
    assert dct_hash(thumbnail(np.full((30, 40), 7, np.uint16))) is None


def test_shrinking_makes_no_pattern_of_fine_texture() -> None:
    striped = (
        np.tile(np.arange(321) % 3, (250, 1)).astype(np.uint8) * 9
    )  # three pixels a period, ten a thumbnail pixel
    assert np.ptp(thumbnail(striped)[4:-4, 4:-4].astype(int)) <= 4


def test_faint_noise_resembles_nothing(rng: np.random.Generator) -> None:
    assert bits(*(rng.integers(100, 103, (2, 200, 240)).astype(np.uint8))) > HIT_BITS


def test_close_pairs_equal_a_loop(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    from microsnoop.ops import phash

    a = rng.integers(0, 2**63, 40, dtype=np.uint64)
    b = np.concatenate(
        [
            a[:9] ^ np.uint64(0b11101),
            a[9:12] ^ np.uint64(0b11111),
            rng.integers(0, 2**63, 30, dtype=np.uint64),
        ]
    )
    expected = {
        (i, j, (int(x) ^ int(y)).bit_count())
        for i, x in enumerate(a)
        for j, y in enumerate(b)
        if (int(x) ^ int(y)).bit_count() <= 4
    }
    assert len(expected) == 9
    for block in (1, 2**20):
        monkeypatch.setattr(phash, "_BLOCK_BYTES", block)
        found = set(zip(*(part.tolist() for part in close_pairs(a, b)), strict=True))
        assert found == expected
    assert [len(part) for part in close_pairs(a[:0], b)] == [0, 0, 0]
