"""Simulated plates: layout, cells dealt out without overlap, fields that can be checked pixel by pixel."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import typer
import yaml
from typer.testing import CliRunner

from microsnoop.core.config import InputConfig
from microsnoop.core.config_file import build_config, load_config, load_settings
from microsnoop.core.errors import ConfigError, InputError, MicrosnoopError, StaleOutput
from microsnoop.core.simulate_config import FieldConfig, SimulateConfig
from microsnoop.io.images import read_image
from microsnoop.io.manifest import read_records
from microsnoop.ops.acquisition import PARAMETERS, draw_deviation
from microsnoop_apps.cli_simulate import simulate_plates
from microsnoop_apps.simulation.fields import (
    Placement,
    SourceCells,
    check_field,
    choose_cells,
    compose_field,
    feather,
    place_cells,
)
from microsnoop_apps.simulation.layout import (
    Compound,
    Pools,
    deal_cells,
    is_edge,
    lay_out,
    list_compounds,
    split_shares,
    stream,
)
from microsnoop_apps.simulation.run import simulate, spreads

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "configs" / "simulate" / "jurkat-plates.yaml"
PHASES = (
    ["G1"] * 900 + ["S_phase"] * 900 + ["G2"] * 900 + ["Prophase"] * 606 + ["Metaphase"] * 68
    + ["Anaphase"] * 15 + ["Telophase"] * 27
)  # fmt: skip
SMALL: dict[str, Any] = {
    "plates.weeks": 2, "plates.per_week": 2, "plates.sites": 1, "plates.control_wells": ["A01", "H12"],
    "compounds.per_moa": 2, "compounds.wells": 1, "field.side_px": 80, "field.grid": 2, "cells.controls": 20,
    "cells.bystanders": 10, "cells.responders": 12, "cells.min_responders": 3,
}  # fmt: skip


# the numbers below are those of the defaults, with the shipped cells and mechanisms
DEFAULTS: dict[str, Any] = {"cells": {}, "compounds": {}, "acquisition": {}}


def shipped(**changes: Any) -> SimulateConfig:
    given = {k.replace("__", "."): v for k, v in changes.items()}
    return load_settings(SHIPPED, SimulateConfig, overrides=DEFAULTS | given)


def test_the_shipped_settings_have_cells_for_all_their_compounds() -> None:
    cfg = load_settings(SHIPPED, SimulateConfig)
    compounds = list_compounds(cfg)
    assert len(compounds) == 40
    pools = deal_cells(cfg, compounds, PHASES)
    assert min(map(len, pools.responders.values())) >= 12
    assert lay_out(cfg, compounds)


def test_a_mechanism_can_be_kept_to_few_weeks() -> None:
    compounds = list_compounds(shipped(compounds__weeks_per_moa=2))
    weeks = {moa: {c.week for c in compounds if c.moa == moa} for moa in {c.moa for c in compounds}}
    assert {len(found) for found in weeks.values()} == {2}
    assert set.union(*weeks.values()) == {0, 1, 2, 3}
    everywhere = list_compounds(shipped())
    assert {c.week for c in everywhere if c.moa == "S arrest"} == {0, 1, 2, 3}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up cells of two phases, 12 px, two channels: bright discs, larger in phase B."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:12, :12] - 5.5
    lines = ["cell_id,phase,day,file,index"]
    stack = np.empty((122, 2, 12, 12), np.uint16)
    for i in range(122):
        phase = "AB"[i % 2]
        disc = np.hypot(y, x) < (2.5 if phase == "A" else 4)
        stack[i] = np.rint([[[100]], [[500]]] + rng.normal(0, 3, (2, 12, 12)) + disc * (300 + i))
        lines.append(f"c{i:03d},{phase},{'2' if i >= 120 else '1'},cells.tif,{i}")
    tifffile.imwrite(
        folder / "cells.tif",
        stack,
        metadata={"axes": "ZCYX", "channels": ["DNA", "BF"]},
        photometric="minisblack",
    )
    (folder / "cells.csv").write_text("\n".join(lines) + "\n")
    return folder


def made_up(**changes: Any) -> SimulateConfig:
    data: dict[str, Any] = {
        "input": {"manifest": "cells.csv", "columns": {"image_id": "cell_id", "uri": "file"}},
        "label": "phase", "where": {"day": ["1"]}, "out": "unused",
        "mixture": {"A": 0.7, "B": 0.3}, "moas": {"stop A": ["A"], "stop B": ["B"]},
    }  # fmt: skip
    field = {"field.side_px": 24, "field.feather_px": 2, "field.jitter_px": 1}
    overrides = SMALL | field | {k.replace("__", "."): v for k, v in changes.items()}
    return build_config(data, overrides=overrides, model=SimulateConfig, where="test")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# ---------------------------------------------------------------- layout


def test_shipped_layout() -> None:
    cfg = shipped()
    compounds = list_compounds(cfg)
    plates = lay_out(cfg, compounds)
    assert len(compounds) == 20
    assert len({c.name for c in compounds}) == 20
    assert len(plates) == 12
    assert len({p.name for p in plates}) == 12
    for moa in cfg.moas:  # every week has one compound of each mechanism
        assert sorted(c.week for c in compounds if c.moa == moa) == [0, 1, 2, 3]
    weeks_of: dict[str, set[int]] = defaultdict(set)
    for plate in plates:
        controls = [well for well, own in plate.wells.items() if own is None]
        treated = {well: own for well, own in plate.wells.items() if own is not None}
        assert sorted(controls) == sorted(cfg.plates.control_wells)
        assert len(treated) == 10
        assert all(2 <= int(well[1:]) <= 11 for well in treated)
        assert set(Counter(own.name for own in treated.values()).values()) == {2}
        assert all(own.week == plate.week for own in treated.values())
        for own in treated.values():
            weeks_of[own.name].add(plate.week)
    assert len(weeks_of) == 20
    assert all(len(weeks) == 1 for weeks in weeks_of.values())
    first = {plate.week: plate.wells for plate in reversed(plates)}
    assert all(plate.wells == first[plate.week] for plate in plates)  # same places within a week,
    assert len({frozenset(wells) for wells in first.values()}) == 4  # others in the next


def test_penetrance_varies_within_its_range_and_the_seed_decides() -> None:
    found = [c.penetrance for c in list_compounds(shipped())]
    assert all(0.55 <= p <= 0.85 for p in found)
    assert np.ptp(found) > 0.15
    assert found == [c.penetrance for c in list_compounds(shipped())]
    assert found != [c.penetrance for c in list_compounds(shipped(seed=1))]
    cfg = shipped(seed=1)
    assert lay_out(cfg, list_compounds(cfg)) != lay_out(shipped(), list_compounds(shipped()))


def test_fewer_compounds_than_weeks_leave_no_week_empty() -> None:
    compounds = list_compounds(shipped(compounds__per_moa=2))
    assert {c.week for c in compounds} == {0, 1, 2, 3}
    for moa in {c.moa for c in compounds}:
        assert len({c.week for c in compounds if c.moa == moa}) == 2


def test_too_many_wells_for_a_plate() -> None:
    cfg = shipped(compounds__wells=17)
    with pytest.raises(ConfigError, match="week 1 has 85 treated wells a plate, and there is room for 80"):
        lay_out(cfg, list_compounds(cfg))
    cfg = shipped(compounds__wells=16)
    assert all(len(plate.wells) == 88 for plate in lay_out(cfg, list_compounds(cfg)))
    cfg = shipped(compounds__wells=16, plates__control_wells=["A01", "D06"])
    with pytest.raises(ConfigError, match="room for 79 beside the 2 controls"):
        lay_out(cfg, list_compounds(cfg))


def test_edges_of_a_plate() -> None:
    assert all(is_edge(well) for well in ("A01", "A06", "H07", "D01", "E12"))
    assert not any(is_edge(well) for well in ("B02", "G11", "D06"))


def test_streams_are_apart() -> None:
    first = [stream(0, "a", 1).random(), stream(0, "a", 2).random(), stream(0, "b", 1).random()]
    assert len({*first, stream(1, "a", 1).random()}) == 4
    assert first[0] == stream(0, "a", 1).random()


# ---------------------------------------------------------------- who gets which cells


@pytest.mark.parametrize("seed", [0, 3])
def test_no_cell_is_shared(seed: int) -> None:
    cfg = shipped(seed=seed)
    compounds = list_compounds(cfg)
    pools = deal_cells(cfg, compounds, PHASES)
    everything = [*pools.controls]
    for c in compounds:
        everything += [*pools.responders[c.name], *pools.bystanders[c.name]]
        assert {PHASES[i] for i in pools.responders[c.name]} == set(cfg.moas[c.moa])
        assert Counter(PHASES[i] for i in pools.bystanders[c.name]) == {"G1": 20, "S_phase": 12, "G2": 8}
        assert 20 <= len(pools.responders[c.name]) <= 80
    assert len(everything) == len(set(everything))
    assert Counter(PHASES[i] for i in pools.controls) == {"G1": 200, "S_phase": 120, "G2": 80}
    late = [len(pools.responders[c.name]) for c in compounds if c.moa == "late mitosis"]
    assert sum(late) == 68 + 15 + 27
    assert max(late) - min(late) <= 3  # one for each of its three phases


def test_the_seed_deals_the_cells_and_input_order_is_not_their_order() -> None:
    pools = deal_cells(shipped(), list_compounds(shipped()), PHASES)
    assert pools == deal_cells(shipped(), list_compounds(shipped()), PHASES)
    other = shipped(seed=1)
    assert pools.controls != deal_cells(other, list_compounds(other), PHASES).controls
    assert max(pools.controls) > 2600
    g1 = np.array([i for i in pools.controls if i < 900])
    assert 350 < g1.mean() < 550  # from all over the file


def test_a_cell_dealt_out_twice_is_noticed() -> None:
    Pools((1, 2), {"a": (3,)}, {"a": (4,)}).check_disjoint()
    for pools in (
        Pools((1, 2), {"a": (2,)}, {"a": (4,)}),
        Pools((1, 2), {"a": (3,)}, {"a": (3,)}),
        Pools((1, 2), {"a": (3,), "b": (3,)}, {"a": (4,), "b": (5,)}),
    ):
        with pytest.raises(AssertionError, match="dealt out twice"):
            pools.check_disjoint()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"compounds__per_moa": 6, "cells__bystanders": 20},
            r"Metaphase, Anaphase, Telophase \(late mitosis\): 110 cells .*min_responders is 20",
        ),
        (
            {"compounds__per_moa": 10},
            r"too few cells in G1 for the bystanders: 200 .* 20 bystanders .* 50 compounds are 1200 cells",
        ),
        ({"cells__controls": 2000}, r"too few cells in G1 for the controls: 1000 for the controls"),
        ({"moas": {"x": ["G1"], "y": ["Interphase"]}}, r"no source cell is in the phase\(s\) Interphase"),
    ],
)
def test_too_few_cells(changes: dict[str, Any], text: str) -> None:
    cfg = shipped(**changes)
    with pytest.raises(ConfigError, match=text) as caught:
        deal_cells(cfg, list_compounds(cfg), PHASES)
    assert caught.value.hint


def test_a_hand_that_is_cut_keeps_all_its_phases() -> None:
    cfg = shipped(cells__responders=20)
    compounds = list_compounds(cfg)
    pools = deal_cells(cfg, compounds, PHASES)
    late = [pools.responders[c.name] for c in compounds if c.moa == "late mitosis"]
    assert [len(hand) for hand in late] == [20] * 4
    assert all({PHASES[i] for i in hand} >= {"Metaphase", "Telophase"} for hand in late)


def test_dealing_ends_with_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []

    def check(pools: Pools) -> None:
        checked.append(pools)

    monkeypatch.setattr(Pools, "check_disjoint", check)
    pools = deal_cells(shipped(), list_compounds(shipped()), PHASES)
    assert checked == [pools]


def test_shares_are_split_without_loss() -> None:
    assert split_shares({"a": 0.5, "b": 0.3, "c": 0.2}, 40) == {"a": 20, "b": 12, "c": 8}
    assert split_shares({"a": 0.5, "b": 0.3, "c": 0.2}, 1) == {"a": 1, "b": 0, "c": 0}
    assert split_shares({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, 8) == {"a": 3, "b": 3, "c": 2}
    for total in range(30):
        assert sum(split_shares({"a": 0.45, "b": 0.35, "c": 0.2}, total).values()) == total


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"mixture": {"G1": 0.5, "G2": 0.4}}, "add up to 1, they add up to 0.9"),
        ({"compounds__penetrance": [0.9, 0.5]}, r"low <= high <= 1, got \[0.9, 0.5\]"),
        ({"plates__control_wells": ["A01", "A13"]}, "not 'A13'"),
        ({"plates__control_wells": ["A01", "A01"]}, "names a well twice"),
        ({"moas": {"DMSO": ["G1"]}}, "both the control and a mechanism"),
        ({"moas": {"a/b": ["G1"]}}, "not 'a/b'"),
        ({"moas": {"a": ["G1", "G1"]}}, "stands twice in a"),
        ({"cells__min_responders": 81}, "above cells.responders"),
        ({"acquisition__strength": 2.5}, "less than or equal to 2"),
        ({"acquisition__colour": 1}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        shipped(**changes)


def test_every_setting_is_described() -> None:
    def check(model: Any) -> None:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            if hasattr(field.annotation, "model_fields"):
                check(field.annotation)

    check(SimulateConfig)


# ---------------------------------------------------------------- fields


def cells_of(planes: np.ndarray) -> SourceCells:
    ids = tuple(f"c{i}" for i in range(len(planes)))
    return SourceCells(ids, ("A",) * len(planes), ("x",), planes, len(planes), {})


def test_a_field_is_its_cells_turned_and_placed() -> None:
    rng = np.random.default_rng(0)
    planes = np.full((3, 1, 9, 9), 50, np.uint16)
    planes[:, :, 1:-1, 1:-1] += rng.integers(1, 200, (3, 1, 7, 7)).astype(np.uint16)
    planes.flags.writeable = False
    cells = cells_of(planes)
    puts = [
        Placement(0, "control", 0, 0, 0, mirrored=False),
        Placement(1, "control", 2, 20, 1, mirrored=False),
        Placement(2, "control", 15, 10, 3, mirrored=True),
    ]
    field = FieldConfig(side_px=30, grid=1, jitter_px=0, feather_px=0)
    out = compose_field(puts, cells, [np.zeros(1)], field=field, rng=rng)
    expected = np.full((30, 30), 50.0)
    expected[0:9, 0:9] = planes[0, 0]
    expected[2:11, 20:29] = np.rot90(planes[1, 0])
    expected[15:24, 10:19] = np.rot90(np.fliplr(planes[2, 0]), 3)
    assert np.array_equal(out[0], expected)


def test_seams_do_not_show() -> None:
    """Pictures of pure background: neither level nor variance differs between inside, border and outside."""
    rng = np.random.default_rng(0)
    planes = np.rint(rng.normal(200, 8, (200, 1, 20, 20)) + rng.normal(0, 30, (200, 1, 1, 1))).astype(
        np.uint16
    )
    cells = cells_of(planes)
    field = FieldConfig(side_px=120, grid=4, jitter_px=0, feather_px=5)
    noise = cells.background_noise()
    assert noise[0].std() == pytest.approx(8, rel=0.04)
    fields = []
    for k in range(12):
        puts = place_cells([(k * 16 + i, "control") for i in range(16)], field, patch_px=20, rng=rng)
        fields.append(compose_field(puts, cells, noise, field=field, rng=rng)[0] - cells.level[0])
    tiles = np.stack(fields).reshape(12, 4, 30, 4, 30)
    away = tiles.transpose(2, 4, 0, 1, 3).reshape(30, 30, -1)
    depth = np.minimum.outer(np.minimum(np.arange(30), 29 - np.arange(30)), np.full(30, 99))
    depth = np.minimum(
        depth, depth.T
    )  # rings of the slot: 0-4 outside the picture, 5-9 its border, then inside
    for ring in range(15):
        values = away[depth == ring]
        assert values.std() == pytest.approx(8, rel=0.08), ring
        assert abs(values.mean()) < 1.0, ring


def test_feather() -> None:
    window = feather(20, 5)
    assert np.array_equal(window, window.T)
    assert np.array_equal(window, window[::-1, ::-1])
    assert (window[5:-5, 5:-5] == 1).all()
    assert (np.diff(window[10, :6]) > 0).all()
    assert 0 < window[0].max() < 0.03
    assert (feather(20, 0) == 1).all()


def test_background_noise_leaves_cells_out() -> None:
    rng = np.random.default_rng(0)
    planes = np.rint(rng.normal(100, 4, (100, 1, 10, 10)))
    planes[:5, :, 0, 3:7] += 900  # a few cells reach the border
    noise = cells_of(planes.astype(np.uint16)).background_noise()[0]
    assert np.abs(noise).max() < 20
    assert noise.std() == pytest.approx(4, rel=0.1)
    assert abs(noise.mean()) < 1e-9


def test_places_of_cells() -> None:
    field = FieldConfig(side_px=100, grid=3, jitter_px=4, feather_px=5)
    corners, turns = set(), Counter()
    for k in range(60):
        puts = place_cells([(i, "control") for i in range(9)], field, patch_px=30, rng=stream(0, k))
        for i, put in enumerate(puts):
            row, column = divmod(i, 3)
            for got, slot in ((put.y_px, row), (put.x_px, column)):
                assert 0 <= got <= 70
                assert abs(got - ((slot + 0.5) * 100 / 3 - 15)) <= 4.5
            turns[put.quarter_turns, put.mirrored] += 1
        corners.add((puts[4].y_px, puts[4].x_px))
    assert len(corners) > 30
    assert set(turns) == {(turn, flip) for turn in range(4) for flip in (False, True)}
    assert min(turns.values()) > 40


def test_a_field_draws_responders_by_penetrance_and_no_cell_twice() -> None:
    pools = Pools(tuple(range(50)), {"x": tuple(range(50, 80))}, {"x": tuple(range(80, 110))})
    compound = Compound("x", "m", 0, 0.7)
    responding, used = [], set()
    for k in range(200):
        chosen = choose_cells(compound, pools, 25, stream(0, k))
        assert len({cell for cell, _ in chosen}) == 25
        for cell, role in chosen:
            assert cell in (pools.responders if role == "responder" else pools.bystanders)["x"]
        responding.append([role == "responder" for _, role in chosen])
        used |= {cell for cell, _ in chosen}
    assert used == set(range(50, 110))
    assert np.mean(responding) == pytest.approx(0.7, abs=0.02)
    assert np.ptp(np.mean(responding, axis=0)) < 0.2  # responders stand everywhere
    control = choose_cells(None, pools, 60, stream(0, "control"))
    counts = Counter(cell for cell, _ in control)
    assert {role for _, role in control} == {"control"}
    assert sorted(counts) == list(range(50))
    assert sorted(counts.values())[-11:] == [1, *[2] * 10]  # the pool was used up before any came again


def test_cells_need_room() -> None:
    check_field(FieldConfig(side_px=150, grid=5, feather_px=5), 40)
    with pytest.raises(ConfigError, match="5 × 5 cells of 40 px do not fit into a field of 149 px") as caught:
        check_field(FieldConfig(side_px=149, grid=5, feather_px=5), 40)
    assert "field.side_px=150" in caught.value.hint
    with pytest.raises(ConfigError, match="do not fit"):
        check_field(FieldConfig(side_px=36, grid=1, feather_px=5), 40)


# ---------------------------------------------------------------- whole plate sets


def test_a_plate_set_of_made_up_cells(source: Path, tmp_path: Path) -> None:
    cfg = made_up(acquisition__strength=0.5)
    done = simulate(cfg, root=str(source), out=tmp_path / "a")
    lines, cells = table(done.folder / "manifest.csv"), table(done.folder / "cells.csv")
    # 2 weeks × 2 plates × (2 controls + 2 compounds) × 1 site
    assert (done.n_images, len(lines), done.n_cells, len(cells)) == (16, 16, 64, 64)
    assert not done.already
    assert len({line["image_id"] for line in lines}) == 16
    for line in lines:
        assert line["batch"] == line["week"]
        control = line["compound"] == "DMSO"
        expected = ("DMSO", "0", "negative") if control else (line["moa"], "1", "")
        assert (line["moa"], line["concentration"], line["control_type"]) == expected
        image = read_image(str(done.folder / line["uri"]))
        assert image.planes.shape == (2, 24, 24)
        assert image.planes.dtype == np.uint16
        assert image.channels == ("DNA", "BF")
    assert {line["week"] for line in lines if line["moa"] == "stop A"} == {"week1", "week2"}
    owners: dict[str, set[tuple[str, str]]] = defaultdict(set)
    compound_of = {line["image_id"]: line["compound"] for line in lines}
    for cell in cells:
        owners[cell["cell_id"]].add((compound_of[cell["image_id"]], cell["role"]))
    assert all(len(own) == 1 for own in owners.values())
    assert not {"c120", "c121"} & set(owners)  # the other day
    record = json.loads((done.folder / "layout.json").read_text())
    assert record["complete"]
    assert record["counts"] == {"images": 16, "cells": 64, "saturated_px": 0}
    assert record["source"]["left_out"] == {"other day": 2}
    assert set(record["weeks"]) == {"week1", "week2"}
    assert set(record["plates"]) == {"W1P1", "W1P2", "W2P1", "W2P2"}
    assert record["config"]["seed"] == 0
    for level, own in (("week", 1), ("plate", "W2P1")):  # what was drawn stands there, with the strength
        drawn = draw_deviation(
            spreads(cfg.acquisition, level), stream(0, "acquisition", level, own), n_channels=2
        )
        written = record["weeks"]["week2"] if level == "week" else record["plates"]["W2P1"]
        for name in PARAMETERS:
            assert list(written[name].values()) == pytest.approx(0.5 * drawn[name], abs=1e-6)
            assert list(written[name]) == ["DNA", "BF"]
    assert (done.folder / "overview.png").stat().st_size > 1000


def test_without_effects_the_pixels_are_the_cells(source: Path, tmp_path: Path) -> None:
    """Strength 0: inside of every picture stands the source cell, turned as the table says."""
    done = simulate(made_up(acquisition__strength=0), root=str(source), out=tmp_path / "clean")
    stack = tifffile.imread(source / "cells.tif").astype(float)
    uris = {line["image_id"]: line["uri"] for line in table(done.folder / "manifest.csv")}
    rings = np.ones((12, 12), bool)
    rings[1:-1, 1:-1] = False
    levels = np.median(stack[:120][:, :, rings], axis=2)
    for cell in table(done.folder / "cells.csv"):
        planes = tifffile.imread(done.folder / uris[cell["image_id"]])
        y, x, number = int(cell["y_px"]), int(cell["x_px"]), int(cell["cell_id"][1:])
        own = stack[number] - levels[number][:, None, None] + np.median(levels, axis=0)[:, None, None]
        own = own[:, :, ::-1] if cell["mirrored"] == "1" else own
        own = np.rot90(own, int(cell["quarter_turns"]), axes=(1, 2))
        got = planes[:, y : y + 12, x : x + 12]
        assert np.abs(got - own)[:, 3:-3, 3:-3].max() <= 0.5
        assert cell["phase"] == "AB"[number % 2]


def test_effects_differ_by_week_plate_and_edge(source: Path, tmp_path: Path) -> None:
    """Each level alone: what differs is what should, seen in the mean of images that hold nearly the same."""
    off = dict.fromkeys(("week", "plate", "well", "field"), 0.0)
    nothing = {
        f"acquisition__{name}": off for name in ("gain", "offset", "tilt", "vignette", "blur_px", "noise")
    } | {
        "acquisition__read_sd": 0.0, "acquisition__shot": 0.0, "acquisition__mean_vignette": 0.0,
        "acquisition__edge_gain": 0.0,
    }  # fmt: skip

    def levels(**changes: Any) -> tuple[list[dict[str, str]], np.ndarray]:
        folder = tmp_path / hashlib.sha256(repr(changes).encode()).hexdigest()[:8]
        simulate(made_up(plates__sites=2, **(nothing | changes)), root=str(source), out=folder)
        lines = table(folder / "manifest.csv")
        # corners of a field hold nothing but background
        corner = [read_image(str(folder / line["uri"])).planes[1, -1:, -1:].mean() for line in lines]
        return lines, np.array(corner)

    def shift(level: str, together: np.ndarray) -> np.ndarray:
        """By how much images are brighter with this level alone; those that belong together must agree."""
        _, moved = levels(acquisition__offset=off | {level: 50.0})
        found = moved - clean  # rounded twice: equal within 1
        assert max(np.ptp(found[together == name]) for name in set(together)) <= 1
        return found

    def expected(*names: str | int) -> float:
        rng = stream(0, "acquisition", *names)
        return 50 * float(draw_deviation({"offset": 1.0}, rng, n_channels=2)["offset"][1])

    lines, clean = levels()
    week, plate, well, site, image = (
        np.array([line[name] for line in lines]) for name in ("week", "plate", "well", "site", "image_id")
    )
    edge = np.array([is_edge(w) for w in well])
    assert edge.any()
    assert not edge.all()
    assert shift("week", week) == pytest.approx([expected("week", int(w[-1]) - 1) for w in week], abs=1)
    assert shift("plate", plate) == pytest.approx([expected("plate", p) for p in plate], abs=1)
    outer = np.where(edge, 2, 1) * [expected("well", w) for w in well]
    assert shift("well", well) == pytest.approx(outer, abs=1)
    own = [expected("field", p, w, s) for p, w, s in zip(plate, well, site, strict=True)]
    assert shift("field", image) == pytest.approx(own, abs=1)
    _, moved = levels(acquisition__edge_gain=0.1)
    assert moved[edge] == pytest.approx(clean[edge] * np.exp(0.1), abs=0.5 + 0.5 * np.exp(0.1))
    assert np.array_equal(moved[~edge], clean[~edge])


def test_every_spread_goes_to_its_parameter() -> None:
    names = ("gain", "offset", "tilt", "vignette", "blur_px", "noise")
    sizes = {
        name: {"week": i + 1, "plate": i + 10, "well": i + 20, "field": i + 30}
        for i, name in enumerate(names)
    }
    cfg = shipped(**{f"acquisition__{name}": size for name, size in sizes.items()}).acquisition
    for level, first in (("week", 1), ("plate", 10), ("well", 20), ("field", 30)):
        found = spreads(cfg, level)
        assert list(found) == list(PARAMETERS)
        assert [found[name] - first for name in PARAMETERS] == [0, 1, 2, 2, 3, 4, 5]


def test_saturation_is_counted(source: Path, tmp_path: Path) -> None:
    cfg = made_up(acquisition__white_level=500, acquisition__strength=0)
    done = simulate(cfg, root=str(source), out=tmp_path / "a")
    record = json.loads((done.folder / "layout.json").read_text())
    per_plate = [plate["saturated_px"] for plate in record["plates"].values()]
    assert done.n_saturated == sum(sum(p.values()) for p in per_plate) == record["counts"]["saturated_px"] > 0
    at_the_top = Counter()
    for line in table(done.folder / "manifest.csv"):
        planes = read_image(str(done.folder / line["uri"])).planes
        assert planes.max() <= 500
        at_the_top[line["plate"]] += int((planes == 500).sum())
    for plate, own in record["plates"].items():
        assert 0 < sum(own["saturated_px"].values()) <= at_the_top[plate]


def test_the_same_settings_make_the_same_bytes(source: Path, tmp_path: Path) -> None:
    first = simulate(made_up(), root=str(source), out=tmp_path / "one" / "set")
    second = simulate(made_up(out="elsewhere"), root=str(source), out=tmp_path / "two" / "elsewhere")
    assert digests(first.folder) == digests(second.folder)
    assert len(digests(first.folder)) == 20
    other = simulate(made_up(seed=1), root=str(source), out=tmp_path / "three" / "set")
    same = [
        name for name, value in digests(other.folder).items()
        if digests(first.folder).get(name) == value
    ]  # fmt: skip
    assert same == []


def test_a_folder_is_never_overwritten(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    simulate(made_up(), root=str(source), out=out)
    before = digests(out)
    again = simulate(made_up(), root=str(source), out=out)
    assert again.already
    assert (again.n_images, again.n_cells) == (16, 64)
    with pytest.raises(StaleOutput, match="other settings of field, seed"):
        simulate(made_up(seed=2, field__jitter_px=0), root=str(source), out=out)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("cells.tif", "cells.csv"):
        (other / name).write_bytes((source / name).read_bytes())
    stack = tifffile.imread(other / "cells.tif")
    stack[0, 0, 5, 5] += 1
    tifffile.imwrite(
        other / "cells.tif",
        stack,
        metadata={"axes": "ZCYX", "channels": ["DNA", "BF"]},
        photometric="minisblack",
    )
    with pytest.raises(StaleOutput, match="other source cells"):
        simulate(made_up(), root=str(other), out=out)
    assert digests(out) == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not empty and has no layout\.json"):
        simulate(made_up(), root=str(source), out=foreign)
    assert sorted(digests(foreign)) == ["notes.txt"]


def test_a_run_that_was_cut_off_is_finished(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = simulate(made_up(), root=str(source), out=tmp_path / "whole" / "set")
    from microsnoop_apps.simulation import run

    write, written = run._write_image, []

    def fails(path: Path, planes: Any, channels: Any) -> None:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path)
        write(path, planes, channels)

    out = tmp_path / "cut" / "set"
    monkeypatch.setattr(run, "_write_image", fails)
    with pytest.raises(KeyboardInterrupt):
        simulate(made_up(), root=str(source), out=out)
    monkeypatch.undo()
    assert not (out / "manifest.csv").exists()
    done = simulate(made_up(), root=str(source), out=out)
    assert not done.already
    assert digests(out) == digests(whole.folder)
    written[0].unlink()
    assert not simulate(made_up(), root=str(source), out=out).already  # an image is missing: made again
    assert digests(out) == digests(whole.folder)


def test_cells_must_agree(source: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 12, 12), np.uint16), photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((2, 10, 12), np.uint16), photometric="minisblack")
    columns = {"columns": {"image_id": "cell_id", "uri": "file"}}
    for files, text in ((("a", "b"), "all cells need one size"), (("b", "b"), "must be square")):
        lines = [f"c{i},{'AB'[i]},1,{name}.tif" for i, name in enumerate(files)]
        (tmp_path / "cells.csv").write_text("\n".join(["cell_id,phase,day,file", *lines]) + "\n")
        with pytest.raises(InputError, match=text):
            simulate(
                made_up(input={"manifest": "cells.csv", **columns}), root=str(tmp_path), out=tmp_path / "x"
            )
    assert not (tmp_path / "x").exists()


# ---------------------------------------------------------------- the command, and the real cells


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    app = typer.Typer()
    app.command()(simulate_plates)

    def run(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=True)
        if isinstance(result.exception, MicrosnoopError):
            raise result.exception
        return result.exit_code, result.output

    return run


def test_the_shipped_settings_embed_what_the_shipped_settings_make() -> None:
    cfg = load_config(ROOT / "configs" / "embed" / "jurkat-plates.yaml")
    assert cfg.input.manifest == f"{shipped().out}/manifest.csv"
    assert cfg.mode == "rescale"


def test_the_command_says_what_it_did(
    source: Path, tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump(made_up(out=str(tmp_path / "set")).model_dump(mode="json")))
    code, text = command(config, "--data", source)
    assert code == 0
    assert "16 fields with 64 cells; 0 pixels are saturated" in text
    for name in ("manifest.csv", "cells.csv", "layout.json", "overview.png"):
        assert str(tmp_path / "set" / name) in text
        assert (tmp_path / "set" / name).is_file()
    code, text = command(config, "--data", source)
    assert code == 0
    assert f"{tmp_path / 'set'} holds these plates already" in text
    code, text = command(config, "--data", source, "--out", tmp_path / "two", "--set", "plates.sites=2")
    assert "32 fields" in text
    pixels = [read_image(str(path)).planes.tobytes() for path in (tmp_path / "two").rglob("*.tif")]
    assert len(set(pixels)) == 32
    held = Counter(cell["image_id"] for cell in table(tmp_path / "two" / "cells.csv"))
    assert set(held.values()) == {4}
    poses = defaultdict(list)
    for cell in table(tmp_path / "two" / "cells.csv"):
        poses[cell["image_id"]].append((cell["cell_id"], cell["y_px"], cell["x_px"], cell["quarter_turns"]))
    assert len(set(map(tuple, poses.values()))) == 32
    with pytest.raises(StaleOutput, match="settings of plates"):
        command(config, "--data", source, "--set", "plates.sites=2")


@pytest.mark.shared
def test_plates_of_real_cells(
    shared_data: Path, tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    sets = [f"--set={key}={json.dumps(value)}" for key, value in SMALL.items()]
    out = tmp_path / "set"
    code, text = command(SHIPPED, "--data", shared_data, "--out", out, *sets)
    assert code == 0
    assert "28 fields with 112 cells" in text
    records = read_records(InputConfig(manifest=str(out / "manifest.csv"))).records
    assert records.num_rows == 2 * 2 * (2 + 5)
    for row in records.to_pylist()[::7]:
        image = read_image(row["uris"][0])
        assert image.planes.shape == (3, 80, 80)
        assert image.channels == ("Ch3_brightfield", "Ch4_PI_DNA", "Ch6_darkfield")
        assert image.flags == ()
    meta = records.column("meta_compound").to_pylist()
    assert len(set(meta)) == 11
    record = json.loads((out / "layout.json").read_text())
    assert record["source"]["left_out"] == {"other experiment": 4500}
    assert record["source"]["phases"]["Telophase"] == 27
