"""Toy bedrooms: rooms in one-point perspective, drawn from factors that are all known.

`render(seed, index, image_size)` is a pure function: `sample_factors` chooses the factors of picture `index`, `draw`
turns factors into pixels and uses no other randomness. Editing a factor and drawing again shows its effect alone.

A room is a box in metres: X from the left wall, Y up from the floor, Z from the back wall towards the viewer. Numbers
marked "image" are fractions of the image side (x to the right, y down) and hold for every `image_size`. Independent
fair coins: lamp, tv, curtains, rug, throw. Colours are sRGB (red, green, blue) in [0, 1].

    num_windows    int32      0, 1 or 2 with equal probability, independent of the coins
    windows        [2, 4]     image; (x0, y0, x1, y1) of each window's frame and glass, cut at the image's edge,
                              nothing in front of it; absent windows are zero rows and come last
    window_wall    int32 [2]  0 absent, 1 back wall, 2 left wall, 3 right wall
    window_rect    [2, 4]     metres; (from, to, bottom, top), from..to along X on the back wall, along Z on the others
    lamp           int32      1: a lit table lamp on the nightstand (the nightstand is always there)
    tv             int32      1: a television over a low dresser on the wider side of the bed
    curtains       int32      1: curtains beside every window
    rug            int32      1: a rug under the bed
    throw          int32      1: a folded throw across the foot of the bed
    picture        int32      1: a framed picture above the bed; always 0 where a window is, else 1 with probability 0.6
    bed_x          float      image; x of the middle of the bed's foot, about [0.2, 0.8]
    bed            [4]        metres; middle (X), width [1.35, 1.9], length [1.85, 2.1], height [0.5, 0.62]
    headboard      [2]        height [0.95, 1.25] in metres, roundness of its corners [0, 0.5]
    fold           float      share of the bed's length left open at the pillows, [0.3, 0.45]
    view           [5]        image x of the left [0.06, 0.26] and right [0.74, 0.94] corner of the back wall, image
                              y of its floor edge [0.61, 0.70]; metres: camera height [1.5, 1.85], distance of the
                              back wall from the camera [4.6, 5.6]
    room           [2]        metres; width [3.5, 4.1], height [2.45, 2.75]
    nightstand_x   [2]        metres; its left and right edge
    tv_x           [2]        metres; left and right edge of the place for the television, used or not
    light          float      side the room's light comes from, [-1, 1], negative is left
    day            float      sky in the windows, from 0 (blue noon) to 1 (golden evening)
    wall_color, floor_color, wood_color, blanket_color, accent_color    [3]
"""

import math

import numpy as np

from dcgan_jax.datasets.toy_draw import Canvas, Color, Point, circle, color, darker, glow, lighter, mix, oklch, rounded

VERSION = 1  # raise when any pixel or factor changes: packs made by another version are rebuilt

# Name -> (dtype, shape), in the order above.
FACTORS: dict[str, tuple[str, tuple[int, ...]]] = {
    "num_windows": ("int32", ()),
    "windows": ("float32", (2, 4)),
    "window_wall": ("int32", (2,)),
    "window_rect": ("float32", (2, 4)),
    "lamp": ("int32", ()),
    "tv": ("int32", ()),
    "curtains": ("int32", ()),
    "rug": ("int32", ()),
    "throw": ("int32", ()),
    "picture": ("int32", ()),
    "bed_x": ("float32", ()),
    "bed": ("float32", (4,)),
    "headboard": ("float32", (2,)),
    "fold": ("float32", ()),
    "view": ("float32", (5,)),
    "room": ("float32", (2,)),
    "nightstand_x": ("float32", (2,)),
    "tv_x": ("float32", (2,)),
    "light": ("float32", ()),
    "day": ("float32", ()),
    "wall_color": ("float32", (3,)),
    "floor_color": ("float32", (3,)),
    "wood_color": ("float32", (3,)),
    "blanket_color": ("float32", (3,)),
    "accent_color": ("float32", (3,)),
}

BACK, LEFT, RIGHT = 1, 2, 3  # values of window_wall

Factors = dict[str, np.ndarray]
_Span = tuple[float, float]  # from, to in metres

_WHITE: Color = (0.97, 0.96, 0.94)
_BLACK: Color = (0.05, 0.05, 0.07)
_NEAR = 0.85  # share of the way to the camera up to which floor and skirting run: out of the picture


def render(seed: int, index: int, image_size: int) -> tuple[np.ndarray, Factors]:
    """Return picture `index` of the set `seed`, uint8 [image_size, image_size, 3], and its factors (see FACTORS)."""
    factors = sample_factors(seed, index)
    return draw(factors, image_size), factors


def sample_factors(seed: int, index: int) -> Factors:
    """Return the factors of picture `index` of the set `seed`, both in [0, 2**64)."""
    rng = np.random.Generator(np.random.Philox(key=[seed, index]))
    coins = dict(zip(("lamp", "tv", "curtains", "rug", "throw"), rng.integers(0, 2, 5), strict=True))
    num_windows = rng.integers(0, 3)
    sides = rng.uniform(0.22, 0.36)  # share of the picture's width that the side walls take
    left = sides * rng.uniform(0.3, 0.7)
    view = np.asarray([left, 1 - (sides - left), *rng.uniform([0.61, 1.5, 4.6], [0.70, 1.85, 5.6])])
    size = rng.uniform([3.5, 2.45], [4.1, 2.75])
    room = _Room(view, size)
    bed, nightstand_x, tv_x = _sample_furniture(rng, room)
    wall, rect = _sample_windows(rng, room, int(num_windows), bed, None if coins["tv"] else tv_x)
    above_bed = any(wall[i] == BACK and abs(rect[i, :2].mean() - bed[0]) < bed[1] / 2 for i in range(2))
    factors = {
        **coins,
        **_sample_colors(rng),
        "num_windows": num_windows,
        "windows": [_box_on_screen(room, wall[i], rect[i]) for i in range(2)],
        "window_wall": wall,
        "window_rect": rect,
        "picture": rng.random() < 0.6 and not above_bed,
        "bed_x": room.at(bed[0], 0, bed[2])[0],
        "bed": bed,
        "headboard": rng.uniform([0.95, 0.0], [1.25, 0.5]),
        "fold": rng.uniform(0.3, 0.45),
        "view": view,
        "room": size,
        "nightstand_x": nightstand_x,
        "tv_x": tv_x,
        "light": rng.uniform(-1, 1),
        "day": rng.beta(0.8, 1.2),
    }
    return {name: np.asarray(factors[name], dtype) for name, (dtype, _) in FACTORS.items()}


def draw(factors: Factors, image_size: int) -> np.ndarray:
    """Return the picture of the factors, uint8 [image_size, image_size, 3].

    Everything is drawn from the factors named in FACTORS but `num_windows`, `windows` and `bed_x`, which follow from
    the others; to remove a window set its `window_wall` to 0.
    """
    canvas = Canvas(image_size)
    room = _Room(factors["view"], factors["room"])
    _draw_floor(canvas, room, factors)
    _draw_walls(canvas, room, factors)
    for wall, rect in zip(factors["window_wall"].tolist(), factors["window_rect"].tolist(), strict=True):
        if wall:
            _draw_window(canvas, room, wall, rect, factors)
    if factors["picture"]:
        _draw_picture(canvas, room, factors)
    if factors["tv"]:
        _draw_tv(canvas, room, factors)
    _draw_nightstand(canvas, room, factors)
    _draw_bed(canvas, room, factors)
    return canvas.finish(_light(image_size, room, factors))


class _Room:
    """One-point perspective with the vanishing point in the middle column; `view` and `room` as in FACTORS."""

    def __init__(self, view: np.ndarray, room: np.ndarray):
        fields: list[float] = [*view.tolist(), *room.tolist()]
        self.left, self.right, self.floor, self._camera_height, self.depth, self.width, self.height = fields
        self._back_scale = (self.right - self.left) / self.width  # image fractions a metre on the back wall
        self._horizon = self.floor - self._camera_height * self._back_scale
        self.camera_x = (0.5 - self.left) / self._back_scale

    def scale(self, z: float) -> float:
        """Image fractions a metre at distance z from the back wall."""
        return self._back_scale * self.depth / (self.depth - z)

    def at(self, x: float, y: float, z: float) -> Point:
        """Image position of a point of the room."""
        scale = self.scale(z)
        return 0.5 + (x - self.camera_x) * scale, self._horizon + (self._camera_height - y) * scale

    def leaves_picture(self, x: float) -> float:
        """Distance z at which a point of that x is seen at the picture's left or right edge."""
        return self.depth * (1 - 2 * abs(x - self.camera_x) * self._back_scale)

    def on_wall(self, wall: int, along: float, y: float) -> Point:
        """Image position of a point of a wall, `along` as in `window_rect`."""
        if wall == BACK:
            return self.at(along, y, 0)
        return self.at(0 if wall == LEFT else self.width, y, along)

    def quad(self, wall: int, rect: list[float] | np.ndarray) -> list[Point]:
        """Image corners of (from, to, bottom, top) of a wall: bottom and top of `from`, top and bottom of `to`."""
        start, stop, bottom, top = rect
        return [self.on_wall(wall, *corner) for corner in ((start, bottom), (start, top), (stop, top), (stop, bottom))]


def _sample_furniture(rng: np.random.Generator, room: _Room) -> tuple[np.ndarray, list[float], list[float]]:
    """Return `bed`, `nightstand_x` and `tv_x`: the nightstand beside the bed, the TV on the wider side of the bed."""
    width, length, height = rng.uniform([1.35, 1.85, 0.5], [1.9, 2.1, 0.62])
    free = room.width - width
    gap = rng.uniform(0.6, free - 0.6)  # from the left wall to the bed
    left, right = gap, gap + width
    wider_is_left = gap > free / 2
    stand_on_wider = rng.random() < 0.5 and max(gap, free - gap) > 1.65
    stand = rng.uniform(0.42, 0.48)
    start = left - 0.06 - stand if wider_is_left == stand_on_wider else right + 0.06
    reserved = stand + 0.1 if stand_on_wider else 0.12
    tv_x = [0.08, left - reserved] if wider_is_left else [right + reserved, room.width - 0.08]
    return np.asarray([gap + width / 2, width, length, height]), [start, start + stand], tv_x


def _sample_windows(
    rng: np.random.Generator, room: _Room, count: int, bed: np.ndarray, free_x: list[float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return `window_wall` and `window_rect`: different places for `count` windows, all clear of furniture.

    The places: above the bed; beside it, if `free_x` (X range) has no TV; a side wall, if enough of it is in view.
    """
    height = rng.uniform(2.15, room.height - 0.15)
    width = rng.uniform(0.95, bed[1] - 0.3)
    middle = bed[0] + rng.uniform(-0.5, 0.5) * (bed[1] - 0.3 - width)
    # Headboard and lamp stay below 1.3 m and are seen from above.
    places = [(BACK, middle - width / 2, middle + width / 2, rng.uniform(1.34, 1.44), height)]
    if free_x is not None and free_x[1] - free_x[0] > 0.9:
        room_for = free_x[1] - free_x[0] - 0.36
        width = rng.uniform(0.5, min(room_for, 1.3))
        start = free_x[0] + 0.18 + rng.uniform(0, room_for - width)
        places.append((BACK, start, start + width, rng.uniform(0.85, 1.2), height))
    for wall in (LEFT, RIGHT):
        start, bottom = rng.uniform([0.35, 0.85], [0.5, 1.15])
        x = room.on_wall(wall, start, 0)[0]
        if min(x, 1 - x) > 0.06:  # true of the wider side wall at least, so that there are always two places
            places.append((wall, start, start + rng.uniform(0.9, 1.4), bottom, height))
    walls, rects = np.zeros(2, np.int32), np.zeros((2, 4))
    for i, place in enumerate(rng.permutation(len(places))[:count]):
        walls[i], rects[i] = places[place][0], places[place][1:]
    return walls, rects


def _sample_colors(rng: np.random.Generator) -> dict[str, Color]:
    """Return a harmonious palette: bedding near or opposite to the hue of the walls, woods always warm."""
    hue = rng.random()
    blanket_hue = hue + rng.choice([0, 0.09, -0.09, 0.42, 0.5, 0.58]) + rng.normal(0, 0.015)
    accent_hue = blanket_hue + rng.choice([0.11, -0.11, 0.45, 0.55]) + rng.normal(0, 0.015)
    wood = oklch(rng.uniform(0.34, 0.68), 0.07, rng.uniform(0.13, 0.19))
    painted = rng.random() < 0.2
    return {
        "wall_color": oklch(rng.uniform(0.74, 0.9), rng.uniform(0.02, 0.075), hue),
        "floor_color": oklch(rng.uniform(0.45, 0.72), rng.uniform(0.015, 0.09), rng.uniform(0.14, 0.21)),
        "wood_color": oklch(0.9, 0.012, 0.2) if painted else wood,
        "blanket_color": oklch(rng.uniform(0.45, 0.72), rng.uniform(0.06, 0.135), blanket_hue),
        "accent_color": oklch(rng.uniform(0.5, 0.76), rng.uniform(0.08, 0.14), accent_hue),
    }


def _box_on_screen(room: _Room, wall: int, rect: list[float] | np.ndarray) -> np.ndarray:
    """Return the row of `windows` for a window."""
    if not wall:
        return np.zeros(4)
    start, stop, bottom, top = rect
    if wall != BACK:  # what is nearer than the picture's edge is out of view
        stop = min(stop, room.leaves_picture(0 if wall == LEFT else room.width))
    quad = np.asarray(room.quad(wall, [start, stop, bottom, top]))
    return np.clip(np.concatenate([quad.min(axis=0), quad.max(axis=0)]), 0, 1)


def _draw_floor(canvas: Canvas, room: _Room, factors: Factors) -> None:
    """Floor boards, rug and patches of sunlight; may run over the side walls."""
    floor = color(factors["floor_color"])
    canvas.gradient([(0, room.floor), (1, 1)], darker(floor, 0.2), lighter(floor, 0.08), rectangle=True)
    for i in range(1, 12):
        x = room.width * i / 12
        canvas.line([room.at(x, 0, 0), room.at(x, 0, _NEAR * room.depth)], darker(floor, 0.2), 0.003)
    if factors["rug"]:
        _draw_rug(canvas, room, factors)
    sunshine = mix((1.0, 0.95, 0.8), (1.0, 0.8, 0.5), float(factors["day"]))
    for wall, rect in zip(factors["window_wall"].tolist(), factors["window_rect"].tolist(), strict=True):
        if wall in (LEFT, RIGHT):
            canvas.soft([_sunlight(room, wall, rect)], sunshine, 0.5, 0.008)


def _draw_walls(canvas: Canvas, room: _Room, factors: Factors) -> None:
    """Ceiling, side walls, back wall and skirting boards."""
    wall, light = color(factors["wall_color"]), float(factors["light"])
    top = room.at(0, room.height, 0)[1]
    ceiling = lighter(wall, 0.62)
    canvas.gradient([(0, 0), (1, top)], ceiling, darker(ceiling, 0.09), rectangle=True)
    board = lighter(wall, 0.7)
    # A side wall is lit by the light from the other side; both are dimmer towards the corner.
    for x, tone in ((0.0, 0.05 * light), (room.width, -0.05 * light)):
        outer, inner = darker(wall, 0.13 - tone), darker(wall, 0.24 - tone)
        first, last = (outer, inner) if x == 0 else (inner, outer)
        canvas.gradient(_upright(room, x, (0, room.height), (0, room.leaves_picture(x))), first, last, horizontal=True)
        canvas.fill(_upright(room, x, (0, 0.11), (0, _NEAR * room.depth)), darker(board, 0.14))
    canvas.gradient(
        [(room.left, top), (room.right, room.floor)], lighter(wall, 0.1), darker(wall, 0.06), rectangle=True
    )
    cornice = [(room.left, top), (room.right, top), (room.right, top + 0.01), (room.left, top + 0.01)]
    canvas.soft([cornice], darker(wall, 0.5), 0.35, 0.012)
    canvas.fill(room.quad(BACK, [0, room.width, 0, 0.11]), board)
    canvas.line([(room.left, room.floor), (room.right, room.floor)], darker(color(factors["floor_color"]), 0.5), 0.004)


def _draw_rug(canvas: Canvas, room: _Room, factors: Factors) -> None:
    middle, width, length, _ = factors["bed"].tolist()
    rug = lighter(mix(color(factors["accent_color"]), color(factors["floor_color"]), 0.25), 0.35)
    for inset, shade in ((0.0, darker(rug, 0.12)), (0.09, rug)):
        x0, x1 = max(middle - width / 2 - 0.55, 0.1) + inset, min(middle + width / 2 + 0.55, room.width - 0.1) - inset
        z0, z1 = 0.75 + inset, length + 0.5 - inset
        canvas.fill(rounded(_floor(room, x0, x1, z0, z1), 0.08), shade)


def _sunlight(room: _Room, wall: int, rect: list[float]) -> list[Point]:
    """Image corners of the light that falls through a side window onto the floor."""
    start, stop, bottom, top = rect
    sign, x = (1, 0.0) if wall == LEFT else (-1, room.width)
    corners = ((start, bottom), (start, top), (stop, top), (stop, bottom))
    return [room.at(x + sign * 0.65 * y, 0, along + 0.15 * y) for along, y in corners]


def _draw_window(canvas: Canvas, room: _Room, wall: int, rect: list[float], factors: Factors) -> None:
    """White frame, sky over hills, one cross of glazing bars and, if wanted, curtains outside the frame."""
    start, stop, bottom, top = rect
    day, wall_color = float(factors["day"]), color(factors["wall_color"])
    if factors["curtains"]:
        accent, reach = mix(color(factors["accent_color"]), wall_color, 0.15), 0.16
        for a, b in ((start - reach, start), (stop, stop + reach)):
            drape = room.quad(wall, [a, b, bottom - 0.12, top + 0.08])
            canvas.gradient(drape, lighter(accent, 0.12), darker(accent, 0.15), horizontal=True)
        rod = [room.on_wall(wall, a, top + 0.08) for a in (start - reach - 0.05, stop + reach + 0.05)]
        canvas.line(rod, darker(accent, 0.5), 0.006)
    x0, y0, x1, y1 = _box_on_screen(room, wall, rect)
    edge = 0.007
    around = [(x0 - edge, y0 - edge), (x1 + edge, y0 - edge), (x1 + edge, y1 + edge), (x0 - edge, y1 + edge)]
    canvas.soft([around if wall == BACK else room.quad(wall, rect)], darker(wall_color, 0.55), 0.6, 0.007)
    frame = 0.06
    canvas.fill(room.quad(wall, rect), _WHITE if wall == BACK else darker(_WHITE, 0.06))
    glass = [start + frame, stop - frame, bottom + frame, top - frame]
    zenith = mix((0.60, 0.80, 0.97), (0.93, 0.77, 0.72), day)
    haze = mix((0.90, 0.96, 0.99), (1.0, 0.90, 0.70), day)
    canvas.gradient(room.quad(wall, glass), zenith, haze)
    hills = mix((0.62, 0.78, 0.60), (0.78, 0.68, 0.58), day)
    height, span = glass[3] - glass[2], glass[1] - glass[0]
    ridge = [(0.0, 0.22), (0.25, 0.30), (0.5, 0.24), (0.75, 0.16), (1.0, 0.2)]
    land = [room.on_wall(wall, glass[0] + u * span, glass[2] + v * height) for u, v in [(0.0, 0.0), *ridge, (1.0, 0.0)]]
    canvas.fill(land, hills)
    middle, bar = (start + stop) / 2, frame / 2.4
    crossbar = bottom + 0.62 * (top - bottom)
    for quad in ([middle - bar, middle + bar, bottom, top], [start, stop, crossbar - bar, crossbar + bar]):
        canvas.fill(room.quad(wall, quad), _WHITE)


def _draw_picture(canvas: Canvas, room: _Room, factors: Factors) -> None:
    """A framed abstract above the bed: a hill and a sun in the colours of the room."""
    middle, width = factors["bed"].tolist()[:2]
    accent, blanket = color(factors["accent_color"]), color(factors["blanket_color"])
    half, bottom, top = 0.3 * width, 1.45, min(1.45 + 0.42 * width, room.height - 0.2)
    rect = [middle - half, middle + half, bottom, top]
    shadow = np.add(room.quad(BACK, rect), (0.0, 0.012))
    canvas.soft([shadow], darker(color(factors["wall_color"]), 0.6), 0.5, 0.008)
    canvas.fill(room.quad(BACK, rect), darker(color(factors["wood_color"]), 0.25))
    inner = [middle - half + 0.05, middle + half - 0.05, bottom + 0.05, top - 0.05]
    canvas.gradient(room.quad(BACK, inner), lighter(accent, 0.55), lighter(accent, 0.25), rectangle=True)
    left, right, low, high = inner
    tall = high - low
    ridge = [(left, low + 0.3 * tall), (middle - 0.3 * half, low + 0.52 * tall), (right, low + 0.2 * tall)]
    sun = room.at(middle + 0.35 * half, low + 0.68 * tall, 0)
    canvas.fill(circle() * (0.1 * room.scale(0)) + sun, lighter(blanket, 0.15))
    canvas.fill([room.at(x, y, 0) for x, y in (*ridge, (right, low), (left, low))], darker(blanket, 0.15))


def _draw_tv(canvas: Canvas, room: _Room, factors: Factors) -> None:
    """A low dresser against the back wall and a dark screen above it."""
    left, right = factors["tv_x"].tolist()
    middle, half = (left + right) / 2, min((right - left) / 2, 0.62)
    wood = color(factors["wood_color"])
    _shadow(canvas, room, middle - half, middle + half, 0.0, 0.45)
    _draw_box(canvas, room, (middle - half, middle + half), (0.06, 0.62), (0.0, 0.42), wood)
    for y in (0.25, 0.44):
        canvas.line([room.at(middle - half, y, 0.42), room.at(middle + half, y, 0.42)], darker(wood, 0.35), 0.005)
    screen, low = min(half, 0.58), 0.85
    high = low + 1.2 * screen
    canvas.fill(room.quad(BACK, [middle - screen, middle + screen, low, high]), _BLACK)
    inner = [middle - screen + 0.04, middle + screen - 0.04, low + 0.05, high - 0.04]
    canvas.gradient(room.quad(BACK, inner), (0.22, 0.25, 0.32), (0.09, 0.10, 0.14), rectangle=True)
    foot = [room.at(middle - 0.14, 0.62, 0.15), room.at(middle + 0.14, 0.62, 0.15)]
    canvas.fill([*foot, room.at(middle + 0.04, low, 0), room.at(middle - 0.04, low, 0)], _BLACK)


def _draw_nightstand(canvas: Canvas, room: _Room, factors: Factors) -> None:
    """A bedside chest and, if it is on, the lamp."""
    left, right = factors["nightstand_x"].tolist()
    wood, middle = color(factors["wood_color"]), (left + right) / 2
    _shadow(canvas, room, left, right, 0.0, 0.42)
    _draw_box(canvas, room, (left, right), (0.08, 0.58), (0.04, 0.42), wood)
    canvas.line([room.at(left, 0.34, 0.42), room.at(right, 0.34, 0.42)], darker(wood, 0.35), 0.005)
    if not factors["lamp"]:
        return
    accent, z = color(factors["accent_color"]), 0.22
    canvas.fill(rounded([room.at(x, y, z) for x, y in _around(middle, 0.07, 0.58, 0.82)], 0.4), darker(accent, 0.3))
    canvas.fill([room.at(x, y, z) for x, y in _around(middle, 0.02, 0.75, 0.9)], darker(accent, 0.45))
    rims = [room.at(middle + x, y, z) for x, y in ((-0.21, 0.85), (-0.13, 1.2), (0.13, 1.2), (0.21, 0.85))]
    canvas.gradient(rims, (1.0, 0.88, 0.62), (1.0, 0.97, 0.84))


def _draw_bed(canvas: Canvas, room: _Room, factors: Factors) -> None:
    """Headboard, base, mattress, pillows, blanket with its edge turned back, and throw."""
    middle, width, foot, height = factors["bed"].tolist()
    x0, x1 = middle - width / 2, middle + width / 2
    wood, blanket, accent = (color(factors[f"{name}_color"]) for name in ("wood", "blanket", "accent"))
    sheet = lighter(blanket, 0.86)
    _shadow(canvas, room, x0 - 0.12, x1 + 0.12, 0.0, foot + 0.06)
    _draw_headboard(canvas, room, factors)
    _draw_box(canvas, room, (x0, x1), (0.03, 0.32), (0.1, foot), wood)
    _draw_box(canvas, room, (x0 + 0.02, x1 - 0.02), (0.3, height), (0.1, foot - 0.02), sheet)
    _draw_pillows(canvas, room, factors, sheet)
    fold = 0.1 + float(factors["fold"]) * (foot - 0.1)
    sides, drop, ends = (x0 - 0.04, x1 + 0.04), (0.2, height + 0.05), (fold, foot + 0.03)
    _draw_cover(canvas, room, sides, drop, ends, blanket)
    left, right = room.at(sides[0] - 0.03, 0.2, ends[1]), room.at(sides[1] + 0.03, 0.2, ends[1])
    end = [room.at(sides[0], drop[1], ends[1]), room.at(sides[1], drop[1], ends[1]), right, left]
    canvas.gradient(end, darker(blanket, 0.16), darker(blanket, 0.4))
    turned = [room.at(x, height + 0.07, z) for x, z in _around(middle, width / 2 + 0.05, fold - 0.04, fold + 0.26)]
    canvas.fill(rounded(turned, 0.12), lighter(blanket, 0.5))
    if factors["throw"]:
        _draw_cover(canvas, room, (x0 - 0.06, x1 + 0.06), (0.26, height + 0.07), (foot - 0.8, foot - 0.3), accent)


def _draw_headboard(canvas: Canvas, room: _Room, factors: Factors) -> None:
    middle, width = factors["bed"].tolist()[:2]
    top, roundness = factors["headboard"].tolist()
    wood = color(factors["wood_color"])
    half, z = width / 2 + 0.05, 0.1
    bow = 0.5 * roundness * width / 2
    arch = [(half * math.cos(angle), top - bow + bow * math.sin(angle)) for angle in np.linspace(0, math.pi, 13)]
    outline = np.asarray([room.at(middle + x, y, z) for x, y in ((-half, 0.1), (half, 0.1), *arch)])
    canvas.soft([np.add(outline, (0.0, -0.008))], darker(color(factors["wall_color"]), 0.6), 0.5, 0.012)
    canvas.gradient(outline, lighter(wood, 0.14), darker(wood, 0.18))
    center = np.asarray(room.at(middle, top - 0.35, z))
    canvas.fill((outline - center) * (0.9, 0.78) + center, darker(wood, 0.1))


def _draw_pillows(canvas: Canvas, room: _Room, factors: Factors, sheet: Color) -> None:
    """Two pillows against the headboard, and a cushion in the accent colour before them."""
    middle, width, _, height = factors["bed"].tolist()
    half = width / 4 - 0.05
    shadow = darker(sheet, 0.45)
    for x in (middle - width / 4, middle + width / 4):
        _draw_cushion(canvas, room, x, half, height, 0.42, sheet, shadow)
    _draw_cushion(canvas, room, middle, 0.24, height, 0.3, color(factors["accent_color"]), shadow)


def _draw_cushion(
    canvas: Canvas, room: _Room, x: float, half: float, low: float, tall: float, cloth: Color, shadow: Color
) -> None:
    z = 0.95 - 1.2 * tall
    lower = room.at(x + half, low, z + 0.2), room.at(x - half, low, z + 0.2)
    outline = rounded([room.at(x - half, low + tall, z), room.at(x + half, low + tall, z), *lower], 0.32)
    canvas.soft([np.add(outline, (0.0, 0.01))], shadow, 0.6, 0.008)
    canvas.gradient(outline, lighter(cloth, 0.25), darker(cloth, 0.14))


def _draw_cover(canvas: Canvas, room: _Room, x: _Span, y: _Span, z: _Span, cloth: Color) -> None:
    """Cloth over a bed: its top and, where it is in view, the side that hangs down."""
    for side, out in ((x[0], -0.05), (x[1], 0.05)):
        if (side - room.camera_x) * out < 0:
            hem = [room.at(side + out, y[0], z[1]), room.at(side + out, y[0], z[0])]
            canvas.fill([room.at(side, y[1], z[0]), room.at(side, y[1], z[1]), *hem], darker(cloth, 0.36))
    canvas.gradient(_floor(room, *x, *z, y[1]), lighter(cloth, 0.04), lighter(cloth, 0.24))


def _draw_box(canvas: Canvas, room: _Room, x: _Span, y: _Span, z: _Span, paint: Color) -> None:
    """The faces of a box that the camera sees: the inner side, the front and the top."""
    if not x[0] < room.camera_x < x[1]:
        canvas.fill(_upright(room, x[0] if x[0] > room.camera_x else x[1], y, z), darker(paint, 0.3))
    front = [room.at(x[0], y[1], z[1]), room.at(x[1], y[0], z[1])]
    canvas.gradient(front, darker(paint, 0.06), darker(paint, 0.2), rectangle=True)
    canvas.fill(_floor(room, *x, *z, y[1]), lighter(paint, 0.16))


def _shadow(canvas: Canvas, room: _Room, x0: float, x1: float, z0: float, z1: float) -> None:
    canvas.soft([_floor(room, x0, x1, z0, z1)], (0.08, 0.06, 0.08), 0.55, 0.014)


def _floor(room: _Room, x0: float, x1: float, z0: float, z1: float, y: float = 0.0) -> list[Point]:
    """Image corners of a level rectangle at height y."""
    return [room.at(x0, y, z0), room.at(x1, y, z0), room.at(x1, y, z1), room.at(x0, y, z1)]


def _upright(room: _Room, x: float, y: _Span, z: _Span) -> list[Point]:
    """Image corners of a rectangle parallel to the side walls."""
    return [room.at(x, y[0], z[0]), room.at(x, y[1], z[0]), room.at(x, y[1], z[1]), room.at(x, y[0], z[1])]


def _around(middle: float, half: float, low: float, high: float) -> list[Point]:
    """Corners of a rectangle in metres."""
    return [(middle - half, low), (middle - half, high), (middle + half, high), (middle + half, low)]


def _light(image_size: int, room: _Room, factors: Factors) -> np.ndarray:
    """Return the light that falls on the picture, float32 [image_size, image_size, 1 or 3]: side, windows and lamp."""
    across = (np.arange(image_size, dtype=np.float32)[None, :, None] + 0.5) / image_size - 0.5
    light: np.ndarray = (
        0.97 + 0.12 * float(factors["light"]) * across - 0.12 * (1 - glow(image_size, 0.5, 0.5, 0.5, 0.5))
    )
    warm = np.asarray([1.0, 0.8, 0.5], np.float32)
    cool = np.asarray([0.9, 1.0, 1.0], np.float32)
    for wall, rect in zip(factors["window_wall"].tolist(), factors["window_rect"], strict=True):
        if wall:
            x0, y0, x1, y1 = _box_on_screen(room, wall, rect)
            tint = cool + float(factors["day"]) * (warm - cool)
            light = light + 0.16 * tint * glow(image_size, (x0 + x1) / 2, (y0 + y1) / 2, 0.13, 0.13)
    if factors["lamp"]:
        x, y = room.at(float(factors["nightstand_x"].mean()), 1.05, 0.2)
        light = light + 0.42 * warm * glow(image_size, x, y, 0.11, 0.11)
    return light
