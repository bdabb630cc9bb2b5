"""Any folder of images: the networks follow from the size of the images, and the classes from the folder.

    python -m dcgan_jax.main --config=configs/folder.py:/path/to/images --workdir=runs/mine
    python -m dcgan_jax.main --config=configs/folder.py:/path/to/images,128 --workdir=runs/mine
    python -m dcgan_jax.main --config=configs/folder.py:/path/to/images,64x96 --workdir=runs/mine

The argument is the folder (or a .zip archive) and, behind a comma, the height and width of the images, 64 if it is not
given. Sizes from 16 to 256 that are 4 to 7 times a power of two fit: 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, ...
HEIGHTxWIDTH is for images that are not square. The smaller side is one of these sizes then, and the larger one, 256 at
most, a multiple of the same power of two: 64x96, 96x64, 32x48, 20x32, ...

Every halving of the size is a stage, until the smaller side is 4 to 7 pixels; the first has 128 maps in the
discriminator, each further one twice as many, 1,024 at most: at 64 pixels that is the paper's network. Runs that start
on a computer without an accelerator have half of this width, and keep it; --config.model.width=1 is the paper's.
If the folder sorts its images into class folders, the networks are conditional; --config.model.num_classes=0 trains
without classes.

Update order, batch and averaged weights are those of the other small configs: the ports' order, 32 images (of fewer,
the largest power of two), and an average of the generator's weights over about 200 steps. Half of the images are
mirrored in each step. Of 100 images or more a tenth, 1,000 at most, is held out: every 2,000 steps samples are compared
with the training images, copies are counted by the held-out ones, and the best checkpoint stays.

A quarter of the width has twice the distance to the data of half of it, and an eighth four times, on 300 and on 3,000
images; half of it takes two to three times as long as a quarter. By size of the folder, from docs/own_images.md (32
pixels, a quarter of the width):

    fewer than some 1,000 images      flips: they cost nothing, and halve what D knows by heart; the best checkpoint,
                                      which is an early one where each image is seen more than some 1,000 times
    longer runs of them               config.augment: better from 1,200 times on without flips, not yet with them at
                                      2,100 times; it makes fewer copies. In short runs it doubled the distance
    300 images                        --init_from a run on other photographs nearly halved the distance
    one class, such as horses         1,000 images had a third of the distance of 300
"""

import re
from pathlib import Path

from ml_collections import ConfigDict

from configs import default
from dcgan_jax.config import FEWEST_SAMPLES
from dcgan_jax.datasets import classes, image_folder, zip_archive
from dcgan_jax.machine.errors import UserError

_FEWEST_TO_HOLD_OUT, _MOST_HELD_OUT = 100, 1000  # images
_BATCH = 32


def get_config(argument: str = "images") -> ConfigDict:
    """`argument`: FOLDER, FOLDER,SIZE or FOLDER,HEIGHTxWIDTH."""
    folder, height, width = argument, 64, 64
    if given := re.fullmatch(r"(.*),\s*(\d+)(?:x(\d+))?\s*", argument, re.DOTALL):
        folder, height, width = given[1], int(given[2]), int(given[3] or given[2])
    config = default.get_config()
    config.data.source = f"folder:{folder}"
    config.data.image_size = height
    config.data.image_width = 0 if width == height else width
    stages = _stages(height, width)
    config.model.discriminator.stages = stages
    config.model.generator.stages = stages[::-1]
    config.model.width = 0.0
    images, classes_there, num_classes = _count(Path(folder).expanduser())
    config.model.num_classes = num_classes
    config.data.flip = "x"
    held_out = min(_MOST_HELD_OUT, images // 10, images - classes_there)  # one image of each class stays
    if images >= _FEWEST_TO_HOLD_OUT and held_out >= FEWEST_SAMPLES:
        config.data.held_out = held_out
        config.eval_every = 2000
        config.eval.split = "held_out"
        config.eval.metrics = ("features",)
        config.eval.num_samples = 2000
    config.update_order = "discriminator_first"
    config.batch_size = min(_BATCH, 2 ** (images.bit_length() - 1)) if images else _BATCH
    config.ema_decay = 0.995
    config.num_steps = 20_000
    return config


def _stages(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """A halving each, until 4 to 7 pixels of the smaller side are left. Raises UserError for sizes that do not fit."""
    count = max(0, min(height, width).bit_length() - 3)
    if not 16 <= min(height, width) <= max(height, width) <= 256 or height % 2**count or width % 2**count:
        size, both = (f"{height}", "") if height == width else (f"{height}x{width}", ", and both multiples of it")
        raise UserError(
            f"size {size} does not fit: give 16 to 256, 4 to 7 times a power of two (16, 20, 24, 28, 32, ...){both}."
        )
    return tuple((min(1024, 128 * 2**i), 2) for i in range(count))


def _count(folder: Path) -> tuple[int, int, int]:
    """How many images there are, how many classes, and of how many labels; none without such a folder.

    Folders that are splits are classes, but no labels.
    """
    if not folder.exists():
        return 0, 0, 0
    opener = zip_archive.open_zip if zip_archive.is_archive(folder) else image_folder.open_folder
    items = opener(folder).list_items()
    names = items.class_names or []
    return items.count, len(names), 0 if len(names) < 2 or classes.are_splits(names) else len(names)
