"""Which compound stands where, and which cells are its own. Numbers in, numbers out: no image is touched here.

Every draw has a generator of its own, named by what is drawn, so that one more plate or another grid does not change
what was drawn for the others.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from microsnoop.core.errors import ConfigError
from microsnoop.core.simulate_config import SimulateConfig

ROWS, COLUMNS = "ABCDEFGH", 12
EDGE_COLUMNS = (1, COLUMNS)


@dataclass(frozen=True)
class Compound:
    """A treatment: screened in one week (counted from 0), stopping a share of the cells."""

    name: str
    moa: str
    week: int
    penetrance: float


@dataclass(frozen=True)
class Plate:
    """A plate of a week (counted from 0): ``wells`` maps each filled well to its compound, None for a control."""

    name: str
    week: int
    wells: Mapping[str, Compound | None]


@dataclass(frozen=True)
class Pools:
    """Source cells (their numbers, ascending) of the controls and, by compound, of responders and bystanders."""

    controls: tuple[int, ...]
    responders: Mapping[str, tuple[int, ...]]
    bystanders: Mapping[str, tuple[int, ...]]

    def check_disjoint(self) -> None:
        """Make sure that no cell is in two pools: else a nearest neighbour could be the very same cell."""
        pools = [self.controls, *self.responders.values(), *self.bystanders.values()]
        counts = Counter(cell for pool in pools for cell in pool)
        assert max(counts.values()) == 1, f"{counts.most_common(1)[0]}: a cell is dealt out twice"


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the generator of one draw: the same for the same seed and names, on every machine."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


def is_edge(well: str) -> bool:
    """Whether a well lies in the outermost rows or columns of its plate."""
    return well[0] in (ROWS[0], ROWS[-1]) or int(well[1:]) in EDGE_COLUMNS


def list_compounds(cfg: SimulateConfig) -> list[Compound]:
    """Return all compounds: those of a mechanism go to different weeks, as long as there are weeks left."""
    compounds: list[Compound] = []
    for m, moa in enumerate(cfg.moas):
        for k in range(cfg.compounds.per_moa):
            name = f"cpd{len(compounds) + 1:02d}"
            penetrance = float(stream(cfg.seed, "penetrance", name).uniform(*cfg.compounds.penetrance))
            # the first week turns with the mechanism: with fewer compounds than weeks no week stays empty
            week = (m + k % (cfg.compounds.weeks_per_moa or cfg.plates.weeks)) % cfg.plates.weeks
            compounds.append(Compound(name, moa, week, round(penetrance, 3)))
    return compounds


def lay_out(cfg: SimulateConfig, compounds: Sequence[Compound]) -> list[Plate]:
    """Place controls and compounds on all plates.

    Controls stand where the settings say; compounds stand anywhere but in columns 1 and 12, shuffled between weeks,
    at the same places on the plates of a week.

    Raises
    ------
    ConfigError
        More treated wells than a plate has room for.
    """
    taken = set(cfg.plates.control_wells)
    free = [f"{row}{column:02d}" for row in ROWS for column in range(1, COLUMNS + 1)]
    free = [well for well in free if well not in taken and int(well[1:]) not in EDGE_COLUMNS]
    plates = []
    for week in range(cfg.plates.weeks):
        own = [c for c in compounds if c.week == week for _ in range(cfg.compounds.wells)]
        if len(own) > len(free):
            raise ConfigError(
                f"week {week + 1} has {len(own)} treated wells a plate, and there is room for {len(free)} beside the "
                f"{len(taken)} controls and columns 1 and 12",
                hint="more weeks, or fewer compounds.per_moa or compounds.wells",
            )
        places = stream(cfg.seed, "places", week).permutation(len(free))[: len(own)]
        wells: dict[str, Compound | None] = dict.fromkeys(cfg.plates.control_wells)
        wells |= {free[place]: compound for place, compound in zip(places, own, strict=True)}
        wells = dict(sorted(wells.items()))
        plates += [Plate(f"W{week + 1}P{p + 1}", week, wells) for p in range(cfg.plates.per_week)]
    return plates


def manifest_line(cfg: SimulateConfig, plate: Plate, well: str, *, site: int) -> dict[str, str]:
    """Return the line of the manifest of one field."""
    compound, name, week = plate.wells[well], f"{well}_s{site}", f"week{plate.week + 1}"
    return {
        "image_id": f"{plate.name}_{name}", "uri": f"images/{plate.name}/{name}.tif", "plate": plate.name,
        "well": well, "site": str(site), "week": week, "batch": week,
        "compound": compound.name if compound else cfg.control,
        "concentration": f"{cfg.compounds.concentration:g}" if compound else "0",
        "moa": compound.moa if compound else cfg.control,
        "control_type": "" if compound else "negative",
    }  # fmt: skip


def describe_compounds(
    compounds: Sequence[Compound], plates: Sequence[Plate], pools: Pools, *, phases: Sequence[str]
) -> dict[str, Any]:
    """Return what is known of each compound: mechanism, week, penetrance, wells, cells by phase."""
    wells = {plate.week: plate.wells for plate in plates}
    return {
        c.name: {
            "moa": c.moa, "week": f"week{c.week + 1}", "penetrance": c.penetrance,
            "wells": [well for well, own in wells[c.week].items() if own == c],
            "responders": dict(sorted(Counter(phases[i] for i in pools.responders[c.name]).items())),
            "bystanders": len(pools.bystanders[c.name]),
        }
        for c in compounds
    }  # fmt: skip


def deal_cells(cfg: SimulateConfig, compounds: Sequence[Compound], phases: Sequence[str]) -> Pools:
    """Deal the source cells out: first to the controls, then to bystanders, what is left to the responders.

    Parameters
    ----------
    phases
        Of each source cell; pools hold positions in it.

    Raises
    ------
    ConfigError
        A phase that no cell has, or too few cells for so many compounds.
    """
    stacks = _shuffled(cfg, phases)
    shares = split_shares(cfg.mixture, cfg.cells.controls)
    controls = [cell for phase, n in shares.items() for cell in _take(stacks, phase, n, "controls", cfg)]
    bystanders: dict[str, tuple[int, ...]] = {}
    for compound in compounds:
        mixed = split_shares(cfg.mixture, cfg.cells.bystanders)
        own = [cell for phase, n in mixed.items() for cell in _take(stacks, phase, n, "bystanders", cfg)]
        bystanders[compound.name] = tuple(sorted(own))
    responders = _deal_responders(cfg, compounds, stacks)
    pools = Pools(tuple(sorted(controls)), responders, bystanders)
    pools.check_disjoint()
    return pools


def split_shares(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Split ``total`` by shares that add up to 1; what rounding leaves goes to the largest remainders."""
    exact = {name: share * total for name, share in shares.items()}
    counts = {name: int(value + 1e-9) for name, value in exact.items()}
    by_rest = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_rest[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def _shuffled(cfg: SimulateConfig, phases: Sequence[str]) -> dict[str, list[int]]:
    stacks: dict[str, list[int]] = defaultdict(list)
    for cell, phase in enumerate(phases):
        stacks[phase].append(cell)
    wanted = dict.fromkeys([*cfg.mixture, *(phase for own in cfg.moas.values() for phase in own)])
    unknown = [phase for phase in wanted if phase not in stacks]
    if unknown:
        raise ConfigError(
            f"no source cell is in the phase(s) {', '.join(unknown)}",
            hint=f"the column {cfg.label!r} holds {', '.join(sorted(stacks))}",
        )
    for phase in wanted:
        stream(cfg.seed, "deal", phase).shuffle(stacks[phase])
    return {phase: stacks[phase] for phase in wanted}


def _take(stacks: dict[str, list[int]], phase: str, n: int, whom: str, cfg: SimulateConfig) -> list[int]:
    stack = stacks[phase]
    if len(stack) < n:
        count = len(cfg.moas) * cfg.compounds.per_moa
        per_compound = split_shares(cfg.mixture, cfg.cells.bystanders)[phase]
        controls = split_shares(cfg.mixture, cfg.cells.controls)[phase]
        raise ConfigError(
            f"too few cells in {phase} for the {whom}: {controls} for the controls and {per_compound} bystanders for "
            f"each of {count} compounds are {controls + count * per_compound} cells, more than there are",
            hint="lower cells.controls, cells.bystanders or compounds.per_moa",
        )
    taken, stacks[phase] = stack[:n], stack[n:]
    return taken


def _deal_responders(
    cfg: SimulateConfig, compounds: Sequence[Compound], stacks: Mapping[str, list[int]]
) -> dict[str, tuple[int, ...]]:
    """Deal what is left of each phase to the compounds that stop cells there, one cell at a time."""
    hands: dict[str, list[int]] = {compound.name: [] for compound in compounds}
    for phase, stack in stacks.items():
        players = [c.name for c in compounds if phase in cfg.moas[c.moa]]
        for i, cell in enumerate(stack if players else []):
            hands[players[i % len(players)]].append(cell)
    for compound in compounds:
        hand = hands[compound.name]
        if len(hand) < cfg.cells.min_responders:
            own = cfg.moas[compound.moa]
            left = sum(len(stacks[phase]) for phase in own)
            raise ConfigError(
                f"too many compounds for the cells in {', '.join(own)} ({compound.moa}): {left} cells are left beside "
                f"controls and bystanders, {len(hand)} for {compound.name}, and cells.min_responders is "
                f"{cfg.cells.min_responders}",
                hint=f"compounds.per_moa is {cfg.compounds.per_moa}: lower it, or min_responders, controls or "
                "bystanders below cells",
            )
        # the stack was shuffled phase by phase: a hand that is cut must not lose its last phase
        stream(cfg.seed, "hand", compound.name).shuffle(hand)
    return {name: tuple(sorted(hand[: cfg.cells.responders])) for name, hand in hands.items()}
