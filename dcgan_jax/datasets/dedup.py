"""Near-duplicates of an image set: found, counted, shown [paper section 4.1.1].

    python -m dcgan_jax.datasets.dedup --source=lsun:/data/bedroom_train_lmdb --out=runs/dedup

Packs the images at 32 pixels, hashes them (semantic_hash.py), and writes a contact sheet of pairs with the same hash,
results.json, and duplicates.txt: the image that is left out and the one that is kept, a pair a line. It removes
nothing; training with --config.data.dedup=True (and --config.data.dedup_radius) leaves those images out.

How good the hashes are is measured on copies made of --plant images: saved again as JPEG (quality 75), shifted by a
pixel, brightened by 10 %, each at --plant_size pixels and then reduced to 32. Recall is the share of copies whose
hash is within the radius of their original's; precision the share, of those with any image within it, that have none
nearer than their original.
"""

import io
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from dcgan_jax import command_line
from dcgan_jax.datasets import decode, duplicates, opening, semantic_hash
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.reports import image_grid, report
from dcgan_jax.reports.report import Figure, Picture, Report

TITLE = "Near-duplicates by semantic hashing (section 4.1.1)"
# Of "a little over 3 million" images; false positives as judged by looking at collisions.
PAPER_IMAGES, PAPER_REMOVED, PAPER_FALSE_POSITIVES = 3_000_000, 275_000, 0.01
_PAIRS, _PAIRS_A_ROW = 60, 6  # in the contact sheet


# --- Planted duplicates ----------------------------------------------------------------------------------------------


def _saved_again(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file))


def _shifted(image: np.ndarray) -> np.ndarray:
    return np.concatenate([image[:, 1:], image[:, -1:]], axis=1)


def _brightened(image: np.ndarray) -> np.ndarray:
    return np.clip(np.round(image * 1.1), 0, 255).astype(np.uint8)


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "saved again": _saved_again,
    "shifted": _shifted,
    "brightened": _brightened,
}


def find_planted(hashes: np.ndarray, planted: np.ndarray, numbers: np.ndarray, radius: int) -> tuple[float, float]:
    """Recall and precision for copies of some of the images.

    Args:
      hashes: uint8 [count, 16] of the images.
      planted: uint8 [copies, 16].
      numbers: of the images that were copied, [copies].
      radius: see `semantic_hash.originals`.

    Returns:
      The share of copies within `radius` of their own original; and, of those that are within `radius` of any image,
      the share for which no image is nearer than their own original (nan if there are none).
    """
    words, copies = hashes.view(np.uint64), planted.view(np.uint64)
    own = np.bitwise_count(words[numbers] ^ copies).sum(1)
    nearest = np.array([np.bitwise_count(words ^ copy).sum(1).min() for copy in copies])
    found = nearest <= radius
    return float((own <= radius).mean()), float((own == nearest)[found].mean()) if found.any() else float("nan")


def measure(
    data: ConfigDict,
    *,
    radius: int = 0,
    plant: int = 500,
    plant_size: int = semantic_hash.SIDE,
    settings: semantic_hash.Settings | None = None,
    listing: Path | None = None,
) -> Report:
    """Hashes images, compares the hashes, and plants copies; see the module.

    Args:
      data: config.data; the images are taken at 32 pixels whatever its sizes are.
      radius: bits that duplicates may differ in, 0 to `semantic_hash.MOST_RADIUS`.
      plant: images that are copied to measure recall; 0: none.
      plant_size: pixels at which they are copied, 32 or more.
      settings: of the autoencoder; None: the defaults.
      listing: file for the keys of each duplicate and the image that is kept, a pair a line; None: none is written.

    Returns:
      'images', 'removed'; 'planted': recall and precision of each kind of copy; 'seconds'; and the settings. A contact
      sheet of duplicates.

    Raises:
      UserError: there is no such source, or a setting is out of range.
    """
    settings = settings or semantic_hash.Settings()
    _check(data, settings)
    thumbnails = duplicates.open_thumbnails(data)
    images, count = thumbnails.images, len(thumbnails.images)
    times = [time.monotonic()]
    hashes = duplicates.hash_thumbnails(thumbnails, settings)
    times.append(time.monotonic())
    first = semantic_hash.originals(hashes, radius)
    times.append(time.monotonic())
    seconds = dict(zip(("hashes", "comparison"), np.diff(times).tolist(), strict=True))
    removed = np.flatnonzero(first != np.arange(count))
    if listing:
        pairs = "".join(f"{thumbnails.keys[i]}\t{thumbnails.keys[first[i]]}\n" for i in removed)
        files.write_atomically(listing, os.fsencode(pairs))

    planted: dict[str, Any] = {}
    if plant:
        params = semantic_hash.autoencoder(images, duplicates.hash_folder(thumbnails), settings)
        large = duplicates.resized(data, plant_size)
        large.num_examples = min(plant, count)
        sources, numbers = _planted(opening.open_or_build(large), thumbnails.keys)
        target = decode.Target(semantic_hash.SIDE, allow_upsampling=True)
        for name, copy in COPIES.items():
            copies = np.stack([decode.to_pixels(copy(image), target) for image in sources])
            found = find_planted(hashes, semantic_hash.encode_all(params, copies), numbers, radius)
            planted[name] = {"count": len(copies), "recall": found[0], "precision": found[1]}

    share = f"{len(removed):,} of {count:,} ({100 * len(removed) / count:.2f} %)"
    figures = [
        Figure("images", count, paper=PAPER_IMAGES),
        Figure("removed", len(removed), "near-duplicates", share, PAPER_REMOVED, "275,000 of 3 million (9 %)"),
        Figure("radius", radius),
        Figure("settings", settings._asdict()),
        Figure("planted", planted),
    ]
    for name, of_name in planted.items():
        text = f"{of_name['count']:,} copies {name}: recall, precision"
        figures.append(Figure("", text=text, here=f"{of_name['recall']:.3f}, {of_name['precision']:.3f}"))
    figures.append(Figure("seconds", seconds))
    figures += [Figure("", text=f"seconds: {name}", here=f"{value:.2f}") for name, value in seconds.items()]
    pictures = [_contact_sheet(images, removed, first)] if len(removed) else []
    return Report(TITLE, figures, pictures, paper={"false_positives": PAPER_FALSE_POSITIVES})


def _planted(large: ImageDataset, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The images that are copied, uint8 [count, ...], and which thumbnails they are, by their `keys`: int [count]."""
    numbers = {key: number for number, key in enumerate(keys)}
    found = [i for i, key in enumerate(large.keys) if key in numbers]
    return large.images[found], np.array([numbers[large.keys[i]] for i in found])


def main() -> None:
    data, out = _data(), Path(_OUT.value)
    settings = semantic_hash.Settings(_NOISE.value, _DROPOUT.value, _STEPS.value, _SEED.value)
    _check(data, settings)
    files.make_writable(out, "--out")
    found = measure(
        data,
        radius=_RADIUS.value,
        plant=_PLANT.value,
        plant_size=_PLANT_SIZE.value,
        settings=settings,
        listing=out / "duplicates.txt",
    )
    report.publish(out, found)


def _check(data: ConfigDict, settings: semantic_hash.Settings) -> None:
    """Raises UserError if there is no such source, or the dropout is out of range."""
    if not 0.0 <= settings.dropout < 1.0:
        raise UserError(f"--dropout is {settings.dropout}; it must be at least 0 and below 1.")
    opening.pack_path(data)


def _contact_sheet(images: np.ndarray, removed: np.ndarray, first: np.ndarray) -> Picture:
    """Pairs of a kept image and one that is left out, drawn at random, the least alike in their pixels first."""
    chosen = np.random.default_rng(0).permutation(removed)[:_PAIRS]
    apart = np.square(images[chosen].astype(float) - images[first[chosen]]).mean((1, 2, 3))
    chosen = chosen[np.argsort(-apart, kind="stable")]
    pairs = [image_grid.make_grid(images[[first[i], i]].repeat(2, 1).repeat(2, 2), 2) for i in chosen]
    blank = np.full_like(pairs[0], 255)
    pairs += [blank] * (-len(pairs) % _PAIRS_A_ROW)
    lines = [image_grid.row(*pairs[i : i + _PAIRS_A_ROW]) for i in range(0, len(pairs), _PAIRS_A_ROW)]
    caption = f"{len(chosen)} pairs of a kept image and a duplicate, drawn at random, the least alike first."
    return Picture("collisions.png", image_grid.column(*lines), caption)


def _data() -> ConfigDict:
    """config.data of the flags."""
    return ConfigDict(
        {
            "source": _SOURCE.value,
            "split": _SPLIT.value,
            "dir": _DATA_DIR.value,
            "cache_dir": _CACHE_DIR.value,
            "num_examples": _NUM_EXAMPLES.value,
            "held_out": 0,
            "image_size": semantic_hash.SIDE,
            "image_width": 0,
            "channels": 3,
            "fit": "crop",
            "crop_size": 0,
            "allow_upsampling": True,
            "small_images": "refuse",
            "duplicates": "",
            "dedup": False,
            "dedup_radius": 0,
        }
    )


if __name__ == "__main__":
    _SOURCE = flags.DEFINE_string("source", None, "Images, as config.data.source says.", required=True)
    _OUT = command_line.define_path("out", None, "Folder for the results.", required=True)
    _SPLIT = flags.DEFINE_string("split", "train", "Of the source.")
    _DATA_DIR = command_line.define_path("data_dir", "", "TFDS data folder.")
    _CACHE_DIR = command_line.define_path("cache_dir", "", "Where packs live; default: the user's cache folder.")
    _NUM_EXAMPLES = flags.DEFINE_integer("num_examples", 0, "Only so many, as of config.data; 0: all.", lower_bound=0)
    _RADIUS = flags.DEFINE_integer(
        "radius",
        0,
        "Bits that duplicates may differ in; 0 is the paper's way.",
        lower_bound=0,
        upper_bound=semantic_hash.MOST_RADIUS,
    )
    _PLANT = flags.DEFINE_integer("plant", 500, "Images that are copied to measure recall; 0: none.", lower_bound=0)
    _PLANT_SIZE = flags.DEFINE_integer("plant_size", 32, "Pixels at which they are copied.", lower_bound=32)
    _NOISE = flags.DEFINE_float("noise", semantic_hash.Settings().noise, "On the autoencoder's input.", lower_bound=0.0)
    _DROPOUT = flags.DEFINE_float("dropout", semantic_hash.Settings().dropout, "Of the code.")
    _STEPS = flags.DEFINE_integer("steps", semantic_hash.Settings().steps, "Of training.", lower_bound=1)
    _SEED = flags.DEFINE_integer("seed", 0, "Of the autoencoder.", lower_bound=0, upper_bound=2**32 - 1)
    command_line.run(main)
