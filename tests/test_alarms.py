"""Alarms of a run that collapses, and the measure of diversity behind one of them."""

import math

import numpy as np
import pytest

from dcgan_jax.nets.losses import LOSSES
from dcgan_jax.runs.alarms import Alarms, diversity
from tests import tiny


def lines(count: int, **values: float) -> list[dict[str, float]]:
    return [{"step": step, **values} for step in range(count)]


# D(x) and D(G(z)) of 0.99 and 0.01, and of 0.9 and 0.1, or logits as far on the way to the loss's optimum.
WON = {"non_saturating": -2 * math.log(0.99), "minimax": -2 * math.log(0.99), "least_squares": 0.01**2, "hinge": 0.02}
HEALTHY = {"non_saturating": -2 * math.log(0.9), "minimax": -2 * math.log(0.9), "least_squares": 0.2**2, "hinge": 0.4}


@pytest.mark.parametrize("loss", LOSSES)
def test_the_discriminator_wins_when_it_does_for_ten_lines(loss: str) -> None:
    alarms = Alarms(LOSSES[loss])
    won = {"d_loss": WON[loss]}
    found = [alarms.watch(row) for row in lines(12, **won)]
    assert [on for on, _ in found] == [{}] * 9 + [{"alarm_d_wins": 1.0}] * 3
    assert [len(begun) for _, begun in found] == [0] * 9 + [1] + [0] * 2  # told once
    assert "discriminator wins" in found[9][1][0]
    assert alarms.watch({"step": 12, "d_loss": HEALTHY[loss]}) == ({}, [])
    assert [len(alarms.watch(row)[1]) for row in lines(10, **won)][-1] == 1  # told again


def test_samples_alike_for_three_sheets() -> None:
    alarms = Alarms(LOSSES["hinge"], lines(2, diversity=0.1))
    assert alarms.watch({"step": 5, "d_loss": 1.0}) == ({}, [])  # a line without a sheet
    on, begun = alarms.watch({"step": 6, "d_loss": 1.0, "diversity": 0.2})
    assert on == {"alarm_alike": 1.0}
    assert "samples look alike" in begun[0]


def test_samples_that_differ_too_little_for_ten_sheets() -> None:
    alarms = Alarms(LOSSES["hinge"], lines(8, diversity=0.49))
    assert alarms.watch({"step": 8, "diversity": 0.5}) == ({}, [])  # that ends it
    assert [alarms.watch(row) for row in lines(9, diversity=0.3)] == [({}, [])] * 9
    assert alarms.first_signs() == {"alarm_narrow": 0}
    on, begun = alarms.watch({"step": 9, "diversity": 0.49})
    assert on == {"alarm_narrow": 1.0} and "differ too little" in begun[0]


def test_memorised_at_once() -> None:
    alarms = Alarms(LOSSES["hinge"])
    assert alarms.watch({"step": 1, "probe_memorized": 0.4}) == ({}, [])
    on, begun = alarms.watch({"step": 2, "probe_memorized": 0.6})
    assert on == {"alarm_memorized": 1.0} and "may have memorised" in begun[0]
    assert alarms.watch({"step": 3, "d_loss": 1.0}) == ({}, [])


def test_blurred_samples_are_no_copies() -> None:
    """They are near the middle of the data, and so to some image of it."""
    alarms = Alarms(LOSSES["hinge"])
    assert alarms.watch({"step": 1, "pixels_memorized": 0.99, "pixels_spread": 0.5}) == ({}, [])
    assert alarms.watch({"step": 2, "pixels_memorized": 0.99, "pixels_spread": 0.6})[0] == {"alarm_memorized": 1.0}
    # Each space has a spread of its own.
    assert alarms.watch({"step": 3, "probe_memorized": 0.99, "pixels_spread": 0.1})[0] == {"alarm_memorized": 1.0}


def evaluations(*distances: float, **others: float) -> list[dict[str, float]]:
    return [{"step": 10 * i, "probe_frechet": value, **others} for i, value in enumerate(distances, 1)]


def worse(alarms: Alarms, rows: list[dict[str, float]]) -> list[bool]:
    return ["alarm_worse" in alarms.watch(row)[0] for row in rows]


def test_samples_become_worse_in_two_evaluations() -> None:
    alarms = Alarms(LOSSES["hinge"])
    # The lowest is 4: 12 is three times as much, and not more.
    assert worse(alarms, evaluations(10, 4, 12, 12.1, 11, 12.1)) == [False] * 6
    assert alarms.watch({"step": 65, "d_loss": 1.0}) == ({}, [])  # a line without an evaluation
    on, begun = alarms.watch({"step": 70, "probe_frechet": 12.1})
    assert on == {"alarm_worse": 1.0}
    assert "samples have become worse" in begun[0]
    assert worse(alarms, evaluations(30, 3, 9.5)) == [True, False, False]


def test_only_distances_of_one_way_of_measuring_are_compared() -> None:
    alarms = Alarms(LOSSES["hinge"], evaluations(4, evaluation=1))
    assert worse(alarms, evaluations(50, 50, evaluation=2)) == [False, False]
    assert worse(alarms, evaluations(50, 50, evaluation=2, fid=9)) == [False, False]  # the FID tells more
    assert worse(alarms, evaluations(50, 50, evaluation=1)) == [False, True]


def test_signs_of_collapse_begin_each_with_its_first() -> None:
    alarms = Alarms(LOSSES["hinge"])
    assert alarms.first_signs() == {}
    for row in (
        {"step": 10, "probe_memorized": 0.9, "diversity": 0.9},  # copies are no collapse
        {"step": 20, "diversity": 0.1},
        {"step": 30, "diversity": 0.9},
    ):
        alarms.watch(row)
    assert alarms.first_signs() == {}
    signs = [("d_loss", 0.01), ("diversity", 0.4), ("diversity", 0.1), ("probe_frechet", 1), ("probe_frechet", 9)]
    for step, (name, value) in zip((40, 45, 50, 60, 70), signs, strict=True):
        alarms.watch({"step": step, name: value})
    alarms.watch({"step": 75, "d_loss": 0.01})
    found = {"alarm_d_wins": 40, "alarm_narrow": 45, "alarm_alike": 50, "alarm_worse": 70}
    assert alarms.first_signs() == found
    ends = [("d_loss", 1.0), ("diversity", 0.3), ("diversity", 1.0), ("probe_frechet", 2.0)]
    for (name, value), ended in zip(ends, ("alarm_d_wins", "alarm_alike", "alarm_narrow", "alarm_worse"), strict=True):
        alarms.watch({"step": 80, name: value})
        del found[ended]
        assert alarms.first_signs() == found


def test_alarms_go_on_where_they_were() -> None:
    """A resumed run writes what one that never stopped writes."""
    rows = lines(14, d_loss=0.04)
    straight = Alarms(LOSSES["non_saturating"])
    expected = [straight.watch(row) for row in rows]
    resumed = Alarms(LOSSES["non_saturating"], rows[:7])
    assert [resumed.watch(row) for row in rows[7:]] == expected[7:]


def test_diversity_by_hand() -> None:
    """Grey images of one value each: distances between neighbours are the differences of the values, times a root."""
    samples = np.array([10, 20, 40, 100], np.uint8)[:, None, None, None] * np.ones((4, 8, 8, 1), np.uint8)
    data = np.array([0, 100, 200, 0, 7], np.uint8)[:, None, None, None] * np.ones((5, 8, 8, 1), np.uint8)
    # Nearest: 10, 10, 20, 60; of the first four images of the data: 0, 100, 100, 0.
    assert diversity(samples, data) == pytest.approx(25 / 50)


def test_copies_have_no_diversity_and_other_images_have_all() -> None:
    images = tiny.images(64, 28)
    assert diversity(np.repeat(images[:8], 8, axis=0), images) == 0
    assert diversity(tiny.images(64, 28, seed=1), images) == pytest.approx(1, abs=0.1)


def test_diversity_needs_images_that_differ() -> None:
    """One image, or twenty that are the same, say nothing about how far apart samples should be."""
    samples = tiny.images(20)
    assert math.isnan(diversity(samples, tiny.images(1)))
    assert math.isnan(diversity(samples, tiny.images(1).repeat(20, 0)))
    assert diversity(tiny.images(1).repeat(20, 0), samples) == 0
