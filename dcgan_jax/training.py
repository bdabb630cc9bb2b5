"""The training loop: build, restore, run, record."""

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dcgan_jax import machine
from dcgan_jax.config import check_config, flatten
from dcgan_jax.datasets import classes, opening
from dcgan_jax.datasets.batches import Batches, check_dataset, check_labels
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine import allocator, preemption, processes, processor
from dcgan_jax.machine.errors import Interrupted, UserError
from dcgan_jax.machine.mesh import make_mesh, on_first_device, replicate, replicated
from dcgan_jax.metrics import measures
from dcgan_jax.nets.models import first_sides
from dcgan_jax.nets.shapes import image_shape
from dcgan_jax.runs import checkpoint, rollbacks, run_folder, warm_start
from dcgan_jax.runs.collapse import Collapsed
from dcgan_jax.runs.divergence import Diverged
from dcgan_jax.runs.recorder import Evaluate, Recorder
from dcgan_jax.runs.sampler import Sampler
from dcgan_jax.runs.trained import Run
from dcgan_jax.runs.warm_start import Initial
from dcgan_jax.train_state import Gan, GANState, Player, build_gan, create_state
from dcgan_jax.train_step import make_mapped_step

# Images of the data that sample sheets are compared with, see `alarms`.
_REAL_SHOWN = 64
# Times the discriminator's learning rate, at every return after a collapse: this project's own choice.
_D_RATE = 1 / 2


def train(config: ConfigDict, workdir: str | Path, init_from: str | Path | None = None) -> Run:
    """Trains until `config.num_steps`, starting from the newest checkpoint in `workdir` if there is one.

    Calling it again resumes the run exactly; a finished run trains further when num_steps is raised.

    Args:
      config: see configs/default.py.
      workdir: the run's folder, see `run_folder`.
      init_from: "RUN" or "RUN,STEP", what a new run begins with, see `warm_start`. One that resumes takes nothing.

    Returns:
      The run after the last step.

    Raises:
      UserError: the config, the data, the folder or the other run cannot be used; before any training. Or three saves
        failed in a row.
      Diverged: a metric was not finite; the last good checkpoint is kept. With config.on_nonfinite='rollback', only
        after config.max_rollbacks returns to it.
      Collapsed: an alarm of collapse is on, and config.on_collapse is 'stop', or 'rollback' and the run has returned to
        checkpoints config.max_rollbacks times.
      Interrupted: by SIGINT or SIGTERM, after saving.
    """
    config, workdir, gan, mesh = prepare(config, workdir, init_from)
    initial = initial_of(workdir, gan, init_from)
    with run_folder.lock(workdir) if processes.is_first() else contextlib.nullcontext():
        dataset, evaluate = open_data(config, gan)
        if processes.is_first():
            _report_changes(workdir, config)
            run_folder.record(workdir, config, dataset.meta)
            if run_folder.latest_step(workdir) is None:
                warm_start.record(workdir, initial)
        start = Start(config, workdir, gan, initial, mesh, dataset, Batches(config, dataset, mesh), evaluate)
        with preemption.stop_requests() as stop_requested:
            state = _train_with_rollbacks(start, stop_requested)
    return Run(workdir, config, on_first_device(state), gan, Sampler(gan))


def prepare(
    config: ConfigDict, workdir: str | Path, init_from: str | Path | None
) -> tuple[ConfigDict, Path, Gan, Mesh]:
    """All checks that need no data: the config with precision and width decided, the folder, the networks, the devices.

    Raises UserError as `train` does.
    """
    machine.set_up()
    workdir = Path(workdir).expanduser()
    check_config(config)
    config = decided(config, workdir, init_from)
    mesh = make_mesh(config.batch_size)
    _check_local_batch(config, mesh)
    processes.check_same(
        f"{_shared_settings(config)} {init_from}", "configuration", "Give all of them the same command."
    )
    gan = build_gan(config)
    run_folder.check(workdir, config)
    return config, workdir, gan, mesh


@dataclass(frozen=True)
class Start:
    """What one start of a run has built: the networks and what they begin with, the devices, the data."""

    config: ConfigDict
    workdir: Path
    gan: Gan
    initial: Initial | None
    mesh: Mesh
    dataset: ImageDataset
    batches: Batches
    evaluate: Evaluate | None


def _train_with_rollbacks(start: Start, stop_requested: Callable[[], int | None]) -> GANState:
    """From the newest checkpoint to the end, with returns to checkpoints as often as the config allows.

    After a divergence that is the newest one, after a collapse the best of before. What is done otherwise from then on
    is a function of rollbacks.json, so a run that was stopped in between does the same.
    """
    config, workdir = start.config, start.workdir
    step = _newest_checkpoint(workdir)
    while True:
        count_rollbacks = partial(rollbacks.rollbacks_before, workdir, step or 0)
        count = processes.from_first_process(count_rollbacks) or 0
        collapses = processes.from_first_process(partial(rollbacks.collapses, workdir)) or 0
        try:
            return train_from(start, step, count, _D_RATE**collapses, stop_requested)
        except Diverged as divergence:
            if config.on_nonfinite == "stop" or count >= config.max_rollbacks:
                raise
            step = _go_back(start, "divergence", divergence, count)
        except Collapsed as collapse:
            if config.on_collapse == "stop" or count >= config.max_rollbacks:
                raise
            if processes.is_first():
                checkpoint.set_collapsed_aside(workdir, collapse.back_to)
            step = _go_back(start, "collapse", collapse, count)
            if step is None and start.initial is None:
                start = dataclasses.replace(start, initial=initial_of(workdir, start.gan, None))


def _go_back(start: Start, kind: rollbacks.Kind, reason: Diverged | Collapsed, count: int) -> int | None:
    """Step of the newest checkpoint, None if there is none; the return to it, after `count` others, is noted."""
    step = _newest_checkpoint(start.workdir)
    if processes.is_first():
        rollbacks.add_rollback(start.workdir, kind, reason.step, step or 0, str(reason))
        where = "the start" if step is None else f"step {step}"
        print(f"WARNING: {reason} Going back to {where}, rollback {count + 1} of {start.config.max_rollbacks}.")
    return step


def train_from(
    start: Start, step: int | None, rollback_count: int, d_rate: float, stop_requested: Callable[[], int | None]
) -> GANState:
    """Trains from checkpoint `step` (None: from a fresh state) until num_steps, a stop request, or an error.

    See `train_step` for `rollback_count`, `build_gan` for `d_rate`.
    """
    config, batches = start.config, start.batches
    state = start_state(start.gan, start.workdir, step, start.mesh, start.initial)
    gan = start.gan if d_rate == 1 else build_gan(config, d_rate)
    step_function = make_mapped_step(gan, start.mesh, config.mapper, rollback_count)
    real = _some_images(start.dataset)
    with Recorder(config, start.workdir, step, Sampler(start.gan), real, start.evaluate) as recorder:
        recorder.text(overview(config, state, start.dataset, start.workdir, start.initial))
        if d_rate < 1:
            recorder.text(f"note     the discriminator learns {d_rate:g} times as fast as at first, after collapses")
        for done, call in batches.from_step(int(state.step), config.num_steps):
            state, metrics = step_function(state, batches.pack, call)
            recorder.after_call(done, state, metrics)
            if signum := stop_requested():
                recorder.save(done, state, metrics, block=True)
                raise Interrupted(signum, done)
    return state


def start_state(gan: Gan, workdir: Path, step: int | None, mesh: Mesh, initial: Initial | None = None) -> GANState:
    """The checkpoint of `step`, or for None a fresh state, with what is taken of another run; on every device."""
    fresh = partial(create_state, gan)
    if step is not None:
        return checkpoint.restore(workdir, step, jax.eval_shape(fresh), mesh)
    state = jax.jit(fresh, out_shardings=replicated(mesh))()
    if initial is None:
        return state
    return jax.jit(warm_start.put, out_shardings=replicated(mesh))(state, replicate(mesh, initial.tensors))


def open_data(config: ConfigDict, gan: Gan) -> tuple[ImageDataset, Evaluate | None]:
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
        if held_out and config.model.num_classes:
            where = f"{others.source or config.data.source} {others.split}"
            check_labels(config, where, held_out)
            held_out = classes.numbered_like(held_out, dataset.class_names, where, config.model.num_classes)
        evaluate = measures.make_evaluate(config, gan, dataset, held_out)
    checksums = f"{dataset.meta.get('sha256')} {dataset.meta.get('labels_sha256')}"
    remedy = "Give all of them the same files, or one --config.data.cache_dir that they share."
    processes.check_same(checksums, "images", remedy)
    return dataset, evaluate


def decided(config: ConfigDict, workdir: Path, init_from: str | Path | None = None) -> ConfigDict:
    """The config with a precision for 'auto' and a width for 0: those of the run in the folder, or what suits here.

    A run that starts from another one has its width. Raises UserError if one of the two cannot be read, or the folder
    cannot be one of a run.
    """
    if config.precision != "auto" and config.model.width:
        return config
    run_folder.create(workdir)
    config, begun = config.copy_and_resolve_references().unlock(), None
    if run_folder.latest_step(workdir) is not None or checkpoint.any_collapsed(workdir):
        begun = run_folder.load_config(workdir)
        check_config(begun)
    if config.precision == "auto":
        config.precision = begun.precision if begun else processor.fast_precision(jax.default_backend())
    if not config.model.width:
        if begun:
            config.model.width = begun.model.width
        elif init_from is not None:
            config.model.width = warm_start.width_of(str(init_from))
        else:
            config.model.width = processor.trainable_width(jax.default_backend())
    return config.lock()


def initial_of(workdir: Path, gan: Gan, init_from: str | Path | None) -> Initial | None:
    """What a run that starts takes of another one; None: nothing, and for a run that resumes.

    A run that has collapsed and gone back to its start takes again what it began with.
    """
    begun = run_folder.latest_step(workdir) is not None
    gone_back = not begun and checkpoint.any_collapsed(workdir)
    if (begun or gone_back) and init_from is not None:
        warm_start.check_resumed(workdir, str(init_from))
    if gone_back:
        began = warm_start.recorded(workdir)
        return began and warm_start.read(began[0], gan, began[1])
    return None if begun or init_from is None else warm_start.read(str(init_from), gan)


def _report_changes(workdir: Path, config: ConfigDict) -> None:
    """Says with which other settings a run is resumed."""
    if run_folder.latest_step(workdir) is not None:
        for name, (before, now) in run_folder.changes(workdir, config).items():
            print(f"changed  config.{name}: {before!r} before, {now!r} from now on")


def _check_local_batch(config: ConfigDict, mesh: Mesh) -> None:
    """Raises UserError if a device normalises a single image by itself: all images are then the same."""
    local = config.model.norm != "none" and not config.model.cross_replica_norm
    if local and config.batch_size == mesh.size:
        raise UserError(
            f"config.batch_size {config.batch_size} leaves one image for each of the {mesh.size} devices, and without "
            "config.model.cross_replica_norm each normalises its own: give a larger batch_size."
        )


def _newest_checkpoint(workdir: Path) -> int | None:
    """Step of the newest intact one, None if there is none; damaged ones are moved aside."""
    return processes.from_first_process(lambda: checkpoint.newest_intact(workdir, print, set_aside=True))


def _shared_settings(config: ConfigDict) -> str:
    """What must be equal on all hosts: everything but folders."""
    fields = flatten(config)
    return repr({name: fields[name] for name in sorted(fields) if name not in ("data.dir", "data.cache_dir")})


def _some_images(dataset: ImageDataset) -> np.ndarray:
    """_REAL_SHOWN images, evenly spread over the data set."""
    images = dataset.images
    return images[np.unique(np.linspace(0, len(images) - 1, _REAL_SHOWN).astype(int))]


def overview(config: ConfigDict, state: GANState, dataset: ImageDataset, workdir: Path, initial: Initial | None) -> str:
    """What is about to run: the parameters of both networks, the data, the devices, where it goes."""
    players = (("Generator", state.generator), ("Discriminator", state.discriminator))
    tables = [f"{name}\n{_parameters(player)}" for name, player in players]
    count, height, width, channels = dataset.images.shape
    devices = jax.devices()
    start = int(state.step)
    steps = f"{'from the start' if start == 0 else f'resumed at step {start}'}, until step {config.num_steps}"
    return "\n".join(
        [
            *tables,
            f"data     {config.data.source}: {count:,} images, {height} x {width} x {channels}"
            + (", mirrored at random" if config.data.flip == "x" else "")
            + (f"; {config.data.held_out:,} more are held out" if config.data.held_out else ""),
            *_class_lines(dataset),
            *_augmentation_lines(config),
            f"networks {_describe_networks(config)}",
            f"devices  {len(devices)} {devices[0].device_kind}, batch {config.batch_size}, {config.precision}",
            f"memory   {allocator.description()}",
            f"workdir  {workdir}",
            *(initial.lines() if initial and start == 0 else []),
            f"running  {steps}",
            *_notes(config),
            *_frozen_lines(config, workdir, initial),
        ]
    )


def _parameters(player: Player) -> str:
    """A table of a network's parameters; their number where clu, which draws the table, is not installed."""
    try:
        from clu import parameter_overview
    except ImportError:
        return f"Total: {sum(leaf.size for leaf in jax.tree.leaves(player.params)):,}"
    return str(parameter_overview.get_parameter_overview(player.params, include_stats=False))


def _notes(config: ConfigDict) -> list[str]:
    """What of the config has no effect in a run of this length."""
    decay = config.optimizer
    if decay.decay_steps and decay.decay_begin >= config.num_steps:
        return [
            f"note     the learning rates do not decay: config.optimizer.decay_begin is {decay.decay_begin}, "
            f"config.num_steps {config.num_steps}"
        ]
    return []


def _frozen_lines(config: ConfigDict, workdir: Path, initial: Initial | None) -> list[str]:
    """Which layers of a new run's discriminator stay as they were drawn at random."""
    taken = initial.tensors if initial else {}
    frozen = range(1, config.model.discriminator.freeze + 1)
    random = [f"conv{i}" for i in frozen if f"discriminator.conv{i}" not in taken]
    if not random or run_folder.latest_step(workdir) is not None:
        return []
    return [f"note     {', '.join(random)} of the discriminator stay at random values: see --init_from"]


def _augmentation_lines(config: ConfigDict) -> list[str]:
    """What the discriminator sees of images, if that is not the images."""
    names, probability, target = config.augment.operations, config.augment.probability, config.augment.target
    with_probability = f", each with probability {probability:g}" if probability < 1 or target else ""
    if target:
        with_probability += f" at first, then adjusted to signs of {target:g}"
    return [f"augment  {', '.join(names)}{with_probability}"] if names else []


def _class_lines(dataset: ImageDataset) -> list[str]:
    """The classes with their numbers of images, and what to know of them."""
    counts, note = classes.counts(dataset), dataset.meta.get("note")
    lines = [f"classes  {classes.describe(range(len(counts)), dataset.class_names, counts)}"] if counts else []
    return [*lines, *([f"note     {note}"] if note else [])]


def _describe_networks(config: ConfigDict) -> str:
    """Stages and classes in words."""
    stages, (height, width, _) = config.model.generator.stages, image_shape(config.data)
    rows, columns = first_sides((height, width), stages)
    maps = f"{len(stages)} stages, {rows} x {columns} to {height} x {width}" if stages else "dense layers"
    count = config.model.num_classes
    return f"{maps}, " + (f"conditional on {count} classes" if count else "no classes")
