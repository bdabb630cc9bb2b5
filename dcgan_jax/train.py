"""The training loop: build, restore, run, log, sample, checkpoint."""

import contextlib
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dcgan_jax import (
    allocator,
    checkpoint,
    collapse,
    config_check,
    data_parallel,
    image_grid,
    models,
    preemption,
    run_folder,
    sample,
)
from dcgan_jax.checkpoint import Checkpoints
from dcgan_jax.datasets import pack
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.divergence import Diverged, first_nonfinite
from dcgan_jax.errors import Interrupted
from dcgan_jax.evaluation import measures
from dcgan_jax.input_pipeline import Batches, check_dataset, check_labels, over_batches
from dcgan_jax.losses import LOSSES
from dcgan_jax.run_log import RunLog
from dcgan_jax.train_state import GANState, create_state
from dcgan_jax.train_step import Metrics, make_train_step

# Calls that may be under way on the device before the host waits: enough to keep it busy, few enough to stop quickly.
_CALLS_IN_FLIGHT = 2
# Images of the data that samples are compared with, see `collapse`.
_DATA_SHOWN = 64

Evaluate = Callable[[GANState], dict[str, float]]


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
    config_check.check_config(config)
    mesh = data_parallel.make_mesh(config.batch_size)
    data_parallel.check_same(_shared_settings(config), "configuration", "Give all of them the same command.")
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
                count_rollbacks = partial(run_folder.rollbacks_before, workdir, step or 0)
                rollbacks = data_parallel.from_first_process(count_rollbacks) or 0
                if rollbacks:
                    step_function = make_step_function(config, mesh, rollbacks)
                try:
                    return train(config, workdir, step, mesh, step_function, batches, dataset, evaluate, stop_requested)
                except Diverged as divergence:
                    if config.on_nonfinite == "stop" or rollbacks >= config.max_rollbacks:
                        raise
                    step = _newest_checkpoint(workdir)
                    if jax.process_index() == 0:
                        run_folder.add_rollback(workdir, divergence.step, step or 0, str(divergence))
                        print(f"WARNING: {divergence} Going back, rollback {rollbacks + 1} of {config.max_rollbacks}.")


def _newest_checkpoint(workdir: Path) -> int | None:
    """Step of the newest intact one, None if there is none; damaged ones are set aside."""
    return data_parallel.from_first_process(lambda: checkpoint.newest_intact(workdir, print, set_aside=True))


def make_step_function(config: ConfigDict, mesh: jax.sharding.Mesh, rollbacks: int) -> Callable[..., Any]:
    """The training step, over batches and devices; see `train_step` for `rollbacks`."""
    return data_parallel.map_step(over_batches(make_train_step(config, rollbacks)), mesh, config.mapper)


def _shared_settings(config: ConfigDict) -> str:
    """What must be equal on all hosts: everything but folders."""
    fields = run_folder.flatten(config)
    return repr({name: fields[name] for name in sorted(fields) if name not in ("data.dir", "data.cache_dir")})


def open_data(config: ConfigDict) -> tuple[ImageDataset, Evaluate | None]:
    """The images, and what measures samples beside them if config.eval_every asks for it.

    Raises:
      UserError: they cannot feed this config.
    """
    others, held_out = config.eval, None
    if config.eval_every and (others.source or others.split):
        held_out = pack.open_others(config.data, source=others.source, split=others.split)
    dataset = pack.open_or_build(config.data)
    check_dataset(config, dataset)
    evaluate = None
    if config.eval_every:
        if held_out:
            check_labels(config, f"{others.source or config.data.source} {others.split}", held_out)
        evaluate = measures.make_evaluate(config, dataset, held_out)
    checksums = f"{dataset.meta.get('sha256')} {dataset.meta.get('labels_sha256')}"
    remedy = "Give all of them the same files, or one --config.data.cache_dir that they share."
    data_parallel.check_same(checksums, "images", remedy)
    return dataset, evaluate


def train(
    config: ConfigDict,
    workdir: Path,
    step: int | None,
    mesh: jax.sharding.Mesh,
    step_function: Callable[..., Any],
    batches: Batches,
    dataset: ImageDataset,
    evaluate: Evaluate | None,
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
            loop = Loop(config, workdir, checkpoints, log, dataset.images, first_step, evaluate)
            for step, call in batches.from_step(first_step, config.num_steps):
                state, metrics = step_function(state, batches.pack, call)
                loop.after_call(step, state, metrics)
                if signum := stop_requested():
                    loop.save(step, state, metrics, block=True)
                    raise Interrupted(signum, step)
        if (best := run_folder.best_step(workdir, run_folder.steps(workdir))) is not None:
            log.text(f"best     step {best} of the checkpoints that are there; --step={sample.BEST} samples from it")
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
    return jax.jit(fresh, out_shardings=data_parallel.replicated(mesh))()


class Loop:
    """What happens beside the steps: metrics, sheets, checkpoints, each at its own interval and at the end."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        checkpoints: Checkpoints,
        log: RunLog,
        images: np.ndarray,
        first_step: int,
        evaluate: Evaluate | None = None,
    ) -> None:
        """`first_step`: finished steps of the state that the loop starts from. `images`: of the data."""
        self._evaluate = evaluate
        self._config, self._workdir, self._checkpoints, self._log = config, workdir, checkpoints, log
        self._draw = sample.make_draw(config)
        self._all_finite = jax.jit(_all_finite)
        self._sheet_inputs = sample.sheet_inputs(config, config.seed)
        self._data_shown = images[np.unique(np.linspace(0, len(images) - 1, _DATA_SHOWN).astype(int))]
        self._alarms = collapse.Alarms(LOSSES[config.loss], run_folder.read_metrics(workdir))
        self._in_flight: deque[tuple[int, Metrics]] = deque()
        self._begin = self._done = first_step
        self._last_check = first_step  # last step whose metrics were seen to be finite
        self._clock = Clock()

    def after_call(self, step: int, state: GANState, metrics: Metrics) -> None:
        """To be called after every call of the mapped step.

        Args:
          step: the last step that the call made.
          state, metrics: its results, which may still be under way.
        """
        config = self._config
        self._in_flight.append((step, metrics))
        if len(self._in_flight) > _CALLS_IN_FLIGHT:
            self._check_finite(*self._in_flight.popleft(), state)
        first, last = self._done == self._begin, step == config.num_steps
        if first:
            jax.block_until_ready(metrics)
            self._log.text(f"first step done after {self._clock.restart():.1f} s of compiling")
        else:
            self._clock.steps += step - self._done
        self._done = step
        self._log.progress(step)
        if jax.process_count() == 1:  # on several hosts all must stop at the same step: they do so at the next save
            self._checkpoints.check()

        extra: dict[str, float] = {}
        sheet_due, evaluation_due = (last or is_due(step, every) for every in (config.sample_every, config.eval_every))
        if sheet_due:
            with self._clock.paused(metrics):
                extra |= self._write_sheet(step, state)
        if self._evaluate and evaluation_due:
            with self._clock.paused(metrics):
                extra |= self._evaluate(_of_this_host(state))  # on every host: none waits for another
        # The same on all hosts: all of them look at the metrics of this step, or none.
        if (first and self._begin == 0) or is_due(step, config.log_every) or sheet_due or evaluation_due:
            self._write_metrics(step, metrics, extra, state)
        if last or is_due(step, config.checkpoint_every):
            with self._clock.paused(metrics):
                self.save(step, state, metrics)

    def save(self, step: int, state: GANState, metrics: Metrics, *, block: bool = False) -> None:
        """Checkpoints a state that is known to be good; `block`: and waits until it is saved."""
        self._check_finite(step, metrics, state)
        if not self._all_finite(state):  # metrics are of before the update
            leaves = jax.tree_util.tree_flatten_with_path(state)[0]
            bad = next(path for path, leaf in leaves if not np.isfinite(_of_this_host(leaf)).all())
            raise self._diverged(step, f"{jax.tree_util.keystr(bad, simple=True, separator='/')} of the state")
        self._log.sync()  # no checkpoint is newer than the metrics
        self._checkpoints.save(state, block=block)

    def _write_metrics(self, step: int, metrics: Metrics, extra: dict[str, float], state: GANState) -> None:
        values = self._check_finite(step, metrics, state) | extra
        alarms, warnings = self._alarms.watch(values)
        steps_per_second = self._clock.rate()
        seconds_left = math.nan
        if steps_per_second:  # unknown at the first step, which compiles
            values["images_per_second"] = round(steps_per_second * self._config.batch_size, 2)
            seconds_left = (self._config.num_steps - step) / steps_per_second
        self._log.scalars(step, values | alarms, seconds_left)
        for warning in warnings:
            self._log.text(f"warning: step {step}: {warning}")

    def _check_finite(self, step: int, metrics: Metrics, state: GANState) -> dict[str, float]:
        """The metrics that are single numbers. Raises Diverged if any metric is not finite."""
        while self._in_flight and self._in_flight[0][0] < step:  # the first one counts
            self._check_finite(*self._in_flight.popleft(), state)
        found = jax.device_get(metrics)
        if bad := first_nonfinite(found, state, self._config.update_order):
            raise self._diverged(step, bad)
        self._last_check = max(self._last_check, step)
        return {name: float(value) for name, value in found.items() if value.ndim == 0}

    def _diverged(self, step: int, what: str) -> Diverged:
        self._checkpoints.wait()
        saved = run_folder.latest_step(self._workdir)
        kept = "no checkpoint was saved before" if saved is None else f"the checkpoint of step {saved} is kept"
        if failure := self._checkpoints.failure():
            kept += f"; {failure}"
        first = min(self._last_check + 1, step)
        return Diverged(
            f"training diverged between steps {first} and {step}: {what} is not finite; {kept}. "
            "Check the data, or lower the learning rates in a new --workdir.",
            step,
        )

    def _write_sheet(self, step: int, state: GANState) -> dict[str, float]:
        if jax.process_index() != 0:
            return {}
        z, labels, columns = self._sheet_inputs
        images = self._draw(_of_this_host(state), z, labels)
        sheet = image_grid.make_grid(images, columns)
        try:
            image_grid.save_png(run_folder.sample_sheet(self._workdir, step), sheet)
        except OSError as error:
            self._log.text(f"warning: the sheet of step {step} could not be written ({error.strerror}).")
        self._log.image(step, "samples", np.asarray(sheet))
        return {"diversity": round(collapse.diversity(images, self._data_shown), 4)}


def _all_finite(state: GANState) -> jax.Array:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()


def _of_this_host(state: Any) -> Any:
    """A replicated state, or a part of one, as it lies on the first device here: one is enough to draw samples."""
    return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, state)


class Clock:
    """Speed of the steps alone: time in sheets and checkpoints does not count."""

    def __init__(self) -> None:
        self.steps = 0
        self._start = time.monotonic()

    def restart(self) -> float:
        """Seconds since the last restart."""
        now = time.monotonic()
        elapsed, self._start, self.steps = now - self._start, now, 0
        return elapsed

    def rate(self) -> float:
        """Steps per second since the last call; 0 if there were none."""
        steps, elapsed = self.steps, self.restart()
        return steps / elapsed if elapsed > 0 else 0.0

    @contextlib.contextmanager
    def paused(self, metrics: Metrics) -> Iterator[None]:
        jax.block_until_ready(metrics)  # the steps under way still count
        begin = time.monotonic()
        yield
        self._start += time.monotonic() - begin


def is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


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
