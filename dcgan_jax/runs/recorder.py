"""What happens beside the training steps: metrics, sheets, checkpoints."""

import contextlib
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dcgan_jax.machine import processes
from dcgan_jax.machine.mesh import on_first_device
from dcgan_jax.nets.losses import smoothed
from dcgan_jax.reports import image_grid
from dcgan_jax.runs import collapse, run_folder
from dcgan_jax.runs.alarms import COLLAPSE, Alarms, diversity
from dcgan_jax.runs.checkpoint import Checkpoints
from dcgan_jax.runs.collapse import Collapsed
from dcgan_jax.runs.divergence import Diverged, first_nonfinite
from dcgan_jax.runs.run_log import RunLog
from dcgan_jax.runs.sampler import Sampler
from dcgan_jax.train_state import GANState
from dcgan_jax.train_step import Metrics

# TensorBoard gets every tenth sheet: its files would otherwise grow as fast as samples/, which has them all.
_SHEETS_PER_EVENT = 10
# Calls that may be under way on the device before the host waits: enough to keep it busy, few enough to stop quickly.
_CALLS_IN_FLIGHT = 2

Evaluate = Callable[[GANState], dict[str, float]]


class Recorder:
    """What happens beside the steps: metrics, sheets, checkpoints, each at its own interval and at the end."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        step: int | None,
        sampler: Sampler,
        real: np.ndarray,
        evaluate: Evaluate | None = None,
    ) -> None:
        """Opens the log and the checkpoints.

        Args:
          config: see configs/default.py.
          workdir: the run's folder.
          step: of the checkpoint that training starts from; None: from a fresh state.
          sampler: draws the sheets.
          real: some images of the data, uint8 [count, height, width, channels], that sheets are compared with.
          evaluate: measures a state, if config.eval_every asks for it.
        """
        first_step = step or 0
        self._config, self._workdir, self._sampler, self._evaluate = config, workdir, sampler, evaluate
        with contextlib.ExitStack() as stack:
            self._log = RunLog(workdir, first_step, config.num_steps)
            stack.callback(self._log.close)
            stack.push(self._name_best_checkpoint)
            warn = self._log.text if processes.is_first() else partial(print, file=sys.stderr)
            checkpoints = Checkpoints(workdir, step, config.keep_checkpoints, config.keep_every, warn)
            self._checkpoints = stack.enter_context(checkpoints)
            self._stack = stack.pop_all()
        self._all_finite = jax.jit(_all_finite)
        self._sheet_inputs = sampler.sheet_inputs(config.seed)
        self._real = real
        self._alarms = Alarms(
            smoothed(config.loss, config.regularizer.label_smoothing), run_folder.read_metrics(workdir)
        )
        self._in_flight: deque[tuple[int, Metrics]] = deque()
        self._begin = self._done = first_step
        self._last_check = first_step  # last step whose metrics were seen to be finite
        self._clock = Clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Waits for the last save, then closes the log."""
        self._stack.__exit__(kind, error, at)

    def _name_best_checkpoint(self, kind: type[BaseException] | None, *_: object) -> None:
        best = run_folder.best_step(self._workdir, run_folder.steps(self._workdir))
        if kind is None and best is not None:
            self.text(
                f"best     step {best} of the checkpoints that are there; --step={run_folder.BEST} samples from it"
            )

    def text(self, message: str) -> None:
        """A line on the console."""
        self._log.text(message)

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
            self._clock.begin()
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
                extra |= self._evaluate(on_first_device(state))  # on every host: none waits for another
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
            bad = next(path for path, leaf in leaves if not np.isfinite(on_first_device(leaf)).all())
            raise self._diverged(step, f"{jax.tree_util.keystr(bad, simple=True, separator='/')} of the state")
        self._log.sync()  # no checkpoint is newer than the metrics
        signs = {} if self._config.on_collapse == "warn" else self._alarms.first_signs()
        self._checkpoints.save(state, block=block, first_signs=signs.values())

    def _write_metrics(self, step: int, metrics: Metrics, extra: dict[str, float], state: GANState) -> None:
        values = self._check_finite(step, metrics, state) | extra
        written = {name: value for name, value in values.items() if math.isfinite(value)}
        alarms, warnings = self._alarms.watch({"step": step, **written})
        steps_per_second, overall = self._clock.rate()
        seconds_left = math.nan
        if steps_per_second:  # unknown at the first step, which compiles
            values["images_per_second"] = round(steps_per_second * self._config.batch_size, 2)
            seconds_left = (self._config.num_steps - step) / overall
        self._log.scalars(step, values | alarms, seconds_left)
        for warning in warnings:
            self._log.text(f"warning: step {step}: {warning}")
        if self._config.on_collapse != "warn":
            self._check_collapse(step, [name for name in COLLAPSE if name in alarms])

    def _check_collapse(self, step: int, on: list[str]) -> None:
        """Raises Collapsed if one of these alarms is on, on all hosts; the first one alone has seen the sheets."""
        signs = self._alarms.first_signs()
        since = processes.from_first_process(lambda: min((signs[name] for name in on), default=None))
        if since is None:
            return
        self._checkpoints.wait()
        back_to = collapse.way_back(self._workdir, run_folder.steps(self._workdir), since)
        kept = "there is no checkpoint of before" if back_to is None else f"the checkpoint of step {back_to} is kept"
        raise Collapsed(
            f"training has collapsed: {' and '.join(on) or 'an alarm'} at step {step}, with signs since step {since}; "
            f"{kept}. Lower the learning rates in a new --workdir, or see config.on_collapse.",
            step,
            back_to,
        )

    def _check_finite(self, step: int, metrics: Metrics, state: GANState) -> dict[str, float]:
        """The metrics that are single numbers. Raises Diverged if any metric is not finite."""
        while self._in_flight and self._in_flight[0][0] < step:  # the first one counts
            self._check_finite(*self._in_flight.popleft(), state)
        found = jax.device_get(metrics)
        if bad := first_nonfinite(found, state, self._config.update_order):
            raise self._diverged(step, bad)
        self._last_check = max(self._last_check, step)
        return {name: float(value) for name, value in found.items() if value.ndim == 0}

    def _diverged(self, step: int, tensor: str) -> Diverged:
        self._checkpoints.wait()
        saved = run_folder.latest_step(self._workdir)
        kept = "no checkpoint was saved before" if saved is None else f"the checkpoint of step {saved} is kept"
        if failure := self._checkpoints.failure():
            kept += f"; {failure}"
        first = min(self._last_check + 1, step)
        return Diverged(
            f"training diverged between steps {first} and {step}: {tensor} is not finite; {kept}. "
            "Check the data, or lower the learning rates in a new --workdir.",
            step,
        )

    def _write_sheet(self, step: int, state: GANState) -> dict[str, float]:
        if not processes.is_first():
            return {}
        config, (z, labels, columns) = self._config, self._sheet_inputs
        variables = self._sampler.variables(on_first_device(state))
        images = np.asarray(self._sampler.generate(variables, z, labels))
        sheet = image_grid.make_grid(images, columns)
        try:
            image_grid.save_png(run_folder.sample_sheet(self._workdir, step), sheet)
        except OSError as error:
            self._log.text(f"warning: the sheet of step {step} could not be written ({error.strerror}).")
        if step == config.num_steps or is_due(step, _SHEETS_PER_EVENT * config.sample_every):
            self._log.image(step, "samples", np.asarray(sheet))
        return {"diversity": round(diversity(images, self._real), 4)}


def _all_finite(state: GANState) -> jax.Array:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()


class Clock:
    """Speed of the steps alone, without sheets, checkpoints and evaluations; and of all together."""

    def __init__(self) -> None:
        self.steps = 0  # since the last restart
        self._start = time.monotonic()
        self._overall_steps, self._overall_start = 0, self._start

    def restart(self) -> float:
        """Seconds since the last restart."""
        now = time.monotonic()
        elapsed, self._start, self.steps = now - self._start, now, 0
        return elapsed

    def rate(self) -> tuple[float, float]:
        """Steps per second since the last call, without pauses; and since the first restart, with them. 0: no steps."""
        steps, elapsed = self.steps, self.restart()
        self._overall_steps += steps
        overall = time.monotonic() - self._overall_start
        return steps / elapsed if elapsed > 0 else 0.0, self._overall_steps / overall if overall > 0 else 0.0

    def begin(self) -> None:
        """What was before, compiling, does not count."""
        self._overall_steps, self._overall_start = 0, time.monotonic()

    @contextlib.contextmanager
    def paused(self, metrics: Metrics) -> Iterator[None]:
        jax.block_until_ready(metrics)  # the steps under way still count
        begin = time.monotonic()
        yield
        self._start += time.monotonic() - begin


def is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
