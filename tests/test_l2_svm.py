"""The linear SVM: a problem solved by hand, the conditions of the optimum, and a separable problem."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dcgan_jax.evaluation import l2_svm, l2_svm_benchmark
from dcgan_jax.machine.errors import UserError


def objective(features: np.ndarray, signs: np.ndarray, weights: np.ndarray, intercept: float, c: float) -> float:
    miss = np.maximum(0, 1 - signs * (features @ weights + intercept))
    return float((weights @ weights + intercept**2) / 2 + c * (miss @ miss))


def test_two_points_by_hand() -> None:
    """x = 1 and x = -1: by symmetry b = 0, and w^2 / 2 + 2 C (1 - w)^2 is least at w = 4 C / (1 + 4 C)."""
    fitted = l2_svm.fit(np.array([[1.0], [-1.0]], np.float32), np.array([1, 0]), 2, c=0.75)
    np.testing.assert_allclose(fitted.weights, [[-0.75, 0.75]], atol=1e-5)
    np.testing.assert_allclose(fitted.intercept, [0, 0], atol=1e-5)


@pytest.mark.parametrize("c", [1e-3, 1e-1, 10.0])
def test_no_direction_leads_lower(c: float) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    features = (rng.normal(0, 1, (120, 8)) + 0.5 * labels[:, None]).astype(np.float32)
    fitted = l2_svm.fit(features, labels, 3, c)
    for k in range(3):
        signs = np.where(labels == k, 1.0, -1.0)
        weights, intercept = fitted.weights[:, k].astype(float), float(fitted.intercept[k])
        least = objective(features, signs, weights, intercept, c)
        for _ in range(20):
            change = 1e-2 * rng.normal(0, 1, 9)
            assert objective(features, signs, weights + change[:8], intercept + change[8], c) > least * (1 - 1e-6)


def test_another_start_leads_to_the_same_place() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 100)
    features = (rng.normal(0, 1, (100, 6)) + labels[:, None]).astype(np.float32)
    fresh = l2_svm.fit(features, labels, 2, 0.1)
    again = l2_svm.fit(features, labels, 2, 0.1, start=l2_svm.fit(features, labels, 2, 10.0))
    np.testing.assert_allclose(again.weights, fresh.weights, atol=1e-4)


def test_agreement_with_a_known_solution() -> None:
    """Weights of scikit-learn 1.9's LinearSVC(C=0.5, tol=1e-10, dual=False) on these eight points."""
    features = np.array([[0, 1], [1, 0], [2, 2], [3, 1], [4, 5], [5, 3], [1, 4], [0, 3]], np.float32)
    labels = np.array([0, 0, 1, 1, 2, 2, 0, 0])
    fitted = l2_svm.fit(features, labels, 3, 0.5)
    known = [[-0.56537, 0.12478], [0.145, -0.24626], [0.28976, 0.07561]]
    np.testing.assert_allclose(fitted.weights.T, known, atol=2e-4)
    np.testing.assert_allclose(fitted.intercept, [0.65672, -0.18514, -1.12463], atol=2e-4)


def test_separable_classes_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 500)
    features = (4 * np.eye(10)[labels] + rng.normal(0, 0.3, (500, 10))).astype(np.float32)
    np.testing.assert_array_equal(
        l2_svm.fit(features[:300], labels[:300], 10, 1.0).predict(features[300:]), labels[300:]
    )


def test_rows_are_copied_to_the_device(tmp_path: Path) -> None:
    matrix = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (3000, 7))
    matrix[:] = np.random.default_rng(0).normal(size=(3000, 7))
    numbers = np.random.default_rng(1).permutation(3000)[:2500]
    np.testing.assert_array_equal(l2_svm.to_device([matrix], numbers), matrix[numbers])
    both = l2_svm.to_device([matrix, -matrix], numbers)
    np.testing.assert_array_equal(both, np.concatenate([matrix[numbers], -matrix[numbers]]))


def test_how_much_of_the_gradient_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """By definition, of a solved problem and of one that was stopped after a single step."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    features = (rng.normal(0, 1, (200, 5)) + labels[:, None]).astype(np.float32)
    assert l2_svm.fit(features, labels, 2, 0.1).gradient_left <= 1e-5
    monkeypatch.setattr(l2_svm, "_MOST_NEWTON_STEPS", 1)
    stopped = l2_svm.fit(features, labels, 2, 0.1)
    x = np.concatenate([features, np.ones((200, 1))], 1)
    shares = []
    for k in range(2):
        signs = np.where(labels == k, 1.0, -1.0)
        weights = np.append(stopped.weights[:, k], stopped.intercept[k])
        slope = weights - 0.2 * (x * signs[:, None]).T @ np.maximum(0, 1 - signs * (x @ weights))
        shares.append(np.linalg.norm(slope) / np.linalg.norm(0.2 * (x * signs[:, None]).sum(0)))
    assert stopped.gradient_left == pytest.approx(max(shares), rel=1e-3) and max(shares) > 1e-3


def test_benchmark(tmp_path: Path) -> None:
    found = l2_svm_benchmark.measure(tmp_path, examples=1500, features=60)
    assert found["ours"]["accuracy"] > 0.3  # of ten classes; noise hides most of the factors
    assert 0 < found["ours"]["objective"] < 1e-3 * 1500 * 10  # that of no weights at all
    assert found.title == "L2-SVM with 1,500 x 60 features, 10 classes, C = 0.001"
    assert not list(tmp_path.iterdir())


def test_benchmark_on_a_disk_that_is_too_small(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the features need 4,000,000,008,000 bytes in --out"):
        l2_svm_benchmark.measure(tmp_path, examples=10**9 - 1998, features=1000)


def test_benchmark_command(tmp_path: Path) -> None:
    module = "dcgan_jax.evaluation.l2_svm_benchmark"
    command = [sys.executable, "-m", module, "--examples=100", "--features=20", "--c=0.01", f"--out={tmp_path}"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["examples"], results["features"], results["c"]) == (100, 20, 0.01)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
