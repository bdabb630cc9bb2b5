"""Vector arithmetic on faces and other concepts [paper section 6.3.2, figure 7].

    python -m dcgan_jax.analysis.vector_arithmetic --workdir=runs/toy_faces
    python -m dcgan_jax.analysis.vector_arithmetic --workdir=runs/faces --a=3,17,29 --b=4,5,60 --c=12,13,88

z = mean of A - mean of B + mean of C, where A, B and C are three samples each that show a concept: smiling woman -
neutral woman + neutral man should give a smiling man. The middle of each 3x3 block is the image of z; around it, z with
uniform noise of +-0.25. Beside it the paper's two baselines: one sample a concept instead of three, and the same
arithmetic on pixels.

Concepts are numbers of samples (sheet.png shows them), or attributes that a probe trained on the data's own labels sees
(concepts.py). With attributes the arithmetic is repeated with other samples, and the probe counts how often the result
shows what it should and is plausible, no farther from the data than real images are (attribute_probe.py). Faces laid
over each other, as pixel space gives, show every attribute that one of them has, but are not plausible.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from dcgan_jax import command_line
from dcgan_jax.analysis import concepts
from dcgan_jax.datasets import opening
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import attribute_probe
from dcgan_jax.metrics.attribute_probe import AttributeProbe
from dcgan_jax.reports import image_grid, report
from dcgan_jax.reports.report import Picture, Report, Row
from dcgan_jax.runs import run_flags
from dcgan_jax.runs.trained import TrainedRun

NAME = "vector_arithmetic"
EXEMPLARS, NOISE, NEIGHBOURS = 3, 0.25, 8  # [paper section 6.3.2, figure 7]
# The paper's two examples, and one for bedrooms, for data with these attributes.
FORMULAS = (
    ("smiling=1,man=0", "smiling=0,man=0", "smiling=0,man=1"),
    ("glasses=1,man=1", "glasses=0,man=1", "glasses=0,man=0"),
    ("tv=1,lamp=0", "tv=0,lamp=0", "tv=0,lamp=1"),
)
PAPER: dict[str, Any] = {"exemplars": 3, "noise": 0.25}
METHODS = {
    "three": "three exemplars",
    "one": "one exemplar",
    "pixels": "three, in pixel space",
    "random": "random samples",
}
_POOL = 2000  # samples that the exemplars are chosen from
_SHEET = 200  # of them on the numbered sheet
_SHOWN = 4  # trials that are drawn


class Formula(NamedTuple):
    """A - B + C: three concepts, and the traits of the result (empty if they are sample numbers)."""

    concepts: tuple[concepts.Concept, ...]
    traits: dict[str, int]


def default_formulas(dataset: ImageDataset, conditional: bool) -> list[tuple[str, ...]]:
    """Those of FORMULAS that the attributes allow; with labels only, common class - commonest + commonest."""
    targets = attribute_probe.targets_of(dataset)
    classes = {name for name, target in targets.items() if target.classes}
    fitting: list[tuple[str, ...]] = [
        f for f in FORMULAS if {part.split("=")[0] for part in f[0].split(",")} <= classes
    ]
    if (
        fitting or "label" not in classes or conditional
    ):  # arithmetic on z does not change the label of a conditional one
        return fitting
    counts = np.bincount(attribute_probe.known(dataset)["label"])
    commonest, next_one = (
        concepts.describe({"label": int(label)}, dataset.class_names)
        for label in np.argsort(-counts, kind="stable")[:2]
    )
    return [(next_one, commonest, commonest)]


def parse_formula(texts: tuple[str, ...], dataset: ImageDataset | None) -> Formula:
    """A - B + C of three concepts as they are written; `dataset` is needed for attributes only.

    Raises:
      UserError: see `concepts.parse` and `concepts.combine`; or they are of different kinds or sizes.
    """
    targets = attribute_probe.targets_of(dataset) if dataset else {}
    names = dataset.class_names if dataset else None
    abc = tuple(concepts.parse(flag, text, _POOL, targets, names) for flag, text in zip("abc", texts, strict=True))
    if len({len(concept.numbers) for concept in abc}) > 1:
        raise UserError("--a, --b and --c must name equally many samples, or all be attributes.")
    return Formula(abc, {} if abc[0].numbers else concepts.combine(*(concept.traits for concept in abc)))


def arithmetic(values: np.ndarray, exemplars: np.ndarray) -> np.ndarray:
    """mean(A) - mean(B) + mean(C) of each trial.

    Args:
      values: [samples, ...].
      exemplars: sample numbers [trials, 3, exemplars].

    Returns:
      [trials, ...].
    """
    a, b, c = (values[exemplars[:, i]].mean(1) for i in range(3))
    return a - b + c


def interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share [Wilson 1927]."""
    z, share = 1.96, successes / trials
    middle = share + z * z / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return (middle - reach) / (1 + z * z / trials), (middle + reach) / (1 + z * z / trials)


def main() -> None:
    """Chooses exemplars, draws the sums, and measures them; see the module."""
    run = _RUN.load()
    texts = {name: flag.value for name, flag in (("a", _A), ("b", _B), ("c", _C)) if flag.value is not None}
    if texts and len(texts) < 3:
        raise UserError("give all three of --a, --b and --c, or none.")
    by_number = bool(texts) and not any("=" in text for text in texts.values())
    dataset = None if by_number else opening.open_or_build(run.config.data)
    written = [tuple(texts.values())] if texts else []
    if dataset and not texts:
        written = default_formulas(dataset, bool(run.config.model.num_classes))
    formulas = [parse_formula(abc, dataset) for abc in written]

    probe = attribute_probe.open_or_train(dataset) if dataset and formulas else None
    out = report.folder(run.workdir, "analysis", NAME)
    z = run.noise(0, _POOL)
    images = run.draw(z, "samples to choose from")
    sheet = image_grid.make_grid(image_grid.number(images[:_SHEET]), 10)
    image_grid.save_png(out / "sheet.png", sheet)  # even if what follows fails: one chooses from it
    if not formulas:
        raise UserError(
            f"no formula is known for the images of {run.config.data.source}: choose samples from {out / 'sheet.png'} "
            "and give three a concept by number, such as --a=3,17,29 --b=4,5,60 --c=12,13,88."
        )
    found = probe.read(images) if probe else {}
    figures: dict[str, Any] = {"step": run.step, "seed": run.seed, "formulas": []}
    rows = [
        Row("exemplars a concept", str(EXEMPLARS), str(EXEMPLARS)),
        Row("noise around the middle", "±0.25", "±0.25"),
    ]
    pictures = []
    for i, formula in enumerate(formulas):
        exemplars = _choose(formula, found, np.random.default_rng([run.seed, i]))
        results = _results(run, z, images, exemplars)
        name = " - ".join(concept.text for concept in formula.concepts[:2]) + " + " + formula.concepts[2].text
        entry: dict[str, Any] = {"formula": name, "trials": len(exemplars), "exemplars": exemplars.shape[2]}
        rows.append(Row(f"{name}: exemplars a concept", str(exemplars.shape[2]), str(PAPER["exemplars"])))
        if formula.traits and probe:
            entry |= _success(formula, probe, results, images)
            wanted = concepts.describe(formula.traits, probe.class_names)
            rows.append(Row(f"  {len(exemplars)} trials", f"{wanted} and plausible (95 %); shown; plausible"))
            rows += [Row(f"  {method}", _in_words(entry[key])) for key, method in METHODS.items()]
        figures["formulas"].append(entry)
        pictures.append(_picture(run, z, images, exemplars, results, i, name))
    if probe:
        used = {name for formula in formulas for name in formula.traits}
        figures["probe_held_out"] = {name: probe.targets[name].held_out for name in sorted(used)}
        rows += [Row(f"the probe on {name}, held out", probe.targets[name].accuracy) for name in sorted(used)]
    pictures.append(Picture("sheet.png", sheet, "The samples by number."))
    title = "Vector arithmetic (section 6.3.2, figure 7)"
    report.publish(out, Report(title, figures, rows, pictures, PAPER))


def _choose(formula: Formula, found: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Sample numbers [trials, 3, exemplars]; by number there is one trial, with as many exemplars as every concept has.

    Raises:
      UserError: too few samples show a concept.
    """
    if not formula.traits:
        return np.array([[concept.numbers for concept in formula.concepts]])
    chosen = []
    for concept in formula.concepts:
        pool = np.flatnonzero(concepts.shows(found, concept.traits, concepts.CONFIDENT))
        if len(pool) < EXEMPLARS:
            raise UserError(
                f"only {len(pool)} of {_POOL} samples show {concept.text} with probability {concepts.CONFIDENT}, fewer "
                f"than {EXEMPLARS}: train longer, or choose samples by number from sheet.png."
            )
        chosen.append([rng.choice(pool, EXEMPLARS, replace=False) for _ in range(_TRIALS.value)])
    return np.array(chosen).swapaxes(0, 1)


def _results(run: TrainedRun, z: np.ndarray, images: np.ndarray, exemplars: np.ndarray) -> dict[str, np.ndarray]:
    """uint8 [trials, height, width, channels] by method."""
    blend = arithmetic(images.astype(np.float32), exemplars)
    return {
        "three": run.draw(arithmetic(z, exemplars), "three exemplars"),
        "one": run.draw(arithmetic(z, exemplars[:, :, :1]), "one exemplar"),
        "pixels": np.clip(np.round(blend), 0, 255).astype(np.uint8),
    }


def _success(
    formula: Formula, probe: AttributeProbe, results: dict[str, np.ndarray], samples: np.ndarray
) -> dict[str, Any]:
    """Shares of each method's results, and of `samples` at random.

    Returns:
      By method: shown, the share that shows the traits; plausible; success, both, with its 95 % interval low to high.
    """
    rates = {}
    for method, drawn in (*results.items(), ("random", samples)):
        shown, plausible = concepts.shows(probe.read(drawn), formula.traits), probe.plausible(drawn)
        both = shown & plausible
        low, high = interval(int(both.sum()), len(both))
        shares = {"shown": shown, "plausible": plausible, "success": both}
        rates[method] = {name: float(values.mean()) for name, values in shares.items()} | {"low": low, "high": high}
    return rates


def _in_words(rate: dict[str, float]) -> str:
    success, low, high, shown, plausible = (
        100 * rate[name] for name in ("success", "low", "high", "shown", "plausible")
    )
    return f"{success:.1f} % ({low:.1f} to {high:.1f}); {shown:.1f} %; {plausible:.1f} %"


def _picture(
    run: TrainedRun,
    z: np.ndarray,
    images: np.ndarray,
    exemplars: np.ndarray,
    results: dict[str, np.ndarray],
    i: int,
    name: str,
) -> Picture:
    """A row of blocks for each of the first trials, as the paper's figure: exemplars and means, 3x3, baselines."""
    rng, blocks = np.random.default_rng([run.seed, i, 1]), []
    for trial in range(min(_SHOWN, len(exemplars))):
        chosen = exemplars[trial]
        means = run.draw(z[chosen].mean(1), "")
        left = [
            image_grid.make_grid(np.stack([*images[three], mean]), len(three) + 1)
            for three, mean in zip(chosen, means, strict=True)
        ]
        middle = arithmetic(z, exemplars[trial : trial + 1])
        noise = rng.uniform(-NOISE, NOISE, (NEIGHBOURS + 1, z.shape[1]))
        noise[NEIGHBOURS // 2] = 0
        block = run.draw(middle + noise, "")
        baselines = np.stack([results["one"][trial], results["pixels"][trial]])
        blocks.append(
            image_grid.row(np.concatenate(left), image_grid.make_grid(block, 3), image_grid.make_grid(baselines, 1))
        )
    caption = (
        f"{name}. In each row: the three samples of A, B and C with the image of their mean z; the result in the "
        "middle of 3x3 with noise around; one exemplar (top) and pixel space (bottom)."
    )
    return Picture(f"arithmetic_{i + 1}.png", image_grid.column(*blocks), caption)


if __name__ == "__main__":
    _RUN = run_flags.define_flags()
    _A = flags.DEFINE_string("a", None, "A: samples by number (3,17,29) or attributes (smiling=1,man=0).")
    _B = flags.DEFINE_string("b", None, "B, likewise.")
    _C = flags.DEFINE_string("c", None, "C, likewise.")
    _TRIALS = flags.DEFINE_integer("trials", 500, "Repetitions, where concepts are attributes.", lower_bound=1)
    command_line.run(main)
