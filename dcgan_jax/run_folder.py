"""A run's folder: what lies where, and the rule that one folder holds one run.

    config.json   data.json   checkpoints/<step>/   samples/step_00000500.png   metrics.jsonl   events.out.tfevents.*
    rollbacks.json, after a divergence   .lock, held while training

The folder is self-contained: sampling, analysis and evaluation read the config from it.
"""

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dcgan_jax import file_lock
from dcgan_jax.errors import UserError

# Fields that may change when a run is resumed: they do not change what is computed, or only how long.
_FREE_FIELDS = {
    "num_steps",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "eval_every",
    "eval.num_samples",
    "eval.split",
    "keep_checkpoints",
    "keep_every",
    "on_nonfinite",
    "max_rollbacks",
    "data.dir",
    "data.cache_dir",
    "data.placement",
    "mapper",
    "conv",
    "steps_per_call",
}

# Fields that earlier versions did not have, with the value that stands for what they did.
_ADDED_FIELDS = {
    "data.dedup": False,
    "data.dedup_radius": 0,
    "eval_every": 0,
    "eval.num_samples": 10_000,
    "eval.split": "",
    "keep_every": 0,
    "max_rollbacks": 3,
    "on_nonfinite": "stop",
    "model.resampling": "strided",
    "model.generator.activation": "relu",
    "model.discriminator.activation": "leaky_relu",
}


def checkpoints(workdir: Path) -> Path:
    return workdir / "checkpoints"


def checkpoint(workdir: Path, step: int) -> Path:
    return checkpoints(workdir) / str(step)


def metrics(workdir: Path) -> Path:
    return workdir / "metrics.jsonl"


def sample_sheet(workdir: Path, step: int) -> Path:
    return workdir / "samples" / f"step_{step:08d}.png"


def check(workdir: Path, config: ConfigDict) -> None:
    """Creates the folder, or checks that the run in it is the same one. A run is there once it has a checkpoint.

    Raises:
      UserError: the folder is not one, cannot be written, holds a run with another config, or one past num_steps.
    """
    if ":/" in str(workdir):  # pathlib makes one slash of two
        raise UserError(
            f"--workdir {workdir} looks like an address: give a folder. A bucket can be mounted as one, see "
            "launch/README.md."
        )
    make_writable(workdir, "--workdir")
    step = latest_step(workdir)
    if step is None:
        return
    before, now = flatten(load_config(workdir)), flatten(config)
    missing = "(no such field)"
    different = [
        f"  {name}: {before.get(name, missing)!r} in the folder, {now.get(name, missing)!r} now"
        for name in sorted(before.keys() | now.keys())
        if name not in _FREE_FIELDS and before.get(name, missing) != now.get(name, missing)
    ]
    if different:
        raise UserError(
            f"workdir {workdir} holds a run with another config:\n" + "\n".join(different) + "\n"
            "Choose another --workdir, or give the same values to continue that run."
        )
    if step > config.num_steps:
        raise UserError(
            f"the run in {workdir} is at step {step} already, past config.num_steps {config.num_steps}: "
            "raise --config.num_steps to train on."
        )


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Held while a run trains: two at a time would write over each other.

    Raises:
      UserError: another process trains in the folder.
    """
    try:
        with file_lock.hold(workdir / ".lock", "the run", wait=False):
            yield
    except BlockingIOError:
        raise UserError(
            f"another process is training in {workdir}: wait for it, stop it, or choose another --workdir."
        ) from None


def make_writable(folder: Path, flag: str) -> None:
    """Creates a folder for results. Raises UserError, naming the flag that gave it, if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{flag} {folder} cannot be written ({error.strerror}): choose another {flag}.") from error


def record(workdir: Path, config: ConfigDict, data: dict[str, Any]) -> None:
    """Writes config.json, and the pack's meta.json as data.json.

    Raises:
      UserError: the run in the folder began with other images or labels.
    """
    path = workdir / "data.json"
    if latest_step(workdir) is not None and path.exists():
        before = json.loads(path.read_text())
        if any(before.get(name) != data.get(name) for name in ("sha256", "labels_sha256")):
            raise UserError(
                f"the images of {data['source']} are not those that the run in {workdir} began with: "
                f"{before['count']:,} images then, {data['count']:,} now, with other pixels or labels. "
                "Restore them, or choose another --workdir."
            )
    write_atomically(path, (json.dumps(data, indent=2) + "\n").encode())
    write_atomically(workdir / "config.json", (config.to_json(indent=2) + "\n").encode())


def steps(workdir: Path) -> list[int]:
    """Steps of the checkpoints, ascending. Looks at names only: those that Orbax has not finished have longer ones."""
    return sorted(int(path.name) for path in checkpoints(workdir).glob("*") if path.name.isdigit())


def latest_step(workdir: Path) -> int | None:
    """Step of the newest checkpoint."""
    return max(steps(workdir), default=None)


def best_step(workdir: Path, steps: list[int]) -> int | None:
    """Among `steps`, the one with the lowest distance to the data, 'nnd' in metrics.jsonl; None if none has any."""
    distances = {}
    for row in read_metrics(workdir):
        if row["step"] in steps and "nnd" in row:
            distances[row["step"]] = row["nnd"]
    return min(distances, key=distances.__getitem__, default=None)


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; those that a crash cut short are left out."""
    path, rows = metrics(workdir), []
    if path.is_file():
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row.get("step"), int):
                    rows.append(row)
    return rows


def rollbacks(workdir: Path) -> list[dict[str, Any]]:
    """What `add_rollback` has noted, oldest first.

    Raises:
      UserError: the file cannot be read.
    """
    path = workdir / "rollbacks.json"
    try:
        return list(json.loads(path.read_text())) if path.exists() else []
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def add_rollback(workdir: Path, diverged_at: int, reason: str) -> None:
    """Notes that a run diverged and goes back: how often decides which random numbers it draws from then on."""
    noted = [*rollbacks(workdir), {"diverged_at": diverged_at, "reason": reason}]
    write_atomically(workdir / "rollbacks.json", (json.dumps(noted, indent=2) + "\n").encode())


def load_config(workdir: Path) -> ConfigDict:
    """The resolved config of the run in `workdir`.

    Raises:
      UserError: there is no run, or its config.json cannot be read.
    """
    path = workdir / "config.json"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{workdir} is not a run's folder: it has no config.json. Give the --workdir of a run."
        ) from None
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    for name, value in _ADDED_FIELDS.items():
        *parents, field = name.split(".")
        functools.reduce(lambda node, parent: node.setdefault(parent, {}), parents, content).setdefault(field, value)
    return ConfigDict(_with_tuples(content))


def from_json(text: str) -> ConfigDict:
    """Inverse of `ConfigDict.to_json`. JSON knows only lists; those of a config (stages, hidden) are tuples."""
    return ConfigDict(_with_tuples(json.loads(text)))


def flatten(config: ConfigDict) -> dict[str, Any]:
    """{'data.source': ..., ...}, with lists as tuples."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update({f"{name}.{inner}": leaf for inner, leaf in flatten(value).items()})
        else:
            flat[name] = _with_tuples(value)
    return flat


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_tuples(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_with_tuples(inner) for inner in value)
    return value
