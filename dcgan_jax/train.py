"""The training loop: build, restore, run, log, sample, checkpoint."""

import contextlib
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import jax
import numpy as np
from ml_collections import ConfigDict

from dcgan_jax import allocator, checkpoint, config_check, data_parallel, image_grid, models, run_folder, sample
from dcgan_jax.datasets import pack
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.errors import Interrupted, UserError
from dcgan_jax.evaluation import nearest
from dcgan_jax.input_pipeline import Batches, check_dataset, check_labels, over_batches
from dcgan_jax.run_log import RunLog
from dcgan_jax.train_state import GANState, create_state
from dcgan_jax.train_step import Metrics, make_train_step

# Calls that may be under way on the device before the host waits: enough to keep it busy, few enough to stop quickly.
_CALLS_IN_FLIGHT = 2

Evaluate = Callable[[GANState], dict[str, float]]


class Diverged(UserError):
    """A loss or gradient was not finite; the state was not saved."""


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> GANState:
    """Trains until `config.num_steps`, starting from the newest checkpoint in `workdir` if there is one.

    Running the same command again continues the run exactly; a finished run goes on when num_steps is raised.

    Args:
      config: see configs/default.py.
      workdir: the run's folder, see `run_folder`.

    Returns:
      The state after the last step.

    Raises:
      UserError: the config, the data or the folder cannot be used; before any training.
      Diverged: a metric was not finite; the last good checkpoint is kept.
      Interrupted: by SIGINT or SIGTERM, after saving.
    """
    workdir = Path(workdir)
    config_check.check_config(config)
    mesh = data_parallel.make_mesh(config.batch_size)
    step_function = data_parallel.map_step(over_batches(make_train_step(config)), mesh, config.mapper)
    run_folder.check(workdir, config)
    held_out = (
        pack.open_others(config.data, split=config.eval.split) if config.eval_every and config.eval.split else None
    )
    dataset = pack.open_or_build(config.data)
    check_dataset(config, dataset)
    evaluate = None
    if config.eval_every:
        held_out = dataset if held_out is None else held_out
        check_labels(config, f"{config.data.source} {config.eval.split}", held_out)
        evaluate = nearest.make_evaluate(config, held_out.images, held_out.labels)
    run_folder.record(workdir, config, dataset.meta)
    batches = Batches(config, dataset, mesh)

    with checkpoint.open_checkpoints(workdir, config.keep_checkpoints) as manager:
        state = start_state(config, manager, mesh)
        first_step = int(state.step)
        log = RunLog(workdir, first_step, config.num_steps)
        try:
            log.text(overview(config, state, dataset, workdir))
            with stop_on_signals() as stopped:
                loop = Loop(config, workdir, manager, log, first_step, evaluate)
                for step, call in batches.from_step(first_step, config.num_steps):
                    state, metrics = step_function(state, batches.pack, call)
                    loop.after_call(step, state, metrics)
                    if stopped:
                        loop.save(step, state, metrics)
                        raise Interrupted(stopped[0], step)
        finally:
            log.close()
    return state


def start_state(config: ConfigDict, manager: checkpoint.ocp.CheckpointManager, mesh: jax.sharding.Mesh) -> GANState:
    """The newest checkpoint, or a fresh state, on every device."""
    generator, discriminator = models.build_models(config)

    def fresh() -> GANState:
        return create_state(config, generator, discriminator)

    if manager.all_steps():
        return checkpoint.restore(manager, jax.eval_shape(fresh), mesh)
    return data_parallel.replicate(mesh, jax.jit(fresh)())


class Loop:
    """What happens beside the steps: metrics, sheets, checkpoints, each at its own interval and at the end."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        manager: checkpoint.ocp.CheckpointManager,
        log: RunLog,
        first_step: int,
        evaluate: Evaluate | None = None,
    ) -> None:
        """`first_step`: finished steps of the state that the loop starts from."""
        self._evaluate = evaluate
        self._config, self._workdir, self._manager, self._log = config, workdir, manager, log
        self._draw = sample.make_draw(config)
        self._sheet_inputs = sample.sheet_inputs(config, config.seed)
        self._in_flight: deque[Metrics] = deque()
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
        self._in_flight.append(metrics)
        if len(self._in_flight) > _CALLS_IN_FLIGHT:
            jax.block_until_ready(self._in_flight.popleft())
        first, last = self._done == self._begin, step == config.num_steps
        if first:
            jax.block_until_ready(metrics)
            self._log.text(f"first step done after {self._clock.restart():.1f} s of compiling")
        else:
            self._clock.steps += step - self._done
        self._done = step
        self._log.progress(step)

        evaluation = {}
        if self._evaluate and (last or is_due(step, config.eval_every)):
            with self._clock.paused(metrics):
                evaluation = self._evaluate(_of_this_host(state))
        if (first and self._begin == 0) or last or is_due(step, config.log_every) or evaluation:
            self._write_metrics(step, metrics, evaluation)
        if last or is_due(step, config.sample_every):
            with self._clock.paused(metrics):
                self._write_sheet(step, state)
        if last or is_due(step, config.checkpoint_every):
            with self._clock.paused(metrics):
                self.save(step, state, metrics)

    def save(self, step: int, state: GANState, metrics: Metrics) -> None:
        """Checkpoints a state that is known to be good."""
        self._finite_values(step, metrics)
        checkpoint.save(self._manager, state)

    def _write_metrics(self, step: int, metrics: Metrics, evaluation: dict[str, float]) -> None:
        values = self._finite_values(step, metrics) | evaluation
        steps_per_second = self._clock.rate()
        seconds_left = math.nan
        if steps_per_second:  # unknown at the first step, which compiles
            values["images_per_second"] = round(steps_per_second * self._config.batch_size, 2)
            seconds_left = (self._config.num_steps - step) / steps_per_second
        self._log.scalars(step, values, seconds_left)

    def _finite_values(self, step: int, metrics: Metrics) -> dict[str, float]:
        values = {name: float(value) for name, value in metrics.items()}
        bad = {name: value for name, value in values.items() if not math.isfinite(value)}
        if bad:
            saved = self._manager.latest_step()
            kept = "no checkpoint was saved before" if saved is None else f"the checkpoint of step {saved} is kept"
            first = self._last_check + 1
            what = ", ".join(f"{name} is {value}" for name, value in bad.items())
            raise Diverged(
                f"training diverged between steps {first} and {step}: {what}; {kept}. "
                "Check the data, or lower the learning rates in a new --workdir."
            )
        self._last_check = step
        return values

    def _write_sheet(self, step: int, state: GANState) -> None:
        if jax.process_index() != 0:
            return
        z, labels, columns = self._sheet_inputs
        images = self._draw(_of_this_host(state), z, labels)
        sheet = image_grid.make_grid(images, columns)
        image_grid.save_png(run_folder.sample_sheet(self._workdir, step), sheet)
        self._log.image(step, "samples", np.asarray(sheet))


def _of_this_host(state: GANState) -> GANState:
    """A replicated state as it lies on the first device here: one is enough to draw samples."""
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


@contextlib.contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Yields a list that receives the first SIGINT or SIGTERM; a second one acts as it always does."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for signum, handler in before.items():
            signal.signal(signum, handler)

    def note(signum: int, frame: FrameType | None) -> None:
        del frame
        received.append(signum)
        restore()

    for signum in before:
        signal.signal(signum, note)
    try:
        yield received
    finally:
        restore()
