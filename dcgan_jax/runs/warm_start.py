"""What a new run begins with of another one: transfer learning, `init_from="RUN[,STEP][,PLAYER]"`.

RUN is what `dcgan_jax.load` takes, STEP a number or 'best', the newest checkpoint without it, PLAYER 'generator' or
'discriminator', of which alone tensors are taken then. Nothing else of that run counts: the new one has its own config,
seed and data, starts at step 0, and its optimizers are fresh.

A tensor is taken where the new networks have one of the same name and shape. Those of the generator are what its run
draws with: averaged weights, if it keeps them, with their frozen statistics. Where the numbers of classes differ, the
part of a kernel that reads features is taken, and the part that reads labels keeps its initial values, as does every
other tensor.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dcgan_jax.machine import files, processes
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets.models import input_axis, stage_layers
from dcgan_jax.runs import run_folder, trained
from dcgan_jax.runs.trained import Run
from dcgan_jax.runs.weights_file import PLAYERS, flat, tensor_name
from dcgan_jax.train_state import Gan, GANState, Player, create_state


@dataclass(frozen=True)
class Initial:
    """What a run begins with of another one. Tensors are named as in a weights file: 'generator.deconv1'.

    Attributes:
      init_from: as it was given.
      step: of the other run.
      tensors: float32 by name; one of `features_only` is shorter than the new run's own.
      features_only: names of kernels whose part for labels keeps its initial values.
      fresh: names of the new run's tensors that are not taken.
      unused: names of the other run's tensors that the new one does not have.
    """

    init_from: str
    step: int
    tensors: dict[str, np.ndarray]
    features_only: list[str]
    fresh: list[str]
    unused: list[str]

    def lines(self) -> list[str]:
        """What was taken and what was not, a line for each network."""
        return [self._line(player) for player in PLAYERS]

    def _line(self, player: str) -> str:
        taken, features_only, fresh, unused = (
            [name.removeprefix(f"{player}.") for name in names if name.startswith(f"{player}.")]
            for names in (self.tensors, self.features_only, self.fresh, self.unused)
        )
        if not taken:
            return f"start    {player}: nothing of {self.init_from}, all at initial values"
        text = f"start    {player}: {len(taken)} of {len(taken) + len(fresh)} tensors of {self.init_from}"
        text += f", step {self.step}"
        for names, what in (
            (features_only, "without labels"),
            (fresh, "at initial values"),
            (unused, "not used"),
        ):
            text += f"; {what}: {', '.join(names)}" if names else ""
        return text

    def to_json(self) -> str:
        """What init_from.json holds."""
        whole = [name for name in self.tensors if name not in self.features_only]
        content = {
            "init_from": self.init_from,
            "step": self.step,
            "taken": whole,
            "features_only": self.features_only,
            "fresh": self.fresh,
            "unused": self.unused,
        }
        return json.dumps(content, indent=2) + "\n"


def read(init_from: str, gan: Gan, at_step: int | None = None) -> Initial:
    """What the networks of `gan` take of another run. On several hosts all must call it, and read the same files.

    Args:
      init_from: see the module.
      gan: the new networks.
      at_step: of the other run, instead of what `init_from` says: 'best' and the newest checkpoint change in time.

    Raises:
      UserError: there is no such run or checkpoint, it is damaged, no layer of it fits, or hosts found different ones.
    """
    run, players = _load(init_from, at_step)
    theirs = {name: tensor for name, tensor in _tensors(run).items() if name.startswith(players)}
    their_classes = run.generator.num_classes
    state = jax.eval_shape(partial(create_state, gan))
    ours = {name: leaf.shape for player in PLAYERS for name, leaf in flat(player, getattr(state, player).variables)}
    tensors: dict[str, np.ndarray] = {}
    for name, shape in ours.items():
        if name in theirs:
            part = _fitting(name, theirs[name], shape, their_classes, gan.generator.num_classes)
            tensors |= {} if part is None else {name: part}
    if not any(part.ndim > 1 for part in tensors.values()):
        raise UserError(
            f"--init_from={init_from}: none of its layers fits the networks of this config:\n"
            + "\n".join(_difference(name, theirs, shape) for name, shape in ours.items() if len(shape) > 1)
            + "\nGive a run with some layers of the same shape, or change config.model."
        )
    initial = Initial(
        init_from,
        run.step,
        tensors,
        features_only=[name for name, part in tensors.items() if part.shape != ours[name]],
        fresh=[name for name in ours if name not in tensors],
        unused=[name for name in theirs if name not in ours],
    )
    remedy = "Give all of them the same files, and a step if that run is still in training."
    processes.check_same(initial.to_json(), "run to start from", remedy)
    # Frozen statistics are computed, and hosts may round differently.
    tensors.update(processes.arrays_from_first_process(tensors))
    return initial


def width_of(init_from: str) -> float:
    """config.model.width of the other run. Raises UserError if there is none, as `read` does."""
    return float(_load(init_from)[0].config.model.width)


def _load(init_from: str, at_step: int | None = None) -> tuple[Run, tuple[str, ...]]:
    """The other run, and the players of which tensors are taken."""
    name, step, players = _parse(init_from)
    try:
        return trained.load(name, step if at_step is None else at_step), players
    except UserError as error:
        raise UserError(f"--init_from={init_from}: {error}") from error


def _parse(init_from: str) -> tuple[str, int | str | None, tuple[str, ...]]:
    """The other run's name, its step, None for the newest, and the players of which tensors are taken."""
    if "," not in init_from or Path(init_from).expanduser().exists():
        return init_from, None, PLAYERS
    name, _, last = init_from.rpartition(",")
    players = (last,) if last in PLAYERS else PLAYERS
    if last in PLAYERS:
        if "," not in name or Path(name).expanduser().exists():
            return name, None, players
        name, _, last = name.rpartition(",")
    if not last:
        raise UserError(
            f"--init_from={init_from} has nothing behind a comma: give RUN, RUN,STEP or RUN,best, and behind one more "
            f"comma {' or '.join(PLAYERS)} to take that network alone."
        )
    return name, int(last) if last.isdecimal() else last, players


def _tensors(run: Run) -> dict[str, np.ndarray]:
    """The run's tensors by name, float32, without layers at initial values beside imported ones."""
    imported = run.imported_layers
    found: dict[str, Any] = {}
    if not imported:
        found.update(flat("generator", run.variables))
    if run.state.discriminator is not None:
        for name, leaf in flat("discriminator", run.state.discriminator.variables):
            if imported is None or name.split(".")[1] in stage_layers(imported):
                found[name] = leaf
    return {name: np.asarray(leaf) for name, leaf in found.items()}


def _fitting(
    name: str, tensor: np.ndarray, shape: tuple[int, ...], their_classes: int, our_classes: int
) -> np.ndarray | None:
    """The tensor, or its part that reads features if classes differ in number; None if it does not fit `shape`."""
    if tensor.ndim == 1 or their_classes == our_classes:
        return tensor if tensor.shape == shape else None
    axis, wanted = input_axis(name.split(".")[1]), list(shape)
    features, _ = np.split(tensor, [tensor.shape[axis] - their_classes], axis)
    wanted[axis] -= our_classes
    return features if list(features.shape) == wanted else None


def _difference(name: str, theirs: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> str:
    there = str(list(theirs[name].shape)) if name in theirs else "none"
    return f"  {name}: {there} there, {list(shape)} here"


def put(state: GANState, tensors: Mapping[str, jax.Array]) -> GANState:
    """A fresh state with the tensors of an `Initial`; averages (EMA) start from the generator's. Traceable."""

    def begun(name: str) -> Player:
        def begin(path: Any, leaf: jax.Array) -> jax.Array:
            tensor = tensors.get(tensor_name(name, path[1:]))
            return leaf if tensor is None else lax.dynamic_update_slice(leaf, tensor, (0,) * leaf.ndim)

        player: Player = getattr(state, name)
        return player.replace(**jax.tree_util.tree_map_with_path(begin, player.variables))

    generator = begun("generator")
    ema = None if state.ema is None else jax.tree.map(jnp.copy, generator.params)
    return state.replace(generator=generator, discriminator=begun("discriminator"), ema=ema)


def record(workdir: Path, initial: Initial | None) -> None:
    """Notes in the folder of a run that begins what it begins with."""
    file = run_folder.init_from_file(workdir)
    if initial is None:
        file.unlink(missing_ok=True)  # of a start that came to no checkpoint
    else:
        files.write_atomically(file, initial.to_json().encode())


def recorded(workdir: Path) -> tuple[str, int] | None:
    """With what the run in the folder began, `init_from` and the step that this was; None: with initial values.

    Raises UserError if its note cannot be read.
    """
    try:
        noted = files.read_json(run_folder.init_from_file(workdir), dict)
    except files.Missing:
        return None
    began, step = noted.get("init_from"), noted.get("step")
    return (began, step) if isinstance(began, str) and type(step) is int else None


def _same_run(init_from: str) -> tuple[Path, int | str | None, tuple[str, ...]]:
    """Equal of two ways to write the same, such as with a slash at the end or without."""
    name, step, players = _parse(init_from)
    return Path(name), step, players


def check_resumed(workdir: Path, init_from: str) -> None:
    """Raises UserError unless the run in the folder began with `init_from`, or its note of that cannot be read."""
    began, _ = recorded(workdir) or (None, 0)
    if began is None or _same_run(began) != _same_run(init_from):
        how = f"with --init_from={began}" if began else "with initial values of its own"
        raise UserError(
            f"the run in {workdir} began {how}, not with --init_from={init_from}: leave the flag out to continue it, "
            "or choose another --workdir."
        )
