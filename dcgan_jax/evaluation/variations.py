"""Trains a config and variations of it, several seeds each, and compares what they draw with the data.

What `guidelines.py` and `choices.py` share. Every run has a folder of its own, <workdir>/<variation>/seed<n>. The same
command continues where it was stopped. Finished runs are measured again, but not trained again. Seeds are 0, 1, ...
whatever config.seed says. A run keeps five checkpoints (each 430 MB for the paper's network at full width). All runs
see equally many images: a variation of the batch size makes more steps, or fewer.

At several points of a run, samples are compared with as many images of the data, or, if config.eval.source or
config.eval.split names some, with as many held-out images; real_images.py lists what is measured. So are as many other
images of the data, if there are so many.

A run that gets worse again shows: its last distance is far above its best. Spearman's rank correlation of the two
distances says how far the ranking depends on the probe: over the ends of all runs, and over all points of all runs,
which is higher, as distances fall while networks learn.

Distances at the end are compared with the baseline's over seeds (significance.py). The table marks the differences that
survive the correction for the number of variations. A variation of which a run diverged is not compared: those that did
not are no fair sample. Choose the number of seeds beforehand: to stop at the first report with a mark finds too many.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.stats
from absl import flags
from ml_collections import ConfigDict, config_flags

from dcgan_jax import command_line, training
from dcgan_jax.config import check_config
from dcgan_jax.evaluation import significance
from dcgan_jax.evaluation.real_images import Compare, Point, RealImages, make_compare, open_real_images
from dcgan_jax.evaluation.significance import Comparison
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.progress import tqdm
from dcgan_jax.nets.shapes import image_shape
from dcgan_jax.reports import curves, image_grid, report
from dcgan_jax.reports.report import Figure, Picture, Report
from dcgan_jax.runs import run_folder, trained
from dcgan_jax.runs.divergence import Diverged

_POINTS = 4  # of a run at which samples are compared
_SHOWN = 12  # samples of each variation in the picture


class Variation(NamedTuple):
    """Attributes:

    changes: new values of fields. A function makes the value from the config as it is given.
    source: where that comes from.
    """

    changes: dict[str, Any]
    source: str


class Study(NamedTuple):
    """Attributes:

    name: of the results' folder.
    title: of the page.
    baseline: name of the config as it is given.
    variations: by name.
    needs_held_out: whether comparing with training images would say the wrong thing.
    """

    name: str
    title: str
    baseline: str
    variations: dict[str, Variation]
    needs_held_out: bool = False


class Outcome(NamedTuple):
    """Of one run: steps and what was measured there, in order. Both are empty if it diverged before the first."""

    steps: list[int]
    points: list[Point]
    diverged: bool

    def columns(self) -> dict[str, Any]:
        """For results.json: 'steps', 'distances', 'spreads', ..., 'diverged'."""
        measured = {f"{name}s": [getattr(point, name) for point in self.points] for name in Point._fields}
        return {"steps": self.steps, **measured, "diverged": self.diverged}


def varied(config: ConfigDict, changes: dict[str, Any], seed: int) -> ConfigDict:
    """The config of one run. Widths of dense layers are those of the whole network, see config.model.width.

    Steps (num_steps, the decay of learning rates) are counted at the given batch size, and scaled where that changes.
    """
    changed = config.copy_and_resolve_references().unlock()
    values = {name: value(config) if callable(value) else value for name, value in changes.items()}
    changed.update_from_flattened_dict(values)

    def scaled(steps: int) -> int:
        return steps * config.batch_size // changed.batch_size

    begin, steps = changed.optimizer.decay_begin, changed.optimizer.decay_steps
    changed.optimizer.decay_begin = scaled(begin)
    changed.optimizer.decay_steps = scaled(begin + steps) - scaled(begin)
    changed.num_steps = scaled(config.num_steps)
    points = max(1, changed.num_steps // _POINTS)
    changed.update(seed=seed, checkpoint_every=points, sample_every=0, eval_every=0, keep_checkpoints=_POINTS + 1)
    return changed.lock()


def measure(
    study: Study,
    config: ConfigDict,
    *,
    workdir: str | Path,
    seeds: int = 3,
    variations: Sequence[str] = (),
    init_from: str | None = None,
    probe_source: str = "",
    probe_split: str = "",
) -> Report:
    """Trains and measures every variation with every seed.

    Args:
      study: what is varied.
      config: the baseline.
      workdir: for the runs.
      seeds: runs of each variation.
      variations: names of those to train beside the baseline; (): all.
      init_from: what every run begins with, as of `training.train`; None: its own initial weights.
      probe_source, probe_split: labelled images that train the probes; '': those that samples are compared with.

    Returns:
      'variations': for each, `summarise`, and its 'difference' from the baseline, see `significance.Comparison`;
      'real': a `Point` of other images of the data, and its 'real_distance', if there are as many; 'rank_correlation'
      of both distances over all points, and 'rank_correlation_of_ends';
      'images_seen', 'samples', 'seeds'. A row of samples for each variation; the distances over the steps.

    Raises:
      UserError: there is no such variation, or the config or the data cannot be used; before any training.
    """
    *_, last = rounds(
        study,
        config,
        workdir=workdir,
        seeds=seeds,
        variations=variations,
        init_from=init_from,
        probe_source=probe_source,
        probe_split=probe_split,
    )
    return last


def rounds(
    study: Study,
    config: ConfigDict,
    *,
    workdir: str | Path,
    seeds: int,
    variations: Sequence[str],
    init_from: str | None = None,
    probe_source: str = "",
    probe_split: str = "",
) -> Iterator[Report]:
    """A report after each round of seeds, of all seeds so far. Arguments and errors as of `measure`."""
    workdir = Path(workdir).expanduser()
    chosen = _find_variations(study, variations)
    if study.needs_held_out and not (config.eval.source or config.eval.split):
        raise UserError(
            f"{study.name} compares samples with held-out images: name some by --config.eval.split or "
            "--config.eval.source."
        )
    files.make_writable(workdir, "--workdir")
    config = training.decided(config, workdir / study.baseline / "seed0", init_from)
    _check_configs(study, config, chosen)
    real_images = open_real_images(config, probe_source, probe_split)
    count = len(real_images.reference)
    compare = make_compare(real_images)
    real = None if real_images.others is None else compare(real_images.others, False)

    outcomes: dict[str, list[Outcome]] = {name: [] for name in chosen}
    sheets = []
    with tqdm(total=len(chosen) * seeds, unit="run", disable=None) as bar:
        for seed in range(seeds):
            for name, variation in chosen.items():
                bar.set_description(f"{name}, seed {seed}")
                folder, run_config = workdir / name / f"seed{seed}", varied(config, variation.changes, seed)
                diverged = _train(run_config, folder, init_from)
                outcome, shown = _measure_run(run_config, folder, compare, real_images, diverged)
                outcomes[name].append(outcome)
                if seed == 0:
                    sheets.append(image_grid.make_grid(shown, _SHOWN))
                bar.update()
            runs = [run for of_name in outcomes.values() for run in of_name]
            ranked, points = rank_correlation([point for run in runs for point in run.points])
            of_ends, ends = rank_correlation([run.points[-1] for run in runs if not run.diverged])
            here = f"{of_ends:.3f} over {ends} ends, {ranked:.3f} over {points} points"
            figures = [
                Figure("images_seen", config.num_steps * config.batch_size),
                Figure("samples", count),
                *([Figure("real_distance", real.distance), Figure("real", real._asdict())] if real else []),
                Figure("seeds", seed + 1),
                *_table(study, outcomes, real),
                Figure("rank_correlation_of_ends", of_ends),
                Figure("rank_correlation", ranked, "rank correlation of the probes", here),
            ]
            caption = "Samples of seed 0 at the end of its run, a row for each of: " + ", ".join(outcomes) + "."
            drawn = curves.draw({study.title: {name: summarise(of_name) for name, of_name in outcomes.items()}})
            pictures = [
                Picture("samples.png", np.concatenate(sheets), caption),
                Picture("curves.png", drawn, "Distances of the first probe, a line for each run."),
            ]
            yield Report(study.title, figures, pictures)


def _check_configs(study: Study, config: ConfigDict, chosen: dict[str, Variation]) -> None:
    """Raises UserError for a config that cannot work, and for a variation that changes nothing."""
    baseline = varied(config, {}, 0)
    check_config(baseline)
    for name, variation in chosen.items():
        changed = varied(config, variation.changes, 0)
        if name != study.baseline and changed == baseline:
            raise UserError(f"the config has {name!r} as it is: leave it out of --variations.")
        try:
            check_config(changed)
        except UserError as error:
            raise UserError(f"{name!r}, which can be left out of --variations: {error}") from error


def summarise(outcomes: list[Outcome]) -> dict[str, Any]:
    """Means and standard deviations (n - 1) over the seeds that did not diverge, and all that they come from.

    'last' and 'second' are the distances at the end, 'best' the lowest distance; the others are those at the end.
    """
    good = [outcome.points for outcome in outcomes if not outcome.diverged]
    summary: dict[str, Any] = {
        "diverged": len(outcomes) - len(good),
        "runs": [outcome.columns() for outcome in outcomes],
    }
    for name, values in (
        ("last", last_distances(outcomes)),
        ("best", [min(point.distance for point in points) for points in good]),
        ("spread", [points[-1].spread for points in good]),
        ("precision", [points[-1].precision for points in good]),
        ("recall", [points[-1].recall for points in good]),
        ("coverage", [points[-1].coverage for points in good]),
        ("second", [points[-1].second_distance for points in good]),
        ("memorized", [points[-1].memorized for points in good]),
        ("gap", [points[-1].gap for points in good]),
    ):
        summary[name] = float(np.mean(values)) if values else math.nan
        summary[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return summary


def last_distances(outcomes: list[Outcome]) -> list[float]:
    """Of the runs that did not diverge."""
    return [outcome.points[-1].distance for outcome in outcomes if not outcome.diverged]


def rank_correlation(points: list[Point]) -> tuple[float, int]:
    """Spearman's, of the two distances over the points, and how many points; nan for fewer than two."""
    if len(points) < 2:
        return math.nan, len(points)
    both = scipy.stats.spearmanr([point.distance for point in points], [point.second_distance for point in points])
    return float(both.statistic), len(points)


def _table(study: Study, outcomes: dict[str, list[Outcome]], real: Point | None) -> list[Figure]:
    """'variations', and a line for each under a line of heads. Columns that would be empty are left out."""
    differences = significance.compare(
        {
            name: [] if any(run.diverged for run in of_name) else last_distances(of_name)
            for name, of_name in outcomes.items()
        },
        study.baseline,
    )
    summaries = {name: summarise(of_name) for name, of_name in outcomes.items()}
    lines = []
    if real:
        lines = [("other real images", "", _cells(summarise([Outcome([], [real], False)]), None))]
    for name, summary in summaries.items():
        source = study.variations[name].source if name in study.variations else "the config as it is"
        lines.append((name, source, _cells(summary, differences.get(name))))
        summary["difference"] = differences[name]._asdict() if name in differences else None
    heads = [head for head in lines[0][2] if any(cells[head] for _, _, cells in lines)]
    widths = {head: max(len(head), *(len(cells[head]) for _, _, cells in lines)) for head in heads}

    def joined(cells: dict[str, str]) -> str:
        return "  ".join(f"{cells[head]:>{widths[head]}}" for head in heads)

    figures = [Figure("variations", summaries), Figure("", here=joined({head: head for head in heads}))]
    return figures + [Figure("", text=name, here=joined(cells), paper_here=source) for name, source, cells in lines]


def _cells(summary: dict[str, Any], difference: Comparison | None) -> dict[str, str]:
    """What a line says under each head; '' where there is nothing to say."""

    def number(name: str) -> str:
        return "" if math.isnan(summary[name]) else f"{summary[name]:.2f}"

    end = number("last") + (f" ± {number('last_std')}" if number("last_std") else "")
    interval = "{0.mean:+.2f} ({0.low:+.2f} to {0.high:+.2f})"
    return {
        "at the end": end or "all diverged",
        "best": number("best"),
        "spread": number("spread"),
        "precision": number("precision"),
        "recall": number("recall"),
        "coverage": number("coverage"),
        "second probe": number("second"),
        "memorized": number("memorized"),
        "gap of D": number("gap"),
        "diverged": f"{summary['diverged']} of {len(summary['runs'])}" if summary["diverged"] else "",
        "difference (95 %)": interval.format(difference) if difference else "",
        "p": f"{difference.p:.2g}" if difference else "",
        "p, Holm": f"{difference.p_holm:.2g}" if difference else "",
        "at 5 %": difference.mark if difference else "",
    }


def _train(config: ConfigDict, folder: Path, init_from: str | None) -> bool:
    """Trains a run to its end if it is not there, its console in log.txt. Returns whether it diverged."""
    folder.mkdir(parents=True, exist_ok=True)
    diverged = False
    with (folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log):
        try:
            training.train(config, folder, init_from)
        except Diverged as error:
            print(error)
            diverged = True
    jax.clear_caches()  # the next run has other programs
    return diverged


def _measure_run(
    config: ConfigDict, folder: Path, compare: Compare, real_images: RealImages, diverged: bool
) -> tuple[Outcome, np.ndarray]:
    """Measures samples of each checkpoint of a run, but for those that an interruption left between its points.

    Returns:
      What was measured, and the first samples of the last checkpoint [_SHOWN, height, width, channels], white without.
    """
    every, end = config.checkpoint_every, config.num_steps
    # Every run has as many points: a checkpoint shortly before the end, of steps that four does not divide, is none.
    steps = [s for s in run_folder.steps(folder) if s == end or (s % every == 0 and s + every <= end)]
    points: list[Point] = []
    samples = np.full((_SHOWN, *image_shape(config.data)), 255, np.uint8)
    if steps:
        run = trained.load(folder, norm="frozen")
        for step in steps:
            at_step = run.at(step)
            samples = at_step.sample(len(real_images.reference))
            points.append(compare(samples, config.data.flip == "x")._replace(gap=real_images.gap(at_step)))
    return Outcome(steps, points, diverged), samples[:_SHOWN]


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
    init_from = command_line.define_path("init_from", None, "What every run begins with, as of dcgan_jax.main.")
    probe_source = flags.DEFINE_string(
        "probe_source", "", "Images whose labels train the probes; default: those compared with."
    )
    probe_split = flags.DEFINE_string("probe_split", "", "Their split.")
    flags.mark_flag_as_required("config")

    def main() -> None:
        out = report.folder(Path(workdir.value), "evaluation", study.name)
        found = rounds(
            study,
            config.value,
            workdir=workdir.value,
            seeds=seeds.value,
            variations=names.value,
            init_from=init_from.value,
            probe_source=probe_source.value,
            probe_split=probe_split.value,
        )
        for so_far in found:
            report.publish(out, so_far)

    command_line.run(main)
