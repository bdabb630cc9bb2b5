"""Order of examples, placement of batches, and what a data set must offer."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import imagenet32, lsun, mnist
from dcgan_jax.datasets import batches as batches_module
from dcgan_jax.datasets.batches import Batches, batch_indices, check_dataset, epoch_order, shuffled, take_rows
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.mesh import AXIS, map_step
from dcgan_jax.nets import flops
from dcgan_jax.train_step import over_batches
from tests import tiny


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    first, second = epoch_order(0, 0, 100), epoch_order(0, 1, 100)
    assert sorted(first) == sorted(second) == list(range(100))
    assert list(first) != list(second)
    assert list(first) != list(epoch_order(1, 0, 100))


def test_batches_cut_the_stream_of_epochs() -> None:
    stream = np.concatenate([epoch_order(7, epoch, 10) for epoch in range(3)])
    batches = [batch_indices(7, step, 4, 10) for step in range(7)]
    np.testing.assert_array_equal(np.concatenate(batches), stream[:28])
    # A batch larger than the set spans several epochs.
    np.testing.assert_array_equal(batch_indices(7, 0, 25, 10), stream[:25])


@pytest.mark.parametrize("batch_size", [3, 8])
def test_shuffled_batches_take_every_row_once_before_any_twice(batch_size: int) -> None:
    """Batches may span two permutations, and be larger than one."""
    rows, order = np.array([5, 10, 20, 30, 40, 50]), np.random.default_rng(0)
    stream = np.concatenate([order.permutation(rows) for _ in range(12)])
    batches = shuffled(rows, batch_size, np.random.default_rng(0))
    for i in range(9):
        np.testing.assert_array_equal(next(batches), np.sort(stream[i * batch_size : (i + 1) * batch_size]))


@pytest.mark.parametrize("mapper", ["shard_map", "pmap"])
@pytest.mark.parametrize("placement", ["device", "host"])
def test_resident_and_streamed_batches_are_the_same_examples(mapper: str, placement: str) -> None:
    dataset = tiny.dataset(count=11, classes=3)
    config = tiny.config({"mapper": mapper, "batch_size": 4, "data.placement": placement, "model.num_classes": 3})
    mesh = tiny.mesh(2)
    batches = Batches(config, dataset, mesh)
    assert bool(batches.pack) == (placement == "device")

    def everything(state: None, batch: dict[str, jax.Array]) -> tuple[None, dict[str, jax.Array]]:
        """What the mapped step sees, gathered from both devices."""
        return state, jax.lax.all_gather(batch, AXIS, tiled=True)

    mapped = map_step(over_batches(everything, dataset.images.shape[1:]), mesh, mapper)
    assert dataset.labels is not None
    for step, (done, call) in zip((2, 3, 4), batches.from_step(2), strict=False):
        assert done == step + 1
        _, seen = mapped(None, batches.pack, call)
        indices = batch_indices(0, step, 4, 11)
        np.testing.assert_array_equal(seen["image"], dataset.images[indices])
        np.testing.assert_array_equal(seen["label"], dataset.labels[indices])


def test_the_cpu_streams_by_default_one_step_a_call() -> None:
    batches = Batches(tiny.config(), tiny.dataset(), tiny.mesh())
    assert not batches.pack
    assert batches.steps_per_call == 1


@pytest.mark.parametrize(
    ("first", "last", "ends"),
    [(0, 9, [3, 6, 9]), (0, 7, [3, 6, 7]), (4, 9, [5, 6, 9]), (4, 5, [5]), (6, 6, [])],
)
def test_calls_of_several_steps(first: int, last: int, ends: list[int]) -> None:
    """Calls begin at multiples of 3; single steps fill the gaps; each call holds the batches of its steps."""
    config = tiny.config({"steps_per_call": 3, "log_every": 3, "data.placement": "device"})
    calls = list(Batches(config, tiny.dataset(), tiny.mesh()).from_step(first, last))
    assert [end for end, _ in calls] == ends
    seen = [list(indices) for _, call in calls for indices in np.asarray(call["index"])]
    assert seen == [list(batch_indices(0, step, 8, 32)) for step in range(first, last)]


def test_streamed_calls_of_several_steps_hold_the_images_themselves() -> None:
    config, dataset = tiny.config({"steps_per_call": 3, "log_every": 3, "data.placement": "host"}), tiny.dataset()
    calls = list(Batches(config, dataset, tiny.mesh()).from_step(0, 6))
    assert [end for end, _ in calls] == [3, 6]
    seen = np.concatenate([call["image"] for _, call in calls])
    np.testing.assert_array_equal(seen, [dataset.images[batch_indices(0, step, 8, 32)] for step in range(6)])


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_rows_are_taken_in_order_by_all_threads(tmp_path: Path, mapped: bool, dtype: type) -> None:
    """300 rows make five parts; rows of a mapped file begin anywhere in its pages."""
    values: np.ndarray = np.random.default_rng(0).integers(0, 256, (2_000, 37, 3)).astype(dtype)
    np.save(tmp_path / "values.npy", values)
    read = np.load(tmp_path / "values.npy", mmap_mode="r") if mapped else values
    indices = np.random.default_rng(1).integers(0, 2_000, (3, 100))
    with ThreadPoolExecutor(4) as pool:
        taken = take_rows(read, indices, pool)
    np.testing.assert_array_equal(taken, values[indices])
    assert type(taken) is np.ndarray and taken.dtype == dtype


class Device:
    """What `Batches` asks a device."""

    def __init__(self, platform: str, memory: int) -> None:
        self.platform, self._memory = platform, memory

    def memory_stats(self) -> dict[str, int]:
        return {"bytes_limit": self._memory}


class AMesh:
    size = 1

    def __init__(self, platform: str, memory: int) -> None:
        self.local_devices = [Device(platform, memory)]


@pytest.mark.parametrize(
    ("platform", "memory", "count", "size", "fits"),
    [
        ("gpu", 60 * 10**9, 3_033_042, 64, True),  # LSUN's bedrooms, 37 GB, on an H100 of 80 GB, of which JAX takes 3/4
        ("gpu", 30 * 10**9, 3_033_042, 64, False),
        ("tpu", 16 * 10**9, 1_281_167, 32, True),  # ImageNet at 32 pixels, 3.9 GB, on a v5e
        ("tpu", 16 * 10**9, 3_033_042, 64, False),
        ("cpu", 60 * 10**9, 10, 32, False),
    ],
)
def test_auto_knows_what_fits(platform: str, memory: int, count: int, size: int, fits: bool) -> None:
    config = {64: lsun, 32: imagenet32}[size].get_config()
    images = np.broadcast_to(np.uint8(0), (count, size, size, 3))
    assert batches_module._fits_on_device(config, images, AMesh(platform, memory)) == fits  # type: ignore[arg-type]


def test_small_rows_fill_whole_tiles_of_a_tpu() -> None:
    """1,000,000 rows of 784 values take 896 MB there instead of 784."""
    config, images = mnist.get_config(), np.broadcast_to(np.uint8(0), (1_000_000, 28, 28, 1))
    program = flops.step_memory_bytes(config, 1)
    between = int((840e6 + program) / 0.9)
    for platform, fits in (("gpu", True), ("tpu", False)):
        assert batches_module._fits_on_device(config, images, AMesh(platform, between)) == fits  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("platform", "resident", "batch_size", "steps"),
    [
        ("gpu", True, 128, 50),
        ("gpu", False, 128, 50),  # 79 MB
        ("gpu", False, 4096, 5),  # 50 MB each: five in 256 MB
        ("gpu", False, 30_000, 1),
        ("cpu", False, 128, 1),
    ],
)
def test_steps_of_a_call_that_suit(platform: str, resident: bool, batch_size: int, steps: int) -> None:
    config = lsun.get_config()
    config.batch_size = batch_size
    assert batches_module._steps_per_call(config, resident, AMesh(platform, 0)) == steps  # type: ignore[arg-type]


def test_too_few_images() -> None:
    with pytest.raises(UserError, match="7 images, fewer than one batch of 8"):
        check_dataset(tiny.config(), tiny.dataset(count=7))


def test_labels_needed_but_absent() -> None:
    with pytest.raises(UserError, match="num_classes is 3, but toy_bedrooms has no labels"):
        check_dataset(tiny.config({"model.num_classes": 3}), tiny.dataset())


def test_more_classes_than_the_network_has() -> None:
    with pytest.raises(UserError, match=r"5 classes.*set --config.model.num_classes=5"):
        check_dataset(tiny.config({"model.num_classes": 3}), tiny.dataset(classes=5))


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (
            [0, 0, 1],
            ["test", "train"],
            "the classes 0 test \\(2\\), 1 train \\(1\\), whose names are those of splits. GIVE",
        ),
        (
            [0, 0, 1],
            ["a", "b"],
            r"num_classes is 3, but toy_bedrooms has no images of 2; it has 0 a \(2\), 1 b \(1\).* GIVE",
        ),
        ([0, 2, 2], ["a", "b", "c"], r"has no images of 1 b; it has 0 a \(1\), 1 b \(0\), 2 c \(2\)"),
        ([0, 0, 0], None, r"has no images of 1, 2; it has 0 \(3\)"),
    ],
)
def test_every_class_needs_images(labels: list[int], names: list[str] | None, message: str) -> None:
    dataset = ImageDataset(tiny.images(3), np.array(labels, np.int32), {}, names, {"note": "GIVE"}, Path("memory"))
    with pytest.raises(UserError, match=message):
        check_dataset(tiny.config({"model.num_classes": 3, "batch_size": 2}), dataset)
    check_dataset(tiny.config({"batch_size": 2}), dataset)


def test_labels_that_are_missing_for_a_reason() -> None:
    dataset = ImageDataset(tiny.images(3), None, {}, None, {"note": "As x.png lies beside."}, Path("memory"))
    with pytest.raises(UserError, match=r"has no labels\. As x\.png lies beside\. Or train without labels"):
        check_dataset(tiny.config({"model.num_classes": 3, "batch_size": 2}), dataset)


def test_a_call_tells_of_its_first_step_that_is_not_finite_or_of_its_last() -> None:
    def step(state: jax.Array, batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        norms = jnp.stack([batch["value"][0].astype(jnp.float32), state.astype(jnp.float32)])
        return state + 1, {"loss": state.astype(jnp.float32), "norms": norms}

    def losses_of(*values: float) -> tuple[float, list[float]]:
        batches = {"value": jnp.array(values)[:, None]}
        _, metrics = jax.jit(over_batches(step, (1, 1, 1)))(jnp.float32(0), {}, batches)
        return float(metrics["loss"]), metrics["norms"].tolist()

    assert losses_of(7, 8, 9) == (2, [9, 2])
    assert losses_of(7, np.inf, np.nan) == (1, [np.inf, 1])
    assert losses_of(7, 8, np.inf) == (2, [np.inf, 2])
