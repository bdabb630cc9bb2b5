"""Vector arithmetic on faces and other concepts [paper section 6.3.2, figure 7].

    python -m dcgan_jax.analysis.vector_arithmetic --workdir=runs/toy_faces
    python -m dcgan_jax.analysis.vector_arithmetic --workdir=runs/faces --a=3,17,29 --b=4,5,60 --c=12,13,88

z = mean of A - mean of B + mean of C, where A, B and C are three samples each that show a concept: smiling woman -
neutral woman + neutral man should give a smiling man. The middle of each 3x3 block is the image of z; around it, z with
uniform noise of +-0.25. Beside it the paper's two baselines: one sample a concept instead of three, and the same
arithmetic on pixels.

The sum of three single samples is longer than the noise that the generator was trained on; that of means of three has
the length of the prior. So the number of exemplars and the length of z change together. Three controls take them apart:

    one exemplar, scaled   the sum of single samples, scaled to the length of the prior
    C alone                the mean of C's exemplars: what A - B adds to it is the rest
    already there          the mean of three samples that show the wished-for traits: what no arithmetic has to reach

The mean length of z is given for each.

Concepts are numbers of samples (sheet.png shows them), or attributes that a probe trained on the data's own labels sees
(concepts.py). With attributes the arithmetic is repeated with other samples, and the probe counts how often the result
shows what it should and is plausible, no farther from the data than real images are (attribute_probe.py). Faces laid
over each other, as pixel space gives, show every attribute that one of them has, but are not plausible.

The probe that counts has also chosen the exemplars, so it may share its mistakes with them. A second probe, of another
seed, has chosen nothing and counts too. The intervals are over trials with the samples of one generator; they say
nothing of another training run.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from dcgan_jax import command_line
from dcgan_jax.analysis import concepts
from dcgan_jax.analysis.latent_search import prior_deviation
from dcgan_jax.datasets import opening
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import attribute_probe
from dcgan_jax.metrics.attribute_probe import AttributeProbe
from dcgan_jax.reports import image_grid, report
from dcgan_jax.reports.report import Figure, Picture, Report
from dcgan_jax.runs import run_flags
from dcgan_jax.runs.trained import Run

NAME = "vector_arithmetic"
TITLE = "Vector arithmetic (section 6.3.2, figure 7)"
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
    "one_scaled": "one exemplar, scaled to the prior's length",
    "c_alone": "C alone (mean of three)",
    "already": "three samples that show the result already",
    "pixels": "three, in pixel space",
    "random": "random samples",
}
_POOL = 2000  # samples that the exemplars are chosen from
_SHEET = 200  # of them on the numbered sheet
_SHOWN = 4  # trials that are drawn

Draw = Callable[..., np.ndarray]  # noise [count, z_dim] -> images, as `Run.generate`


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


def scaled(z: np.ndarray, length: float) -> np.ndarray:
    """Rows of z [trials, z_dim], each at the given length; a row of zeros stays."""
    norms = np.linalg.norm(z, axis=1, keepdims=True)
    return z * np.divide(length, norms, out=np.zeros_like(norms), where=norms > 0)


def latent_means(
    z: np.ndarray, exemplars: np.ndarray, length: float, already: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The z of each method that draws from z, float [trials, z_dim] by name; see METHODS.

    Args:
      z: of the samples, [samples, z_dim].
      exemplars: sample numbers [trials, 3, exemplars].
      length: of the prior, that one exemplar's sum is scaled to.
      already: numbers of samples that show the result, [trials, exemplars]; None: there are too few.
    """
    one = arithmetic(z, exemplars[:, :, :1])
    means = {
        "three": arithmetic(z, exemplars),
        "one": one,
        "one_scaled": scaled(one, length),
        "c_alone": z[exemplars[:, 2]].mean(1),
    }
    return means if already is None else means | {"already": z[already].mean(1)}


def interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share [Wilson 1927]."""
    z, share = 1.96, successes / trials
    middle = share + z * z / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return (middle - reach) / (1 + z * z / trials), (middle + reach) / (1 + z * z / trials)


def measure(
    run: Run,
    *,
    a: str | None = None,
    b: str | None = None,
    c: str | None = None,
    trials: int = 500,
    seed: int = 0,
    label: int | str | None = None,
) -> Report:
    """Chooses exemplars, draws the sums, and measures them; see the module.

    Args:
      run: a trained run.
      a, b, c: the concepts, samples by number ("3,17,29") or attributes ("smiling=1,man=0"); None: those of FORMULAS
        that the data has.
      trials: repetitions, where concepts are attributes.
      seed: of the noise and of the choice.
      label: class of all images of a conditional network; None: class 0.

    Returns:
      An entry of 'formulas' for each: the mean length of z by method (length_of_z, beside that of the 'prior'); where
      a probe can tell, the shares of `success` by method, and the same of another probe under 'second_judge'; and
      pictures.

    Raises:
      UserError: the concepts cannot be read, too few samples show one, or the data has no formula.
    """
    label = run.one_label(label)
    formulas, dataset = _read_formulas(run, a, b, c)
    if not formulas:
        raise UserError(
            f"no formula is known for the images of {run.config.data.source}: choose samples from sheet.png and give "
            "three a concept by number, such as --a=3,17,29 --b=4,5,60 --c=12,13,88."
        )

    judges = attribute_probe.open_judges(dataset) if dataset else ()
    length = prior_deviation(run.generator.z_distribution) * math.sqrt(run.generator.z_dim)
    z = run.noise(_POOL, seed)
    images = run.generate(z, label, "samples to choose from")
    found = judges[0].read(images) if judges else {}
    entries: list[dict[str, Any]] = []
    lines = [
        Figure("", text="exemplars a concept", here=str(EXEMPLARS), paper_here=str(EXEMPLARS)),
        Figure("", text="noise around the middle", here="±0.25", paper_here="±0.25"),
    ]
    pictures = []
    for i, formula in enumerate(formulas):
        exemplars = _choose(formula, found, trials, np.random.default_rng([seed, i]))
        already = _already(formula, found, len(exemplars), np.random.default_rng([seed, i, 2]))
        draw = partial(run.generate, label=label)
        means = latent_means(z, exemplars, length, already)
        results = _results(draw, means, images, exemplars)
        name = " - ".join(concept.text for concept in formula.concepts[:2]) + " + " + formula.concepts[2].text
        lengths = {
            method: float(np.linalg.norm(rows, axis=1).mean()) for method, rows in (means | {"random": z}).items()
        }
        entry: dict[str, Any] = {"formula": name, "trials": len(exemplars), "exemplars": exemplars.shape[2]}
        entry["length_of_z"] = {"prior": length} | lengths
        used = str(exemplars.shape[2])
        lines.append(Figure("", text=f"{name}: exemplars a concept", here=used, paper_here=str(PAPER["exemplars"])))
        if formula.traits and judges:
            rates, second = (success(formula.traits, judge, results | {"random": images}) for judge in judges)
            entry |= rates | {"second_judge": second}
            lines += _lines(concepts.describe(formula.traits, judges[0].class_names), len(exemplars), entry)
        entries.append(entry)
        pictures.append(_picture(draw, z, images, exemplars, results, np.random.default_rng([seed, i, 1]), i, name))
    figures = [Figure("step", run.step), Figure("seed", seed), Figure("formulas", entries), *lines]
    names = sorted({name for formula in formulas for name in formula.traits})
    for key, text, judge in zip(
        ("probe_held_out", "second_judge_held_out"), ("the probe", "the second judge"), judges, strict=False
    ):
        figures.append(Figure(key, {name: judge.targets[name].held_out for name in names}))
        figures += [Figure("", text=f"{text} on {name}, held out", here=judge.targets[name].accuracy) for name in names]
    pictures.append(Picture("sheet.png", _sheet(images), "The samples by number."))
    return Report(TITLE, figures, pictures, paper=PAPER)


def _read_formulas(run: Run, a: str | None, b: str | None, c: str | None) -> tuple[list[Formula], ImageDataset | None]:
    """The formulas that `measure` is asked for, and the images if concepts are attributes of them.

    Raises:
      UserError: the concepts cannot be read.
    """
    texts = _all_or_none(a, b, c)
    if texts and not any("=" in text for text in texts):
        return [parse_formula(texts, None)], None
    dataset = opening.open_or_build(run.config.data)
    written = [texts] if texts else default_formulas(dataset, bool(run.generator.num_classes))
    return [parse_formula(abc, dataset) for abc in written], dataset


def save_sheet(run: Run, folder: Path, *, seed: int = 0, label: int | str | None = None) -> None:
    """Writes sheet.png: the first samples with their numbers, from which one chooses."""
    images = run.generate(run.noise(_SHEET, seed), run.one_label(label), "samples to choose from")
    image_grid.save_png(folder / "sheet.png", _sheet(images))


def _sheet(images: np.ndarray) -> np.ndarray:
    return image_grid.make_grid(image_grid.number(images[:_SHEET]), 10)


def _all_or_none(a: str | None, b: str | None, c: str | None) -> tuple[str, ...]:
    """The three concepts, () if none is given. Raises UserError if only some are."""
    texts = tuple(text for text in (a, b, c) if text is not None)
    if texts and len(texts) < 3:
        raise UserError("give all three of --a, --b and --c, or none.")
    return texts


def main() -> None:
    _all_or_none(_A.value, _B.value, _C.value)
    run, out = _RUN.load(), report.folder(Path(_RUN.workdir.value), "analysis", NAME)
    seed, label = _RUN.seed.value, _RUN.label.value
    _read_formulas(run, _A.value, _B.value, _C.value)  # refuses what cannot be read before anything is drawn
    save_sheet(run, out, seed=seed, label=label)  # even if what follows fails: one chooses from it
    found = measure(run, a=_A.value, b=_B.value, c=_C.value, trials=_TRIALS.value, seed=seed, label=label)
    report.publish(out, found)


def _choose(formula: Formula, found: dict[str, np.ndarray], trials: int, rng: np.random.Generator) -> np.ndarray:
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
        chosen.append([rng.choice(pool, EXEMPLARS, replace=False) for _ in range(trials)])
    return np.array(chosen).swapaxes(0, 1)


def _already(
    formula: Formula, found: dict[str, np.ndarray], trials: int, rng: np.random.Generator
) -> np.ndarray | None:
    """Numbers of samples that show the result's traits, [trials, exemplars]; None if too few do, or it has none."""
    if not formula.traits:
        return None
    pool = np.flatnonzero(concepts.shows(found, formula.traits, concepts.CONFIDENT))
    if len(pool) < EXEMPLARS:
        return None
    return np.array([rng.choice(pool, EXEMPLARS, replace=False) for _ in range(trials)])


def _results(
    draw: Draw, means: dict[str, np.ndarray], images: np.ndarray, exemplars: np.ndarray
) -> dict[str, np.ndarray]:
    """uint8 [trials, height, width, channels] by method."""
    blend = arithmetic(images.astype(np.float32), exemplars)
    drawn = {method: draw(rows, progress=METHODS[method]) for method, rows in means.items()}
    return drawn | {"pixels": np.clip(np.round(blend), 0, 255).astype(np.uint8)}


def success(
    traits: Mapping[str, int], probe: AttributeProbe, results: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """How often a probe sees the traits in each method's results, uint8 [trials, height, width, channels].

    Returns:
      By method: shown, the share that shows the traits; plausible; success, both, with its 95 % interval low to high.
    """
    rates = {}
    for method, drawn in results.items():
        shown, plausible = concepts.shows(probe.read(drawn), traits), probe.plausible(drawn)
        both = shown & plausible
        low, high = interval(int(both.sum()), len(both))
        shares = {"shown": shown, "plausible": plausible, "success": both}
        rates[method] = {name: float(values.mean()) for name, values in shares.items()} | {"low": low, "high": high}
    return rates


def _lines(wanted: str, trials: int, entry: Mapping[str, Any]) -> list[Figure]:
    """The table of one formula: for each method what the first judge counts, and below it the second one."""
    lengths = entry["length_of_z"]
    lines = [
        Figure("", text=f"  {trials} trials", here=f"{wanted} and plausible (95 %); shown; plausible"),
        Figure("", text="  length of z: the prior's", here=f"{lengths['prior']:.2f}"),
    ]
    for key, method in METHODS.items():
        if key not in entry:
            text = f"fewer than {EXEMPLARS} of {_POOL} samples show it with probability {concepts.CONFIDENT}"
            lines.append(Figure("", text=f"  {method}", here=text))
            continue
        long = f", z {lengths[key]:.2f} long" if key in lengths else ""
        lines.append(Figure("", text=f"  {method}{long}", here=_in_words(entry[key])))
        lines.append(Figure("", text="    second judge", here=_in_words(entry["second_judge"][key])))
    return lines


def _in_words(rate: dict[str, float]) -> str:
    success, low, high, shown, plausible = (
        100 * rate[name] for name in ("success", "low", "high", "shown", "plausible")
    )
    return f"{success:.1f} % ({low:.1f} to {high:.1f}); {shown:.1f} %; {plausible:.1f} %"


def _picture(
    draw: Draw,
    z: np.ndarray,
    images: np.ndarray,
    exemplars: np.ndarray,
    results: dict[str, np.ndarray],
    rng: np.random.Generator,
    i: int,
    name: str,
) -> Picture:
    """A row of blocks for each of the first trials, as the paper's figure: exemplars and means, 3x3, baselines."""
    blocks = []
    for trial in range(min(_SHOWN, len(exemplars))):
        chosen = exemplars[trial]
        means = draw(z[chosen].mean(1))
        left = [
            image_grid.make_grid(np.stack([*images[three], mean]), len(three) + 1)
            for three, mean in zip(chosen, means, strict=True)
        ]
        middle = arithmetic(z, exemplars[trial : trial + 1])
        noise = rng.uniform(-NOISE, NOISE, (NEIGHBOURS + 1, z.shape[1]))
        noise[NEIGHBOURS // 2] = 0
        block = draw(middle + noise)
        baselines = np.stack([results[method][trial] for method in ("one", "one_scaled", "pixels")])
        blocks.append(
            image_grid.row(np.concatenate(left), image_grid.make_grid(block, 3), image_grid.make_grid(baselines, 1))
        )
    caption = (
        f"{name}. In each row: the three samples of A, B and C with the image of their mean z; the result in the "
        "middle of 3x3 with noise around; one exemplar (top), the same scaled to the prior's length, and pixel space "
        "(bottom)."
    )
    return Picture(f"arithmetic_{i + 1}.png", image_grid.column(*blocks), caption)


if __name__ == "__main__":
    _RUN = run_flags.define_flags()
    _A = flags.DEFINE_string("a", None, "A: samples by number (3,17,29) or attributes (smiling=1,man=0).")
    _B = flags.DEFINE_string("b", None, "B, likewise.")
    _C = flags.DEFINE_string("c", None, "C, likewise.")
    _TRIALS = flags.DEFINE_integer("trials", 500, "Repetitions, where concepts are attributes.", lower_bound=1)
    command_line.run(main)
