"""The measures against their parts, of runs and of images; and the commands."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from dcgan_jax import training
from dcgan_jax.datasets import opening
from dcgan_jax.evaluation import quality
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import feature_spaces, measures, reference
from dcgan_jax.metrics.memorization import Memorization
from dcgan_jax.runs import trained
from tests import tiny
from tests.trained import evaluate

SPACE = feature_spaces.of_pixels()


def test_the_data_itself_is_at_no_distance() -> None:
    data = tiny.dataset(count=100)
    found = measures.make_measure(SPACE, reference.build(SPACE, data))(data.images)
    assert found["pixels_frechet"] == pytest.approx(0, abs=1e-5)
    assert found["pixels_precision"] == found["pixels_recall"] == found["pixels_coverage"] == 1
    assert found["pixels_kernel"] < 0  # unbiased: pairs of equal images count for the cross term only
    assert found["pixels_spread"] == pytest.approx(1)
    paler = measures.make_measure(SPACE, reference.build(SPACE, data))(data.images // 2 + 64)
    assert paler["pixels_spread"] == pytest.approx(1 / 4, rel=0.02)


def test_noise_is_farther_than_other_data_and_one_image_covers_nothing() -> None:
    """Brightness from 0 to 120 in the data and in others; noise all over; and a single image again and again."""
    rng = np.random.default_rng(0)

    def bright(count: int) -> np.ndarray:
        level = rng.uniform(0, 120, (count, 1, 1, 1))
        return (level + rng.uniform(0, 9, (count, 8, 8, 3))).astype(np.uint8)

    data = tiny.dataset(count=100)
    real = reference.build(SPACE, type(data)(bright(100), None, {}, None, {}, data.path))
    measure = measures.make_measure(SPACE, real)
    others, noise, same = (measure(x) for x in (bright(100), tiny.images(100), np.repeat(bright(1), 100, 0)))
    assert others["pixels_frechet"] < same["pixels_frechet"] < noise["pixels_frechet"]
    assert others["pixels_kernel"] < same["pixels_kernel"] < noise["pixels_kernel"]
    assert others["pixels_recall"] > 0.7 > 0.05 > same["pixels_recall"]
    assert noise["pixels_precision"] == noise["pixels_coverage"] == 0


def test_sorted_samples_are_drawn_from_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten classes, one after the other; only a tenth of the reference's features is kept."""
    monkeypatch.setattr(reference, "MOST_FEATURES", 40)
    images = np.arange(400)[:, None, None, None] // 40 * 25 + np.random.default_rng(0).integers(0, 5, (400, 8, 8, 3))
    data = dataclasses.replace(tiny.dataset(), images=images.astype(np.uint8))
    found = measures.make_measure(SPACE, reference.build(SPACE, data))(data.images)
    assert found["pixels_coverage"] > 0.4  # the first 40 samples are of one class: about 0.1


def test_too_few_images() -> None:
    with pytest.raises(UserError, match=r"there are 5 images to compare with; at least 10 are needed"):
        measures.make_measure(SPACE, reference.build(SPACE, tiny.dataset(count=5)))
    with pytest.raises(UserError, match=r"there are 9 samples; at least 10 are needed"):
        measures.make_measure(SPACE, reference.build(SPACE, tiny.dataset()))(tiny.images(9))


def test_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two checkpoints and one that is gone, numbers against those of the parts; held-out images beside them."""
    config = tiny.config({"num_steps": 2, "checkpoint_every": 1, "data.source": tiny.image_folder(tmp_path / "images")})
    training.train(config, tmp_path / "run")
    others = tiny.image_folder(tmp_path / "others", count=20, seed=1)
    run = trained.load(tmp_path / "run", norm="frozen")
    found = quality.measure(
        run, steps=(1, 2, 7), num_samples=32, held_out_source=others, held_out_split="train", features="pixels"
    )
    assert "WARNING: left out: " in capsys.readouterr().err
    assert (found["num_samples"], found["norm"], found["num_held_out"]) == (32, "frozen", 20)
    assert found["reference"]["features"] == "pixels" and found["reference"]["count"] == 32
    held_out = opening.open_others(config.data, source=others, split="train")
    copies = Memorization(SPACE, opening.open_or_build(config.data), held_out, mirrored=False)
    distances, score = {}, measures.make_measure(SPACE, reference.build(SPACE, tiny.dataset(count=32)))
    for row in found["checkpoints"]:
        expected = score(run.at(row["step"]).sample(32))
        assert {name: row[name] for name in expected} == {n: pytest.approx(v, rel=1e-3) for n, v in expected.items()}
        features = SPACE.embed(run.at(row["step"]).sample(32)).features
        assert row["pixels_memorized"] == pytest.approx(copies.share(features))
        distances[row["step"]] = row["pixels_frechet"]
    assert list(distances) == [1, 2] and found["best"] == min(distances, key=distances.__getitem__)
    assert [picture.file for picture in found.pictures] == ["last.png", "best.png", "curve.png", "nearest.png"]
    assert found.pictures[3].caption.startswith("Samples of step 2 (top) above the training images")
    assert [row["what"] for row in found.rows()] == [
        "", "20 held-out images", "step 1", "step 2", "lowest pixels_frechet"
    ]  # fmt: skip


def test_of_a_run_as_it_is(trained_run: Path) -> None:
    run = trained.load(trained_run, norm="batch")
    found = quality.measure(run, num_samples=16, seed=3)
    assert [row["step"] for row in found["checkpoints"]] == [1] and found["norm"] == "batch"
    score = measures.make_measure(SPACE, reference.build(SPACE, tiny.dataset(count=32)))
    expected = score(run.sample(16, seed=3))
    assert found["checkpoints"][0]["pixels_frechet"] == pytest.approx(expected["pixels_frechet"], rel=1e-3)


def test_no_checkpoint_is_there(trained_run: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint of .* could be measured"):
        quality.measure(trained.load(trained_run), steps=[7], num_samples=16)


def test_features_that_are_none(trained_run: Path) -> None:
    with pytest.raises(UserError, match=r"features is 'clip'; choose from 'auto', 'pixels', 'inception'\."):
        quality.measure(trained.load(trained_run), features="clip")


def test_command(trained_run: Path) -> None:
    process = evaluate("quality", trained_run, "--num_samples=16", "--all_checkpoints", "--features=pixels")
    assert process.returncode == 0, process.stderr
    out = trained_run / "evaluation" / "quality" / "pixels"
    results = json.loads((out / "results.json").read_text())
    assert (results["num_samples"], results["norm"], results["best"]) == (16, "running", 1)
    assert sorted(path.name for path in out.iterdir()) == ["last.png", "results.json"]


def test_of_images(tmp_path: Path) -> None:
    """The images of the data themselves, as a folder and as an array."""
    config = tiny.config({"data.source": tiny.image_folder(tmp_path / "images")})
    for images in (tmp_path / "images", tiny.images()):
        found = quality.measure_images(images, config, num_reference=32)
        assert found["found"]["pixels_precision"] == 1 and found["num_samples"] == 32
    assert found["images"] == "images" and found.pictures[0].file == "images.png"


def test_command_on_images(tmp_path: Path) -> None:
    source = tiny.image_folder(tmp_path / "images")
    file = tiny.write_config(tmp_path, {"data.source": source})
    flags = (f"--images={tmp_path / 'images'}", f"--config={file}", f"--reference={tmp_path / 'mine.npz'}")
    process = evaluate("quality", None, *flags, f"--out={tmp_path / 'out'}")
    assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["images"] == str(tmp_path / "images") and results["num_samples"] == 32
    assert (tmp_path / "mine.npz").exists() and (tmp_path / "out" / "images.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give either --workdir, a run, or --images"),
        (("--workdir=nowhere",), "nowhere"),
        (("--images=x", "--norm=batch"), "--norm has no effect with --images"),
        (("--workdir=nowhere", "--resize=clean"), "--resize has no effect with --features=auto"),
    ],
)
def test_bad_input(flags: tuple[str, ...], message: str) -> None:
    process = evaluate("quality", None, *flags)
    assert process.returncode == 2
    assert message in process.stderr and "Traceback" not in process.stderr


def test_heads_are_names_that_tell_measures_apart() -> None:
    """Before, `kid_subsets` stood under "subsets", and `inception_score` under "score"."""
    for names, expected in (
        (["probe_frechet", "probe_kernel"], "frechet kernel"),
        (["fid", "kid", "kid_subsets", "inception_score"], "fid kid kid_subsets inception_score"),
    ):
        lines = quality._table({"step 1": dict.fromkeys(names, 1.5)})
        assert " ".join(str(lines[0].here).split()) == expected


def test_held_out_images_are_not_compared_with_themselves(tmp_path: Path) -> None:
    fields = {"data.source": tiny.image_folder(tmp_path / "images"), "data.cache_dir": str(tmp_path / "packs")}
    config = tiny.config({**fields, "data.held_out": 12})
    with pytest.raises(UserError, match=r"are those that samples are compared with, --split=held_out: give another"):
        quality.measure_images(tiny.images(12), config, split="held_out", held_out_split="held_out")
