"""The training loop: build, restore, run, log, sample, checkpoint."""

import contextlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from dcgan_jax.config import check_config, flatten
from dcgan_jax.datasets import opening
from dcgan_jax.datasets.batches import Batches, check_dataset, check_labels
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine import allocator, preemption, processes
from dcgan_jax.machine.errors import Interrupted
from dcgan_jax.machine.mesh import make_mesh, map_step, replicated
from dcgan_jax.metrics import measures
from dcgan_jax.nets import models
from dcgan_jax.runs import checkpoint, recorder, run_folder
from dcgan_jax.runs.checkpoint import Checkpoints
from dcgan_jax.runs.divergence import Diverged
from dcgan_jax.runs.rollbacks import add_rollback, rollbacks_before
from dcgan_jax.runs.run_log import RunLog
from dcgan_jax.train_state import GANState, create_state
from dcgan_jax.train_step import make_train_step, over_batches


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> GANState:
    """Trains until `config.num_steps`, starting from the newest checkpoint in `workdir` if there is one.

    Running the same command again continues the run exactly; a finished run goes on when num_steps is raised.

    Args:
      config: see configs/default.py.
      workdir: the run's folder, see `run_folder`.

    Returns:
      The state after the last step.

    Raises:
      UserError: the config, the data or the folder cannot be used; before any training. Or saves failed again and
        again.
      Diverged: a metric was not finite; the last good checkpoint is kept. With config.on_nonfinite='rollback', only
        after config.max_rollbacks returns to it.
      Interrupted: by SIGINT or SIGTERM, after saving.
    """
    workdir = Path(workdir)
    check_config(config)
    mesh = make_mesh(config.batch_size)
    processes.check_same(_shared_settings(config), "configuration", "Give all of them the same command.")
    step_function = make_step_function(config, mesh, 0)
    run_folder.check(workdir, config)
    with run_folder.lock(workdir) if jax.process_index() == 0 else contextlib.nullcontext():
        dataset, evaluate = open_data(config)
        if jax.process_index() == 0:
            run_folder.record(workdir, config, dataset.meta)
        batches = Batches(config, dataset, mesh)
        step = _newest_checkpoint(workdir)
        with preemption.stop_requests() as stop_requested:
            while True:
                count_rollbacks = partial(rollbacks_before, workdir, step or 0)
                rollbacks = processes.from_first_process(count_rollbacks) or 0
                if rollbacks:
                    step_function = make_step_function(config, mesh, rollbacks)
                try:
                    return train(config, workdir, step, mesh, step_function, batches, dataset, evaluate, stop_requested)
                except Diverged as divergence:
                    if config.on_nonfinite == "stop" or rollbacks >= config.max_rollbacks:
                        raise
                    step = _newest_checkpoint(workdir)
                    if jax.process_index() == 0:
                        add_rollback(workdir, divergence.step, step or 0, str(divergence))
                        print(f"WARNING: {divergence} Going back, rollback {rollbacks + 1} of {config.max_rollbacks}.")


def _newest_checkpoint(workdir: Path) -> int | None:
    """Step of the newest intact one, None if there is none; damaged ones are set aside."""
    return processes.from_first_process(lambda: checkpoint.newest_intact(workdir, print, set_aside=True))


def make_step_function(config: ConfigDict, mesh: jax.sharding.Mesh, rollbacks: int) -> Callable[..., Any]:
    """The training step, over batches and devices; see `train_step` for `rollbacks`."""
    return map_step(over_batches(make_train_step(config, rollbacks)), mesh, config.mapper)


def _shared_settings(config: ConfigDict) -> str:
    """What must be equal on all hosts: everything but folders."""
    fields = flatten(config)
    return repr({name: fields[name] for name in sorted(fields) if name not in ("data.dir", "data.cache_dir")})


def open_data(config: ConfigDict) -> tuple[ImageDataset, recorder.Evaluate | None]:
    """The images, and what measures samples beside them if config.eval_every asks for it.

    Raises:
      UserError: they cannot feed this config.
    """
    others, held_out = config.eval, None
    if config.eval_every and (others.source or others.split):
        held_out = opening.open_others(config.data, source=others.source, split=others.split)
    dataset = opening.open_or_build(config.data)
    check_dataset(config, dataset)
    evaluate = None
    if config.eval_every:
        if held_out:
            check_labels(config, f"{others.source or config.data.source} {others.split}", held_out)
        evaluate = measures.make_evaluate(config, dataset, held_out)
    checksums = f"{dataset.meta.get('sha256')} {dataset.meta.get('labels_sha256')}"
    remedy = "Give all of them the same files, or one --config.data.cache_dir that they share."
    processes.check_same(checksums, "images", remedy)
    return dataset, evaluate


def train(
    config: ConfigDict,
    workdir: Path,
    step: int | None,
    mesh: jax.sharding.Mesh,
    step_function: Callable[..., Any],
    batches: Batches,
    dataset: ImageDataset,
    evaluate: recorder.Evaluate | None,
    stop_requested: Callable[[], int | None],
) -> GANState:
    """From the checkpoint of `step` to the last one, or to the first that diverges, or that is asked to be the last."""
    state = start_state(config, workdir, step, mesh)
    first_step = int(state.step)
    log = RunLog(workdir, first_step, config.num_steps)
    warn = log.text if jax.process_index() == 0 else partial(print, file=sys.stderr)
    try:
        with Checkpoints(workdir, step, config.keep_checkpoints, config.keep_every, warn) as checkpoints:
            log.text(overview(config, state, dataset, workdir))
            loop = recorder.Recorder(config, workdir, checkpoints, log, dataset.images, first_step, evaluate)
            for step, call in batches.from_step(first_step, config.num_steps):
                state, metrics = step_function(state, batches.pack, call)
                loop.after_call(step, state, metrics)
                if signum := stop_requested():
                    loop.save(step, state, metrics, block=True)
                    raise Interrupted(signum, step)
        if (best := run_folder.best_step(workdir, run_folder.steps(workdir))) is not None:
            log.text(
                f"best     step {best} of the checkpoints that are there; --step={run_folder.BEST} samples from it"
            )
    finally:
        log.close()
    return state


def start_state(config: ConfigDict, workdir: Path, step: int | None, mesh: jax.sharding.Mesh) -> GANState:
    """The checkpoint of `step`, or a fresh state for None, on every device."""
    generator, discriminator = models.build_models(config)

    def fresh() -> GANState:
        return create_state(config, generator, discriminator)

    if step is not None:
        return checkpoint.restore(workdir, step, jax.eval_shape(fresh), mesh)
    return jax.jit(fresh, out_shardings=replicated(mesh))()


def overview(config: ConfigDict, state: GANState, dataset: ImageDataset, workdir: Path) -> str:
    """What is about to run: the parameters of both networks, the data, the devices, where it goes."""
    from clu import parameter_overview

    tables = [
        f"{name}\n{parameter_overview.get_parameter_overview(player.params, include_stats=False)}"
        for name, player in (("Generator", state.generator), ("Discriminator", state.discriminator))
    ]
    count, height, width, channels = dataset.images.shape
    devices = jax.devices()
    start = int(state.step)
    steps = f"{'from the start' if start == 0 else f'resumed at step {start}'}, until step {config.num_steps}"
    return "\n".join(
        [
            *tables,
            f"data     {config.data.source}: {count:,} images, {height} x {width} x {channels}",
            f"devices  {len(devices)} {devices[0].device_kind}, batch {config.batch_size}",
            f"memory   {allocator.description()}",
            f"workdir  {workdir}",
            f"running  {steps}",
        ]
    )
