"""Trains a config and variations of it, several seeds each, and compares what they draw with the data.

What `guidelines.py` and `choices.py` share. Every run has a folder of its own, <workdir>/<variation>/seed<n>. The same
command continues where it was stopped, and finished runs are not trained again. Seeds are 0, 1, ... whatever
config.seed says. A run keeps five checkpoints (each 430 MB for the paper's network at full width). All runs see
equally many images: a variation of the batch size makes more steps, or fewer.

Samples are compared with the data in the features of a probe (attribute_probe.py) that was trained on the data's own
labels or attributes: the Frechet distance (frechet.py), and the spread, total variance relative to the data's. Both are
taken at several points of the run, so that a run that gets worse again shows: an unstable one has a last distance far
above its best.
"""

import contextlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags
from tqdm import tqdm

from dcgan_jax import command_line, training
from dcgan_jax.config import check_config
from dcgan_jax.datasets import opening
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import attribute_probe
from dcgan_jax.metrics.attribute_probe import AttributeProbe
from dcgan_jax.metrics.frechet import Moments, frechet_distance
from dcgan_jax.reports import image_grid, report
from dcgan_jax.reports.report import Picture, Report, Row
from dcgan_jax.runs import run_folder, trained
from dcgan_jax.runs.divergence import Diverged

_POINTS = 4  # of a run at which samples are compared
_SAMPLES = 5_000
_SHOWN = 12  # samples of each variation in the picture


class Variation(NamedTuple):
    """What is changed against the config as it is given, and where that comes from."""

    changes: dict[str, Any]
    source: str


class Study(NamedTuple):
    """Attributes:

    name: of the results' folder.
    title: of the page.
    baseline: name of the config as it is given.
    variations: by name.
    """

    name: str
    title: str
    baseline: str
    variations: dict[str, Variation]


class Outcome(NamedTuple):
    """Of one run, at its points in order: steps, distances, spreads. All are empty if it diverged before the first."""

    steps: list[int]
    distances: list[float]
    spreads: list[float]
    diverged: bool


def varied(config: ConfigDict, changes: dict[str, Any], seed: int) -> ConfigDict:
    """The config of one run. Widths of dense layers are those of the whole network, see config.model.width."""
    changed = config.copy_and_resolve_references().unlock()
    changed.update_from_flattened_dict(changes)
    changed.num_steps = config.num_steps * config.batch_size // changed.batch_size
    points = max(1, changed.num_steps // _POINTS)
    changed.update(seed=seed, checkpoint_every=points, sample_every=0, eval_every=0, keep_checkpoints=_POINTS + 1)
    return changed.lock()


def run(study: Study, config: ConfigDict, workdir: Path, seeds: int, names: list[str]) -> None:
    """Trains and measures every variation with every seed, a round of seeds at a time.

    Args:
      study: what is varied.
      config: the baseline.
      workdir: for the runs and the results.
      seeds: how many.
      names: of variations; the baseline is always among them, and [] is all.

    Raises:
      UserError: there is no such variation, or the config or the data cannot be used; before any training.
    """
    runs = _find_variations(study, names)
    configs = {name: varied(config, variation.changes, 0) for name, variation in runs.items()}
    for name, changed in configs.items():
        check_config(changed)
        if name != study.baseline and changed == configs[study.baseline]:
            raise UserError(f"the config has {name!r} as it is: leave it out of --variations.")
    files.make_writable(workdir, "--workdir")
    dataset = opening.open_or_build(config.data)
    probe = attribute_probe.open_or_train(dataset)
    order = np.random.default_rng(0).permutation(len(dataset.images))
    half = min(_SAMPLES, len(order) // 2)
    real, others = (
        Moments().add(probe.embed(dataset.images[np.sort(part)])) for part in (order[:half], order[half : 2 * half])
    )

    base = {
        "images_seen": config.num_steps * config.batch_size,
        "samples": half,
        "real_distance": frechet_distance(others, real),
    }
    outcomes: dict[str, list[Outcome]] = {name: [] for name in runs}
    sheets = []
    with tqdm(total=len(runs) * seeds, unit="run", disable=None) as bar:
        for seed in range(seeds):
            for name, variation in runs.items():
                bar.set_description(f"{name}, seed {seed}")
                folder = workdir / name / f"seed{seed}"
                outcome, shown = _train_and_measure(varied(config, variation.changes, seed), folder, probe, real)
                outcomes[name].append(outcome)
                if seed == 0:
                    sheets.append(image_grid.make_grid(shown, _SHOWN))
                bar.update()
            _publish(study, workdir, base | {"seeds": seed + 1}, outcomes, np.concatenate(sheets))


def _publish(
    study: Study, workdir: Path, base: dict[str, Any], outcomes: dict[str, list[Outcome]], sheet: np.ndarray
) -> None:
    """What is known after each round of seeds."""
    figures = base | {"variations": {name: summarise(of_name) for name, of_name in outcomes.items()}}
    rows = [Row(f"{base['samples']:,} other real images: distance", f"{base['real_distance']:.2f}")]
    for name, summary in figures["variations"].items():
        source = study.variations[name].source if name in study.variations else "the config as it is"
        rows.append(Row(f"{name}: distance at the end (best), spread", _in_words(summary), source))
    caption = "Samples of seed 0 at the end of its run, a row for each of: " + ", ".join(outcomes) + "."
    pictures = [Picture("samples.png", sheet, caption)]
    report.publish(report.folder(workdir, "evaluation", study.name), Report(study.title, figures, rows, pictures, {}))


def summarise(outcomes: list[Outcome]) -> dict[str, Any]:
    """Means and standard deviations (n - 1) over the seeds that did not diverge, and all that they come from."""
    good = [outcome for outcome in outcomes if not outcome.diverged]
    summary: dict[str, Any] = {"diverged": len(outcomes) - len(good), "runs": [o._asdict() for o in outcomes]}
    for name, values in (
        ("last", [outcome.distances[-1] for outcome in good]),
        ("best", [min(outcome.distances) for outcome in good]),
        ("spread", [outcome.spreads[-1] for outcome in good]),
    ):
        summary[name] = float(np.mean(values)) if values else float("nan")
        summary[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return summary


def _in_words(summary: dict[str, Any]) -> str:
    if math.isnan(summary["last"]):
        return "all diverged"
    std = "" if math.isnan(summary["last_std"]) else f" ± {summary['last_std']:.1f}"
    words = f"{summary['last']:.1f}{std} ({summary['best']:.1f}), {summary['spread']:.2f}"
    return words + (f"; {summary['diverged']} diverged" if summary["diverged"] else "")


def _train_and_measure(
    config: ConfigDict, folder: Path, probe: AttributeProbe, real: Moments
) -> tuple[Outcome, np.ndarray]:
    """Trains a run to its end if it is not there, its console in log.txt, and measures its checkpoints.

    Returns:
      What was measured, and the first samples of the last checkpoint [_SHOWN, height, width, channels], white without.
    """
    diverged = False
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log):
        try:
            training.train_and_evaluate(config, folder)
        except Diverged as error:
            print(error)
            diverged = True
    jax.clear_caches()  # the next run has other programs
    outcome = Outcome(run_folder.steps(folder), [], [], diverged)
    draw, size = trained.make_draw_images(config, "frozen"), config.data.image_size
    shown = np.full((_SHOWN, size, size, config.data.channels), 255, np.uint8)
    for step in outcome.steps:
        _, state = trained.load_run(folder, step)
        moments, first = Moments(), True
        for images in draw(state, real.count, 0):
            moments.add(probe.embed(images))
            shown, first = (images[:_SHOWN] if first else shown), False
        outcome.distances.append(frechet_distance(moments, real))
        outcome.spreads.append(float(np.trace(moments.covariance) / np.trace(real.covariance)))
    return outcome, shown


def _find_variations(study: Study, names: list[str]) -> dict[str, Variation]:
    """Those that are asked for, the baseline first. Raises UserError for an unknown one."""
    everything = {study.baseline: Variation({}, "the config as it is"), **study.variations}
    unknown = [name for name in names if name not in everything]
    if unknown:
        raise UserError(f"--variations: {unknown[0]!r} is not one of {', '.join(everything)}.")
    return {name: v for name, v in everything.items() if name == study.baseline or not names or name in names}


def command(study: Study) -> None:
    """The command line of a study: defines its flags and runs it."""
    config = config_flags.DEFINE_config_file("config", None, "File with the configuration of the runs.")
    workdir = flags.DEFINE_string("workdir", None, "Folder for the runs and the results.", required=True)
    seeds = flags.DEFINE_integer("seeds", 3, "Runs of each variation.", lower_bound=1)
    names = flags.DEFINE_list("variations", [], "Those to train, with commas; default: all.")
    flags.mark_flag_as_required("config")
    command_line.run(lambda: run(study, config.value, Path(workdir.value), seeds.value, names.value))
