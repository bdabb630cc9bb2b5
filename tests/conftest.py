"""Sets up the process before any test module imports jax: four CPU devices, no network, nothing in the user's cache."""

import atexit
import os
import pkgutil
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

# The last of several equal flags wins.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4".strip()
os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling takes most of the time of these tests: a program is compiled once, without most optimisations.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

# Packs, TFDS data sets, matplotlib's font list and what Hypothesis keeps go here for the session. Child processes
# inherit it.
_cache = tempfile.TemporaryDirectory(prefix="dcgan_jax_tests_", ignore_cleanup_errors=True)
atexit.register(_cache.cleanup)
os.environ["XDG_CACHE_HOME"] = _cache.name
os.environ["TFDS_DATA_DIR"] = f"{_cache.name}/tensorflow_datasets"
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = f"{_cache.name}/hypothesis"
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers share what the first process says
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{_cache.name}/compiled"
os.environ["MPLBACKEND"] = "Agg"

# TensorFlow's file system layer would otherwise look for Google Cloud credentials on the network.
os.environ["NO_GCE_CHECK"] = "true"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

from dcgan_jax import machine  # noqa: E402  # reads the environment

machine.set_up()  # as every command does, before JAX is used


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update_golden", action="store_true", help="rewrite tests/golden (not with -n)")


# Functions of libraries that change dtypes on the way: Adam's and the schedules' powers of the step, an int32.
IMPLICIT = ("optax.tree.bias_correction", "optax.cosine_decay_schedule", "optax.linear_schedule")


@pytest.fixture(autouse=True)
def explicit_promotion(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the tests' own process nothing changes its dtype or number of axes without being asked to."""
    import jax

    def allowed(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            with jax.numpy_dtype_promotion("standard"):
                result = function(*args, **kwargs)
            return allowed(result) if callable(result) else result

        return call

    for name in IMPLICIT:
        monkeypatch.setattr(name, allowed(pkgutil.resolve_name(name)))
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Output may name files whose names are no UTF-8, which pytest-xdist cannot send to the first process."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """What a failed test has started ends with it."""
    yield
    if processes := sys.modules.get("tests.processes"):
        processes.end_all()


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unconditional run of one step; its images have no labels."""
    return _train(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def labelled_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, its images in a folder per class."""
    return _train(tmp_path_factory.mktemp("labelled"), classes=2)


@pytest.fixture(scope="session")
def conditional_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step whose networks are conditioned on the labels."""
    return _train(tmp_path_factory.mktemp("conditional"), {"model.num_classes": 2}, classes=2)


def _train(folder: Path, changes: Mapping[str, Any] = {}, classes: int = 0) -> Path:
    from dcgan_jax import training  # imports jax
    from tests import tiny

    config = tiny.config(
        {"num_steps": 1, "data.source": tiny.image_folder(folder / "images", classes=classes), **changes}
    )
    training.train(config, folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of 20 images of 8 x 8 pixels."""
    from tests import tiny  # imports jax

    return tiny.image_folder(tmp_path_factory.mktemp("data") / "images", count=20)


@pytest.fixture
def no_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training needs no TensorFlow, and without it starts faster. TensorBoard files have a test of their own."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
