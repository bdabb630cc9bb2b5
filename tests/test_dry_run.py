"""A dry run says what a training would do, shows the images as they will be seen, and trains nothing."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from dcgan_jax import dry_run, training
from dcgan_jax.machine import rng
from dcgan_jax.machine.errors import UserError
from dcgan_jax.runs import run_folder
from dcgan_jax.train_state import GANState
from tests import tiny


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "_SECONDS", 0.0)


def settings(tmp_path: Path, **changes: Any) -> Any:
    source = tiny.image_folder(tmp_path / "images", count=16, size=8, classes=2)
    fields = {"data.source": source, "data.cache_dir": str(tmp_path / "packs"), "num_steps": 100, **changes}
    return tiny.config(fields)


def sheet(path: Path) -> np.ndarray:
    """The sheet's 16 images [16, 8, 8, 3], eight in a row."""
    rows = np.asarray(Image.open(path)).reshape(2, 8, 8, 8, 3)
    return rows.transpose(0, 2, 1, 3, 4).reshape(16, 8, 8, 3)


def test_it_prints_the_config_the_data_time_and_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = dry_run.dry_run(settings(tmp_path), tmp_path / "run")
    printed = capsys.readouterr().out
    for line in (
        "config.batch_size = 8",
        f"config.data.source = 'folder:{tmp_path}/images'",
        f"data     folder:{tmp_path}/images: 16 images, 8 x 8 x 3",
        "classes  0 class0 (8), 1 class1 (8)",
        "epochs   50.0: how often each image is seen in 100 steps",  # 100 steps of 8 are 50 times 16
    ):
        assert line in printed.splitlines(), line
    assert re.search(r"^step     [0-9.e-]+ s, [0-9,]+ images/s; the first one [0-9.]+ s$", printed, re.M)
    assert re.search(r"^peak     [0-9.]+ GiB of this process at most; sheets, .* take more$", printed, re.M)
    assert re.search(r"^time     [0-9]+ (s|min) until step 100, ", printed, re.M)
    assert sorted(path.name for path in out.iterdir()) == ["data.png"]
    assert out == tmp_path / "run" / "dry_run"
    assert run_folder.latest_step(tmp_path / "run") is None
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["dry_run"]


def test_it_says_how_many_images_are_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry_run.dry_run(settings(tmp_path, **{"data.held_out": 3}), tmp_path / "run")
    assert f"data     folder:{tmp_path}/images: 13 images, 8 x 8 x 3; 3 more are held out" in capsys.readouterr().out


def test_the_sheets_show_what_the_first_step_draws(tmp_path: Path) -> None:
    config = settings(tmp_path, **{"data.flip": "x", "augment.operations": ("cutout",), "augment.probability": 0.5})
    out = dry_run.dry_run(config, tmp_path / "run")
    images, key = tiny.images(16), rng.stream(config.seed, "flip", 0)
    # The folder gives the images class by class: even numbers, then odd ones.
    images = np.concatenate([images[::2], images[1::2]])
    bits = [bool(jax.random.bernoulli(jax.random.fold_in(key, n))) for n in range(16)]
    mirrored = np.stack([image[:, ::-1] if bit else image for image, bit in zip(images, bits, strict=True)])
    np.testing.assert_array_equal(sheet(out / "data.png"), mirrored)
    assert 0 < sum(bits) < 16
    seen = sheet(out / "seen.png")
    same = (seen == mirrored) | np.isin(seen, (127, 128))  # grey where it is cut out
    assert same.all() and 0 < (seen == mirrored).all((1, 2, 3)).sum() < 16


def test_a_run_that_is_there_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(tmp_path, num_steps=2)
    training.train(config, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    capsys.readouterr()
    dry_run.dry_run(settings(tmp_path, num_steps=100), tmp_path / "run")
    assert "running  resumed at step 2, until step 100" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before


def test_a_damaged_checkpoint_is_passed_over_as_a_training_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training.train(settings(tmp_path, num_steps=2, checkpoint_every=1), tmp_path / "run")
    newest = run_folder.checkpoint(tmp_path / "run", 2)
    for file in newest.rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[:-7])
    capsys.readouterr()
    dry_run.dry_run(settings(tmp_path), tmp_path / "run")
    assert "running  resumed at step 1, until step 100" in capsys.readouterr().out
    assert newest.exists()  # a dry run moves nothing aside


@pytest.mark.parametrize(("r1", "steps"), [(1.0, 5), (0.0, 1)])
def test_steps_are_timed_until_each_had_its_penalty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, r1: float, steps: int
) -> None:
    """Penalties of R1 come with every fifth step: one of five, whichever they are."""
    taken: list[int] = []
    make_step = dry_run.make_mapped_step

    def make_counted(*args: Any) -> Any:
        step = make_step(*args)

        def call(state: GANState, *rest: Any) -> Any:
            taken.append(int(state.step))
            return step(state, *rest)

        return call

    monkeypatch.setattr(dry_run, "make_mapped_step", make_counted)
    changes = {"regularizer.r1": r1, "regularizer.r1_every": 5, "steps_per_call": 1}
    dry_run.dry_run(settings(tmp_path, **changes), tmp_path / "run")
    assert taken == list(range(1 + steps))  # the first one compiles


def test_it_refuses_what_a_training_refuses(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch normalisation makes all batches of one image the same"):
        dry_run.dry_run(settings(tmp_path, batch_size=1), tmp_path / "run")


@pytest.mark.parametrize(("seconds", "text"), [(59.4, "59 s"), (150, "2 min"), (7300, "2.0 h"), (90_000, "25.0 h")])
def test_durations(seconds: float, text: str) -> None:
    assert dry_run._duration(seconds) == text
