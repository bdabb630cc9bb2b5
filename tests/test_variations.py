"""Each rule breaks what it says; the protocol of a study, with made-up trainings; the studies on tiny networks."""

import contextlib
import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats
from ml_collections import ConfigDict

from configs import cifar10
from dcgan_jax import training
from dcgan_jax.config import check_config, flatten
from dcgan_jax.datasets import opening
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.evaluation import choices, guidelines, real_images, significance, small_sets, variations
from dcgan_jax.evaluation.real_images import Point
from dcgan_jax.evaluation.variations import Outcome, Study, Variation, varied
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import attribute_probe, feature_blocks
from dcgan_jax.nets import models
from dcgan_jax.reports.report import Report
from dcgan_jax.runs import run_folder, trained
from dcgan_jax.runs.divergence import Diverged
from tests import tiny


@pytest.mark.parametrize("study", [guidelines.STUDY, choices.STUDY, small_sets.STUDY], ids=lambda study: study.name)
def test_a_variation_changes_its_fields_and_nothing_else(study: Study) -> None:
    config = tiny.config({"num_steps": 129, "batch_size": 16, "model.width": 0.25})
    kept = varied(config, {}, 3)
    assert (kept.seed, kept.num_steps, kept.checkpoint_every) == (3, 129, 32)
    before = flatten(kept)
    for name, variation in study.variations.items():
        changes = dict(variation.changes)
        if name == "decay":
            changes = {"optimizer.decay_begin": 64, "optimizer.decay_steps": 65}
        elif name == "adaptive":
            changes["augment.ramp_images"] = 516  # a quarter of 129 batches of 16
        elif name.endswith("_width"):
            changes = {"model.width": {"half_width": 0.125, "double_width": 0.5}[name]}
        elif name.startswith("batch_"):
            steps = {8: 258, 32: 64, 64: 32, 256: 8}.get(changes["batch_size"], 129)
            changes |= {"num_steps": steps, "checkpoint_every": steps // 4}
        after = flatten(varied(config, variation.changes, 3))
        changed = {field: value for field, value in after.items() if value != before[field]}
        assert changed == {field: value for field, value in changes.items() if value != before[field]}, name
        assert changed or (study is choices.STUDY and name in ("batch_16", "generator_first"))


def test_the_decay_follows_the_scaled_steps() -> None:
    """Of 6 steps the last 3 decay; of half as many the last 2, which end where the run does."""
    config = tiny.config({"num_steps": 6, "batch_size": 16, "optimizer.decay_begin": 3, "optimizer.decay_steps": 3})
    for batch_size, expected in ((8, (12, 6, 6)), (16, (6, 3, 3)), (32, (3, 1, 2))):
        changed = varied(config, {"batch_size": batch_size}, 0)
        check_config(changed)
        decay = changed.optimizer
        assert (changed.num_steps, decay.decay_begin, decay.decay_steps) == expected


def test_the_discriminator_of_ten_convolutions() -> None:
    """It ends in maps of 4 x 4 and as many features as the config's own."""
    config = cifar10.get_config()
    changed = varied(config, choices.STUDY.variations["ten_layer_discriminator"].changes, 0)
    check_config(changed)
    stages = changed.model.discriminator.stages
    assert len(stages) == 10 and stages[-1][0] == 512
    assert [stride for _, stride in stages] == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1]  # 32 / 8 = 4


# --- The protocol, with made-up trainings, samples and probes ---------------------------------------------------------


STUDY = Study(
    "study",
    "Of made-up runs",
    "given",
    {
        "darker": Variation({"loss": "hinge"}, "far from the data"),
        "same": Variation({"loss": "least_squares"}, "like the baseline"),
        "brighter": Variation({"ema_decay": 0.9}, "near the data"),
        "breaks": Variation({"model.norm": "none"}, "diverges for seeds 0 and 2"),
    },
)
DATA = tiny.dataset(80, classes=2)  # two halves of 40
# Highest value of pixels in samples; the data's is 255.
HIGHEST = {"given": 140, "darker": 60, "same": 140, "brighter": 245, "breaks": 100}


def first_feature(images: np.ndarray) -> np.ndarray:
    """Mean of two pixels."""
    return images[:, :2, 0].mean((1, 2), dtype=np.float64)[:, None].astype(np.float32)


def second_feature(images: np.ndarray) -> np.ndarray:
    """Mean of two others."""
    return images[:, :2, 1].mean((1, 2), dtype=np.float64)[:, None].astype(np.float32)


def samples_of(name: str, seed: int, step: int, count: int = 40) -> np.ndarray:
    """What the made-up run draws after a step; it gets a little brighter with each."""
    draw = np.random.default_rng([*name.encode(), seed, step])
    return draw.integers(0, HIGHEST[name] + step, (count, 8, 8, 3), np.uint8)


STARTS: list[str | None] = []  # what the made-up runs began with


class MadeUpRun:
    """What `trained.load` returns, as far as a study uses it."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.folder, self.step = folder, step
        self.generator = models.build_generator(tiny.config())

    def at(self, step: int) -> "MadeUpRun":
        return MadeUpRun(self.folder, step)

    def discriminate(self, images: np.ndarray) -> tuple[np.ndarray, None]:
        return logits_of(images, self.step), None

    def sample(self, count: int) -> np.ndarray:
        return samples_of(self.folder.parent.name, int(self.folder.name.removeprefix("seed")), self.step, count)


class MadeUpProbe:
    def __init__(self, embed: Callable[[np.ndarray], np.ndarray]) -> None:
        self.embed = embed


@contextlib.contextmanager
def made_up() -> Iterator[dict[str, ConfigDict]]:
    """Gives the config of every training, by '<variation>/seed<n>'. Training leaves names of checkpoints, no more."""
    configs: dict[str, ConfigDict] = {}

    def train(config: ConfigDict, workdir: Path, init_from: str | None) -> None:
        STARTS.append(init_from)
        configs["/".join(workdir.parts[-2:])] = config
        breaks = workdir.parts[-2] == "breaks" and config.seed != 1
        if workdir.parts[-2] == "same":  # as an interruption leaves it
            run_folder.checkpoint(workdir, 3).mkdir(parents=True)
        for step in range(config.checkpoint_every, config.num_steps + 1, config.checkpoint_every):
            if breaks and step > 2 * config.seed:
                raise Diverged("training diverged", step)
            run_folder.checkpoint(workdir, step).mkdir(parents=True)

    def load(folder: Path, *, norm: str) -> MadeUpRun:
        assert norm == "frozen"
        return MadeUpRun(folder)

    probes = {0: MadeUpProbe(first_feature), 1: MadeUpProbe(second_feature)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", train)
        patch.setattr(trained, "load", load)
        patch.setattr(opening, "open_or_build", lambda data: DATA)
        patch.setattr(attribute_probe, "open_or_train", lambda dataset, seed=0: probes[seed])
        patch.setattr(jax, "clear_caches", lambda: None)
        patch.setattr(feature_blocks, "BLOCK", 64)
        yield configs


@pytest.fixture
def trained_configs() -> Iterator[dict[str, ConfigDict]]:
    with made_up() as configs:
        yield configs


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of three seeds; checkpoints after steps 2, 4, 6 and 8."""
    config = tiny.config({"num_steps": 8, "batch_size": 8})
    with made_up():
        return variations.measure(STUDY, config, workdir=tmp_path_factory.mktemp("made_up"))


def test_all_runs_of_the_choices_see_equally_many_images(
    trained_configs: dict[str, ConfigDict], tmp_path: Path
) -> None:
    config = tiny.config({"num_steps": 32, "batch_size": 128, "update_order": "discriminator_first"})
    with pytest.MonkeyPatch.context() as patch:
        unmeasured = Outcome([], [], True), np.zeros((12, 8, 8, 3), np.uint8)
        patch.setattr(variations, "_measure_run", lambda *_: unmeasured)
        choices.measure(config, workdir=tmp_path, seeds=2)
    assert trained_configs.keys() == {
        f"{name}/seed{seed}" for name in ("as_given", *choices.STUDY.variations) for seed in (0, 1)
    }
    for name, changed in trained_configs.items():
        assert changed.num_steps * changed.batch_size == 32 * 128
        assert 4 * changed.checkpoint_every == changed.num_steps and changed.keep_checkpoints > 4
        assert changed.seed == int(name[-1])
        if changed.optimizer.decay_steps:
            assert changed.optimizer.decay_begin + changed.optimizer.decay_steps == changed.num_steps
    assert len({changed.batch_size for changed in trained_configs.values()}) == 6
    assert trained_configs["decay/seed0"].optimizer.decay_steps == 16


def distance_of(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of one feature: (m1 - m2)^2 + (s1 - s2)^2."""
    return float((a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2)


def halves() -> tuple[np.ndarray, np.ndarray]:
    """The images that samples are compared with, and the others: two halves in a random order, always the same."""
    order = np.random.default_rng(real_images._PARTS).permutation(80)
    return DATA.images[order[:40]], DATA.images[order[40:]]


def expected_point(samples: np.ndarray) -> dict[str, float]:
    """A `Point`, by definition."""
    images, _ = halves()
    real, drawn = (first_feature(x).astype(np.float64)[:, 0] for x in (images, samples))

    def radii(values: np.ndarray) -> np.ndarray:
        """Distances to the fifth nearest other value. Ties are not within; values are multiples of 1/6."""
        return np.sort(np.abs(values[:, None] - values), axis=1)[:, 5] - 0.01

    apart = np.abs(real[:, None] - drawn)
    of_real, of_drawn = apart < radii(real)[:, None], apart < radii(drawn)
    return {
        "distance": distance_of(drawn, real),
        "spread": drawn.var(ddof=1) / real.var(ddof=1),
        "precision": of_real.any(0).mean(),
        "recall": of_drawn.any(1).mean(),
        "coverage": of_real.any(1).mean(),
        "second_distance": distance_of(second_feature(samples), second_feature(images)),
    }


def test_every_point_of_every_run_by_definition(found: Report) -> None:
    for name in ("given", "darker", "same", "brighter"):
        for seed, run in enumerate(found["variations"][name]["runs"]):
            assert (run["steps"], run["diverged"]) == ([2, 4, 6, 8], False)
            for i, step in enumerate(run["steps"]):
                expected = expected_point(samples_of(name, seed, step))
                assert {field: run[f"{field}s"][i] for field in expected} == pytest.approx(expected, rel=1e-4)
    # The measures differ, so that none can stand for another.
    ends = found["variations"]["given"]["runs"][0]
    measured = [field for field in Point._fields if field not in ("memorized", "gap")]  # which need held-out images
    assert len({ends[f"{field}s"][-1] for field in measured}) == len(measured)
    assert all(math.isnan(ends[f"{field}s"][-1]) for field in ("memorized", "gap"))


def test_other_real_images(found: Report) -> None:
    _, others = halves()
    expected = {**expected_point(others), "memorized": math.nan, "gap": math.nan}
    assert found["real"] == pytest.approx(expected, rel=1e-4, nan_ok=True)
    assert (found["real_distance"], found["samples"]) == (found["real"]["distance"], 40)


def test_summaries_are_means_over_seeds(found: Report) -> None:
    for name in ("given", "darker", "same", "brighter"):
        summary = found["variations"][name]
        runs = summary["runs"]
        for field, values in (
            ("last", [run["distances"][-1] for run in runs]),
            ("best", [min(run["distances"]) for run in runs]),
            ("spread", [run["spreads"][-1] for run in runs]),
            ("precision", [run["precisions"][-1] for run in runs]),
            ("recall", [run["recalls"][-1] for run in runs]),
            ("coverage", [run["coverages"][-1] for run in runs]),
            ("second", [run["second_distances"][-1] for run in runs]),
        ):
            mean = sum(values) / 3
            std = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
            assert (summary[field], summary[f"{field}_std"]) == pytest.approx((mean, std)), field


def test_differences_are_of_the_ends(found: Report) -> None:
    ends = {
        name: [run["distances"][-1] for run in found["variations"][name]["runs"]]
        for name in ("given", "darker", "same", "brighter")
    }
    expected = significance.compare(ends, "given")
    assert found["variations"]["given"]["difference"] is None
    for name in ("darker", "same", "brighter"):
        assert found["variations"][name]["difference"] == expected[name]._asdict()


def lines(found: Report) -> dict[str, str]:
    """The table's lines by their first column; that of the heads has none."""
    return {row["what"]: row["here"] for row in found.rows()}


def test_marked_rows(found: Report) -> None:
    table = lines(found)
    assert list(table)[:7] == ["", "other real images", "given", "darker", "same", "brighter", "breaks"]
    assert table["darker"].endswith("higher *") and table["brighter"].endswith("lower *")
    for name in ("other real images", "given", "same", "breaks"):
        assert "*" not in table[name], name
    difference = found["variations"]["darker"]["difference"]
    assert f"{difference['mean']:+.2f} ({difference['low']:+.2f} to {difference['high']:+.2f})" in table["darker"]
    assert difference["p"] < difference["p_holm"] < 0.05
    # Columns stand below their heads.
    assert {len(line) for name, line in list(table.items())[:7]} == {len(table[""])}
    assert [row["paper"] for row in found.rows()][2:4] == ["the config as it is", "far from the data"]


def test_runs_that_diverged_are_said_and_not_counted(found: Report) -> None:
    """Seed 0 diverges before the first checkpoint, seed 2 after the second; seed 1 alone gives no interval."""
    summary = found["variations"]["breaks"]
    assert [run["diverged"] for run in summary["runs"]] == [True, False, True]
    assert [run["steps"] for run in summary["runs"]] == [[], [2, 4, 6, 8], [2, 4]]
    assert len(summary["runs"][2]["distances"]) == 2
    assert summary["diverged"] == 2 and summary["last"] == summary["runs"][1]["distances"][-1]
    assert math.isnan(summary["last_std"]) and summary["difference"] is None
    assert "2 of 3" in lines(found)["breaks"] and "diverged" in lines(found)[""]
    assert "of 3" not in lines(found)["given"]


def test_one_seed_has_no_interval_and_no_mark(trained_configs: dict[str, ConfigDict], tmp_path: Path) -> None:
    config = tiny.config({"num_steps": 8, "batch_size": 8})
    found = variations.measure(STUDY, config, workdir=tmp_path, seeds=1, variations=["darker"])
    assert found["variations"]["darker"]["difference"] is None
    assert (
        "  ".join(lines(found)[""].split()) == "at  the  end  best  spread  precision  recall  coverage  second  probe"
    )
    assert "±" not in "".join(lines(found).values()) and "*" not in "".join(lines(found).values())


def test_the_rank_correlation_is_over_all_points_of_all_runs(found: Report) -> None:
    """Spearman's: 1 - 6 sum(d^2) / (n (n^2 - 1)), with the differences d of the ranks; there are no ties."""
    runs = [run for summary in found["variations"].values() for run in summary["runs"]]
    pairs = np.array([pair for run in runs for pair in zip(run["distances"], run["second_distances"], strict=True)])
    assert len(pairs) == 4 * 3 * 4 + 4 + 2
    ranks = pairs.argsort(0).argsort(0)
    apart = np.square(ranks[:, 0] - ranks[:, 1]).sum()
    assert len(np.unique(pairs[:, 0])) == len(np.unique(pairs[:, 1])) == len(pairs)
    assert found["rank_correlation"] == pytest.approx(1 - 6 * apart / (54 * (54**2 - 1)))
    assert 0.3 < found["rank_correlation"] < 0.999
    of_ends = scipy.stats.spearmanr(
        *zip(*((run["distances"][-1], run["second_distances"][-1]) for run in runs if not run["diverged"]), strict=True)
    ).statistic
    assert found["rank_correlation_of_ends"] == pytest.approx(of_ends)
    assert lines(found)["rank correlation of the probes"] == (
        f"{of_ends:.3f} over 13 ends, {found['rank_correlation']:.3f} over 54 points"
    )


def test_no_rank_correlation_of_one_point() -> None:
    point = Point(1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    correlation, count = variations.rank_correlation([point])
    assert math.isnan(correlation) and count == 1


def test_the_gap_is_of_images_of_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder's images are in the order of their classes: held-out images 0 to 199, of which 100 are judged."""

    class Judge:
        generator = SimpleNamespace(num_classes=0)

        def discriminate(self, images: np.ndarray) -> tuple[np.ndarray, None]:
            return scipy.special.logit(images / 200), None  # D(x) is 0 for the first image, near 1 for the last

    monkeypatch.setattr(real_images, "_JUDGED", 100)
    training = SimpleNamespace(images=np.full(150, 180))
    real = real_images.RealImages([], np.arange(200), None, training)  # type: ignore[arg-type]
    assert real.gap(Judge()) == pytest.approx(0.9 - 0.4975, abs=0.06)  # type: ignore[arg-type]


def test_a_variation_of_which_a_run_diverged_is_not_compared() -> None:
    def outcome(distance: float, diverged: bool = False) -> Outcome:
        return Outcome([1], [Point(distance, 1.0, 1.0, 1.0, 1.0, 1.0)], diverged)

    outcomes = {
        "given": [outcome(5.0), outcome(5.1), outcome(4.9)],
        "lower": [outcome(1.0), outcome(1.1), outcome(0.9)],
        "survivors": [outcome(1.0), outcome(1.1), outcome(math.nan, True)],
    }
    study = variations.Study("name", "title", "given", {})
    (summaries, *_) = variations._table(study, outcomes, None)
    differences = {name: found["difference"] for name, found in summaries.value.items()}
    assert differences["survivors"] is None and differences["lower"]["mean"] == pytest.approx(-4.0)
    assert differences["lower"]["p_holm"] == differences["lower"]["p"]  # the only comparison


@pytest.mark.parametrize(("steps", "points"), [(250, [62, 124, 186, 250]), (8, [2, 4, 6, 8]), (3, [1, 2, 3])])
def test_every_run_has_as_many_points(monkeypatch: pytest.MonkeyPatch, steps: int, points: list[int]) -> None:
    """62 is a quarter of 250, rounded down: step 248 is a checkpoint, but no point."""
    config = variations.varied(tiny.config({"num_steps": steps}), {}, 0)
    every = config.checkpoint_every
    saved = sorted({*range(every, steps + 1, every), steps})
    monkeypatch.setattr(run_folder, "steps", lambda folder: saved)
    images = np.zeros((9, 8, 8, 3), np.uint8)
    run: Any = SimpleNamespace(at=lambda step: run, sample=lambda count: images)
    monkeypatch.setattr(trained, "load", lambda folder, norm: run)
    point = Point(1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    real = SimpleNamespace(reference=images, gap=lambda run: 0.0)
    outcome, _ = variations._measure_run(config, Path("x"), lambda *_: point, real, False)  # type: ignore[arg-type]
    assert outcome.steps == points


def test_parts_share_no_image_and_are_equally_large() -> None:
    images = np.arange(45)
    for most, size in ((12, 12), (100, 22)):
        parts = real_images._parts(images, 2, "images", most)
        assert [len(part) for part in parts] == [size, size] and len(set(np.concatenate(parts))) == 2 * size
        assert all((np.diff(part) > 0).all() for part in parts) and max(parts[0]) > 2 * size - 1 - size // 4
    with pytest.raises(UserError, match="there are 45 images; at least 50 are needed"):
        real_images._parts(images, 5, "images")


def test_too_few_images(trained_configs: dict[str, ConfigDict], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="19 images; at least 20 are needed"):
        patch.setattr(opening, "open_or_build", lambda data: tiny.dataset(19))
        variations.measure(STUDY, tiny.config(), workdir=tmp_path)
    assert not trained_configs


def test_images_without_labels(trained_configs: dict[str, ConfigDict], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match=r"memory has neither .*--probe_source"):
        patch.setattr(opening, "open_or_build", lambda data: tiny.dataset(80))
        variations.measure(STUDY, tiny.config(), workdir=tmp_path)
    assert not trained_configs


def test_a_variation_that_does_not_fit_is_named(trained_configs: dict[str, ConfigDict], tmp_path: Path) -> None:
    """12 pixels are no multiple of 8."""
    config = tiny.config({"data.image_size": 12, "update_order": "discriminator_first"})
    with pytest.raises(UserError, match="'ten_layer_discriminator', which can be left out of --variations: image_size"):
        choices.measure(config, workdir=tmp_path, variations=["hinge", "ten_layer_discriminator"])
    assert not trained_configs and not list(tmp_path.iterdir())


# --- With held-out images ---------------------------------------------------------------------------------------------

FEW = dataclasses.replace(tiny.dataset(12, classes=2), meta={"sha256": "training"})
HELD_OUT = dataclasses.replace(tiny.dataset(60, classes=2, seed=2), meta={"sha256": "held out"})
LABELLED = tiny.dataset(20, classes=2, seed=3)


@pytest.fixture
def beside_held_out(trained_configs: dict[str, ConfigDict]) -> Iterator[ConfigDict]:
    """The config of a study that compares with `HELD_OUT`; samples are those of above."""

    def open_others(data: ConfigDict, *, source: str, split: str) -> ImageDataset:
        return {("", "test"): HELD_OUT, ("labelled", "all"): LABELLED}[source, split]

    def open_or_train(dataset: ImageDataset, seed: int = 0) -> MadeUpProbe:
        probes = (first_feature, second_feature)
        return MadeUpProbe((probes if dataset is HELD_OUT else probes[::-1])[seed])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "open_others", open_others)
        patch.setattr(opening, "open_or_build", lambda data: FEW)
        patch.setattr(attribute_probe, "open_or_train", open_or_train)
        yield tiny.config({"num_steps": 8, "batch_size": 8, "eval.split": "test"})


def test_held_out_images_are_what_samples_are_compared_with(beside_held_out: ConfigDict, tmp_path: Path) -> None:
    """And how many are as near to a training image as 5 % of those are, and what D has learnt by heart."""
    found = variations.measure(STUDY, beside_held_out, workdir=tmp_path, seeds=1, variations=["darker"])
    reference = HELD_OUT.images
    training = first_feature(FEW.images)[:, 0]

    def apart(images: np.ndarray) -> np.ndarray:
        return np.abs(first_feature(images) - training).min(1)

    assert found["samples"] == 60
    limit = np.quantile(apart(reference), 0.05)
    assert limit > 1e-3 * training.max()  # the least
    assert limit > 2 * np.quantile(np.abs(first_feature(reference) - training).min(0), 0.05)  # not the other way round
    for name in ("given", "darker"):
        run = found["variations"][name]["runs"][0]
        for i, step in enumerate(run["steps"]):
            samples = samples_of(name, 0, step, 60)
            assert run["distances"][i] == pytest.approx(
                distance_of(first_feature(samples), first_feature(reference)), rel=1e-4
            )
            share = (apart(samples) <= limit).mean()
            assert run["memorizeds"][i] == pytest.approx(share, abs=1e-6)
            assert run["gaps"][i] == pytest.approx(
                mean_answer(FEW.images, step) - mean_answer(reference, step), abs=1e-6
            )
    assert found["variations"]["given"]["memorized"] == run_of(found, "given")["memorizeds"][-1]
    assert found["variations"]["given"]["gap"] == run_of(found, "given")["gaps"][-1] != 0.0
    assert "memorized" in lines(found)[""] and "gap of D" in lines(found)[""]


def test_other_labelled_images_can_train_the_probes(beside_held_out: ConfigDict, tmp_path: Path) -> None:
    """Theirs read the two features in the other order."""
    found, others = (
        variations.measure(STUDY, beside_held_out, workdir=tmp_path / name, seeds=1, variations=["darker"], **probes)
        for name, probes in (("own", {}), ("other", {"probe_source": "labelled", "probe_split": "all"}))
    )
    assert run_of(others, "given")["distances"] == run_of(found, "given")["second_distances"]
    assert run_of(others, "given")["second_distances"] == run_of(found, "given")["distances"]
    assert others["samples"] == found["samples"] == len(HELD_OUT.images)


def test_few_images_need_held_out_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="small_sets compares samples with held-out images"):
        variations.measure(small_sets.STUDY, tiny.config(), workdir=tmp_path)
    assert not any(tmp_path.iterdir())


def test_every_run_begins_with_the_same(beside_held_out: ConfigDict, tmp_path: Path) -> None:
    STARTS.clear()
    variations.measure(
        STUDY, beside_held_out, workdir=tmp_path, seeds=2, variations=["darker"], init_from="runs/other,best"
    )
    assert STARTS == ["runs/other,best"] * 4


def run_of(found: Report, name: str) -> dict[str, Any]:
    return dict(found["variations"][name]["runs"][0])


def mean_answer(images: np.ndarray, step: int) -> float:
    """D(x) of the made-up discriminator, on average."""
    return float((1 / (1 + np.exp(-logits_of(images, step)))).mean())


def logits_of(images: np.ndarray, step: int) -> np.ndarray:
    return first_feature(images)[:, 0] / 64 - 2 + step / 8


def test_held_out_images_of_training_are_refused(beside_held_out: ConfigDict, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="are the same"):
        patch.setattr(opening, "open_or_build", lambda data: HELD_OUT)
        variations.measure(STUDY, beside_held_out, workdir=tmp_path, seeds=1)


# --- On tiny networks -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Changes that make a config of tiny networks on labelled images. Its probes are trained for a few steps only."""
    folder = tmp_path_factory.mktemp("guidelines")
    source = tiny.image_folder(folder / "images", count=40, classes=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attribute_probe, "_STEPS", 20)
        patch.setattr(feature_blocks, "BLOCK", 64)
        yield {"num_steps": 2, "log_every": 0, "data.source": source}


def test_a_report_after_each_round_of_seeds(settings: dict[str, Any], tmp_path: Path) -> None:
    config = tiny.config(settings)
    first, last = variations.rounds(guidelines.STUDY, config, workdir=tmp_path, seeds=2, variations=["no_norm"])
    assert (first["seeds"], last["seeds"], last["images_seen"], last["samples"]) == (1, 2, 16, 20)
    assert list(last["variations"]) == ["paper", "no_norm"]
    for name, summary in last["variations"].items():
        assert [run["steps"] for run in summary["runs"]] == [[1, 2], [1, 2]]
        ends = [run["distances"][-1] for run in summary["runs"]]
        assert summary["last"] == pytest.approx(sum(ends) / 2) and min(ends) > 0
        assert summary["runs"][0] == first["variations"][name]["runs"][0]
    assert last["real_distance"] > 0 and -1 <= last["rank_correlation"] <= 1
    assert run_folder.load_config(tmp_path / "no_norm" / "seed1").model.norm == "none"
    assert np.asarray(last.pictures[0].content).shape == (2 * 8, 12 * 8, 3)  # a row of 12 samples for each


def test_finished_runs_are_measured_again_without_training(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.config(settings)
    before = guidelines.measure(config, workdir=tmp_path, seeds=1, variations=["no_norm"])

    def no_step(*_: Any) -> None:
        raise AssertionError("a step was made")

    monkeypatch.setattr(training, "make_mapped_step", lambda *_: no_step)
    again = guidelines.measure(config, workdir=tmp_path, seeds=1, variations=["no_norm"])
    assert repr(again["variations"]) == repr(before["variations"])  # nan is nan


def test_a_run_that_diverges_is_counted(settings: dict[str, Any], tmp_path: Path) -> None:
    """The first step's losses are finite; the second's are not."""
    config = tiny.config(settings | {"optimizer.generator_learning_rate": 1e38})
    found = guidelines.measure(config, workdir=tmp_path, seeds=1, variations=["no_norm"])
    assert [lines(found)[name].split()[:2] for name in ("paper", "no_norm")] == [["all", "diverged"]] * 2
    assert found["variations"]["no_norm"]["diverged"] == 1
    assert "training diverged" in (tmp_path / "no_norm" / "seed0" / "log.txt").read_text()


def test_a_variation_that_is_none(settings: dict[str, Any], tmp_path: Path) -> None:
    config = tiny.config(settings | {"model.norm": "none"})
    with pytest.raises(UserError, match="has 'no_norm' as it is"):
        guidelines.measure(config, workdir=tmp_path, variations=["no_norm"])


def test_an_unknown_variation(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'maxout' is not one of paper, pooling"):
        guidelines.measure(tiny.config(settings), workdir=tmp_path, variations=["maxout"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("study", "variation"), [("guidelines", "no_norm"), ("choices", "batch_32")])
def test_command(settings: dict[str, Any], tmp_path: Path, study: str, variation: str) -> None:
    file = tiny.write_config(tmp_path, settings)
    command = [sys.executable, "-m", f"dcgan_jax.evaluation.{study}", f"--config={file}", f"--workdir={tmp_path}"]
    command += ["--seeds=1", f"--variations={variation}", "--config.num_steps=4"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    out = tmp_path / "evaluation" / study
    results = json.loads((out / "results.json").read_text())
    assert list(results["variations"])[1:] == [variation] and results["seeds"] == 1
    assert (out / "samples.png").exists()
    assert (out / "curves.png").exists()
