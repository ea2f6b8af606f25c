"""Core and ops stay light: every reading process imports them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("imported", "unwanted"),
    [
        ("microsnoop.core.errors", ["torch", "ray", "pyarrow", "numpy", "pydantic"]),
        (
            "microsnoop.ops, microsnoop.ops.modes, microsnoop.core.config, microsnoop.core.optional",
            ["torch", "ray", "scipy", "sklearn", "anndata", "scanpy"],
        ),
    ],
)
def test_importing_loads_no_heavy_package(imported: str, unwanted: list[str]) -> None:
    code = f"import sys, json, {imported}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(unwanted) & set(json.loads(done.stdout)) == set()
