"""One image, encoded in any way -> the uint8 array that a pack holds.

Order of work: first frame, EXIF orientation, transparency onto white, RGB or grey, fit to the target's aspect, resize.
The filter is Lanczos widened to the scale of the reduction, so that nothing aliases; Pillow works on uint8 with
clipping, so its overshoots at edges saturate instead of wrapping round.

An image of another aspect (width over height) than the target's is fitted in one of three ways:

    crop      the largest centred rectangle of the target's aspect is cut out; for square targets, or a smaller square
    squeeze   the whole image is resized to the target: everything is on it, and shapes are distorted
    pad       the whole image is resized until it fits and lies centred on black, as films with bars do
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageOps, UnidentifiedImageError, features

from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets.shapes import image_shape

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
    """What an image becomes.

    Attributes:
        image_size: the height.
        channels: 1 (grey) or 3 (RGB).
        crop_size: side of the centred square that is cut out for a square target; 0: the largest rectangle.
        allow_upsampling: whether images that are too small are enlarged.
        image_width: 0: as much as the height.
        fit: 'crop', 'squeeze' or 'pad', see the module.
    """

    image_size: int
    channels: int = 3
    crop_size: int = 0
    allow_upsampling: bool = False
    image_width: int = 0
    fit: str = "crop"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.image_size, self.image_width or self.image_size, self.channels

    def described(self) -> dict[str, Any]:
        """The attributes, for JSON. Those that version 0.1.0 did not have are left out at their defaults."""
        absent = {"image_width": 0, "fit": "crop"}
        return {name: value for name, value in vars(self).items() if value != absent.get(name)}


class Decoded(NamedTuple):
    """Attributes:

    pixels: uint8 of the target's shape.
    aspect: width over height of the whole image, upright.
    several_frames: whether the image has more frames than the one that it was made from.
    """

    pixels: np.ndarray
    aspect: float
    several_frames: bool


def target_of(data: ConfigDict) -> Target:
    """What the images of `config.data` become.

    Raises:
        UserError: settings are out of range, or do not go together.
    """
    if data.channels not in (1, 3):
        raise UserError(f"data.channels is {data.channels}; it must be 1 (grey) or 3 (RGB).")
    if data.image_size < 1 or data.image_width < 0 or data.crop_size < 0 or data.num_examples < 0:
        raise UserError(
            "data.image_size must be positive; data.image_width, data.crop_size and data.num_examples must not be "
            "negative."
        )
    height, width, channels = image_shape(data)
    if data.crop_size and (height != width or data.fit != "crop"):
        raise UserError(
            f"data.crop_size is {data.crop_size}, the side of a square, but the images are {height} x {width} and "
            f"data.fit is {data.fit!r}: set --config.data.crop_size=0."
        )
    if 0 < data.crop_size < height and not data.allow_upsampling:
        raise UserError(
            f"data.crop_size {data.crop_size} is smaller than data.image_size {height}: every crop would be "
            "enlarged. Give a larger crop_size or set data.allow_upsampling."
        )
    return Target(height, channels, data.crop_size, data.allow_upsampling, 0 if width == height else width, data.fit)


def to_pixels(image: bytes | Path | np.ndarray, target: Target) -> np.ndarray:
    """Decodes, crops and resizes one image.

    Args:
        image: an encoded image, the path of one, or pixels: uint8 [height, width] or [height, width, 3].
        target: what to make of it.

    Returns:
        uint8 [height, width, channels]. The corner of a crop is at floor((side - crop) / 2) on either axis, that of a
        padded image at floor((target - side) / 2). Colour becomes grey as ITU-R 601 luma; grey becomes RGB by
        replication.

    Raises:
        BadImage: it is unreadable.
        TooSmall: it would have to be enlarged.
    """
    return decode(image, target).pixels


def decode(image: bytes | Path | np.ndarray, target: Target) -> Decoded:
    """`to_pixels`, with a look at what it leaves out. Raises the same."""
    try:
        picture = _open(image)
        if not target.crop_size:
            # JPEG decodes at 1/2, 1/4 or 1/8 scale for a fraction of the cost; 3x is ample for what Lanczos will see.
            ample = 3 * max(target.shape[:2])  # of both sides: the picture may lie on its side
            picture.draft(None, (ample, ample))
        picture.load()
        upright = _upright(picture)
        _check_size(upright.size, target)
        pixels = _fit(_flatten(upright, target.channels), target)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them trip over.
        raise BadImage(f"cannot be decoded ({type(error).__name__}: {error})") from error
    return Decoded(pixels, upright.width / upright.height, _has_several_frames(picture))


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
    """Raises TooSmall if an image of this width and height would have to be enlarged, or cannot be cropped."""
    width, height = size
    if min(size) < target.crop_size:
        raise TooSmall(f"is {width} x {height}, too small to cut out {target.crop_size} pixels")
    rows, columns, _ = target.shape
    small = (target.crop_size or height) < rows, (target.crop_size or width) < columns
    # Padded, an image is large enough if either side fills the target's.
    if (all(small) if target.fit == "pad" else any(small)) and not target.allow_upsampling:
        wanted = f"{rows}" if rows == columns else f"{columns} x {rows}"
        raise TooSmall(
            f"is {width} x {height}, smaller than {wanted} pixels (see data.allow_upsampling and data.small_images)"
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


def _fit(picture: Image.Image, target: Target) -> np.ndarray:
    """An upright picture in 'RGB' or 'L' -> the target's pixels."""
    (width, height), (rows, columns, _) = picture.size, target.shape
    if target.fit == "pad":
        # As wide as the target or as high, whichever comes first; no side vanishes.
        inner = min(columns, max(1, round(rows * width / height))), min(rows, max(1, round(columns * height / width)))
        canvas = Image.new(picture.mode, (columns, rows))  # black
        canvas.paste(_resized(picture, inner), ((columns - inner[0]) // 2, (rows - inner[1]) // 2))
        return _array(canvas, target)
    if target.fit == "crop":
        # A drafted JPEG is smaller than its header says, but then crop_size is 0.
        across = target.crop_size or min(width, max(1, height * columns // rows))
        down = target.crop_size or min(height, max(1, width * rows // columns))
        left, top = (width - across) // 2, (height - down) // 2
        # Cropped before resizing, so that the filter sees nothing outside the crop.
        picture = picture.crop((left, top, left + across, top + down))
    return _array(_resized(picture, (columns, rows)), target)


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    # Reductions beyond 3x start with a box filter by a whole factor: the same picture, several times faster.
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _array(picture: Image.Image, target: Target) -> np.ndarray:
    return np.asarray(picture, dtype=np.uint8).reshape(target.shape)
