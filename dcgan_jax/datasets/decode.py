"""One image, encoded in any way -> the square uint8 array that a pack holds.

Order of work: first frame, EXIF orientation, transparency onto white, RGB or grey, centre crop, resize. The filter is
Lanczos widened to the scale of the reduction, so that nothing aliases; Pillow works on uint8 with clipping, so its
overshoots at edges saturate instead of wrapping round.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

try:
    from pillow_heif import register_heif_opener
except ImportError:
    register_heif_opener = None

RESAMPLING = "lanczos"
# What Pillow decodes itself. Whatever a file is called, its content says what it is, and PostScript would be handed to
# Ghostscript, which runs it.
FORMATS: tuple[str, ...] = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_SUFFIXES = ["bmp", "gif", "jfif", "jpe", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp"]
if features.check("avif"):  # depends on how Pillow was built
    FORMATS += ("AVIF",)
    _SUFFIXES += ["avif"]
if register_heif_opener:
    register_heif_opener()
    FORMATS += ("HEIF",)
    _SUFFIXES += ["heic", "heif", "hif"]
EXTENSIONS = frozenset(f".{suffix}" for suffix in _SUFFIXES)


class BadImage(ValueError):
    """This one image cannot be used; the message is the reason, as a clause ("is empty")."""


class TooSmall(BadImage):
    """It would have to be enlarged."""


@dataclass(frozen=True)
class Target:
    """What an image becomes. crop_size 0 is the largest centred square; channels is 1 (grey) or 3 (RGB)."""

    image_size: int
    channels: int = 3
    crop_size: int = 0
    allow_upsampling: bool = False


class Decoded(NamedTuple):
    """A square, and whether the image has more frames than the one that it was made from."""

    pixels: np.ndarray
    several_frames: bool


def to_square(image: bytes | Path | np.ndarray, target: Target) -> np.ndarray:
    """Decodes, crops and resizes one image.

    Args:
        image: an encoded image, the path of one, or pixels: uint8 [height, width] or [height, width, 3].
        target: what to make of it.

    Returns:
        uint8 [image_size, image_size, channels]. The crop's corner is at floor((side - crop) / 2) on either axis.
        Colour becomes grey as ITU-R 601 luma; grey becomes RGB by replication.

    Raises:
        BadImage: it is unreadable.
        TooSmall: it would have to be enlarged.
    """
    return decode(image, target).pixels


def decode(image: bytes | Path | np.ndarray, target: Target) -> Decoded:
    """`to_square`, with a look at what it leaves out. Raises the same."""
    try:
        picture = _open(image)
        _check_size(picture.size, target)
        if not target.crop_size:
            # JPEG decodes at 1/2, 1/4 or 1/8 scale for a fraction of the cost; 3x is ample for what Lanczos will see.
            picture.draft(None, (3 * target.image_size, 3 * target.image_size))
        picture.load()
        pixels = _crop_and_resize(_flatten(_upright(picture), target.channels), target)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them trip over.
        raise BadImage(f"cannot be decoded ({type(error).__name__}: {error})") from error
    return Decoded(pixels, _has_several_frames(picture))


def _has_several_frames(picture: Image.Image) -> bool:
    try:
        # The second picture of a phone's JPEG is a preview or a depth map, which nobody misses.
        return picture.format != "MPO" and bool(getattr(picture, "is_animated", False))
    except Exception:  # a damaged second frame says nothing about the first one, which has been read
        return False


def _open(image: bytes | Path | np.ndarray) -> Image.Image:
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    encoded = image.read_bytes() if isinstance(image, Path) else image
    if not encoded:
        raise BadImage("is empty")
    try:
        return Image.open(io.BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise BadImage(f"is not in an image format that is read here ({', '.join(FORMATS)}), or is damaged") from error


def _check_size(size: tuple[int, int], target: Target) -> None:
    width, height = size
    if min(size) < target.crop_size:
        raise TooSmall(f"is {width} x {height}, too small to cut out {target.crop_size} pixels")
    crop = target.crop_size or min(size)
    if crop < target.image_size and not target.allow_upsampling:
        raise TooSmall(
            f"is {width} x {height}, smaller than {target.image_size} pixels "
            "(see data.allow_upsampling and data.small_images)"
        )


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # Damaged EXIF data says nothing about the pixels, which have been read.
        return picture


def _flatten(picture: Image.Image, channels: int) -> Image.Image:
    """Any mode -> 'RGB' or 'L', transparent places white."""
    if picture.mode.startswith("I"):
        picture = _eight_bits(picture)
    elif picture.mode == "F":
        raise BadImage("has floating-point pixels, whose range is unknown")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    # Through RGB even when grey is wanted: Pillow has no direct way from every mode to grey.
    picture = picture.convert("RGB")
    return picture.convert("L") if channels == 1 else picture


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey -> 8-bit grey, scaled: Pillow's own conversion clips everything above 255 to white."""
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 65535:
        raise BadImage("has grey values outside 0..65535")
    return Image.fromarray(np.round(values / 257).astype(np.uint8))


def _crop_and_resize(picture: Image.Image, target: Target) -> np.ndarray:
    width, height = picture.size
    # A drafted JPEG is smaller than its header says, but then crop_size is 0.
    crop = target.crop_size or min(width, height)
    left, top = (width - crop) // 2, (height - crop) // 2
    # Cropped before resizing, so that the filter sees nothing outside the crop.
    picture = picture.crop((left, top, left + crop, top + crop))
    size = (target.image_size, target.image_size)
    # Reductions beyond 3x start with a box filter by a whole factor: the same picture, several times faster.
    resized = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(resized, dtype=np.uint8).reshape(*size, target.channels)
