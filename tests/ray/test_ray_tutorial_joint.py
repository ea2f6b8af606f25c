"""The tutorial of the joint analysis as a reader runs it: the script, in a process of its own, on few fields."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from microsnoop_integrations import joint
from microsnoop_integrations.muse import Muse

SCRIPT = Path(__file__).parents[2] / "docs" / "tutorials" / "joint.py"
CELL = re.compile(r"^# %%.*$", re.MULTILINE)
# Without muon: it compiles for half a minute, and readers without the extra must come through.
RUN = "import sys, runpy; sys.modules['muon'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
METHODS = ["rna alone", "image alone", "concat", "MUSE", "MUSE, wrong pairs"]


def test_every_cell_stands_by_itself_and_says_what_is_simulated() -> None:
    text = SCRIPT.read_text("utf-8")
    marks, cells = CELL.findall(text), CELL.split(text)[1:]
    assert set(marks) == {"# %%", "# %% [markdown]"}
    for mark, cell in zip(marks, cells, strict=True):
        if mark == "# %%":
            compile(cell, "cell", "exec")
        else:
            assert all(line.startswith("#") for line in cell.strip().splitlines()), cell
    assert "SIMULATED" in cells[0]
    assert (
        text.count("figure.suptitle(") == text.count("= Figure(") == len(re.findall("suptitle.*REAL", text))
    )


@pytest.mark.ray
def test_the_script_runs_and_leaves_what_it_says(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(SCRIPT), "--fields", "5", "--out", "results"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    printed = done.stdout
    assert done.returncode == 0, printed + done.stderr
    assert not re.findall(
        r"^.*(?:FutureWarning|DeprecationWarning|UserWarning).*$", done.stderr, re.MULTILINE
    )
    for sentence in (
        "300 nuclei = 247 written + 53 rejected",
        "171 nuclei = 167 paired + 4 rejected",
        "76 new nuclei = 76 placed + 0 rejected",
        "wnn is left out: pip install",
    ):
        assert sentence in printed
    out = tmp_path / "results" / "5-fields"
    for name in ("each-modality", "muse-training", "muse-umap"):
        assert (out / f"{name}.png").stat().st_size > 20_000

    data = joint.read_mudata(out / "joint.h5mu")
    assert data.n_obs == 167
    assert "never measured" in data.uns["simulated"]
    assert {"X_muse", "X_concat"} <= set(data.obsm)
    assert {"muse_leiden", "muse_weight_rna", "concat_leiden"} <= set(data.obs)
    assert {"counts"} == set(data["rna"].layers)
    for modality in ("rna", "image"):
        assert {"X_pca", "X_muse_h", "X_umap"} <= set(data[modality].obsm)
    _check_groups(data.obs)

    table = pd.read_csv(out / "ari.csv", index_col="method")
    assert list(table.index) == METHODS
    for method, scores in table.iterrows():
        shown = re.search(rf"^{method} +(-?\d\.\d\d) +(-?\d\.\d\d) +(\d+)$", printed, re.MULTILINE)
        assert shown, printed
        assert [float(value) for value in shown.groups()] == pytest.approx(list(scores), abs=0.0051)
    # what a reader is to learn, with much room: in fact 0.89, 0.43, 0.99, 0.17 and 100 %
    told = table["ARI k-means"]
    assert told["image alone"] < told["rna alone"] > 0.6 < told["MUSE"] > told["MUSE, wrong pairs"] + 0.1
    right = re.search(r"^right group: (\d+)%", printed, re.MULTILINE)
    assert right, printed
    assert int(right[1]) >= 80
    for method, key in (("MUSE", "muse_leiden"), ("concat", "concat_leiden")):
        again = adjusted_rand_score(data.obs["group"].astype(str), data.obs[key].astype(str))
        assert table.loc[method, "ARI clusters"] == pytest.approx(again)
    model = Muse.load(out / "muse", device="cpu")
    rows = data.obs_names.get_indexer(list(model.obs_ids_))
    np.testing.assert_array_equal(data.obsm["X_muse"][rows], model.latent_)


def _check_groups(obs: pd.DataFrame) -> None:
    """Counts were drawn for the line that the id names, with two states of U2OS and none of any other line."""
    named = pd.Series([name.split("_")[0] for name in obs.index], index=obs.index)
    group = obs["group"].astype(str)
    assert (obs["line"].astype(str) == named).all()
    assert (group.str.split(" ").str[0] == named).all()
    assert set(group) == {"HFF", "MCC13", "RPE1", "U2OS resting", "U2OS stimulated"}
    program = pd.crosstab(obs["program"].astype(str), group)
    assert (program > 0).sum(axis=1).to_dict() == {
        "HFF or MCC13": 2, "RPE1": 1, "U2OS resting": 1, "U2OS stimulated": 1
    }  # fmt: skip
