"""What a run tells: console lines, metrics.jsonl, and TensorBoard where TensorFlow is installed."""

import contextlib
import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from dcgan_jax.machine import files, processes
from dcgan_jax.machine.progress import tqdm
from dcgan_jax.runs import run_folder


class RunLog:
    """Writers of one run. Only process 0 of a multi-host run writes anything.

    TensorFlow, which the TensorBoard files need, is imported in a thread of its own: training does not wait for it.
    """

    def __init__(self, workdir: Path, first_step: int, num_steps: int) -> None:
        """Metrics after `first_step`, which a resumed run computes again, are dropped from metrics.jsonl."""
        self._active = processes.is_first()
        if not self._active:
            return
        self._num_steps = num_steps
        self._metrics = run_folder.metrics(workdir)
        _drop_lines_after(workdir, first_step)
        self._unwritten: list[str] = []  # lines of metrics.jsonl
        self._bar = tqdm(
            total=num_steps, initial=first_step, unit="step", file=sys.stdout, disable=not sys.stdout.isatty(),
            dynamic_ncols=True, leave=False,
        )  # fmt: skip
        self._pool = ThreadPoolExecutor(1, "tensorboard")
        self._writer = self._pool.submit(_open_tensorboard, workdir, self.text)
        self._failed = False

    def text(self, message: str) -> None:
        """A line on the console."""
        if self._active:
            tqdm.write(message, file=sys.stdout)
            sys.stdout.flush()

    def scalars(self, step: int, values: dict[str, float], seconds_left: float) -> None:
        """A line of metrics.jsonl, a console line, TensorBoard scalars. Values that are not finite are left out."""
        if not self._active:
            return
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        self._unwritten.append(json.dumps({"step": step, **values}) + "\n")
        self._write_lines()
        speed = ""
        if "images_per_second" in values and math.isfinite(seconds_left):
            speed = f"  {values['images_per_second']:.0f} images/s  {format_duration(seconds_left)} left"
        self.text(
            f"step {step:>{len(str(self._num_steps))}}/{self._num_steps}"
            f"  d_loss {values['d_loss']:.3f}  g_loss {values['g_loss']:.3f}"
            f"  D(x) {values['d_real']:.3f}  D(G(z)) {values['d_fake']:.3f}"
            f"{speed}"
        )
        self._to_tensorboard("write_scalars", step, values)

    def _write_lines(self) -> None:
        """Appends what has not been written, whole lines or nothing; a disk that is full is tried again next time."""
        size = self._metrics.stat().st_size if self._metrics.exists() else 0
        try:
            with self._metrics.open("a") as file:
                file.write("".join(self._unwritten))
            self._unwritten.clear()
        except OSError as error:
            if len(self._unwritten) == 1:
                self.text(f"warning: {self._metrics} cannot be written ({error.strerror}); its lines are kept.")
            if self._metrics.exists():
                os.truncate(self._metrics, size)

    def sync(self) -> None:
        """Returns when the lines are on the disk, not only in the system's cache; if the disk takes them."""
        if self._active and self._metrics.exists():
            with contextlib.suppress(OSError), self._metrics.open("a") as file:
                os.fsync(file)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """TensorBoard image, uint8 [height, width, channels]."""
        if self._active:
            self._to_tensorboard("write_images", step, {name: image[None]})

    def progress(self, step: int) -> None:
        if self._active:
            self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Waits for the writers."""
        if not self._active:
            return
        self._bar.close()
        if self._unwritten:
            self._write_lines()
        self._to_tensorboard("close")
        self._pool.shutdown()

    def _to_tensorboard(self, method: str, *args: Any) -> None:
        """Queues a call of the writer. If one fails there are no more; metrics.jsonl and the run continue."""

        def write() -> None:
            writer = self._writer.result()
            if writer is None or self._failed:
                return
            try:
                getattr(writer, method)(*args)
            except Exception as error:
                self._failed = True
                self.text(f"warning: TensorBoard files end here: {error}")

        self._pool.submit(write)


def format_duration(seconds: float) -> str:
    """1h02m, 3m20s or 45s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def _open_tensorboard(workdir: Path, warn: Callable[[str], None]) -> Any:
    """A writer of TensorBoard files, or None where TensorFlow is not installed or does not work."""
    if importlib.util.find_spec("tensorflow") is None:
        return None
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it computes nothing here, and would remark on it
    try:
        import tensorflow as tf
        from clu import metric_writers

        tf.config.set_visible_devices([], "GPU")  # it would take memory that JAX needs
        return metric_writers.SummaryWriter(str(workdir))
    except Exception as error:
        warn(f"warning: no TensorBoard files: {error}")
        return None


def _drop_lines_after(workdir: Path, step: int) -> None:
    if run_folder.metrics(workdir).exists():
        kept = [json.dumps(row) + "\n" for row in run_folder.read_metrics(workdir) if row["step"] <= step]
        files.write_atomically(run_folder.metrics(workdir), "".join(kept).encode())
