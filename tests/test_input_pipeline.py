"""Order of examples, placement of batches, and what a data set must offer."""

import jax
import numpy as np
import pytest

from dcgan_jax.data_parallel import AXIS, map_step
from dcgan_jax.errors import UserError
from dcgan_jax.input_pipeline import Batches, batch_indices, check_dataset, epoch_order, gathering
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


@pytest.mark.parametrize("mapper", ["shard_map", "pmap"])
@pytest.mark.parametrize("placement", ["device", "host"])
def test_resident_and_streamed_batches_are_the_same_examples(mapper: str, placement: str) -> None:
    dataset = tiny.dataset(count=11, classes=3)
    config = tiny.config(mapper=mapper, batch_size=4, data__placement=placement, model__num_classes=3)
    mesh = tiny.mesh(2)
    batches = Batches(config, dataset, mesh)
    assert bool(batches.pack) == (placement == "device")

    def everything(state: None, batch: dict[str, jax.Array]) -> tuple[None, dict[str, jax.Array]]:
        """What the mapped step sees, gathered from both devices."""
        return state, jax.lax.all_gather(batch, AXIS, tiled=True)

    mapped = map_step(gathering(everything), mesh, mapper)
    assert dataset.labels is not None
    for step, batch in zip((2, 3, 4), batches.from_step(2), strict=False):
        _, seen = mapped(None, batches.pack, batch)
        indices = batch_indices(0, step, 4, 11)
        np.testing.assert_array_equal(seen["image"], dataset.images[indices])
        np.testing.assert_array_equal(seen["label"], dataset.labels[indices])


def test_the_cpu_streams_by_default() -> None:
    assert not Batches(tiny.config(), tiny.dataset(), tiny.mesh()).pack


def test_too_few_images() -> None:
    with pytest.raises(UserError, match="7 images, fewer than one batch of 8"):
        check_dataset(tiny.config(), tiny.dataset(count=7))


def test_labels_needed_but_absent() -> None:
    with pytest.raises(UserError, match="num_classes is 3, but toy_bedrooms has no labels"):
        check_dataset(tiny.config(model__num_classes=3), tiny.dataset())


def test_more_classes_than_the_network_has() -> None:
    with pytest.raises(UserError, match=r"5 classes.*set --config.model.num_classes=5"):
        check_dataset(tiny.config(model__num_classes=3), tiny.dataset(classes=5))
