"""The SVM solver beside scikit-learn's LinearSVC: objective, accuracy, time, memory.

    python -m dcgan_jax.evaluation.l2_svm_benchmark --examples=5000 --features=7168 --peer --out=runs/svm
    python -m dcgan_jax.evaluation.l2_svm_benchmark --examples=50000 --features=28672 --out=runs/svm_full

Ten classes; features like a discriminator's: LeakyReLU of random projections of 200 factors whose deviations fall, with
noise. Both solvers run in a process of their own, one after the other, so that each one's peak memory is its own; the
features are read from a file into memory, which counts as memory and not as time. The peer needs
`pip install -e '.[bench]'`.
"""

import multiprocessing
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from absl import flags

from dcgan_jax import command_line
from dcgan_jax.machine import files, memory
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.progress import tqdm
from dcgan_jax.nets.activations import LEAK
from dcgan_jax.reports import report
from dcgan_jax.reports.report import Figure, Report

CLASSES = 10
SOLVERS = {"ours": "this solver", "peer": "LinearSVC"}
_FACTORS = 200
_TEST = 2_000  # examples
_BLOCK = 1_000  # examples made at once
_GIB = 2**30


def write_problem(folder: Path, examples: int, features: int, seed: int) -> None:
    """x.npy float32 [examples + 2000, features] and labels.npy int32; the last 2,000 are for testing."""
    rng = np.random.default_rng(seed)
    deviations = np.arange(1, _FACTORS + 1) ** -0.5
    projection = rng.normal(size=(_FACTORS, features)).astype(np.float32)
    readout = rng.normal(size=(_FACTORS, CLASSES))
    count = examples + _TEST
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (count, features))
    labels = np.empty(count, np.int32)
    for first in tqdm(range(0, count, _BLOCK), desc="features", unit="block", disable=None):
        rows = slice(first, min(first + _BLOCK, count))
        factors = (rng.normal(size=(rows.stop - first, _FACTORS)) * deviations).astype(np.float32)
        values = factors @ projection + rng.normal(size=(rows.stop - first, features)).astype(np.float32)
        x[rows] = np.where(values > 0, values, LEAK * values)
        scores = factors @ readout
        labels[rows] = (scores + scores.std() * rng.normal(size=scores.shape) / 2).argmax(1)
    x.flush()
    np.save(folder / "labels.npy", labels)


def solve(solver: str, folder: Path, c: float) -> dict[str, float]:
    """Fits the problem in `folder` with 'ours' or 'peer': seconds, peak_memory_bytes, objective, accuracy."""
    x = np.load(folder / "x.npy", mmap_mode="r", allow_pickle=False)
    labels = np.load(folder / "labels.npy", allow_pickle=False)
    test = np.array(x[-_TEST:])
    if solver == "ours":
        from dcgan_jax.evaluation import l2_svm

        rows = l2_svm.to_device([x], np.arange(len(x) - _TEST))
        begin = time.monotonic()
        fitted = l2_svm.fit(rows, labels[:-_TEST], CLASSES, c, "ours")
        weights, intercept = fitted.weights, fitted.intercept
    else:
        from sklearn.svm import LinearSVC

        train = np.array(x[:-_TEST])
        begin = time.monotonic()
        peer = LinearSVC(C=c, dual=False, tol=1e-4).fit(train, labels[:-_TEST])
        weights, intercept = peer.coef_.T, peer.intercept_
    seconds = time.monotonic() - begin
    peak = memory.peak_resident_bytes()
    targets = np.where(labels[:-_TEST, None] == np.arange(CLASSES), 1.0, -1.0)
    parts = np.array_split(x[:-_TEST], 50)
    margins = np.concatenate([part.astype(np.float64) @ weights for part in parts]) + intercept
    loss = np.square(np.maximum(0.0, 1.0 - targets * margins)).sum()
    objective = 0.5 * np.square(weights.astype(np.float64)).sum() + 0.5 * np.square(intercept).sum() + c * loss
    accuracy = ((test @ weights + intercept).argmax(1) == labels[-_TEST:]).mean()
    return {
        "seconds": seconds,
        "peak_memory_bytes": peak,
        "objective": float(objective),
        "accuracy": float(accuracy),
    }


def measure(
    folder: str | Path, *, examples: int = 5_000, features: int = 7_168, c: float = 1e-3, peer: bool = False
) -> Report:
    """Makes the problem and solves it, in a process per solver.

    Args:
      folder: holds the features meanwhile.
      examples: to train on.
      features: of each.
      c: weight of the loss.
      peer: whether scikit-learn's LinearSVC runs too.

    Returns:
      'ours' and 'peer' as of `solve`, and the settings.

    Raises:
      UserError: scikit-learn is missing, or the features do not fit on the disk.
    """
    if peer:
        try:
            import sklearn  # noqa: F401
        except ImportError:
            raise UserError("--peer needs scikit-learn: pip install -e '.[bench]'") from None
    files.make_writable(Path(folder), "--out")
    needed, free = 4 * (examples + _TEST) * features, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"the features need {needed:,} bytes in --out={folder}, where {free:,} are free.")
    figures = [Figure("examples", examples), Figure("features", features), Figure("c", c)]
    with tempfile.TemporaryDirectory(dir=folder) as problem:
        write_problem(Path(problem), examples, features, seed=0)
        for solver, text in SOLVERS.items() if peer else [("ours", SOLVERS["ours"])]:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                outcome = pool.submit(solve, solver, Path(problem), c).result()
            here = (
                f"{outcome['seconds']:.1f} s, {outcome['peak_memory_bytes'] / _GIB:.1f} GiB, objective "
                f"{outcome['objective']:.8g}, accuracy {100 * outcome['accuracy']:.2f} %"
            )
            figures.append(Figure(solver, outcome, text, here))
    return Report(f"L2-SVM with {examples:,} x {features:,} features, 10 classes, C = {c:g}", figures)


def main() -> None:
    out = Path(_OUT.value)
    found = measure(out, examples=_EXAMPLES.value, features=_FEATURES.value, c=_C.value, peer=_PEER.value)
    report.publish(out, found)


if __name__ == "__main__":
    _EXAMPLES = flags.DEFINE_integer("examples", 5_000, "To train on.", lower_bound=CLASSES)
    _FEATURES = flags.DEFINE_integer("features", 7_168, "Of each.", lower_bound=1)
    _C = flags.DEFINE_float("c", 1e-3, "Weight of the loss.", lower_bound=1e-12)
    _PEER = flags.DEFINE_bool("peer", False, "Run scikit-learn's LinearSVC too.")
    _OUT = command_line.define_path("out", None, "Folder for results.json and, meanwhile, the features.", required=True)
    command_line.run(main)
