"""Length of the training, batches, and what the history of a training says of it."""

from __future__ import annotations

import math
from itertools import chain

import numpy as np
import pytest

from microsnoop.core.muse_config import MuseParameters
from microsnoop_integrations.muse.schedule import History, Phases, batches, plan


def dealt(n: int, size: int, *, drop_last: bool = False, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rows.tolist() for rows in batches(n, size, drop_last=drop_last, rng=rng)]


# --- phases ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [64, 1_000, 50_000])
def test_the_published_schedule_counts_epochs(n: int) -> None:
    phases = plan(n, MuseParameters.published())
    assert phases == Phases(200, 200, 500, 200)
    assert phases.total == 900


def test_few_cells_get_enough_steps_and_many_get_enough_epochs() -> None:
    p = MuseParameters(batch_size=50, init_epochs=4, init_steps=30, n_epochs=7, n_steps=101)
    # 2 whole batches an epoch: 15 epochs are 30 steps, 51 are the first beyond 101
    assert plan(100, p) == Phases(15, 15, 51, 20)
    assert plan(10_000, p) == Phases(4, 4, 7, 3)
    # a batch cannot be larger than all cells
    assert plan(30, p) == Phases(30, 30, 101, 40)


def test_labels_are_renewed_as_often_as_asked() -> None:
    assert plan(80, MuseParameters(update_every=3)).update_every == 3
    assert plan(10**6, MuseParameters(n_epochs=1, n_steps=0)).update_every == 1


# --- batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "whole", "dropped"),
    [
        (70, [64, 6], [64]),
        (64, [64], [64]),
        (65, [65], [64]),
        (66, [64, 2], [64]),
        (128, [64, 64], [64, 64]),
        (129, [64, 65], [64, 64]),
        (200, [64, 64, 64, 8], [64, 64, 64]),
    ],
)
def test_sizes_of_batches(n: int, whole: list[int], dropped: list[int]) -> None:
    found = dealt(n, 64)
    assert [len(rows) for rows in found] == whole
    assert sorted(chain.from_iterable(found)) == list(range(n))
    found = dealt(n, 64, drop_last=True)
    assert [len(rows) for rows in found] == dropped
    assert len(set(chain.from_iterable(found))) == sum(dropped)


def test_cells_are_shuffled_anew_every_epoch() -> None:
    rng = np.random.default_rng(0)
    epochs = [[r.tolist() for r in batches(70, 64, drop_last=True, rng=rng)] for _ in range(30)]
    assert epochs[0] != epochs[1]
    assert epochs[0] == dealt(70, 64, drop_last=True)
    assert epochs[0] != dealt(70, 64, drop_last=True, seed=1)
    # who is left out of one epoch comes in another
    assert set(chain.from_iterable(chain.from_iterable(epochs))) == set(range(70))


# --- history ---------------------------------------------------------------------------------------


def test_terms_that_a_phase_lacks_are_nan() -> None:
    history = History()
    history.add("reconstruct", {"loss": 3.0})
    history.add("triplets", {"loss": 2.0, "triplet_rna": 0.5})
    history.add("main", {"loss": 1.0})
    assert history.phases == ["reconstruct", "triplets", "main"]
    assert history.terms["loss"] == [3.0, 2.0, 1.0]
    assert [math.isnan(v) for v in history.terms["triplet_rna"]] == [True, False, True]
    assert history.of("triplets", "triplet_rna") == [0.5]


def of_learned(values: list[float], *, before: list[float] | None = None) -> History:
    history = History()
    for phase, part in (("triplets", before or []), ("main", values)):
        for value in part:
            history.add(phase, {"loss": 100.0 - len(history.phases), "learned": value})
    return history


def test_a_phase_stalls_when_what_is_learned_stops_falling() -> None:
    falling = of_learned([5.0, 4.0, 3.0, 2.0])
    assert not falling.stalls("main", 2)
    # the whole loss goes on falling here: the size of weights does not count
    assert of_learned([5.0, 4.0, 4.1, 4.2]).stalls("main", 2)
    assert not of_learned([5.0, 4.0, 4.1, 4.2]).stalls("main", 3)
    # less than 0.1 % is as good as nothing
    assert of_learned([5.0, 4.0, 3.999, 3.998]).stalls("main", 2)
    assert not of_learned([5.0, 4.0, 3.999, 3.995]).stalls("main", 2)


def test_a_phase_stalls_by_itself_and_only_if_asked() -> None:
    assert not of_learned([4.0, 4.0, 4.0], before=[1.0] * 3).stalls("main", 3)
    assert of_learned([4.0, 4.0, 4.0, 4.0], before=[9.0] * 3).stalls("main", 3)
    assert not of_learned([4.0] * 50).stalls("main", 0)


def of_loss(values: list[float]) -> History:
    history = History()
    for value in values:
        history.add("reconstruct", {"loss": value})
    return history


def test_learning_is_a_loss_that_ends_lower() -> None:
    assert of_loss([3.0, 2.0]).learns("reconstruct")
    assert not of_loss([3.0, 3.0]).learns("reconstruct")
    assert not of_loss([2.0, 2.5, 3.0, 3.0]).learns("reconstruct")
    # one epoch cannot say
    assert of_loss([3.0]).learns("reconstruct")
    # of a long phase, both ends of 20 epochs are compared
    assert of_loss([3.0] * 20 + [9.0] * 60 + [2.9] * 20).learns("reconstruct")
    assert not of_loss([3.0] * 20 + [1.0] * 60 + [3.1] * 20).learns("reconstruct")
