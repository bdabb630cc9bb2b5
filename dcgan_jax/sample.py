"""Draws images from a trained generator.

    python -m dcgan_jax.sample --workdir=runs/faces --num=1000 --out=faces_samples --seed=1
    python -m dcgan_jax.sample --workdir=runs/faces --seeds=0,4,10-20 --out=chosen

The first writes exactly N PNG files (or one samples.npz) into the folder, and beside it faces_samples_sheet.png with
the first of them: tools that read folders of images then find samples only. Image i depends on (seed, i) only: the same
seed gives the same files whatever N is. The second writes those with these numbers, as seed0004.png: --seeds=4 is image
4 of --num=5. --z draws noise from a file, --save_z writes what was drawn from to faces_samples_z.npy.

Where the training images were squeezed (config.data.fit), the PNG files and the sheet are stretched back to the median
aspect of the originals, which the run's data.json holds: one side grows. samples.npz has the images as they are drawn.

--norm chooses the statistics of batch normalisation, see runs/sampler.py. The Python API does the same:
`dcgan_jax.load("runs/faces").sample(1000, seed=1)`, and `.sample([0, 4, 10])`; it stretches nothing.
"""

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from dcgan_jax import command_line
from dcgan_jax.datasets import classes
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.progress import tqdm
from dcgan_jax.reports import image_grid
from dcgan_jax.runs import run_flags, sampler, trained
from dcgan_jax.runs.trained import Run

_NUM_DEFAULT = 64
_GRID_DEFAULT = (10, 10)


def names(numbers: Sequence[int], by_number: bool) -> list[str]:
    """Names of the files without endings: 000000, 000001, ..., or, if images were asked for by number, seed0004."""
    if not by_number:
        return [f"{number:06d}" for number in numbers]
    digits = max(4, len(str(max(numbers))))
    return [f"seed{number:0{digits}d}" for number in numbers]


def write_pngs(out: Path, names: Iterable[str], images: Iterable[np.ndarray]) -> None:
    """out/NAME.png for each image uint8 [height, width, channels]."""
    for name, image in zip(names, images, strict=True):
        image_grid.save_png(out / f"{name}.png", image)


def write_npz(out: Path, images: Iterable[np.ndarray]) -> None:
    """out/samples.npz with 'images' uint8 [num, height, width, channels]."""
    temporary = out / ".samples.npz"
    np.savez(temporary, images=np.stack(list(images)))
    temporary.rename(out / "samples.npz")


def sheet_path(out: Path) -> Path:
    """Where the sheet of the samples in the folder `out` is: beside it, out_sheet.png."""
    return _beside(out, "sheet.png")


def z_path(out: Path) -> Path:
    """Where --save_z writes: beside the folder, out_z.npy."""
    return _beside(out, "z.npy")


def _beside(out: Path, name: str) -> Path:
    out = out.absolute()
    return out.with_name(f"{out.name}_{name}")


def read_z(path: Path, z_dim: int) -> np.ndarray:
    """Noise float32 [count, z_dim] from a .npy file.

    Raises:
      UserError: it holds something else, or cannot be read.
    """
    z = files.load_npy(path)
    if z.ndim != 2 or z.shape[1] != z_dim or not len(z) or z.dtype.kind != "f" or not np.isfinite(z).all():
        raise UserError(
            f"--z={path} holds {z.dtype} of shape {list(z.shape)}; it must be finite floating-point numbers of shape "
            f"[count, {z_dim}]."
        )
    return z.astype(np.float32)


def _shown(images: Iterable[np.ndarray], first: list[np.ndarray], most: int, bar: tqdm) -> Iterator[np.ndarray]:
    """The same images; the first ones stay in `first`."""
    for image in images:
        if len(first) < most:
            first.append(image)
        yield image
        bar.update()


def _as_originals(images: Iterable[np.ndarray], aspect: float | None) -> Iterable[np.ndarray]:
    """The images as wide as the originals were; None leaves them as they are."""
    return images if aspect is None else (image_grid.stretched(image, aspect) for image in images)


class _Drawn(NamedTuple):
    """What the flags ask for.

    Attributes:
      numbers: of the images.
      z: float32 [count, z_dim], as many as numbers or more.
      labels: int32 [count], None for networks without labels.
    """

    numbers: Sequence[int]
    z: np.ndarray
    labels: np.ndarray | None


def _find(run: Run, chosen: list[int] | None) -> _Drawn:
    """`chosen`: labels that take turns."""
    filled: Sequence[int]
    if _Z.value:
        z = read_z(Path(_Z.value), run.generator.z_dim)
        numbers = filled = range(len(z))
    else:
        numbers = _SEEDS.value or range(_NUM.value or _NUM_DEFAULT)
        # Whole batches: with --norm=batch the last images depend on those beside them.
        filled = _SEEDS.value or range(sampler.whole_batches(len(numbers)))
        z = run.noise(filled, _SEED.value)
    return _Drawn(numbers, np.float32(_SCALE_Z.value) * z, run.sampler.labels_of(np.array(filled), chosen))


def main() -> None:
    run = trained.load(_WORKDIR.value, _STEP.value, _NORM.value)
    listed = None if _CLASSES.value is None else classes.listed(_CLASSES.value, run.class_names)
    chosen = run.find_labels(_LABEL.value if listed is None else listed)
    if _SEEDS.value or _Z.value:
        run.sampler.check_independent()
    numbers, z, labels = _find(run, chosen)
    out = Path(_OUT.value)
    files.make_writable(out, "--out")
    if any(out.iterdir()):
        raise UserError(f"--out={out} is not empty: give a new folder, so that it holds these images and no others.")

    batches = run.sampler.draw(run.variables, z, labels)
    drawn = itertools.islice(itertools.chain.from_iterable(batches), len(numbers))
    columns, rows = _GRID.value or _GRID_DEFAULT
    first: list[np.ndarray] = []
    with tqdm(total=len(numbers), unit="image", disable=None) as bar:
        images = _shown(drawn, first, columns * rows, bar)
        if _FORMAT.value == "npz":
            write_npz(out, images)
        else:
            write_pngs(out, names(numbers, bool(_SEEDS.value)), _as_originals(images, run.aspect))
    shown = np.stack(list(_as_originals(first, run.aspect)))
    if _SEEDS.value:
        shown = image_grid.number(shown, numbers)
    image_grid.save_png(sheet_path(out), image_grid.make_grid(shown, columns))
    if _SAVE_Z.value:
        buffer = io.BytesIO()
        np.save(buffer, z[: len(numbers)])
        files.write_atomically(z_path(out), buffer.getvalue())
    if chosen is not None:
        print(f"class {classes.describe(chosen, run.class_names)}")
    print(f"{len(numbers)} images in {out}, the first of them on {sheet_path(out)}")
    if _SAVE_Z.value:
        print(f"their z in {z_path(out)}")


if __name__ == "__main__":
    _WORKDIR = command_line.define_path("workdir", None, "Folder of a trained run.", required=True)
    _OUT = command_line.define_path("out", None, "Folder for the images.", required=True)
    _NUM = flags.DEFINE_integer("num", None, f"How many images; default: {_NUM_DEFAULT}.", lower_bound=1)
    _SEEDS = run_flags.define_seeds_flag("the first --num")
    _Z = command_line.define_path("z", None, "A .npy file with the noise to draw from, [count, z_dim].")
    _SEED = flags.DEFINE_integer("seed", 0, "Image i is a function of (seed, i).", lower_bound=0, upper_bound=2**32 - 1)
    _SCALE_Z = flags.DEFINE_float(
        "scale_z",
        1.0,
        "Multiplies z: below 1 it is nearer the middle of its distribution. Not StyleGAN's truncation, which moves the "
        "mapped latent w towards its mean: a DCGAN has no w.",
        lower_bound=0.0,
        upper_bound=100.0,
    )
    _SAVE_Z = flags.DEFINE_bool("save_z", False, "Also write what the images were drawn from, for --z: OUT_z.npy.")
    _STEP = run_flags.define_step_flag()
    _LABEL = flags.DEFINE_string(
        "label", None, "Class of the images (conditional networks), by name or number; default: all in turn."
    )
    _CLASSES = flags.DEFINE_string(
        "classes", None, "Several classes in turn, by name or number, such as dog,3,10-12: image i has class i % count."
    )
    _GRID = command_line.define_grid("grid", "Columns and rows of the sheet, such as 8x4; default: 10x10.")
    _NORM = flags.DEFINE_enum("norm", "running", sampler.NORMS, "Statistics of batch normalisation; see sampler.py.")
    _FORMAT = flags.DEFINE_enum("format", "png", ("png", "npz"), "One PNG file per image, or one samples.npz.")
    flags.mark_flags_as_mutual_exclusive(["num", "seeds", "z"])
    flags.mark_flags_as_mutual_exclusive(["label", "classes"])
    command_line.run(main)
