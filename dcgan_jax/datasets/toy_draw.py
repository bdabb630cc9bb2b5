"""Drawing for the two toy sets: a supersampled canvas, smooth curves and perceptual colours (numpy and Pillow only).

Positions are fractions of the image side, x to the right and y down. Colours are (red, green, blue) in [0, 1].
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from dcgan_jax.machine.errors import UserError

SUPERSAMPLE = 4  # canvas pixels per image pixel along each side: 16 levels of coverage at an edge

Color = tuple[float, float, float]
Point = tuple[float, float]
Points = np.ndarray | Sequence[Point]  # [N, 2]


class Canvas:
    """A picture in progress, later shapes covering earlier ones; `finish` returns it as an array."""

    def __init__(self, image_size: int):
        if image_size < 8:
            raise UserError(f"Toy images have at least 8 x 8 pixels; image size {image_size} is too small.")
        self.image_size = image_size
        self.size = SUPERSAMPLE * image_size
        self.image = Image.new("RGB", (self.size, self.size))
        self._pen = ImageDraw.Draw(self.image)

    def fill(self, points: Points, color: Color) -> None:
        """Fill the polygon `points` [N, 2] with one colour."""
        self._pen.polygon(_flat(points, self.size), fill=_bytes(color))

    def line(self, points: Points, color: Color, width: float) -> None:
        """Draw a polyline of the given width (fraction of the image side)."""
        self._pen.line(_flat(points, self.size), fill=_bytes(color), width=max(1, round(width * self.size)))

    def gradient(
        self, points: Points, first: Color, last: Color, horizontal: bool = False, rectangle: bool = False
    ) -> None:
        """Fill a polygon from `first` at its top (left if `horizontal`) to `last` at its bottom (right).

        `rectangle` fills the smallest upright rectangle around the points instead, which is much faster.
        """
        flat = _flat(points, self.size)
        left, top, right, bottom = _bounds(flat)
        box = x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, self.size), min(bottom, self.size)
        if x0 >= x1 or y0 >= y1:
            return
        # Where the picture's edge cuts the shape, the colours there are those of the uncut gradient.
        ends = (x0 - left, x1 - left, right - left) if horizontal else (y0 - top, y1 - top, bottom - top)
        colors = _bytes(mix(first, last, ends[0] / ends[2])) + _bytes(mix(first, last, ends[1] / ends[2]))
        width, height = x1 - x0, y1 - y0
        if horizontal:
            ramp = Image.frombytes("RGB", (2, 1), bytes(colors))
            ramp = ramp.resize((width, 1), Image.Resampling.BILINEAR, box=(0.5, 0, 1.5, 1))
        else:
            ramp = Image.frombytes("RGB", (1, 2), bytes(colors))
            ramp = ramp.resize((1, height), Image.Resampling.BILINEAR, box=(0, 0.5, 1, 1.5))
        ramp = ramp.resize((width, height), Image.Resampling.NEAREST)
        self.image.paste(ramp, box, None if rectangle else _mask([flat], box))

    def soft(
        self, shapes: Sequence[Points], color: Color, opacity: float, blur: float, within: Points | None = None
    ) -> None:
        """Lay blurred translucent polygons over the picture: a shadow, a blush, a patch of light.

        `blur` is the standard deviation in fractions of the image side; `within` cuts the result to another polygon.
        """
        # A blurred mask has no detail to lose: it is drawn in image pixels, each of them a block of the canvas.
        size = self.image_size
        flats = [_flat(points, size) for points in shapes]
        left, top, right, bottom = _bounds([coordinate for flat in flats for coordinate in flat])
        # A little beyond the picture, so that the blur at its edge is as if the shape went on.
        margin = math.ceil(2.5 * blur * size) + 1
        x0, y0 = max(left - margin, -margin), max(top - margin, -margin)
        x1, y1 = min(right + margin, size + margin), min(bottom + margin, size + margin)
        if x0 >= x1 or y0 >= y1:
            return
        mask = _mask(flats, (x0, y0, x1, y1), round(255 * opacity)).filter(ImageFilter.GaussianBlur(blur * size))
        x0, y0, x1, y1 = SUPERSAMPLE * x0, SUPERSAMPLE * y0, SUPERSAMPLE * x1, SUPERSAMPLE * y1
        mask = mask.resize((x1 - x0, y1 - y0), Image.Resampling.NEAREST)
        if within is not None:
            mask = ImageChops.multiply(mask, _mask([_flat(within, self.size)], (x0, y0, x1, y1)))
        self.image.paste(Image.new("RGB", mask.size, _bytes(color)), (x0, y0), mask)

    def finish(self, light: np.ndarray) -> np.ndarray:
        """Return the picture, uint8 [image_size, image_size, 3], multiplied by `light` (float, broadcastable)."""
        picture = np.asarray(self.image.reduce(SUPERSAMPLE), np.float32)
        return np.clip(picture * light + 0.5, 0, 255).astype(np.uint8)


def _flat(points: Points, size: int) -> list[float]:
    """Return x0, y0, x1, y1, ... in pixels."""
    if isinstance(points, np.ndarray):
        flat: list[float] = (points * size).ravel().tolist()
        return flat
    return [coordinate * size for pair in points for coordinate in pair]


def _bounds(flat: list[float]) -> tuple[int, int, int, int]:
    """Return the box (left, top, right, bottom) of pixels that a polygon touches, right and bottom exclusive."""
    x, y = flat[0::2], flat[1::2]
    return math.floor(min(x)), math.floor(min(y)), math.floor(max(x)) + 1, math.floor(max(y)) + 1


def _mask(flats: Sequence[list[float]], box: tuple[int, int, int, int], value: int = 255) -> Image.Image:
    """Return the union of the polygons as a mask of the box's size."""
    left, top, right, bottom = box
    mask = Image.new("L", (right - left, bottom - top))
    pen = ImageDraw.Draw(mask)
    for flat in flats:
        moved = flat.copy()
        moved[0::2] = [x - left for x in flat[0::2]]
        moved[1::2] = [y - top for y in flat[1::2]]
        pen.polygon(moved, fill=value)
    return mask


def _bytes(color: Color) -> tuple[int, int, int]:
    red, green, blue = (min(max(round(255 * channel), 0), 255) for channel in color)
    return red, green, blue


def smooth(points: Points, closed: bool = True, steps: int = 4) -> np.ndarray:
    """Return the Catmull-Rom curve through `points` [N, 2] as a polyline [M, 2], `steps` pieces between two points."""
    return _catmull_rom(len(points), closed, steps) @ np.asarray(points)


@functools.cache
def _catmull_rom(knots: int, closed: bool, steps: int) -> np.ndarray:
    """Weights of the knots at each place of the curve, float64 [M, knots]."""
    here = np.eye(knots)
    if closed:
        before, after, beyond = (np.roll(here, shift, axis=0) for shift in (1, -1, -2))
    else:  # as if the first and the last piece went on straight
        long = np.concatenate([2 * here[:1] - here[1:2], here, 2 * here[-1:] - here[-2:-1]])
        before, here, after, beyond = long[:-3], long[1:-2], long[2:-1], long[3:]
    t = (np.arange(steps) / steps)[None, :, None]
    curve = (-t + 2 * t**2 - t**3) * before[:, None] + (2 - 5 * t**2 + 3 * t**3) * here[:, None]
    curve = curve + (t + 4 * t**2 - 3 * t**3) * after[:, None] + (t**3 - t**2) * beyond[:, None]
    curve = curve.reshape(-1, knots) / 2
    return curve if closed else np.concatenate([curve, np.eye(knots)[-1:]])


@functools.cache
def circle(steps: int = 24) -> np.ndarray:
    """Return the unit circle as a polygon, float32 [steps, 2]."""
    angle = np.arange(steps, dtype=np.float32) * (2 * math.pi / steps)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def rounded(points: Points, radius: float) -> np.ndarray:
    """Return the polygon `points` [N, 2] with its corners rounded; `radius` in [0, 0.5] is a share of each side."""
    return _rounding(len(points), radius) @ np.asarray(points, np.float32)


@functools.cache
def _rounding(corners: int, radius: float) -> np.ndarray:
    """Weights of the corners at five places along the quadratic curve around each, float32 [5 * corners, corners]."""
    t = np.asarray([0, 0.25, 0.5, 0.75, 1], np.float32)[None, :, None]
    here = np.eye(corners, dtype=np.float32)
    start = (1 - radius) * here + radius * np.roll(here, 1, axis=0)
    stop = (1 - radius) * here + radius * np.roll(here, -1, axis=0)
    curve = (1 - t) ** 2 * start[:, None] + 2 * t * (1 - t) * here[:, None] + t**2 * stop[:, None]
    return curve.reshape(-1, corners)


def oklch(lightness: float, chroma: float, hue: float) -> Color:
    """Return a colour of Ottosson's OKLCH space (hue in turns) as sRGB, clipped to [0, 1].

    Equal steps of OKLCH look equal, so that a random hue keeps the contrast between the parts of a picture.
    Constants: https://bottosson.github.io/posts/oklab.
    """
    a, b = chroma * math.cos(2 * math.pi * hue), chroma * math.sin(2 * math.pi * hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short
    return _gamma(red), _gamma(green), _gamma(blue)


def _gamma(channel: float) -> float:
    channel = min(max(channel, 0.0), 1.0)
    return 12.92 * channel if channel <= 0.0031308 else 1.055 * channel ** (1 / 2.4) - 0.055


def mix(first: Color, second: Color, share: float) -> Color:
    """Return `first` with `share` in [0, 1] of it replaced by `second`."""
    red, green, blue = (a + share * (b - a) for a, b in zip(first, second, strict=True))
    return red, green, blue


def darker(color: Color, amount: float) -> Color:
    """Return the colour in shade: towards black, blue least."""
    return color[0] * (1 - amount), color[1] * (1 - amount), color[2] * (1 - 0.8 * amount)


def lighter(color: Color, amount: float) -> Color:
    """Return the colour in light: towards a warm white."""
    return mix(color, (1.0, 0.98, 0.94), amount)


def color(factor: np.ndarray) -> Color:
    """Return a factor float32 [3] as a colour."""
    red, green, blue = factor.tolist()
    return red, green, blue


def glow(image_size: int, x: float, y: float, spread_x: float, spread_y: float) -> np.ndarray:
    """Return a Gaussian bump of height 1 centred on (x, y), float32 [image_size, image_size, 1]."""
    centers = (np.arange(image_size, dtype=np.float32) + 0.5) / image_size
    across = np.exp(-0.5 * ((centers - x) / spread_x) ** 2)
    down = np.exp(-0.5 * ((centers - y) / spread_y) ** 2)
    return (down[:, None] * across[None, :])[..., None].astype(np.float32)
