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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from dcgan_jax import command_line, training
from dcgan_jax.config import check_config
from dcgan_jax.datasets import opening
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.progress import tqdm
from dcgan_jax.metrics import attribute_probe
from dcgan_jax.metrics.attribute_probe import AttributeProbe
from dcgan_jax.metrics.frechet import Moments, frechet_distance
from dcgan_jax.reports import image_grid, report
from dcgan_jax.reports.report import Figure, Picture, Report
from dcgan_jax.runs import run_folder, trained
from dcgan_jax.runs.divergence import Diverged

_POINTS = 4  # of a run at which samples are compared
_SAMPLES = 5_000
_SHOWN = 12  # samples of each variation in the picture


class Variation(NamedTuple):
    """What is changed in the config as it is given, and where that comes from."""

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


def measure(
    study: Study, config: ConfigDict, *, workdir: str | Path, seeds: int = 3, variations: Sequence[str] = ()
) -> Report:
    """Trains and measures every variation with every seed.

    Args:
      study: what is varied.
      config: the baseline.
      workdir: for the runs.
      seeds: runs of each variation.
      variations: names of those to train beside the baseline; (): all.

    Returns:
      'variations': for each, `summarise`; 'real_distance', between two halves of the data; 'images_seen', 'samples',
      'seeds'. A row of samples for each variation.

    Raises:
      UserError: there is no such variation, or the config or the data cannot be used; before any training.
    """
    *_, last = rounds(study, config, workdir=workdir, seeds=seeds, variations=variations)
    return last


def rounds(
    study: Study, config: ConfigDict, *, workdir: str | Path, seeds: int, variations: Sequence[str]
) -> Iterator[Report]:
    """A report after each round of seeds, of all seeds so far. Arguments and errors as of `measure`."""
    workdir = Path(workdir).expanduser()
    chosen = _find_variations(study, variations)
    configs = {name: varied(config, variation.changes, 0) for name, variation in chosen.items()}
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
    distance = frechet_distance(others, real)

    outcomes: dict[str, list[Outcome]] = {name: [] for name in chosen}
    sheets = []
    with tqdm(total=len(chosen) * seeds, unit="run", disable=None) as bar:
        for seed in range(seeds):
            for name, variation in chosen.items():
                bar.set_description(f"{name}, seed {seed}")
                folder = workdir / name / f"seed{seed}"
                outcome, shown = _train_and_measure(varied(config, variation.changes, seed), folder, probe, real)
                outcomes[name].append(outcome)
                if seed == 0:
                    sheets.append(image_grid.make_grid(shown, _SHOWN))
                bar.update()
            figures = [
                Figure("images_seen", config.num_steps * config.batch_size),
                Figure("samples", half),
                Figure("real_distance", distance, f"{half:,} other real images: distance", f"{distance:.2f}"),
                Figure("seeds", seed + 1),
                *_table(study, {name: summarise(of_name) for name, of_name in outcomes.items()}),
            ]
            caption = "Samples of seed 0 at the end of its run, a row for each of: " + ", ".join(outcomes) + "."
            yield Report(study.title, figures, [Picture("samples.png", np.concatenate(sheets), caption)])


def _table(study: Study, summaries: dict[str, dict[str, Any]]) -> list[Figure]:
    """'variations', and a line for each."""
    figures = [Figure("variations", summaries)]
    for name, summary in summaries.items():
        source = study.variations[name].source if name in study.variations else "the config as it is"
        text = f"{name}: distance at the end (best), spread"
        figures.append(Figure("", text=text, here=_in_words(summary), paper_here=source))
    return figures


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
            training.train(config, folder)
        except Diverged as error:
            print(error)
            diverged = True
    jax.clear_caches()  # the next run has other programs
    outcome = Outcome(run_folder.steps(folder), [], [], diverged)
    size = config.data.image_size
    shown = np.full((_SHOWN, size, size, config.data.channels), 255, np.uint8)
    if not outcome.steps:
        return outcome, shown
    run = trained.load(folder, norm="frozen")
    for step in outcome.steps:
        moments, batches = Moments(), run.sampler.batches(run.at(step).state, real.count, seed=0)
        for i, images in enumerate(batches):
            moments.add(probe.embed(images))
            shown = shown if i else images[:_SHOWN]
        outcome.distances.append(frechet_distance(moments, real))
        outcome.spreads.append(float(np.trace(moments.covariance) / np.trace(real.covariance)))
    return outcome, shown


def _find_variations(study: Study, names: Sequence[str]) -> dict[str, Variation]:
    """Those that are asked for, the baseline first. Raises UserError for an unknown one."""
    everything = {study.baseline: Variation({}, "the config as it is"), **study.variations}
    unknown = [name for name in names if name not in everything]
    if unknown:
        raise UserError(f"--variations: {unknown[0]!r} is not one of {', '.join(everything)}.")
    return {name: v for name, v in everything.items() if name == study.baseline or not names or name in names}


def command(study: Study) -> None:
    """The command line of a study: defines its flags and runs it."""
    config = config_flags.DEFINE_config_file("config", None, "File with the configuration of the runs.")
    workdir = command_line.define_path("workdir", None, "Folder for the runs and the results.", required=True)
    seeds = flags.DEFINE_integer("seeds", 3, "Runs of each variation.", lower_bound=1)
    names = flags.DEFINE_list("variations", [], "Those to train, with commas; default: all.")
    flags.mark_flag_as_required("config")

    def main() -> None:
        out = report.folder(Path(workdir.value), "evaluation", study.name)
        for found in rounds(study, config.value, workdir=workdir.value, seeds=seeds.value, variations=names.value):
            report.publish(out, found)

    command_line.run(main)
