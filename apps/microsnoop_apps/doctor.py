"""``microsnoop doctor``: what this machine has, what is missing, and how to install it."""

from __future__ import annotations

import platform as host_platform
import shutil
import tempfile
from importlib import metadata, util
from pathlib import Path

import psutil

from microsnoop.core.codes import RejectCode
from microsnoop.models.device import describe_devices
from microsnoop.models.registry import list_encoders, user_folder
from microsnoop.pipelines.cluster import usable_cpus
from microsnoop_apps.terminal import say, show_rows

_NEEDED = (
    "torch", "ray", "numpy", "pyarrow", "pandas", "anndata", "scanpy", "umap-learn", "zarr", "scikit-image",
    "tifffile", "imagecodecs", "pillow", "fsspec",
)  # fmt: skip
_OPTIONAL = (
    ("efficientnet_lite_pytorch", "baselines", "ImageNet baseline encoder"),
    ("s3fs", "cloud", "s3:// paths"),
    ("gcsfs", "cloud", "gs:// paths"),
)


def examine() -> bool:
    """Print the report; return whether everything needed is there."""
    say("Software")
    versions = [(name, _version(name)) for name in ("microsnoop-platform", *_NEEDED)]
    show_rows([("python", host_platform.python_version()), *versions])
    say("Devices")
    show_rows(describe_devices())
    say("Machine")
    memory = psutil.virtual_memory()
    shared = Path("/dev/shm")  # noqa: S108  (where Ray's object store lives)
    show_rows(
        [
            ("cores", str(usable_cpus())),
            ("memory", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"),
            ("shared memory", f"{_free(shared)} free in {shared}" if shared.is_dir() else "no /dev/shm"),
            (
                "disk",
                f"{_free(Path.cwd())} free here, {_free(Path(tempfile.gettempdir()))} in the temporary folder",
            ),
        ]
    )
    say("Encoders")
    show_rows([(e.name, e.problem or e.card.description) for e in list_encoders() if e.card or e.problem])  # type: ignore[union-attr]
    say(f"  imported encoders live in {user_folder()}")
    say("Optional")
    show_rows(
        [
            (
                what,
                "installed"
                if util.find_spec(module)
                else f"missing: pip install 'microsnoop-platform[{extra}]'",
            )
            for module, extra, what in _OPTIONAL
        ]
    )
    say(f"Reject codes: {', '.join(RejectCode)}")
    missing = [name for name, version in versions if version == "MISSING"]
    say("Everything needed is there." if not missing else f"Missing: pip install {' '.join(missing)}")
    return not missing


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "MISSING"


def _free(path: Path) -> str:
    return f"{shutil.disk_usage(path).free / 2**30:.1f} GiB"
