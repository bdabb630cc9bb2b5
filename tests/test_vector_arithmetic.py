"""Vector arithmetic: sums and intervals by hand, and the command on trained runs."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dcgan_jax.analysis import concepts, vector_arithmetic
from dcgan_jax.datasets import opening
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import attribute_probe
from dcgan_jax.metrics.attribute_probe import Target
from dcgan_jax.runs import trained
from tests import linear, tiny
from tests.linear import LinearProbe, LinearRun
from tests.trained import analyse

NUMBERS = ("--a=1,2", "--b=3,4", "--c=5,6")


def test_arithmetic_by_hand() -> None:
    values = np.array([[1.0, 0.0], [3.0, 0.0], [10.0, 2.0], [20.0, 2.0], [0.0, 5.0], [0.0, 7.0]])
    exemplars = np.array([[[0, 1], [2, 3], [4, 5]], [[4, 4], [0, 0], [1, 1]]])
    np.testing.assert_allclose(vector_arithmetic.arithmetic(values, exemplars), [[2 - 15, 0 - 2 + 6], [2, 5]])


def test_interval_by_hand() -> None:
    """Wilson's interval of 8 of 10, as published in many tables: 0.490 to 0.943."""
    assert vector_arithmetic.interval(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert vector_arithmetic.interval(0, 10)[0] == pytest.approx(0, abs=1e-12)
    assert vector_arithmetic.interval(10, 10)[1] == pytest.approx(1)


def test_means_by_hand() -> None:
    """A is samples 0 and 1, B is 2 and 3, C is 4 and 5; one exemplar's sum (1, 2) is scaled to a length of 10."""
    z = np.array([[3.0, 0.0], [5.0, 0.0], [2.0, 1.0], [2.0, 3.0], [0.0, 3.0], [0.0, 7.0], [8.0, 6.0], [0.0, 2.0]])
    exemplars = np.array([[[0, 1], [2, 3], [4, 5]]])
    means = vector_arithmetic.latent_means(z, exemplars, 10.0, np.array([[6, 7]]))
    np.testing.assert_allclose(means["three"], [[4 - 2, 0 - 2 + 5]])
    np.testing.assert_allclose(means["one"], [[3 - 2, 0 - 1 + 3]])
    np.testing.assert_allclose(means["one_scaled"], [[10 / math.sqrt(5), 20 / math.sqrt(5)]])
    np.testing.assert_allclose(means["c_alone"], [[0, 5]])
    np.testing.assert_allclose(means["already"], [[4, 4]])
    assert "already" not in vector_arithmetic.latent_means(z, exemplars, 10.0)
    np.testing.assert_array_equal(vector_arithmetic.scaled(np.zeros((1, 2)), 3.0), [[0, 0]])


def test_success_by_hand() -> None:
    """Of four images two show both traits, two are plausible, one is both. Wilson: 4.6 to 69.9 %."""
    long = 1.5
    z = np.array([[0.5, 0.5, 0], [0.5, 0.5, long], [-0.5, 0.5, 0], [0.5, -0.5, long]])
    drawn = linear.images_of(np.pad(z, ((0, 0), (0, 5))))
    probe = linear.as_probe(LinearProbe({"smiling": 0.0, "man": 0.0}, longest=1.2))
    rates = vector_arithmetic.success({"smiling": 1, "man": 1}, probe, {"three": drawn, "one": drawn[:1]})
    assert list(rates) == ["three", "one"]
    assert rates["three"] == pytest.approx(
        {"shown": 0.5, "plausible": 0.5, "success": 0.25, "low": 0.0456, "high": 0.6994}, abs=1e-4
    )
    assert rates["one"]["success"] == 1 and rates["one"]["high"] == pytest.approx(1)


SMILING = ("smiling=1,man=0", "smiling=0,man=0", "smiling=0,man=1")  # a smiling man


def measure(
    monkeypatch: pytest.MonkeyPatch, run: LinearRun, first: LinearProbe, second: LinearProbe, trials: int = 40
) -> Any:
    """The report of SMILING on a run whose images are those of a probe's."""
    coins = np.arange(6, dtype=np.int32) % 2
    faces = replace(tiny.dataset(6), attributes={name: coins for name in ("smiling", "man")})
    probes = {0: first, 1: second}
    monkeypatch.setattr(opening, "open_or_build", lambda data: faces)
    monkeypatch.setattr(attribute_probe, "open_or_train", lambda dataset, seed=0: linear.as_probe(probes[seed]))
    a, b, c = SMILING
    return vector_arithmetic.measure(linear.as_run(run), a=a, b=b, c=c, trials=trials)


def test_an_experiment_with_two_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rate of both judges, and every length, is computed again from the z that were drawn."""
    run = LinearRun()
    first = LinearProbe({"smiling": 0.0, "man": 0.0}, longest=1.6, held_out=0.9)
    second = LinearProbe({"smiling": 0.3, "man": -0.1}, longest=1.4, held_out=0.8)
    report = measure(monkeypatch, run, first, second)
    (entry,) = report["formulas"]
    assert (entry["formula"], entry["trials"], entry["exemplars"]) == (
        " - ".join(SMILING[:2]) + " + " + SMILING[2],
        40,
        3,
    )
    pool = run.noise(2000)
    z_of = {
        name: run.drawn[vector_arithmetic.METHODS[name]]
        for name in ("three", "one", "one_scaled", "c_alone", "already")
    }
    assert [len(z) for z in z_of.values()] == [40] * 5
    for judge, rates in ((first, entry), (second, entry["second_judge"])):
        for name, z in {**z_of, "random": pool}.items():
            seen = np.round(40 * z) / 40  # a pixel's levels
            smiling, man = (seen[:, i] > judge.thresholds[trait] for i, trait in enumerate(("smiling", "man")))
            near = np.linalg.norm(seen, axis=1) <= judge.longest
            assert rates[name]["shown"] == pytest.approx((smiling & man).mean()), name
            assert rates[name]["plausible"] == pytest.approx(near.mean()), name
            assert rates[name]["success"] == pytest.approx((smiling & man & near).mean()), name
        assert set(rates) - {"formula", "trials", "exemplars", "length_of_z", "second_judge"} == {
            *z_of,
            "pixels",
            "random",
        }
    for name, z in {**z_of, "random": pool}.items():
        assert entry["length_of_z"][name] == pytest.approx(np.linalg.norm(z, axis=1).mean())
    assert entry["length_of_z"]["prior"] == pytest.approx(math.sqrt(8 / 3))
    np.testing.assert_allclose(np.linalg.norm(z_of["one_scaled"], axis=1), math.sqrt(8 / 3), rtol=1e-5)
    assert (z_of["c_alone"][:, 0] < -0.2).all() and (z_of["c_alone"][:, 1] > 0.2).all()  # C: men who do not smile
    assert (z_of["already"][:, :2] > 0.2).all()
    assert report["probe_held_out"] == {"smiling": 0.9, "man": 0.9}
    assert report["second_judge_held_out"] == {"smiling": 0.8, "man": 0.8}
    table = {row["what"].strip().split(",")[0]: row["here"] for row in report.rows()}
    share = entry["three"]
    assert table["three exemplars"].startswith(f"{100 * share['success']:.1f} % ({100 * share['low']:.1f} to ")
    below = [
        after["here"] for row, after in itertools.pairwise(report.rows()) if row["what"].startswith("  three exemplars")
    ]
    assert below[0].startswith(f"{100 * entry['second_judge']['three']['success']:.1f} % (")
    sheet = np.asarray(report.pictures[0].content)
    assert sheet.shape == (4 * 3 * 2 + 3 * 8, 4 * (4 + 3 + 1) + 2 * 8, 1)  # four trials, as by number


def test_the_exemplars_show_their_concepts() -> None:
    """Only samples that the probe is sure of, three different ones a concept, for every trial others."""
    smiles = np.array([0.95, 0.9, 0.92, 0.89, 0.1, 0.05, 0.02, 0.5, 0.07, 0.91])
    men = np.array([0.05, 0.1, 0.01, 0.0, 0.0, 0.1, 0.2, 0.0, 0.03, 0.99])
    found = {name: np.stack([1 - yes, yes], 1) for name, yes in (("smiling", smiles), ("man", men))}
    targets = {name: Target(name, 2) for name in found}
    women = tuple(concepts.parse("a", f"smiling={i},man=0", 10, targets, None) for i in (1, 0, 0))
    formula = vector_arithmetic.Formula(women, {"smiling": 1, "man": 0})
    chosen = vector_arithmetic._choose(formula, found, 30, np.random.default_rng(0))
    assert chosen.shape == (30, 3, 3)
    for concept, allowed in zip(chosen.swapaxes(0, 1), ({0, 1, 2}, {4, 5, 8}, {4, 5, 8}), strict=True):
        assert all(set(trial) == allowed for trial in concept)


def test_too_few_samples_that_show_the_result_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who smiles is a man: the upper bound is left out, and the table says so."""

    def no_smiling_men(z: np.ndarray) -> np.ndarray:
        z[:, 1] = np.where(z[:, 0] > 0, -np.abs(z[:, 1]), z[:, 1])
        return z

    probe = LinearProbe({"smiling": 0.0, "man": 0.0})
    report = measure(monkeypatch, LinearRun(no_smiling_men), probe, probe, trials=5)
    (entry,) = report["formulas"]
    assert "already" not in entry and "already" not in entry["length_of_z"] and "three" in entry
    (row,) = [row for row in report.rows() if "show the result already" in row["what"]]
    assert row["here"] == "fewer than 3 of 2000 samples show it with probability 0.9"


def test_a_concept_that_no_sample_shows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = LinearProbe({"smiling": 0.0, "man": 2.0})
    with pytest.raises(UserError, match=r"only 0 of 2000 samples show smiling=0,man=1 with probability 0.9"):
        measure(monkeypatch, LinearRun(), nobody, nobody)


def test_default_formulas() -> None:
    coins = np.arange(6, dtype=np.int32) % 2
    faces = replace(tiny.dataset(6), attributes={name: coins for name in ("man", "smiling", "glasses")})
    assert vector_arithmetic.default_formulas(faces, False) == list(vector_arithmetic.FORMULAS[:2])
    labelled = replace(tiny.dataset(6), labels=np.array([2, 1, 2, 1, 2, 0], np.int32))
    assert vector_arithmetic.default_formulas(labelled, False) == [("label=1", "label=2", "label=2")]
    named = replace(labelled, class_names=["x", "y", "z"])
    assert vector_arithmetic.default_formulas(named, False) == [("label=y", "label=z", "label=z")]
    assert vector_arithmetic.default_formulas(named, True) == []
    assert vector_arithmetic.default_formulas(tiny.dataset(6), False) == []


def test_exemplars_by_number(trained_run: Path) -> None:
    process = analyse("vector_arithmetic", trained_run, *NUMBERS)
    assert process.returncode == 0, process.stderr
    out = trained_run / "analysis" / "vector_arithmetic"
    results = json.loads((out / "results.json").read_text())
    (entry,) = results["formulas"]
    lengths = entry.pop("length_of_z")
    assert entry == {"formula": "1,2 - 3,4 + 5,6", "trials": 1, "exemplars": 2}
    assert lengths["prior"] == pytest.approx(math.sqrt(5 / 3)) and lengths["one_scaled"] == pytest.approx(
        math.sqrt(5 / 3)
    )
    z = trained.load(trained_run).noise(7)
    assert lengths["three"] == pytest.approx(np.linalg.norm((z[1] + z[2] - z[3] - z[4] + z[5] + z[6]) / 2))
    assert lengths["one"] == pytest.approx(np.linalg.norm(z[1] - z[3] + z[5]))
    assert lengths["c_alone"] == pytest.approx(np.linalg.norm((z[5] + z[6]) / 2))
    assert "already" not in lengths  # nobody knows what the result should show
    with Image.open(out / "arithmetic_1.png") as sheet:
        assert sheet.size == (8 * (3 + 3 + 1) + 2 * 8, 3 * 8)  # two exemplars and the mean, 3 x 3, baselines
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.size == (560, 20 * 56)


def test_without_numbers_and_without_labels_it_asks(trained_run: Path) -> None:
    process = analyse("vector_arithmetic", trained_run)
    assert process.returncode == 2
    assert "choose samples from" in process.stderr and "sheet.png" in process.stderr


@pytest.mark.parametrize(
    ("concepts", "message"),
    [
        (("1,2", "3,4", None), "give all three of --a, --b and --c, or none"),
        (("1,2", "3,4", "5,2000"), "--c=5,2000: there is no sample 2000; they are numbered 0 to 1999"),
        (("1,2", "3,4", "5,6,7"), "must name equally many samples"),
        (("label=1", "label=0", "label=0"), "have no labels and no attributes"),
    ],
)
def test_bad_input(trained_run: Path, concepts: tuple[str | None, ...], message: str) -> None:
    a, b, c = concepts
    with pytest.raises(UserError, match=message):
        vector_arithmetic.measure(trained.load(trained_run), a=a, b=b, c=c)


def test_concepts_that_cannot_be_read_are_refused_before_anything_is_drawn(trained_run: Path) -> None:
    process = analyse("vector_arithmetic", trained_run, "--a=1,2", "--b=3,4", "--c=5,2000")
    assert process.returncode == 2
    assert "there is no sample 2000" in process.stderr and "samples to choose from" not in process.stderr
