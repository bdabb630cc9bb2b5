"""Shapes that follow from a config; without JAX, which the processes that decode images do not import."""

from ml_collections import ConfigDict


def image_shape(data: ConfigDict) -> tuple[int, int, int]:
    """(height, width, channels) of the images of `config.data`, whose image_width 0 is as much as the height."""
    return data.image_size, data.image_width or data.image_size, data.channels
