"""The toy sets are pure functions whose factors say what is in the picture."""

import itertools
from types import ModuleType

import numpy as np
import pytest

from dcgan_jax.datasets import toy_bedrooms, toy_draw, toy_faces
from dcgan_jax.machine.errors import UserError

both = pytest.mark.parametrize("toy", [toy_bedrooms, toy_faces], ids=["bedrooms", "faces"])
COINS = {toy_bedrooms: ("lamp", "tv", "curtains", "rug", "throw"), toy_faces: ("man", "smiling", "glasses")}


def edited(factors: dict[str, np.ndarray], **values: object) -> dict[str, np.ndarray]:
    """The factors with some of them replaced; a number stands for all entries of an array."""
    return factors | {
        name: np.broadcast_to(np.asarray(value, factors[name].dtype), factors[name].shape)
        for name, value in values.items()
    }


def changed(toy: ModuleType, factors: dict[str, np.ndarray], size: int, **values: object) -> np.ndarray:
    """Largest change of a channel when some factors are replaced, int [size, size]."""
    before, after = toy.draw(factors, size).astype(int), toy.draw(edited(factors, **values), size).astype(int)
    return np.abs(after - before).max(axis=-1)


def centroid_x(weights: np.ndarray) -> float:
    """Mean x of a map of weights [size, size], as a fraction of its side."""
    centers = (np.arange(weights.shape[1]) + 0.5) / weights.shape[1]
    return float(weights.sum(axis=0) @ centers / weights.sum())


@both
def test_picture_is_a_pure_function_of_seed_and_index(toy: ModuleType) -> None:
    image, factors = toy.render(3, 5, 64)
    toy.render(3, 6, 64)
    again, factors_again = toy.render(3, 5, 64)
    assert image.dtype == np.uint8 and image.shape == (64, 64, 3)
    np.testing.assert_array_equal(image, again)
    for name in factors:
        np.testing.assert_array_equal(factors[name], factors_again[name])
    for seed, index in ((3, 6), (4, 5), (5, 3)):
        assert np.abs(toy.render(seed, index, 64)[0].astype(int) - image).mean() > 3


@both
def test_factors_have_the_announced_types(toy: ModuleType) -> None:
    factors = toy.sample_factors(0, 0)
    assert {name: (str(value.dtype), value.shape) for name, value in factors.items()} == toy.FACTORS


@both
def test_image_size_changes_the_resolution_only(toy: ModuleType) -> None:
    for index in range(6):
        (small, factors), (large, factors_large) = (toy.render(0, index, size) for size in (64, 128))
        for name in factors:
            np.testing.assert_array_equal(factors[name], factors_large[name])
        reduced = large.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        assert np.abs(reduced - small).mean() < 4


@both
def test_drawing_leaves_its_factors_alone(toy: ModuleType) -> None:
    factors = toy.sample_factors(0, 1)
    before = {name: value.copy() for name, value in factors.items()}
    toy.draw(factors, 32)
    assert factors.keys() == before.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(factors[name], value)


@both
def test_every_coin_shows(toy: ModuleType) -> None:
    for index, coin in itertools.product(range(10), COINS[toy]):
        factors = toy.sample_factors(1, index)
        if coin == "curtains" and not factors["num_windows"]:
            continue
        assert (changed(toy, factors, 64, **{coin: 1 - factors[coin]}) > 20).mean() > 0.004, (index, coin)


@both
def test_coins_are_fair_and_independent(toy: ModuleType) -> None:
    draws = [toy.sample_factors(2, index) for index in range(600)]
    coins = np.asarray([[factors[coin] for coin in COINS[toy]] for factors in draws])
    assert set(np.unique(coins)) == {0, 1}
    # Four standard errors of a share and of a correlation of 600 fair coins: 0.082 and 0.163.
    assert np.abs(coins.mean(axis=0) - 0.5).max() < 0.082
    others = {
        toy_bedrooms: ("num_windows", "bed_x", "light", "day", "wall_color", "blanket_color"),
        toy_faces: ("yaw", "smile", "tilt", "scale", "light", "skin", "hair", "background"),
    }[toy]
    columns = np.concatenate([coins, *(np.stack([f[name] for f in draws]).reshape(600, -1) for name in others)], axis=1)
    correlation = np.corrcoef(columns, rowvar=False)[: coins.shape[1]]
    assert np.abs(correlation - np.eye(*correlation.shape)).max() < 0.163


def test_none_one_and_two_windows_are_equally_common() -> None:
    draws = [toy_bedrooms.sample_factors(2, index) for index in range(600)]
    numbers = np.asarray([factors["num_windows"] for factors in draws])
    assert np.abs(np.bincount(numbers) / 600 - 1 / 3).max() < 0.077  # four standard errors
    boxes = np.asarray([factors["windows"] for factors in draws])
    present = np.arange(2) < numbers[:, None]
    np.testing.assert_array_equal(boxes.any(axis=2), present)
    np.testing.assert_array_equal(np.asarray([factors["window_wall"] for factors in draws]) > 0, present)
    assert (boxes >= 0).all() and (boxes <= 1).all()
    sides = boxes[present][:, 2:] - boxes[present][:, :2]
    assert (sides > 0.05).all()  # more than three pixels of 64


def test_window_boxes_enclose_the_bright_pixels() -> None:
    """In a dark room, what a window adds to the picture is bright and fills its box to the pixel."""
    size, seen = 128, 0
    for index in range(30):
        factors = toy_bedrooms.sample_factors(5, index)
        factors = edited(factors, wall_color=0.15, floor_color=0, rug=0, curtains=0)
        image = toy_bedrooms.draw(factors, size)
        for i in range(int(factors["num_windows"])):
            walls = factors["window_wall"].copy()
            walls[i] = 0
            without = toy_bedrooms.draw(edited(factors, window_wall=walls), size)
            added = (image.min(axis=-1) > 110) & (image.astype(int) - without > 50).all(axis=-1)
            rows, columns = np.flatnonzero(added.any(axis=1)), np.flatnonzero(added.any(axis=0))
            found = np.asarray([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / size
            np.testing.assert_allclose(found, factors["windows"][i], atol=1.5 / size)
            x0, y0, x1, y1 = np.rint(factors["windows"][i] * size).astype(int)
            # A side window is a trapezium in its box.
            assert added[y0:y1, x0:x1].mean() > (0.9 if factors["window_wall"][i] == toy_bedrooms.BACK else 0.6)
            seen += 1
    assert seen > 20


def test_bed_x_is_where_the_bed_stands() -> None:
    for index in range(20):
        factors = toy_bedrooms.sample_factors(6, index)
        blanket = changed(toy_bedrooms, factors, 128, blanket_color=1 - factors["blanket_color"]) > 15
        blanket[:64] = False  # the picture on the wall has the blanket's colour too
        last = np.flatnonzero(blanket.sum(axis=1) > 10)[-1]
        assert centroid_x(blanket[last - 1 : last + 1]) == pytest.approx(float(factors["bed_x"]), abs=0.025)


@pytest.mark.parametrize(("coin", "top", "bottom"), [("glasses", -0.45, 0.5), ("smiling", 0.4, 1.15)])
def test_glasses_and_smile_change_only_their_part_of_the_face(coin: str, top: float, bottom: float) -> None:
    size = 64
    for index in range(30):
        factors = edited(toy_faces.sample_factors(7, index), tilt=0)
        rows, columns = np.nonzero(changed(toy_faces, factors, size, **{coin: 1 - factors[coin]}))
        (x, y), scale = factors["center"], float(factors["scale"])
        assert rows.min() >= np.floor((y + top * scale) * size) and rows.max() <= np.ceil((y + bottom * scale) * size)
        assert columns.min() >= np.floor((x - 1.15 * scale) * size)
        assert columns.max() <= np.ceil((x + 1.15 * scale) * size)


@pytest.mark.parametrize("coin", ["glasses", "smiling"])
def test_yaw_moves_the_features_to_its_side(coin: str) -> None:
    for index in range(12):
        factors = toy_faces.sample_factors(8, index)
        middle, scale = float(factors["center"][0]), float(factors["scale"])
        places = []
        for yaw in (-1, -0.5, 0, 0.5, 1):
            turned = edited(factors, yaw=yaw, tilt=0)
            places.append((centroid_x(changed(toy_faces, turned, 64, **{coin: 1 - factors[coin]})) - middle) / scale)
        assert (np.diff(places) > 0.1).all()
        assert places[0] < -0.25 and abs(places[2]) < 0.1 and places[4] > 0.25


def test_straight_faces_are_nearly_symmetric() -> None:
    factors = edited(toy_faces.sample_factors(9, 0), yaw=0, tilt=0, light=0, parting=0, center=[0.5, 0.47])
    image = toy_faces.draw(factors, 64).astype(int)
    assert np.abs(image - image[:, ::-1]).mean() < 3


def test_too_small_pictures_are_refused() -> None:
    with pytest.raises(UserError, match="image size 4 is too small"):
        toy_faces.render(0, 0, 4)


def test_oklch_gives_the_colours_of_its_definition() -> None:
    assert toy_draw.oklch(1, 0, 0) == pytest.approx((1, 1, 1), abs=1e-3)
    # sRGB red is oklch(62.796% 0.25768 29.234deg) in CSS Color 4, blue oklch(45.201% 0.31321 264.052deg).
    assert toy_draw.oklch(0.62796, 0.25768, 29.234 / 360) == pytest.approx((1, 0, 0), abs=2e-3)
    assert toy_draw.oklch(0.45201, 0.31321, 264.052 / 360) == pytest.approx((0, 0, 1), abs=2e-3)


def test_curves_pass_through_their_points() -> None:
    points = np.asarray([(0, 0), (2, 1), (3, 3), (-1, 2)])
    np.testing.assert_allclose(toy_draw.smooth(points, steps=5)[::5], points)
    np.testing.assert_allclose(toy_draw.smooth(points, closed=False, steps=5)[::5], points)
    # Equally spaced points of a straight line stay on it.
    line = np.asarray([(0, 0), (1, 2), (2, 4)])
    np.testing.assert_allclose(toy_draw.smooth(line, closed=False, steps=2), [(x / 2, x) for x in range(5)])


def test_shapes_cover_their_area() -> None:
    canvas = toy_draw.Canvas(16)
    canvas.fill([(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)], (1, 1, 1))
    image = canvas.finish(np.ones((16, 16, 1), np.float32))
    assert image[5:11, 5:11].min() == 255 and image[:3].max() == 0
    assert image.mean() / 255 == pytest.approx(0.25, abs=0.02)


def test_gradients_run_from_the_first_colour_to_the_last() -> None:
    canvas = toy_draw.Canvas(64)
    canvas.gradient([(-1, 0), (1, 1)], (0, 0, 0), (1, 0.5, 0), horizontal=True, rectangle=True)
    row = canvas.finish(np.ones((64, 64, 1), np.float32))[10]
    # The left half is outside of the picture.
    np.testing.assert_allclose(row[:, 0], 255 * np.linspace(0.5, 1, 129)[1::2], atol=2)
    np.testing.assert_allclose(row[:, 1], row[:, 0] / 2, atol=2)
