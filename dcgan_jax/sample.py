"""Draws images from a trained generator.

    python -m dcgan_jax.sample --workdir=runs/faces --num=1000 --out=faces_samples --seed=1

writes exactly N PNG files (or one samples.npz) into the folder, and beside it faces_samples_sheet.png with the first of
them: tools that read folders of images then find samples only. Image i depends on (seed, i) only: the same seed gives
the same files whatever N is.

--norm chooses the statistics of batch normalisation, see runs/sampler.py. The Python API does the same:
`dcgan_jax.load("runs/faces").sample(1000, seed=1)`.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from absl import flags

from dcgan_jax import command_line
from dcgan_jax.datasets import classes
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.progress import tqdm
from dcgan_jax.reports import image_grid
from dcgan_jax.runs import run_flags, sampler, trained


def write_pngs(out: Path, batches: Iterable[np.ndarray]) -> None:
    """out/000000.png, 000001.png, ... and the sheet of the first 100."""
    first: list[np.ndarray] = []
    count = 0
    for batch in batches:
        for image in batch:
            image_grid.save_png(out / f"{count:06d}.png", image)
            count += 1
        first.extend(batch[: 100 - len(first)])
    image_grid.save_png(sheet_path(out), image_grid.make_grid(np.stack(first), 10))


def write_npz(out: Path, batches: Iterable[np.ndarray]) -> None:
    """out/samples.npz with 'images' uint8 [num, height, width, channels], and the sheet of the first 100."""
    images = np.concatenate(list(batches))
    temporary = out / ".samples.npz"
    np.savez(temporary, images=images)
    temporary.rename(out / "samples.npz")
    image_grid.save_png(sheet_path(out), image_grid.make_grid(images[:100], 10))


def sheet_path(out: Path) -> Path:
    """Where the sheet of the samples in the folder `out` is: beside it, out_sheet.png."""
    out = out.absolute()
    return out.with_name(f"{out.name}_sheet.png")


def _progress(batches: Iterable[np.ndarray], bar: tqdm) -> Iterator[np.ndarray]:
    for batch in batches:
        yield batch
        bar.update(len(batch))


def main() -> None:
    run = trained.load(_WORKDIR.value, _STEP.value, _NORM.value)
    label = run.find_label(_LABEL.value)
    out = Path(_OUT.value)
    files.make_writable(out, "--out")
    if any(out.iterdir()):
        raise UserError(f"--out={out} is not empty: give a new folder, so that it holds these images and no others.")
    batches = run.sampler.batches(run.state, _NUM.value, _SEED.value, label)
    with tqdm(total=_NUM.value, unit="image", disable=None) as bar:
        (write_npz if _FORMAT.value == "npz" else write_pngs)(out, _progress(batches, bar))
    if label is not None:
        print(f"class {classes.describe([label], run.class_names)}")
    print(f"{_NUM.value} images in {out}, the first of them on {sheet_path(out)}")


if __name__ == "__main__":
    _WORKDIR = command_line.define_path("workdir", None, "Folder of a trained run.", required=True)
    _OUT = command_line.define_path("out", None, "Folder for the images.", required=True)
    _NUM = flags.DEFINE_integer("num", 64, "How many images.", lower_bound=1)
    _SEED = flags.DEFINE_integer("seed", 0, "Image i is a function of (seed, i).", lower_bound=0, upper_bound=2**32 - 1)
    _STEP = run_flags.define_step_flag()
    _LABEL = flags.DEFINE_string(
        "label", None, "Class of the images (conditional networks), by name or number; default: all in turn."
    )
    _NORM = flags.DEFINE_enum("norm", "running", sampler.NORMS, "Statistics of batch normalisation; see sampler.py.")
    _FORMAT = flags.DEFINE_enum("format", "png", ("png", "npz"), "One PNG file per image, or one samples.npz.")
    command_line.run(main)
