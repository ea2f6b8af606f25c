"""The command line, run in this process, and cells with two modalities."""

from __future__ import annotations

import sys
from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from microsnoop_apps import cli


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run a command line; return exit code, output and error output."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["microsnoop", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out = capsys.readouterr()
        return int(caught.value.code or 0), out.out, out.err

    return command


@pytest.fixture(scope="session")
def planted() -> Callable[..., tuple[ad.AnnData, ad.AnnData]]:
    """Make transcripts and images of the same cells: four types, of which each modality cannot tell two apart."""

    def make(n: int = 96, *, seed: int = 0, noise: float = 0.4) -> tuple[ad.AnnData, ad.AnnData]:
        rng = np.random.default_rng(seed)
        kind = rng.integers(4, size=n)
        seen_rna, seen_image = np.where(kind == 3, 2, kind), np.where(kind == 1, 0, kind)
        rates = np.full((4, 60), 2.0)
        for one in range(3):
            rates[one, 20 * one : 20 * one + 20] = 9.0
        counts = rng.poisson(rates[seen_rna]).astype(np.float32)
        features = rng.normal(size=(4, 12))[seen_image] * 2 + noise * rng.normal(size=(n, 12))
        ids = [f"cell{i:03d}" for i in range(n)]
        obs = pd.DataFrame(
            {"kind": pd.Categorical([f"type {k}" for k in kind]), "field": [f"f{i % 4}" for i in range(n)]},
            ids,
        )
        rna = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{j:02d}" for j in range(60)]))
        order = rng.permutation(n)  # the other way round, and under names of their own
        image = ad.AnnData(
            features[order].astype(np.float32),
            obs=pd.DataFrame({"cell_id": [ids[i] for i in order]}, [f"run#{i}" for i in range(n)]),
            var=pd.DataFrame(index=[f"e{j}" for j in range(12)]),
        )
        return rna, image

    return make
