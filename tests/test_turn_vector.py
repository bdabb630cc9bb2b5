"""Turn vectors: the choice of exemplars, the figures along an axis by hand, and the command."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from dcgan_jax.analysis import turn_vector
from dcgan_jax.datasets import opening
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import attribute_probe
from dcgan_jax.metrics.attribute_probe import AttributeProbe, Target
from dcgan_jax.runs import trained
from tests import linear, tiny
from tests.linear import LinearProbe, LinearRun
from tests.trained import analyse


def test_exemplars_are_extremes() -> None:
    values = np.random.default_rng(0).permutation(100).astype(float)
    groups = turn_vector.choose_extremes(values, 4, 5, np.random.default_rng(1))
    assert len(groups) == 5
    for low, high in groups:
        assert len(set(low)) == len(set(high)) == 4
        assert values[low].max() < 10 and values[high].min() >= 90


class Reader:
    """Stands for a probe: images are rows of z, the attribute their first number, the class the sign of the second."""

    def __init__(self) -> None:
        self.targets = {"yaw": Target("yaw", 0), "man": Target("man", 2)}

    def read(self, images: np.ndarray) -> dict[str, np.ndarray]:
        assert images.ndim == 2
        man = (images[:, 1] > 0).astype(float)
        return {"yaw": images[:, 0], "man": np.stack([1 - man, man], 1)}


def test_measures_by_hand() -> None:
    """Along (1, 0) the attribute rises and the class stays; along (0, 3) it is the other way round."""
    z = np.array([[0.5, 1.0], [-0.5, -1.0]])
    steps = np.array([-1.0, 0.0, 1.0])

    def measure(*vectors: tuple[float, float]) -> dict[str, Any]:
        moved = z[:, None] + steps[:, None] * np.array(vectors)[:, None, None]
        return turn_vector.turn(cast(AttributeProbe, Reader()), "yaw", moved, steps)

    turned = measure((1.0, 0.0), (3.0, 0.0))
    assert turned["mean"] == [-2, 0, 2]
    assert turned["standard_error"] == pytest.approx([1, 0, 1])
    assert turned["span"] == 4 and turned["kept"] == 1
    assert turned["monotone_share"] == 1 and turned["correlation"] == pytest.approx(1)
    other = measure((0.0, 3.0), (0.0, 3.0))
    assert other["mean"] == [0, 0, 0] and other["monotone_share"] == other["span"] == 0
    assert other["kept"] == 0.5  # one end of the axis each


def test_random_directions_are_as_long_as_the_vectors() -> None:
    vectors = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.1], [1.0, 2.0, 2.0]])
    random = turn_vector.random_directions(vectors, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(random, axis=1), [5, 0.1, 3])
    cosines = (random * vectors).sum(1) / np.array([25, 0.01, 9])
    assert np.abs(cosines).max() < 0.99 and len({*np.round(cosines, 6)}) == 3  # other directions, each its own


def turned(monkeypatch: pytest.MonkeyPatch, run: LinearRun, **options: Any) -> Any:
    """The report on a run whose yaw is the last coordinate; the second judge reads half of it, the other way."""
    probes = {
        0: LinearProbe({"man": 0.0}, held_out=0.9),
        1: LinearProbe({"man": 0.4}, yaw=-0.5, held_out=0.8),
    }
    heads = replace(tiny.dataset(6), attributes={"yaw": np.linspace(-1, 1, 6).astype(np.float32)})
    monkeypatch.setattr(opening, "open_or_build", lambda data: heads)
    monkeypatch.setattr(attribute_probe, "open_or_train", lambda dataset, seed=0: linear.as_probe(probes[seed]))
    return turn_vector.measure(linear.as_run(run), **options)


def test_an_experiment_with_two_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exemplars are extremes, and every curve follows from the z that were drawn, as images are linear in z."""
    run = LinearRun()
    report = turned(monkeypatch, run)
    pool, fresh = run.noise(2000), run.noise(128, 0, 2000)
    yaws = np.sort(np.round(40 * pool[:, -1]) / 40)
    left, right = pool[report["left"]], pool[report["right"]]
    assert len(left) == len(right) == 4
    assert left[:, -1].max() <= yaws[199] + 0.02 and right[:, -1].min() >= yaws[-200] - 0.02
    along, random = (run.drawn[name].reshape(10, 128, 9, 8) for name in ("along yaw", "along random directions"))
    np.testing.assert_allclose(along[:, :, 4], np.broadcast_to(fresh, (10, 128, 8)), atol=1e-6)  # t = 0
    vectors, noise = (path[:, 0, 8] - path[:, 0, 4] for path in (along, random))  # t = 1
    np.testing.assert_allclose(vectors[0], right.mean(0) - left.mean(0), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(noise, axis=1), np.linalg.norm(vectors, axis=1), rtol=1e-5)
    assert len({*np.round(vectors[:, 0], 6)}) == 10  # ten vectors of other exemplars

    axis = np.linspace(-1, 1, 9)
    base = fresh[:, -1].mean()
    for found, factor in ((report.values(), 1.0), (report["second_judge"], -0.5)):
        np.testing.assert_allclose(found["mean"], factor * (base + axis * vectors[:, -1].mean()), atol=2e-3)
        error = abs(factor) * np.abs(axis) * vectors[:, -1].std(ddof=1) / np.sqrt(10)
        np.testing.assert_allclose(found["standard_error"], error, atol=2e-3)
        chance = found["random_direction"]
        np.testing.assert_allclose(chance["mean"], factor * (base + axis * noise[:, -1].mean()), atol=2e-3)
        assert found["span"] == pytest.approx(2 * abs(factor) * vectors[:, -1].mean(), abs=2e-3)
        assert chance["span"] == pytest.approx(2 * abs(factor) * np.abs(noise[:, -1]).mean(), abs=2e-3)
        assert found["monotone_share"] == (factor > 0) and factor * found["correlation"] > 0.49
    for found, threshold in ((report.values(), 0.0), (report["second_judge"], 0.4)):
        for name, path in (("kept", along), ("random", random)):
            men = np.round(40 * path[..., 0]) / 40 > threshold
            kept = (men[:, :, [0, 8]] == men[:, :, [4]]).mean()
            value = found["kept"] if name == "kept" else found["random_direction"]["kept"]
            assert value == pytest.approx(kept, abs=1e-6)
    assert (report["probe_held_out"], report["second_judge"]["held_out"]) == (0.9, 0.8)
    rows = [(row["what"], row["here"]) for row in report.rows()]
    place = [what for what, _ in rows].index("yaw at +1.00 of the vector; a random direction")
    assert rows[place][1].startswith(f"{report['mean'][8]:+.2f} ± ")
    assert rows[place + 1] == (
        "  second judge",
        f"{report['second_judge']['mean'][8]:+.2f} ± {report['second_judge']['standard_error'][8]:.2f}; "
        f"{report['second_judge']['random_direction']['mean'][8]:+.2f}",
    )


def test_an_attribute_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no real-valued attribute 'man' \(--attribute can be yaw\)"):
        turned(monkeypatch, LinearRun(), attribute="man")


def test_exemplars_by_number(trained_run: Path) -> None:
    process = analyse("turn_vector", trained_run, "--left=1,2,3,4", "--right=5,6,7,8")
    assert process.returncode == 0, process.stderr
    out = trained_run / "analysis" / "turn_vector"
    results = json.loads((out / "results.json").read_text())
    assert results["left"] == [1, 2, 3, 4] and results["axis"][0] == -1 and len(results["axis"]) == 9
    with Image.open(out / "turn.png") as sheet, Image.open(out / "exemplars.png") as exemplars:
        assert sheet.size == (9 * 8, 6 * 8)
        assert exemplars.size == (5 * 8, 2 * 8 + 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"left": [1, 2]}, "--right is missing"),
        ({"left": [1, 2], "right": [3, 2000]}, "there is no sample 2000"),
        ({}, "have no real-valued attribute"),
    ],
)
def test_bad_input(trained_run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        turn_vector.measure(trained.load(trained_run), **options)


def test_a_command_that_cannot_work(trained_run: Path) -> None:
    process = analyse("turn_vector", trained_run, "--left=1,2", "--right=3,x")
    assert process.returncode == 2
    assert "must be numbers of samples" in process.stderr and "Traceback" not in process.stderr
