"""Toy faces: portraits on a rounded head that turns, drawn from factors that are all known.

`render(seed, index, image_size)` is a pure function: `sample_factors` chooses the factors of picture `index`, `draw`
turns factors into pixels and uses no other randomness. Editing a factor and drawing again shows its effect alone.

The face is laid out on a flat chart, u to the image's right and v down, in half head widths from the middle between the
eyes, then wrapped round the head, turned and projected. Independent fair coins: man, smiling, glasses. Every other
factor is independent of these three except `hair_length`, `beard` and `jaw`, which differ between women and men.
Colours are sRGB (red, green, blue) in [0, 1].

    man            int32      1 man, 0 woman
    smiling        int32      1 smiling with an open mouth, 0 neutral with closed lips
    glasses        int32      1 wears glasses
    yaw            float      [-1, 1], uniform; -1 is turned 36 degrees to the image's left, 0 looks at the viewer
    center         [2]        image x and y (fractions of the side) of the middle between the eyes of the unturned head
    scale          float      half the width of the head as a fraction of the image side, [0.235, 0.275]
    tilt           float      rotation of the head in the image plane in radians, positive clockwise, about [-0.1, 0.1]
    smile          float      how wide the smile is, [0, 1]; without effect on neutral faces
    jaw            float      width of the jaw, women [0, 0.5], men [0.5, 1]
    eye_size       float      [0.85, 1.15], relative
    brow           float      height of the eyebrows over the eyes, [0, 1]
    hair_length    float      women [0.35, 1] (bob to long), men [0, 0.15]
    hair_volume    float      [0, 1], height of the hair over the skull
    parting        float      [-1, 1], where the hair parts, negative is the image's left of an unturned head
    fringe         float      [0, 1], how far the hair comes down the forehead
    beard          float      0 (all women and half of the men) to 1, density
    glasses_round  float      0 rectangular to 1 round, without effect when there are no glasses
    light          float      side the light comes from, [-1, 1], negative is left
    skin, hair, eyes, lips, clothes, frame, background    [3]
"""

import math

import numpy as np

from dcgan_jax.datasets.toy_draw import Canvas, Color, Points, circle, color, darker, glow, lighter, mix, oklch, smooth

VERSION = 1  # raise when any pixel or factor changes: packs made by another version are rebuilt

# Name -> (dtype, shape), in the order above.
FACTORS: dict[str, tuple[str, tuple[int, ...]]] = {
    "man": ("int32", ()),
    "smiling": ("int32", ()),
    "glasses": ("int32", ()),
    "yaw": ("float32", ()),
    "center": ("float32", (2,)),
    "scale": ("float32", ()),
    "tilt": ("float32", ()),
    "smile": ("float32", ()),
    "jaw": ("float32", ()),
    "eye_size": ("float32", ()),
    "brow": ("float32", ()),
    "hair_length": ("float32", ()),
    "hair_volume": ("float32", ()),
    "parting": ("float32", ()),
    "fringe": ("float32", ()),
    "beard": ("float32", ()),
    "glasses_round": ("float32", ()),
    "light": ("float32", ()),
    "skin": ("float32", (3,)),
    "hair": ("float32", (3,)),
    "eyes": ("float32", (3,)),
    "lips": ("float32", (3,)),
    "clothes": ("float32", (3,)),
    "frame": ("float32", (3,)),
    "background": ("float32", (3,)),
}

_MAX_TURN = math.radians(36)  # the turn at yaw 1

Factors = dict[str, np.ndarray]


def render(seed: int, index: int, image_size: int) -> tuple[np.ndarray, Factors]:
    """Return picture `index` of the set `seed`, uint8 [image_size, image_size, 3], and its factors (see FACTORS)."""
    factors = sample_factors(seed, index)
    return draw(factors, image_size), factors


def sample_factors(seed: int, index: int) -> Factors:
    """Return the factors of picture `index` of the set `seed`, both in [0, 2**64)."""
    rng = np.random.Generator(np.random.Philox(key=[seed, index]))
    man, smiling, glasses = rng.integers(0, 2, 3)
    uniform = rng.random
    factors = {
        "man": man,
        "smiling": smiling,
        "glasses": glasses,
        "yaw": 2 * uniform() - 1,
        "center": [0.5 + 0.06 * (uniform() - 0.5), 0.47 + 0.06 * (uniform() - 0.5)],
        "scale": 0.235 + 0.04 * uniform(),
        "tilt": 0.2 * (uniform() - 0.5),
        "smile": uniform(),
        "jaw": 0.5 * man + 0.5 * uniform(),
        "eye_size": 0.85 + 0.3 * uniform(),
        "brow": uniform(),
        "hair_length": 0.15 * uniform() if man else 0.35 + 0.65 * uniform(),
        "hair_volume": uniform(),
        "parting": 2 * uniform() - 1,
        "fringe": uniform(),
        "beard": max(0.0, 2 * uniform() - 1) * man,
        "glasses_round": uniform(),
        "light": 2 * uniform() - 1,
        **_sample_colors(rng),
    }
    return {name: np.asarray(factors[name], dtype) for name, (dtype, _) in FACTORS.items()}


# How common a kind of colour is, then its ranges of lightness, chroma and hue (oklch).
_Kind = tuple[float, tuple[float, float], tuple[float, float], tuple[float, float]]
_HAIR: tuple[_Kind, ...] = (
    (0.26, (0.2, 0.3), (0.005, 0.03), (0.1, 0.2)),  # black
    (0.30, (0.3, 0.45), (0.04, 0.07), (0.12, 0.17)),  # brown
    (0.14, (0.45, 0.58), (0.09, 0.13), (0.1, 0.14)),  # red
    (0.20, (0.68, 0.84), (0.07, 0.11), (0.2, 0.25)),  # blond
    (0.10, (0.6, 0.8), (0.0, 0.015), (0.6, 0.8)),  # grey
)
_EYES: tuple[_Kind, ...] = (
    (0.5, (0.34, 0.4), (0.05, 0.07), (0.12, 0.18)),  # brown
    (0.3, (0.5, 0.6), (0.08, 0.1), (0.62, 0.7)),  # blue
    (0.2, (0.5, 0.56), (0.07, 0.09), (0.36, 0.42)),  # green
)


def _sample_colors(rng: np.random.Generator) -> dict[str, Color]:
    uniform = rng.uniform
    tone, hue = uniform(), uniform()
    skin = oklch(0.87 - 0.42 * tone, 0.045 + 0.035 * math.sin(math.pi * tone), uniform(0.13, 0.18))
    return {
        "skin": skin,
        "hair": _sample_kind(rng, _HAIR),
        "eyes": _sample_kind(rng, _EYES),
        "lips": mix(skin, oklch(uniform(0.45, 0.58), 0.15, uniform(0.98, 1.05)), 0.75),
        "clothes": oklch(uniform(0.35, 0.8), uniform(0.04, 0.14), hue + uniform(0.3, 0.7)),
        "frame": oklch(uniform(0.15, 0.4), uniform(0.0, 0.09), uniform()),
        "background": oklch(uniform(0.68, 0.92), uniform(0.02, 0.09), hue),
    }


def _sample_kind(rng: np.random.Generator, kinds: tuple[_Kind, ...]) -> Color:
    bounds = np.cumsum([share for share, *_ in kinds[:-1]])
    _, lightness, chroma, hue = kinds[np.searchsorted(bounds, rng.random())]
    return oklch(rng.uniform(*lightness), rng.uniform(*chroma), rng.uniform(*hue))


def draw(factors: Factors, image_size: int) -> np.ndarray:
    """Return the picture of the factors, uint8 [image_size, image_size, 3]; every factor has its own effect."""
    canvas = Canvas(image_size)
    head = _Head(factors)
    cap = _hair_cap(head, factors)
    _draw_background(canvas, factors)
    _draw_back_hair(canvas, head, factors)
    _draw_body(canvas, head, factors)
    near = -1 if head.turn > 0 else 1
    if factors["man"]:  # long hair covers the ears
        _draw_ear(canvas, head, factors, -near)
    _draw_face(canvas, head, factors, cap)
    _draw_parts(canvas, head, _eyes(factors))
    _draw_nose(canvas, head, factors)
    _draw_parts(canvas, head, _mouth(factors))
    _draw_front_hair(canvas, head, factors, cap)
    if factors["man"]:
        _draw_ear(canvas, head, factors, near)
    if factors["glasses"]:
        _draw_glasses(canvas, head, factors)
    return canvas.finish(_light(image_size, head, factors))


# The unturned head, cut level at heights v (down from the eyes): middle z (towards the viewer), half width, half depth.
_SECTION_V = np.asarray([-1.2, -1.08, -0.75, -0.35, 0.0, 0.35, 0.7, 1.0, 1.18])
_SECTION_Z = np.asarray([-0.2, -0.2, -0.2, -0.19, -0.15, 0.05, 0.25, 0.45, 0.6])
_SECTION_WIDTH = np.asarray([0.34, 0.62, 0.92, 1.0, 0.98, 0.92, 0.76, 0.5, 0.22])
_SECTION_DEPTH = np.asarray([0.4, 0.78, 1.1, 1.14, 1.08, 0.87, 0.66, 0.45, 0.25])
_JAW = np.asarray([0, 0, 0, 0, 0, 0.02, 0.14, 0.2, 0.16])  # added to the half width at jaw 1


class _Head:
    """The turned head: maps the chart, or longitudes and heights, to the image."""

    def __init__(self, factors: Factors):
        self.turn = float(factors["yaw"]) * _MAX_TURN
        self._sin, self._cos = math.sin(self.turn), math.cos(self.turn)
        self._widths = _SECTION_WIDTH + float(factors["jaw"]) * _JAW
        tilt, self.scale = float(factors["tilt"]), float(factors["scale"])
        self._tilted = self.scale * np.asarray([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
        self._center = factors["center"].astype(np.float64)
        self.outline = self._outline()  # of head and face without the hair, in the image

    def place(self, points: Points) -> np.ndarray:
        """Image positions of points [N, 2] in half head widths from the head's middle, tilted with the head."""
        return np.asarray(points) @ self._tilted + self._center

    def upright(self, points: Points) -> np.ndarray:
        """The same without the tilt, for shoulders."""
        return np.asarray(points) * self.scale + self._center

    def wrap(self, chart: Points, lift: np.ndarray | float = 0.0) -> np.ndarray:
        """Image positions of chart points [N, 2], `lift` above the skin."""
        u, v = np.asarray(chart).T
        z, width, depth = self._section(v)
        height = z + depth * np.sqrt(np.maximum(1 - (u / width) ** 2, 0)) + lift
        return self.place(np.asarray([u * self._cos + height * self._sin, v]).T)

    def at_longitude(self, longitude: np.ndarray | float, v: np.ndarray | float, grow: float = 0.0) -> np.ndarray:
        """Head positions [N, 2] of the skin at longitudes (0 the nose, positive to the image's right) and heights v."""
        z, width, depth = self._section(np.asarray(v))
        across, height = (width + grow) * np.sin(longitude), z + (depth + grow) * np.cos(longitude)
        x = across * self._cos + height * self._sin
        return np.asarray([x, v + np.zeros_like(x)]).T

    def visible(self, longitude: float) -> float:
        """The longitude itself or, where the turn hides it, the nearest one in view."""
        return min(max(longitude, -math.pi / 2 - self.turn), math.pi / 2 - self.turn)

    def sides(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Head x of the silhouette's left and right at heights v."""
        z, width, depth = self._section(v)
        half = np.hypot(width * self._cos, depth * self._sin)
        return z * self._sin - half, z * self._sin + half

    def _outline(self) -> np.ndarray:
        left, right = self.sides(_SECTION_V)
        points = np.concatenate([np.stack([right, _SECTION_V], 1), np.stack([left, _SECTION_V], 1)[::-1]])
        return self.place(smooth(points))

    def _section(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return (
            np.interp(v, _SECTION_V, _SECTION_Z),
            np.interp(v, _SECTION_V, self._widths),
            np.interp(v, _SECTION_V, _SECTION_DEPTH),
        )


def _draw_background(canvas: Canvas, factors: Factors) -> None:
    background = color(factors["background"])
    canvas.gradient([(0, 0), (1, 1)], lighter(background, 0.12), darker(background, 0.16), rectangle=True)


def _draw_back_hair(canvas: Canvas, head: _Head, factors: Factors) -> None:
    """Long hair behind neck and shoulders."""
    if factors["man"]:
        return
    grow, end, hair = _hair_growth(factors), _hair_end(factors), color(factors["hair"])
    v = np.asarray([-0.9, -0.4, 0.1, 0.6])
    left, right = head.sides(np.minimum(v, 0.0))
    spread = np.asarray([0.5, 1.0, 1.2, 1.4]) * grow
    back = -0.3 * math.sin(head.turn)  # the back of the head swings to the other side
    rows = np.stack([left - spread + back * np.asarray([0, 0.2, 0.6, 1]), v], axis=1)
    others = np.stack([right + spread + back * np.asarray([0, 0.2, 0.6, 1]), v], axis=1)[::-1]
    ends = [(left[-1] + 1.2 * back - grow, end), (back, end + 0.08), (right[-1] + 1.2 * back + grow, end)]
    canvas.gradient(head.place(smooth(np.concatenate([rows, ends, others]))), darker(hair, 0.14), darker(hair, 0.42))


def _hair_growth(factors: Factors) -> float:
    """Thickness of the hair in head units."""
    return (0.05 if factors["man"] else 0.09) + 0.13 * float(factors["hair_volume"])


def _hair_end(factors: Factors) -> float:
    """Height v at which long hair ends."""
    return 0.6 + 1.5 * float(factors["hair_length"])


def _draw_body(canvas: Canvas, head: _Head, factors: Factors) -> None:
    """Neck, shoulders and a round collar; the body faces the viewer."""
    man, skin, clothes = int(factors["man"]), color(factors["skin"]), color(factors["clothes"])
    neck, shoulder = 0.45 + 0.13 * man, 1.45 + 0.4 * man
    half = [(neck + 0.1, 1.5), (neck + 0.45, 1.66), (shoulder - 0.25, 1.86), (shoulder, 2.2), (shoulder + 0.1, 2.9)]
    torso = half + [(-x, y) for x, y in reversed(half)]
    canvas.gradient(head.upright(smooth(torso)), lighter(clothes, 0.1), darker(clothes, 0.25))
    opening = smooth([(neck + 0.14, 1.45), (0.0, 1.98), (-neck - 0.14, 1.45), (0.0, 1.3)], steps=5)
    canvas.fill(head.upright(opening * (1.1, 1.04)), darker(clothes, 0.22))
    canvas.fill(head.upright(opening), darker(skin, 0.06))
    column = head.upright([(-neck, 0.5), (neck, 0.5), (neck + 0.06, 1.6), (-neck - 0.06, 1.6)])
    canvas.gradient(column, darker(skin, 0.3), darker(skin, 0.07))


def _draw_ear(canvas: Canvas, head: _Head, factors: Factors, side: int) -> None:
    """The ear on the image's left (side -1) or right (1) of an unturned head."""
    skin = darker(color(factors["skin"]), 0.1)
    x, _ = head.at_longitude(side * 1.65, 0.08, 0.06)
    shape = smooth([(0.1, -0.2), (0.16, -0.05), (0.08, 0.2), (-0.05, 0.28), (-0.09, 0.0), (-0.02, -0.2)])
    canvas.fill(head.place(shape * (side, 1) + (x, 0.1)), skin)
    canvas.fill(head.place(shape * (0.55 * side, 0.55) + (x, 0.1)), darker(skin, 0.18))


def _draw_face(canvas: Canvas, head: _Head, factors: Factors, cap: np.ndarray) -> None:
    """Skin with the shade of the hair (image outline `cap`) and of its own sides, blush and beard."""
    man, skin, light = int(factors["man"]), color(factors["skin"]), float(factors["light"])
    face = head.outline
    rows = np.asarray([0.4, 0.8, 1.1])
    jaw = np.concatenate([np.asarray([x, rows]).T[::order] for x, order in zip(head.sides(rows), (1, -1), strict=True)])
    canvas.soft([head.place(np.add(jaw, (0.0, 0.14)))], darker(skin, 0.65), 0.5, 0.012)  # shadow on the neck
    left = mix(skin, darker(skin, 0.22) if light > 0 else lighter(skin, 0.14), abs(light))
    right = mix(skin, darker(skin, 0.22) if light < 0 else lighter(skin, 0.14), abs(light))
    canvas.gradient(face, left, right, horizontal=True)
    v = np.linspace(-1.0, 1.18, 6)
    shades = [np.add(cap, (0.0, 0.09 * head.scale))]
    for side, outline in zip((-1, 1), head.sides(v), strict=True):
        inner = head.at_longitude(head.visible(side * 1.1), v)
        outside = np.stack([outline + 0.2 * side, v], axis=1)
        shades.append(head.place(np.concatenate([inner, outside[::-1]])))
    canvas.soft(shades, darker(skin, 0.55), 0.32, 0.014, within=face)
    cheeks = [head.wrap(circle(12) * (0.2, 0.14) + (0.56 * side, 0.4)) for side in (-1, 1)]
    canvas.soft(cheeks, mix(skin, (0.9, 0.3, 0.3), 0.5), 0.4 - 0.2 * man, 0.014)
    if factors["beard"] > 0:
        _draw_beard(canvas, head, factors, face)


def _draw_beard(canvas: Canvas, head: _Head, factors: Factors, face: np.ndarray) -> None:
    """Whiskers and moustache, cut to the image outline `face`."""
    u = np.asarray([-0.9, -0.78, -0.62, -0.4, -0.2, 0.0, 0.2, 0.4, 0.62, 0.78, 0.9])
    v = np.asarray([0.1, 0.4, 0.68, 0.6, 0.55, 0.57, 0.55, 0.6, 0.68, 0.4, 0.1])
    below = head.place([(1.5, 0.1), (1.5, 1.5), (-1.5, 1.5), (-1.5, 0.1)])
    region = np.concatenate([head.wrap(np.stack([u, v], axis=1)), below])
    density = 0.35 + 0.55 * float(factors["beard"])
    canvas.soft([region], darker(color(factors["hair"]), 0.2), density, 0.006, within=face)


# A part of the face: its outline on the chart [N, 2], how far it stands off the skin, its colour.
_Part = tuple[np.ndarray, float, Color]


def _draw_parts(canvas: Canvas, head: _Head, parts: list[_Part]) -> None:
    """Fill the parts in order, wrapped round the head all at once."""
    lifts = np.repeat([lift for _, lift, _ in parts], [len(chart) for chart, _, _ in parts])
    points = head.wrap(np.concatenate([chart for chart, _, _ in parts]), lifts)
    first = 0
    for chart, _, paint in parts:
        canvas.fill(points[first : first + len(chart)], paint)
        first += len(chart)


def _eyes(factors: Factors) -> list[_Part]:
    """Whites, irises, lids and eyebrows."""
    man, size = int(factors["man"]), float(factors["eye_size"])
    hair, skin, iris = color(factors["hair"]), color(factors["skin"]), color(factors["eyes"])
    lid = darker(mix(hair, (0.12, 0.08, 0.07), 0.7), 0.3)
    tall, lash = 0.135 - 0.02 * man, 0.055 - 0.025 * man
    upper = [(-0.24, 0.03), (-0.1, -0.9 * tall), (0.08, -tall), (0.25, -0.03)]
    white = smooth([*upper, (0.1, 0.85 * tall), (-0.1, 0.8 * tall)])
    lashes = smooth([*upper, (0.27 + lash, -0.07 - lash), (0.09, -tall - lash), (-0.1, -0.9 * tall - lash)])
    thick, arch, low = 0.05 + 0.04 * man, 0.1 - 0.05 * man, -0.24 - 0.1 * float(factors["brow"])
    brow = [(0.14, low), (0.4, low - arch), (0.68, low - 0.2 * arch)]
    brow += [(0.4, low - arch - thick), (0.14, low - 1.3 * thick)]
    parts: list[_Part] = []
    for side in (-1, 1):
        middle, mirror = (0.41 * side, 0.02), (size * side, size)
        parts += [
            (white * mirror + middle, 0.0, (0.97, 0.96, 0.95)),
            (circle(12) * (0.118 * size) + middle, 0.0, iris),
            (circle(12) * (0.062 * size) + middle, 0.0, (0.06, 0.05, 0.06)),
            (circle(8) * (0.035 * size) + middle + (0.04 * size, -0.045 * size), 0.0, (1.0, 1.0, 1.0)),
            (lashes * mirror + middle, 0.0, lid),
            (smooth(brow) * (side, 1), 0.03, mix(darker(hair, 0.3), darker(skin, 0.6), 0.25)),
        ]
    return parts


def _draw_nose(canvas: Canvas, head: _Head, factors: Factors) -> None:
    """A wedge whose tip stands out, each side in its own shade, and the shadow below."""
    skin, light, wide = color(factors["skin"]), float(factors["light"]), 0.15 + 0.03 * int(factors["man"])
    right = [(0.09, -0.02), (0.75 * wide, 0.3), (wide, 0.45), (0.6 * wide, 0.52)]
    left = [(-x, y) for x, y in right]
    under = [(-wide, 0.47), (-0.5 * wide, 0.545), (0.5 * wide, 0.545), (wide, 0.47), (0.0, 0.49)]
    chart = [(0.0, -0.05), (0.0, 0.52), (0.0, 0.42), *left, *right, *under]
    lift = [0.08, 0.12, 0.3, 0.0, 0.03, 0.03, 0.03, 0.0, 0.03, 0.03, 0.03, 0.03, 0.03, 0.03, 0.03, 0.24]
    points = head.wrap(chart, np.asarray(lift))
    bridge, base, tip = points[0], points[1], points[2]
    for side in (-1, 1) if head.turn < 0 else (1, -1):  # the far side first
        flank = points[3:7] if side < 0 else points[7:11]
        # Faint on the lit side, so that light and turn both show.
        canvas.fill(np.stack([bridge, *flank, base, tip]), darker(skin, 0.1 - 0.075 * side * light))
    canvas.fill(points[11:], darker(skin, 0.34))
    canvas.fill(circle(10) * (0.075 * head.scale) + tip + (0.0, -0.02 * head.scale), lighter(skin, 0.22))


def _mouth(factors: Factors) -> list[_Part]:
    """Closed lips, or a smile that shows the upper teeth."""
    man, skin = int(factors["man"]), color(factors["skin"])
    lips = mix(color(factors["lips"]), darker(skin, 0.2), 0.6 * man)
    full = 1 - 0.35 * man
    return _smile(factors, lips, full) if factors["smiling"] else _closed_lips(lips, full)


def _closed_lips(lips: Color, full: float) -> list[_Part]:
    wide = 0.27
    under = [(0.5 * wide, 0.78 + 0.08 * full), (-0.5 * wide, 0.78 + 0.08 * full)]
    lower = [(-wide, 0.76), (0.0, 0.77), (wide, 0.76), *under]
    bow = [(-0.4 * wide, 0.75 - 0.075 * full), (0.0, 0.75 - 0.045 * full), (0.4 * wide, 0.75 - 0.075 * full)]
    upper = [(-wide, 0.76), *bow, (wide, 0.76), (0.0, 0.775)]
    gap = [(-wide, 0.745), (0.0, 0.76), (wide, 0.745), (wide, 0.775), (0.0, 0.79), (-wide, 0.775)]
    return [
        (smooth(lower), 0.04, lips),
        (smooth(upper), 0.04, darker(lips, 0.14)),
        (np.asarray(gap), 0.04, darker(lips, 0.5)),
    ]


def _smile(factors: Factors, lips: Color, full: float) -> list[_Part]:
    wide, deep = 0.36 + 0.1 * float(factors["smile"]), 0.2 + 0.08 * float(factors["smile"])
    bow = [(-0.5 * wide, 0.69 - 0.05 * full), (0.0, 0.72 - 0.04 * full), (0.5 * wide, 0.69 - 0.05 * full)]
    under = [(0.6 * wide, 0.69 + 0.75 * deep), (0.0, 0.73 + deep + 0.05 * full), (-0.6 * wide, 0.69 + 0.75 * deep)]
    outer = [(-wide, 0.64), *bow, (wide, 0.64), *under]
    upper = [(-0.88 * wide, 0.665), (-0.5 * wide, 0.70), (0.0, 0.72), (0.5 * wide, 0.70), (0.88 * wide, 0.665)]
    inner = [*upper, (0.55 * wide, 0.68 + 0.65 * deep), (0.0, 0.70 + deep), (-0.55 * wide, 0.68 + 0.65 * deep)]
    teeth = [*upper, (0.55 * wide, 0.69 + 0.42 * deep), (0.0, 0.71 + 0.62 * deep), (-0.55 * wide, 0.69 + 0.42 * deep)]
    fold = [(0.28, 0.46), (wide + 0.06, 0.56), (wide + 0.09, 0.68), (wide + 0.04, 0.57)]
    crease = darker(color(factors["skin"]), 0.25)
    return [
        (smooth(fold), 0.0, crease),
        (smooth(fold) * (-1, 1), 0.0, crease),
        (smooth(outer), 0.04, lips),
        (smooth(inner), 0.04, (0.36, 0.09, 0.10)),
        (smooth(teeth), 0.04, (0.98, 0.97, 0.95)),
    ]


def _draw_front_hair(canvas: Canvas, head: _Head, factors: Factors, cap: np.ndarray) -> None:
    """The cap of hair (image outline) over the forehead and, if long, the strands beside the face."""
    hair = color(factors["hair"])
    for side in () if factors["man"] else (-1, 1):
        canvas.gradient(_strand(head, factors, side), darker(hair, 0.04), darker(hair, 0.26))
    canvas.gradient(cap, lighter(hair, 0.1), darker(hair, 0.1))
    shine = head.at_longitude(np.linspace(-0.7, 0.7, 5) + 0.5 * float(factors["light"]) - head.turn, -0.93)
    band = np.concatenate([np.add(shine, (0, -0.06)), np.add(shine[::-1], (0, 0.06))])
    canvas.soft([head.place(smooth(band))], lighter(hair, 0.5), 0.3, 0.02, within=cap)


def _hair_cap(head: _Head, factors: Factors) -> np.ndarray:
    """Image outline of the hair on the skull: the hairline as far as it is in view, then round the top."""
    grow, fringe = _hair_growth(factors), float(factors["fringe"])
    longitude = np.linspace(-math.pi / 2, math.pi / 2, 25) - head.turn
    if factors["man"]:
        forehead = -0.82 + 0.2 * fringe
        line = [forehead, forehead, -0.42, 0.05 + float(factors["hair_length"]), -0.15, -0.1, 0.6, 0.75]
        knots = [0.0, 0.75, 1.05, 1.27, 1.42, 1.85, 2.0, 2.4]
    else:
        forehead = -0.78 + 0.4 * fringe
        line = [forehead, forehead + 0.1, -0.2, 0.3]
        knots = [0.0, 0.7, 1.0, 1.35]
    v = np.interp(np.abs(longitude), knots, line)
    v = v - (0.14 + 0.1 * fringe) * np.exp(-(((longitude - 0.55 * float(factors["parting"])) / 0.25) ** 2))
    hairline = head.at_longitude(longitude, np.clip(v, -1.15, 1.0), 0.03)
    start, stop = hairline[0, 1], hairline[-1, 1]
    rows = np.asarray([0.2, -0.2, -0.6, -0.95, -1.18])
    left, right = head.sides(rows)
    up = grow * np.asarray([0.0, 0.15, 0.4, 0.8, 1.1])
    out = grow * np.asarray([0.6, 0.9, 1.0, 0.9, 0.6])
    right_side = np.stack([right + out, rows - up], 1)[rows < stop]
    left_side = np.stack([left - out, rows - up], 1)[rows < start]
    return head.place(np.concatenate([hairline, smooth(np.concatenate([right_side, left_side[::-1]]), closed=False)]))


def _strand(head: _Head, factors: Factors, side: int) -> np.ndarray:
    """Image outline of the long hair on one side of the face."""
    grow, end = _hair_growth(factors), _hair_end(factors)
    v = np.asarray([-0.75, -0.4, 0.0, 0.4])
    outer = head.sides(v)[(side + 1) // 2] + side * grow
    inner = head.at_longitude(head.visible(side * 1.12), v)[:, 0]
    hang = side * (0.08 + 0.3 * grow)
    points = [*zip(inner, v, strict=True), (inner[-1] + 0.4 * hang, 0.5 * (0.4 + end)), (inner[-1] + 0.6 * hang, end)]
    points += [(outer[-1] + 0.6 * hang, end - 0.05), (outer[-1] + hang, 0.5 * (0.4 + end))]
    points += [*zip(outer[::-1], v[::-1], strict=True)]
    return head.place(smooth(points, steps=3))


def _draw_glasses(canvas: Canvas, head: _Head, factors: Factors) -> None:
    """Two rims with a sheen, the bridge and the side pieces, which end at the ears or under long hair."""
    frame, round_ = color(factors["frame"]), float(factors["glasses_round"])
    thick = 0.085 * head.scale
    ring = np.sign(circle()) * np.abs(circle()) ** (0.45 + 0.55 * round_) * (0.31 - 0.01 * round_, 0.23 + 0.06 * round_)
    rims = [head.wrap(np.add(ring, (0.42 * side, 0.02)), 0.1) for side in (-1, 1)]
    for side in (-1, 1):
        start, stop = (head.visible(side * longitude) for longitude in (0.75, 1.5 if factors["man"] else 1.1))
        arm = head.at_longitude(np.linspace(start, stop, 4), -0.04, 0.02)
        canvas.line(head.place(arm), darker(frame, 0.2), 0.8 * thick)
    canvas.soft(rims, (0.85, 0.93, 1.0), 0.22, 0.004)
    for rim in rims:
        canvas.line(np.concatenate([rim, rim[:2]]), frame, thick)
    canvas.line(head.wrap([(-0.13, -0.04), (0.0, -0.08), (0.13, -0.04)], 0.12), frame, thick)


def _light(image_size: int, head: _Head, factors: Factors) -> np.ndarray:
    """Return the light that falls on the picture, float32 [image_size, image_size, 1]."""
    across = (np.arange(image_size, dtype=np.float32)[None, :, None] + 0.5) / image_size - 0.5
    x, y = head.place([(0.0, 0.0)])[0].tolist()
    light: np.ndarray = 0.91 + 0.14 * float(factors["light"]) * across + 0.12 * glow(image_size, x, y, 0.4, 0.4)
    return light
