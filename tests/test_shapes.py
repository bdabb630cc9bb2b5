"""Shapes of images, of which configs of before know the height alone."""

from dcgan_jax.nets.shapes import image_shape
from tests import tiny


def test_width_0_is_as_much_as_the_height() -> None:
    assert image_shape(tiny.config({"data.channels": 1}).data) == (8, 8, 1)
    assert image_shape(tiny.config({"data.image_width": 12}).data) == (8, 12, 3)
