"""A folder of weights that others can load, and the model card that the Hugging Face Hub shows of it.

    model.safetensors   config.json   samples.png   README.md

`dcgan_jax.load(folder)` reads it. Uploading it is the user's own step: `hf upload USER/NAME FOLDER`.
"""

import contextlib
import html
import math
import re
from pathlib import Path
from typing import Any

import jax

import dcgan_jax
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.reports import image_grid
from dcgan_jax.runs import run_folder, weights_file
from dcgan_jax.runs.trained import Run

CONFIG, SHEET, CARD = "config.json", "samples.png", "README.md"
_SHEET_IMAGES = 32
# Ends of the names of numbers that the card shows, where they were measured.
_MEASURES = (*run_folder.DISTANCES, "frechet", "precision", "recall", "memorized", "nnc_accuracy")

_CARD = """\
---
library_name: dcgan_jax
license: {license}
{task}tags: [gan, dcgan, jax, flax, image-generation]
---

# {name}

![{images} samples of seed 0](samples.png)

A deep convolutional GAN ([Radford, Metz, Chintala, ICLR 2016](https://arxiv.org/abs/1511.06434)) of
{height} x {width} pixels, trained with dcgan_jax {version}.

| | |
| --- | --- |
{rows}

## How to load it

```python
import dcgan_jax

run = dcgan_jax.load("PATH/OF/THIS/FOLDER")
images = run.sample(64, seed=0)  # uint8 [64, {height}, {width}, {channels}]
dcgan_jax.grid(images).save("samples.png")
```

`config.json` holds every setting of the training. `model.safetensors` holds float16 kernels and float32 statistics; the
optimizers are left out.
"""


def write_weights(folder: Path, run: Run) -> list[Path]:
    """Writes the weights file and the config into a folder; returns both files."""
    files.write_atomically(folder / weights_file.FILE, weights_file.encode(run.weights))
    config = weights_file.shared_config(run.config).to_json(indent=2) + "\n"
    files.write_atomically(folder / CONFIG, config.encode())
    return [folder / weights_file.FILE, folder / CONFIG]


def write(folder: Path, run: Run, license: str = "unknown") -> list[Path]:
    """Writes the whole folder of a run; returns its files.

    Args:
      folder: is made if need be. Its name is the model's.
      run: a trained run.
      license: of weights and samples, an identifier of the Hub's such as 'apache-2.0' or 'cc-by-4.0'.

    Raises:
      UserError: the license is no such identifier, or weights cannot be written, see `weights_file.encode`.
    """
    if not re.fullmatch(r"[a-z0-9.+-]+", license):
        raise UserError(f"--license={license!r} is not an identifier of the Hub's, such as cc-by-4.0, mit or other.")
    written = write_weights(folder, run)
    images = run.sample(_SHEET_IMAGES)
    image_grid.save_png(folder / SHEET, image_grid.make_grid(images, 8))
    files.write_atomically(folder / CARD, _card(folder.absolute().name, run, license).encode())
    return [*written, folder / SHEET, folder / CARD]


def _card(name: str, run: Run, license: str) -> str:
    classes, (height, width, channels) = run.generator.num_classes, run.generator.image_shape
    return _CARD.format(
        license=license,
        task="" if classes else "pipeline_tag: unconditional-image-generation\n",  # the Hub has none for classes
        name=name,
        images=_SHEET_IMAGES,
        height=height,
        width=width,
        channels=channels,
        version=dcgan_jax.__version__,
        rows="\n".join(f"| {_cell(what)} | {_cell(value)} |" for what, value in _facts(run).items()),
    )


def _facts(run: Run) -> dict[str, str]:
    """Data, training, size and numbers of a run, as the card's table shows them."""
    config, generator = weights_file.shared_config(run.config), run.generator
    noise = "uniform on [-1, 1]" if generator.z_distribution == "uniform" else "normal"
    facts = {"images": _data(run, config.data.source)}
    if generator.num_classes:
        names = run.class_names or [str(label) for label in range(generator.num_classes)]
        facts["classes"] = ", ".join(names[: generator.num_classes])
    facts["training"] = f"{run.step:,} steps of {config.batch_size} images"
    facts["noise"] = f"{generator.z_dim} numbers, {noise}"
    facts["generator"] = f"{_count(run.variables['params']):,} parameters"
    if run.has_discriminator:
        facts["discriminator"] = f"{_count(run.state.discriminator.params):,} parameters"
    return facts | _numbers(run)


def _cell(text: str) -> str:
    """Names of classes and folders are anybody's: none of them ends a cell or begins an element."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;")


def _data(run: Run, source: str) -> str:
    """Source and number of the training images, as far as the run's folder knows them."""
    with contextlib.suppress(UserError, KeyError, TypeError, ValueError):
        return f"{files.read_json(run.workdir / 'data.json', dict)['count']:,} of {source}"
    return source


def _count(params: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _numbers(run: Run) -> dict[str, str]:
    """What was measured of this checkpoint, and of how many samples; of a weights file, by results in its folder.

    Later rows win: those of evaluation.quality over those taken during training; see metrics/measures.py.
    """
    numbers: dict[str, str] = {}
    for samples, row in [*_taken_in_training(run), *_evaluated(run.workdir)]:
        if row["step"] == run.step:
            values = {k: v for k, v in row.items() if k.endswith(_MEASURES) and isinstance(v, int | float)}
            numbers |= {name: f"{value:.4g}, of {samples:,} samples" for name, value in values.items()}
    return numbers


def _taken_in_training(run: Run) -> list[tuple[int, dict[str, Any]]]:
    return [(run.config.eval.num_samples, row) for row in run_folder.read_metrics(run.workdir)]


def _evaluated(workdir: Path) -> list[tuple[int, dict[str, Any]]]:
    """Numbers of samples and rows of all results of evaluation.quality; those that cannot be read are left out."""
    rows = []
    for file in sorted(workdir.glob("evaluation/quality/*/results.json")):
        with contextlib.suppress(UserError, KeyError, TypeError, ValueError, OverflowError):
            results = files.read_json(file, dict)
            samples, found = int(results["num_samples"]), results["checkpoints"]
            rows += [(samples, row) for row in found if isinstance(row, dict) and "step" in row]
    return rows
