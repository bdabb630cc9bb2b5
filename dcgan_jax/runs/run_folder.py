"""A run's folder: what lies where, and the rule that one folder holds one run.

    config.json   data.json   checkpoints/<step>/   samples/step_00000500.png   metrics.jsonl   events.out.tfevents.*
    rollbacks.json, after a divergence or a collapse   .lock, held while training
    init_from.json, of a run that began with the weights of another

The folder is self-contained: sampling, analysis and evaluation read the config from it.
"""

import contextlib
import functools
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from ml_collections import ConfigDict

from dcgan_jax.config import FIELDS, flatten, with_tuples
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError

# In place of a step: the best checkpoint.
BEST = "best"
# Distances of samples to the data, see metrics/measures.py, from the one that tells most.
DISTANCES = ("fid", "probe_frechet", "pixels_frechet", "nnd")
# A way of measuring: one of DISTANCES, and the 'evaluation' beside it. Distances of one way can be compared.
Way = tuple[str, float | None]


def checkpoints(workdir: Path) -> Path:
    return workdir / "checkpoints"


def checkpoint(workdir: Path, step: int) -> Path:
    return checkpoints(workdir) / str(step)


def metrics(workdir: Path) -> Path:
    return workdir / "metrics.jsonl"


def sample_sheet(workdir: Path, step: int) -> Path:
    return _samples(workdir) / f"step_{step:08d}.png"


def sample_sheets(workdir: Path) -> dict[int, Path]:
    """The sheets of samples that training has left, by step, ascending."""
    found = [(re.fullmatch(r"step_([0-9]+)\.png", path.name), path) for path in _samples(workdir).glob("step_*.png")]
    return dict(sorted((int(name[1]), path) for name, path in found if name))


def _samples(workdir: Path) -> Path:
    return workdir / "samples"


def _config(workdir: Path) -> Path:
    return workdir / "config.json"


def _data(workdir: Path) -> Path:
    return workdir / "data.json"


def rollbacks_file(workdir: Path) -> Path:
    return workdir / "rollbacks.json"


def init_from_file(workdir: Path) -> Path:
    return workdir / "init_from.json"


def create(workdir: Path) -> None:
    """Creates the folder if it is not there.

    Raises:
      UserError: it cannot be written, or holds other things under the names of a run's.
    """
    _check_name(workdir)
    files.make_writable(workdir, "--workdir")
    for folder in (checkpoints(workdir), _samples(workdir)):
        if folder.is_file():
            raise UserError(f"{folder} is a file, but a run's is a folder: move it away, or choose another --workdir.")
    for file in (_config(workdir), _data(workdir), metrics(workdir), rollbacks_file(workdir), init_from_file(workdir)):
        if file.is_dir():
            raise UserError(f"{file} is a folder, but a run's is a file: move it away, or choose another --workdir.")


def check(workdir: Path, config: ConfigDict) -> None:
    """Creates the folder, or checks that the run in it is the same one. A run is there once it has a checkpoint.

    Raises:
      UserError: as of `create`, or it holds a run with another config, or one that is past num_steps.
    """
    create(workdir)
    step = latest_step(workdir)
    if step is None:
        return
    fixed = {name for name in FIELDS if not FIELDS[name].free}
    if step and not _holds_checksum(workdir):  # imported weights, at step 0, have seen none
        fixed.add("data.source")  # nothing else says which images the run has seen
    different = [
        f"  {name}: {before!r} in the folder, {now!r} now"
        for name, (before, now) in changes(workdir, config).items()
        if name in fixed or name not in FIELDS
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


def changes(workdir: Path, config: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Fields that differ between the config of the run in the folder and `config`: (value in the folder, value now)."""
    before, now = flatten(load_config(workdir)), flatten(config)
    missing = "(no such field)"
    both = {name: (before.get(name, missing), now.get(name, missing)) for name in sorted(before.keys() | now.keys())}
    return {name: values for name, values in both.items() if values[0] != values[1]}


def _holds_checksum(workdir: Path) -> bool:
    """Whether data.json has the checksum of the images that the run has seen."""
    try:
        return "sha256" in files.read_json(_data(workdir), dict)
    except files.Missing:
        return False


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Held while a run trains: two at a time would write over each other. Removes what a killed one left half written.

    Raises:
      UserError: another process trains in the folder.
    """
    try:
        with files.lock(workdir / ".lock", "the run", wait=False):
            _remove_half_written(workdir)
            yield
    except BlockingIOError:
        raise UserError(
            f"another process is training in {workdir}: wait for it, stop it, or choose another --workdir."
        ) from None


def _check_name(workdir: Path) -> None:
    """Raises UserError for a name that is an address, or one that Orbax cannot handle."""
    if ":/" in str(workdir):  # pathlib makes one slash of two
        raise UserError(
            f"--workdir {workdir} looks like an address: give a folder. A bucket can be mounted as one, see "
            "launch/README.md."
        )
    try:
        str(workdir.absolute()).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"--workdir {workdir} has a name that is not UTF-8: choose another one.") from error


def record(workdir: Path, config: ConfigDict, data: dict[str, Any]) -> None:
    """Writes config.json, and the pack's meta.json as data.json. Raises UserError as `check_data` does."""
    check_data(workdir, data)
    files.write_atomically(_data(workdir), (json.dumps(data, indent=2) + "\n").encode())
    files.write_atomically(_config(workdir), (config.to_json(indent=2) + "\n").encode())


def check_data(workdir: Path, data: dict[str, Any]) -> None:
    """Compares a pack's meta.json with data.json.

    Raises:
      UserError: the run in the folder began with other images or labels, or its data.json cannot be read. A run at step
        0, such as imported weights, has seen no images yet.
    """
    path = _data(workdir)
    if not (latest_step(workdir) and path.exists()):
        return
    before = files.read_json(path, dict)
    if any(before.get(name) != data.get(name) for name in ("sha256", "labels_sha256")):
        count = before.get("count")
        then = f"{count:,}" if isinstance(count, int) else "other"
        raise UserError(
            f"the images of {data['source']} are not those that the run in {workdir} began with: "
            f"{then} images then, {data['count']:,} now, with other pixels or labels, or in another order. "
            "Restore them, or choose another --workdir."
        )


def class_names(workdir: Path) -> list[str] | None:
    """Names of labels 0, 1, ... of the images that the run was trained on; None if data.json does not say.

    Raises:
      UserError: data.json cannot be read.
    """
    names = _recorded(workdir, "class_names")
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def aspect(workdir: Path) -> float | None:
    """Width over height that squeezed training images had, their median; None if they were not squeezed.

    Raises:
      UserError: data.json cannot be read.
    """
    found = _recorded(workdir, "aspect")
    return found if is_aspect(found) else None


def is_aspect(value: Any) -> TypeGuard[float]:
    """Whether it can be the width of an image over its height."""
    return isinstance(value, float) and 0 < value < math.inf


def imported_layers(workdir: Path) -> int | None:
    """How many of the discriminator's first layers were imported, the others being untrained; None: it is whole.

    Raises:
      UserError: data.json cannot be read.
    """
    layers = _recorded(workdir, "layers")
    return layers if isinstance(layers, int) else None


def _recorded(workdir: Path, name: str) -> Any:
    """What data.json has under a name; None if it has nothing, or is not there."""
    try:
        return files.read_json(_data(workdir), dict).get(name)
    except files.Missing:
        return None


def steps(workdir: Path) -> list[int]:
    """Steps of the checkpoints, ascending. Looks at names only: those that Orbax has not finished have longer ones."""
    return sorted(int(path.name) for path in checkpoints(workdir).glob("*") if path.name.isdecimal())


def latest_step(workdir: Path) -> int | None:
    """Step of the newest checkpoint."""
    return max(steps(workdir), default=None)


def best_step(workdir: Path, steps: list[int]) -> int | None:
    """Among `steps`, the one with the lowest distance to the data in metrics.jsonl, as it was measured last.

    None if there is none. See `best_steps`.
    """
    return next(reversed(best_steps(workdir, steps)), None)


def best_steps(workdir: Path, steps: list[int]) -> list[int]:
    """The best ones for each way of measuring that the run has had, in the order in which they were last used.

    A resumed run may be evaluated in another way than before, and distances are comparable only where 'evaluation' is
    equal. The first of DISTANCES that is there decides.
    """
    best: dict[Way, tuple[float, int]] = {}
    for row in read_metrics(workdir):
        if row["step"] in steps and (measured := distance(row)):
            way, value = measured
            best[way] = min(best.pop(way, (math.inf, row["step"])), (value, row["step"]))  # to the end
    return [step for _, step in best.values()]


def distance(row: Mapping[str, float]) -> tuple[Way, float] | None:
    """In which way a line of metrics.jsonl measures the distance to the data, and the distance; None if it does not."""
    name = next((name for name in DISTANCES if name in row), None)
    return ((name, row.get("evaluation")), row[name]) if name else None


def load_config(workdir: Path) -> ConfigDict:
    """The resolved config of the run in `workdir`.

    Raises:
      UserError: there is no run, its config.json cannot be read, or the folder's name is not UTF-8.
    """
    _check_name(workdir)
    path = _config(workdir)
    try:
        return config_of(files.read_json(path, dict), path)
    except files.Missing:
        raise UserError(
            f"{workdir} is not a run's folder: it has no config.json. Give the --workdir of a run, or a name of "
            "dcgan_jax.pretrained()."
        ) from None


def config_of(content: dict[str, Any], path: Path) -> ConfigDict:
    """The config in the JSON of the file `path`, which may come from an older version with fewer fields.

    Raises:
      UserError: it is not a config.
    """
    try:
        for name, before in [(name, field.before) for name, field in FIELDS.items() if field.before is not None]:
            *groups, last = name.split(".")
            node = functools.reduce(lambda node, group: node.setdefault(group, {}), groups, content)
            node.setdefault(last, before)
        return ConfigDict(with_tuples(content))
    except (AttributeError, RecursionError, TypeError, ValueError) as error:  # numbers that should be groups, odd names
        raise UserError(f"{path} is not the config of a run: {error}.") from error


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, numbers by name, 'step' among them; [] if there is no file.

    Lines that are something else are left out: a crash can cut one short.

    Raises:
      UserError: the file cannot be read.
    """
    path, rows = metrics(workdir), []
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if (
                isinstance(row, dict)
                and "step" in row
                and all(isinstance(value, int | float) for value in row.values())
            ):
                rows.append(row)
    return rows


def _remove_half_written(workdir: Path) -> None:
    """The temporary files of `write_atomically`, by a process that was killed."""
    files = [
        _config(workdir),
        _data(workdir),
        rollbacks_file(workdir),
        init_from_file(workdir),
        metrics(workdir),
        _samples(workdir) / "step_*.png",
    ]
    for file in files:
        for path in file.parent.glob(f".{file.name}.*"):
            if path.suffix[1:].isdecimal():
                path.unlink(missing_ok=True)
