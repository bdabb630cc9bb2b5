"""What each of the paper's guidelines buys [paper sections 3 and 4]: one is broken at a time.

    python -m dcgan_jax.evaluation.guidelines --config=configs/cifar10.py --workdir=runs/guidelines --seeds=3 \
        --config.model.width=0.25 --config.num_steps=1000

Trains the given config as it is, which should follow the guidelines, and once for each rule with that rule broken
(RULES below), every one with several seeds, each in a run's folder of its own: <workdir>/<rule>/seed<n>. The same
command continues where it was stopped, and finished runs are not trained again. Seeds are 0, 1, ... whatever
config.seed says. A run keeps five checkpoints (each 430 MB for the paper's network at full width).

Samples are compared with the data in the features of a probe (attribute_probe.py) that was trained on the data's own
labels or attributes: the Frechet distance (frechet.py), and the spread, total variance relative to the data's. Both are
taken at several points of the run, so that a run that gets worse again shows: an unstable one has a last distance far
above its best. The paper judges by eye and gives no numbers.
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

from dcgan_jax import attribute_probe, command_line, config_check, image_grid, report, run_folder, sample, train
from dcgan_jax.attribute_probe import AttributeProbe
from dcgan_jax.datasets import pack
from dcgan_jax.divergence import Diverged
from dcgan_jax.errors import UserError
from dcgan_jax.evaluation.frechet import Moments, frechet_distance
from dcgan_jax.report import Picture, Report, Row

NAME = "guidelines"
BASELINE = "paper"
_POINTS = 4  # of a run at which samples are compared
_SAMPLES = 5_000
_SHOWN = 12  # samples of each rule in the picture


class Rule(NamedTuple):
    """What is changed against the paper, and where the paper advises against it."""

    changes: dict[str, Any]
    source: str


RULES = {
    BASELINE: Rule({}, "the config as it is"),
    "pooling": Rule({"model.resampling": "pooling"}, "section 3: pooling instead of strides"),
    "no_norm": Rule({"model.norm": "none"}, "section 3: no batch normalisation"),
    "norm_everywhere": Rule({"model.norm": "all"}, "section 3: also in G's output and D's input layer"),
    "dense_hidden": Rule(
        {"model.generator.hidden": (1024,), "model.discriminator.hidden": (1024,)}, "section 3: dense hidden layers"
    ),
    "average_pooling": Rule({"model.discriminator.head": "pool"}, "section 3: global average pooling, more stable"),
    "relu_discriminator": Rule({"model.discriminator.activation": "relu"}, "section 3: ReLU in D"),
    "tanh_generator": Rule({"model.generator.activation": "tanh"}, "section 3: bounded activation in G"),
    "learning_rate_1e-3": Rule(
        {"optimizer.generator_learning_rate": 1e-3, "optimizer.discriminator_learning_rate": 1e-3},
        "section 4: 0.001 is too high",
    ),
    "beta1_0.9": Rule({"optimizer.b1": 0.9}, "section 4: oscillation"),
}


class Outcome(NamedTuple):
    """Of one run, at its points in order: steps, distances, spreads. All are empty if it diverged before the first."""

    steps: list[int]
    distances: list[float]
    spreads: list[float]
    diverged: bool


def broken(config: ConfigDict, rule: str, seed: int) -> ConfigDict:
    """The config of one run. Widths of dense layers are those of the whole network, see config.model.width."""
    changed = config.copy_and_resolve_references().unlock()
    changed.update_from_flattened_dict(RULES[rule].changes)
    points = max(1, config.num_steps // _POINTS)
    changed.update(seed=seed, checkpoint_every=points, sample_every=0, eval_every=0, keep_checkpoints=_POINTS + 1)
    return changed.lock()


def main() -> None:
    """Trains and measures every rule with every seed, a round of seeds at a time."""
    config, workdir = _CONFIG.value, Path(_WORKDIR.value)
    rules = _read_rules(_RULES.value)
    for rule in rules:
        config_check.check_config(broken(config, rule, 0))
        if rule != BASELINE and broken(config, rule, 0) == broken(config, BASELINE, 0):
            raise UserError(f"the config breaks the rule {rule!r} as it is: leave it out of --rules.")
    run_folder.make_writable(workdir, "--workdir")
    dataset = pack.open_or_build(config.data)
    probe = attribute_probe.open_or_train(dataset)
    order = np.random.default_rng(0).permutation(len(dataset.images))
    half = min(_SAMPLES, len(order) // 2)
    real, others = (
        Moments().add(probe.embed(dataset.images[np.sort(part)])) for part in (order[:half], order[half : 2 * half])
    )

    base = {"num_steps": config.num_steps, "samples": half, "real_distance": frechet_distance(others, real)}
    outcomes: dict[str, list[Outcome]] = {rule: [] for rule in rules}
    sheets = []
    with tqdm(total=len(rules) * _SEEDS.value, unit="run", disable=None) as bar:
        for seed in range(_SEEDS.value):
            for rule in rules:
                bar.set_description(f"{rule}, seed {seed}")
                folder = workdir / rule / f"seed{seed}"
                outcome, shown = _train_and_measure(broken(config, rule, seed), folder, probe, real)
                outcomes[rule].append(outcome)
                if seed == 0:
                    sheets.append(image_grid.make_grid(shown, _SHOWN))
                bar.update()
            _publish(workdir, base | {"seeds": seed + 1}, outcomes, np.concatenate(sheets))


def _publish(workdir: Path, base: dict[str, Any], outcomes: dict[str, list[Outcome]], sheet: np.ndarray) -> None:
    """What is known after each round of seeds."""
    figures = base | {"rules": {rule: summarise(of_rule) for rule, of_rule in outcomes.items()}}
    rows = [Row(f"{base['samples']:,} other real images: distance", f"{base['real_distance']:.2f}")]
    for rule, summary in figures["rules"].items():
        rows.append(Row(f"{rule}: distance at the end (best), spread", _in_words(summary), RULES[rule].source))
    caption = "Samples of seed 0 at the end of its run, a row for each of: " + ", ".join(outcomes) + "."
    title = "The architecture guidelines, broken one at a time (sections 3 and 4)"
    pictures = [Picture("samples.png", sheet, caption)]
    report.publish(report.folder(workdir, "evaluation", NAME), Report(title, figures, rows, pictures, {}))


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
            train.train_and_evaluate(config, folder)
        except Diverged as error:
            print(error)
            diverged = True
    jax.clear_caches()  # the next run has other programs
    outcome = Outcome(run_folder.steps(folder), [], [], diverged)
    draw, size = sample.make_draw_images(config, "frozen"), config.data.image_size
    shown = np.full((_SHOWN, size, size, config.data.channels), 255, np.uint8)
    for step in outcome.steps:
        _, state = sample.load_run(folder, step)
        moments, first = Moments(), True
        for images in draw(state, real.count, 0):
            moments.add(probe.embed(images))
            shown, first = (images[:_SHOWN] if first else shown), False
        outcome.distances.append(frechet_distance(moments, real))
        outcome.spreads.append(float(np.trace(moments.covariance) / np.trace(real.covariance)))
    return outcome, shown


def _read_rules(names: list[str]) -> list[str]:
    """Those of RULES that are asked for, the baseline always among them. Raises UserError for an unknown one."""
    unknown = [name for name in names if name not in RULES]
    if unknown:
        raise UserError(f"--rules: {unknown[0]!r} is not one of {', '.join(RULES)}.")
    return [name for name in RULES if name == BASELINE or not names or name in names]


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "File with the configuration of the runs.")
    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the runs and the results.", required=True)
    _SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each rule.", lower_bound=1)
    _RULES = flags.DEFINE_list("rules", [], "Rules to break, with commas; default: all.")
    flags.mark_flag_as_required("config")
    command_line.run(main)
