"""Draws images from a trained generator.

    python -m dcgan_jax.sample --workdir=runs/faces --num=1000 --out=faces_samples --seed=1

writes exactly N PNG files (or one samples.npz) and a sheet of the first of them. Image i depends on (seed, i) only: the
same seed gives the same files whatever N is.

Batch normalisation at sampling time (--norm):

    running   the running averages of training (default): an image does not depend on what is drawn beside it
    frozen    averages over 50 fresh batches of noise, then constant; what the authors' SVHN script does for its
              discriminator, and what averaged (EMA) weights always use, since the running averages belong to others
    batch     statistics of batches of 128, as the authors' code samples
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from dcgan_jax import (
    checkpoint,
    command_line,
    data_parallel,
    frozen_statistics,
    image_grid,
    models,
    pixels,
    rng,
    run_folder,
)
from dcgan_jax.errors import UserError
from dcgan_jax.train_state import GANState, Tree, create_state

# In place of a step: the best checkpoint.
BEST = "best"
NORMS = ("running", "frozen", "batch")
# Always drawn in batches of this size, so that an image never depends on how many are asked for.
BATCH_SIZE = 128
# Batches whose moments are averaged for frozen statistics.
STATISTICS_BATCHES = 50


def make_generate(config: ConfigDict, norm: str = "running") -> Callable[..., jax.Array]:
    """Compiled `generate(params, batch_stats, z, labels) -> uint8 [batch, height, width, channels]`.

    `norm`: 'batch' uses the statistics of the batch; otherwise those in `batch_stats`.
    """
    generator, _ = models.build_models(config)

    @jax.jit
    def generate(params: Tree, batch_stats: Tree, z: jax.Array, labels: jax.Array | None) -> jax.Array:
        variables = {"params": params, "batch_stats": batch_stats}
        (images, _), _ = generator.apply(variables, z, labels, train=norm == "batch", mutable=["batch_stats"])
        return pixels.to_uint8(images, config.model.output)

    return generate


def draw_noise(config: ConfigDict, seed: int, first: int, count: int) -> jax.Array:
    """Noise [count, z_dim] of images first, first + 1, ...: each row depends on (seed, its number) only."""
    return draw_noise_of(config, seed, first + jnp.arange(count))


def draw_noise_of(config: ConfigDict, seed: int, numbers: jax.Array) -> jax.Array:
    """Noise [count, z_dim] of the images with these numbers, int32 [count]."""
    key = rng.stream(seed, "sample")
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
    return jax.vmap(lambda key: models.sample_noise(key, (config.model.z_dim,), config.model.z_distribution))(keys)


def make_estimate_statistics(config: ConfigDict) -> Callable[[Tree, Tree], Tree]:
    """`estimate(params, batch_stats) -> batch_stats`: frozen statistics of a generator with these parameters.

    From STATISTICS_BATCHES batches of BATCH_SIZE, the classes in turn; see frozen_statistics.py.
    """
    estimate, classes = frozen_statistics.make_estimate(models.build_models(config)[0]), config.model.num_classes

    @jax.jit
    def draw(i: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        key = rng.stream(config.seed, "statistics", i)
        z = models.sample_noise(key, (BATCH_SIZE, config.model.z_dim), config.model.z_distribution)
        return z, (i * BATCH_SIZE + jnp.arange(BATCH_SIZE)) % classes if classes else None

    def estimate_statistics(params: Tree, batch_stats: Tree) -> Tree:
        return estimate(params, batch_stats, (draw(jnp.int32(i)) for i in range(STATISTICS_BATCHES)))

    return estimate_statistics


def make_draw(config: ConfigDict) -> Callable[[GANState, jax.Array, jax.Array | None], np.ndarray]:
    """`draw(state, z, labels) -> uint8 images` of a run in progress: averaged weights if the run keeps them."""
    generate, variables = make_generate(config), make_sampling_variables(config)

    def draw(state: GANState, z: jax.Array, labels: jax.Array | None) -> np.ndarray:
        return np.asarray(generate(**variables(state), z=z, labels=labels))

    return draw


def sheet_inputs(config: ConfigDict, seed: int) -> tuple[jax.Array, jax.Array | None, int]:
    """Noise, labels and number of columns of a sample sheet: 8 x 8 images, or 8 rows with a class per column."""
    classes = config.model.num_classes
    columns = min(classes, 10) if classes else 8
    labels = jnp.arange(8 * columns, dtype=jnp.int32) % columns if classes else None
    return draw_noise(config, seed, 0, 8 * columns), labels, columns


class _StepParser(flags.ArgumentParser):
    """A number of steps, or BEST."""

    syntactic_help = f"a number, or '{BEST}'"

    def parse(self, argument: str | int) -> str | int:
        if argument == BEST:
            return BEST
        try:
            return int(argument)
        except ValueError:
            raise ValueError(f"{argument!r} is neither a number of steps nor '{BEST}'") from None


def define_step_flag() -> flags.FlagHolder:
    """--step, for `load_run`."""
    text = f"Checkpoint to use: its step, or '{BEST}', the one with the lowest distance to the data among those that "
    text += "were evaluated; default: the latest."
    return flags.DEFINE(_StepParser(), "step", None, text, serializer=flags.ArgumentSerializer())


def load_run(workdir: Path, step: int | str | None = None) -> tuple[ConfigDict, GANState]:
    """Config and state of a run, on this machine's default device, whatever it was trained on.

    `step`: of the checkpoint, BEST, or None for the newest one.

    Raises:
      UserError: no run, or no such checkpoint.
    """
    config = run_folder.load_config(workdir)
    if step == BEST:
        step = run_folder.best_step(workdir, run_folder.steps(workdir))
        if step is None:
            raise UserError(
                f"{workdir} has no checkpoint that was evaluated: give --step a number, see --config.eval_every."
            )
    assert not isinstance(step, str)
    generator, discriminator = models.build_models(config)
    abstract = jax.eval_shape(lambda: create_state(config, generator, discriminator))
    state = _restore(workdir, step, abstract, data_parallel.make_mesh(jax.device_count()))
    return config, jax.device_put(state, jax.local_devices()[0])


def _restore(workdir: Path, step: int | None, abstract: GANState, mesh: Mesh) -> GANState:
    """The state of a step, or the newest intact one."""
    if step is not None:
        folder = run_folder.checkpoint(workdir, step)
        if folder.exists() and (damage := checkpoint.find_damage(folder)):
            raise UserError(f"the checkpoint of step {step} in {workdir} is damaged: {damage}. Choose another --step.")
        return checkpoint.restore(workdir, step, abstract, mesh)
    newest = checkpoint.newest_intact(workdir, partial(print, file=sys.stderr))
    if newest is None:
        raise UserError(f"{workdir} has no checkpoint yet.")
    try:
        return checkpoint.restore(workdir, newest, abstract, mesh)
    except UserError:
        if newest in run_folder.steps(workdir):
            raise
        return _restore(workdir, None, abstract, mesh)  # a run in training has deleted it, and has a newer one


def make_sampling_variables(config: ConfigDict, norm: str = "running") -> Callable[[GANState], dict[str, Tree]]:
    """`variables(state)`: 'params' and 'batch_stats' that draw a run's images: averaged weights if the run keeps them.

    `norm`: see the module's docstring.
    """
    estimate = make_estimate_statistics(config)

    def variables(state: GANState) -> dict[str, Tree]:
        params, batch_stats = state.generator.params, state.generator.batch_stats
        if state.ema is not None:
            params = state.ema
        if norm == "frozen" or (norm == "running" and state.ema is not None):
            batch_stats = estimate(params, batch_stats)
        return {"params": params, "batch_stats": batch_stats}

    return variables


def full_batches(values: np.ndarray, what: str = "") -> Iterator[tuple[np.ndarray, int]]:
    """Batches of exactly BATCH_SIZE rows, so that one compiled program serves all, and how many of the rows count.

    The last batch is filled up with its own rows. `what` names a progress bar; '' is for none.
    """
    with tqdm(total=len(values), desc=what, unit="image", disable=None if what else True) as bar:
        for first in range(0, len(values), BATCH_SIZE):
            part = values[first : first + BATCH_SIZE]
            yield np.resize(part, (BATCH_SIZE, *values.shape[1:])), len(part)
            bar.update(len(part))


def collect(config: ConfigDict, batches: Iterable[np.ndarray], num: int) -> np.ndarray:
    """`num` images in one array, uint8 [num, height, width, channels], without a second copy of them."""
    size = config.data.image_size
    images, done = np.empty((num, size, size, config.data.channels), np.uint8), 0
    for batch in batches:
        images[done : done + len(batch)] = batch
        done += len(batch)
    return images


def check_label(config: ConfigDict, label: int | None) -> None:
    """Raises UserError if `label` is not a class of the run's networks."""
    classes = config.model.num_classes
    if label is not None and not 0 <= label < classes:
        known = f"0 to {classes - 1}" if classes else "none: the network is unconditional"
        raise UserError(f"--label={label} is not one of the run's classes ({known}).")


def make_draw_images(config: ConfigDict, norm: str = "running") -> Callable[..., Iterator[np.ndarray]]:
    """`draw(state, num, seed, label=None)`: yields `num` images in batches, uint8 [batch, height, width, channels].

    Image i is a function of the state and (seed, i). `label`: class of all images of a conditional network; None draws
    the classes in turn. `norm`: see the module's docstring.
    """
    generate, variables = make_generate(config, norm), make_sampling_variables(config, norm)
    classes = config.model.num_classes

    def draw(state: GANState, num: int, seed: int, label: int | None = None) -> Iterator[np.ndarray]:
        drawn = variables(state)
        for first in range(0, num, BATCH_SIZE):
            labels = None
            if classes:
                labels = (first + jnp.arange(BATCH_SIZE)) % classes if label is None else jnp.full(BATCH_SIZE, label)
            images = generate(**drawn, z=draw_noise(config, seed, first, BATCH_SIZE), labels=labels)
            yield np.asarray(images)[: num - first]

    return draw


def write_pngs(out: Path, batches: Iterable[np.ndarray]) -> None:
    """out/000000.png, 000001.png, ... and sheet.png of the first 100."""
    first: list[np.ndarray] = []
    count = 0
    for batch in batches:
        for image in batch:
            image_grid.save_png(out / f"{count:06d}.png", image)
            count += 1
        first.extend(batch[: 100 - len(first)])
    image_grid.save_png(out / "sheet.png", image_grid.make_grid(np.stack(first), 10))


def write_npz(out: Path, batches: Iterable[np.ndarray]) -> None:
    """out/samples.npz with 'images' uint8 [num, height, width, channels], and sheet.png of the first 100."""
    images = np.concatenate(list(batches))
    temporary = out / ".samples.npz"
    np.savez(temporary, images=images)
    temporary.rename(out / "samples.npz")
    image_grid.save_png(out / "sheet.png", image_grid.make_grid(images[:100], 10))


def _progress(batches: Iterable[np.ndarray], bar: tqdm) -> Iterator[np.ndarray]:
    for batch in batches:
        yield batch
        bar.update(len(batch))


def main() -> None:
    config, state = load_run(Path(_WORKDIR.value), _STEP.value)
    check_label(config, _LABEL.value)
    out = Path(_OUT.value)
    run_folder.make_writable(out, "--out")
    if any(out.iterdir()):
        raise UserError(f"--out={out} is not empty: give a new folder, so that it holds these images and no others.")
    batches = make_draw_images(config, _NORM.value)(state, _NUM.value, _SEED.value, _LABEL.value)
    with tqdm(total=_NUM.value, unit="image", disable=None) as bar:
        (write_npz if _FORMAT.value == "npz" else write_pngs)(out, _progress(batches, bar))
    print(f"{_NUM.value} images and sheet.png in {out}")


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run.", required=True)
    _OUT = flags.DEFINE_string("out", None, "Folder for the images.", required=True)
    _NUM = flags.DEFINE_integer("num", 64, "How many images.", lower_bound=1)
    _SEED = flags.DEFINE_integer("seed", 0, "Image i is a function of (seed, i).", lower_bound=0, upper_bound=2**32 - 1)
    _STEP = define_step_flag()
    _LABEL = flags.DEFINE_integer("label", None, "Class of the images (conditional networks); default: all in turn.")
    _NORM = flags.DEFINE_enum(
        "norm", "running", NORMS, "Statistics of batch normalisation; see the module's docstring."
    )
    _FORMAT = flags.DEFINE_enum("format", "png", ("png", "npz"), "One PNG file per image, or one samples.npz.")
    command_line.run(main)
