"""What a training would do, without doing it: `python -m dcgan_jax.main --dry_run ...`.

It builds everything as `training.train` does, packs included, makes a few steps that nobody keeps, and writes

    <workdir>/dry_run/data.png   images of the whole set, cropped and resized, and mirrored as a step would
    <workdir>/dry_run/seen.png   the same as the discriminator sees them, if that differs
"""

import contextlib
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from dcgan_jax import training
from dcgan_jax.config import flatten
from dcgan_jax.datasets.batches import Batches
from dcgan_jax.machine import memory, processes
from dcgan_jax.machine.mesh import AXIS
from dcgan_jax.nets import pixels
from dcgan_jax.reports import image_grid
from dcgan_jax.runs import checkpoint
from dcgan_jax.train_state import Gan, GANState
from dcgan_jax.train_step import Draw, make_mapped_step, mirrored_at_random, noise_at, shown

_SHOWN = 64  # images of a sheet
_COLUMNS = 8
_SECONDS = 3.0  # for which steps are timed, and as many as R1's penalty comes in turns
_GIB = 2**30


def dry_run(config: ConfigDict, workdir: str | Path, init_from: str | Path | None = None) -> Path:
    """Prints the config and what it makes of data, networks, time and memory; returns the folder with the sheets.

    Raises UserError as `training.train` does. No checkpoint is written, and none that is there is touched.
    """
    config, workdir, gan, mesh = training.prepare(config, workdir, init_from)
    initial = training.initial_of(workdir, gan, init_from)
    dataset, _ = training.open_data(config, gan)
    newest = checkpoint.newest_intact(workdir, print)
    state = training.start_state(gan, workdir, newest, mesh, initial)
    first, out = int(state.step), workdir / "dry_run"
    if processes.is_first():
        fields = flatten(config)
        print("\n".join(f"config.{name} = {fields[name]!r}" for name in fields))
        print(training.overview(config, state, dataset, workdir, initial))
        data, seen = _sheets(config, gan, dataset.images, first)
        image_grid.save_png(out / "data.png", data)
        if gan.augmentations or gan.instance_noise:
            image_grid.save_png(out / "seen.png", seen)
    in_turn = config.regularizer.r1_every if config.regularizer.r1 else 1
    compiling, seconds = _time_steps(config, gan, mesh, Batches(config, dataset, mesh), state, in_turn)
    if processes.is_first():
        left = _duration((config.num_steps - first) * seconds)
        print(f"step     {seconds:.3g} s, {config.batch_size / seconds:,.0f} images/s; the first one {compiling:.1f} s")
        print(f"time     {left} until step {config.num_steps:,}, without sheets, evaluations and checkpoints")
        epochs = config.num_steps * config.batch_size / len(dataset.images)
        print(f"epochs   {epochs:,.1f}: how often each image is seen in {config.num_steps:,} steps")
        print(f"peak     {_memory()}; sheets, evaluations and checkpoints take more")
        print(f"sheets   in {out}; nothing was trained")
    return out


def _time_steps(
    config: ConfigDict, gan: Gan, mesh: Mesh, batches: Batches, state: GANState, at_least: int
) -> tuple[float, float]:
    """Seconds of the first call, which compiles, and of each of `at_least` steps or more after it."""
    step_function = make_mapped_step(gan, mesh, config.mapper)
    steps, seconds, compiling = 0, 0.0, None
    with contextlib.closing(batches.from_step(int(state.step))) as calls:
        while seconds < _SECONDS or steps < at_least:
            _, call = next(calls)
            begin = time.monotonic()
            state, metrics = step_function(state, batches.pack, call)
            jax.block_until_ready(metrics)
            if compiling is None:
                compiling = time.monotonic() - begin
            else:
                seconds, steps = seconds + time.monotonic() - begin, steps + len(next(iter(call.values())))
    return float(compiling or 0.0), seconds / steps


def _sheets(config: ConfigDict, gan: Gan, images: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Images as training takes them, and as the discriminator sees them, sheets uint8 [height, width, channels].

    The draws are those of the step after `step`. A probability of augmentation that is adjusted is shown as 1, which it
    can become.
    """
    chosen = images[np.unique(np.linspace(0, len(images) - 1, min(_SHOWN, len(images))).astype(int))]

    def look(batch: jax.Array) -> tuple[jax.Array, jax.Array]:
        probability = 1.0 if gan.augment_target else gan.augment_probability
        draw = Draw(gan.seed, jnp.int32(step), len(batch), 0, probability, noise_at(gan, jnp.int32(step)))
        data = pixels.to_network(batch, gan.generator.output)
        if gan.flip:
            data = mirrored_at_random(data, draw.keys("flip"))
        return data, shown(gan, draw, data, "real")

    one = Mesh(np.array(jax.local_devices()[:1]), (AXIS,))
    both = jax.shard_map(look, mesh=one, in_specs=P(), out_specs=P(), check_vma=False)(jnp.asarray(chosen))
    data, seen = (np.asarray(pixels.to_uint8(sheet, gan.generator.output)) for sheet in both)
    return image_grid.make_grid(data, _COLUMNS), image_grid.make_grid(seen, _COLUMNS)


def _memory() -> str:
    """The most that was used so far."""
    device = memory.peak_device_bytes()
    on_device = f", {device / _GIB:.2f} GiB of the device's" if device is not None else ""
    return f"{memory.peak_resident_bytes() / _GIB:.2f} GiB of this process at most{on_device}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
