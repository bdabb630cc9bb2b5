"""How images get to 299x299 and to the range of Inception v3: rules by the names of the programs that have them.

    pytorch-fid     bilinear without antialiasing, pixels at their centres [F.interpolate, align_corners=False]
    torch-fidelity  bilinear without antialiasing, pixels at their upper left corners, as in TensorFlow 1 and so in the
                    code of Heusel et al. 2017
    clean           bicubic with antialiasing by Pillow, each channel as floats, clipped, not rounded [clean-fid, Parmar
                    et al. 2022]
    none            images stay as large as they are, as in jax-fid unless it is given a size

Rules move scores: clean-fid's tables have StyleGAN2 on CIFAR-10 at 12.96 with 'clean', at 11.07 with 'pytorch-fid'.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dcgan_jax.machine.errors import UserError

RULES = ("pytorch-fid", "torch-fidelity", "clean", "none")
SIDE = 299
_SMALLEST = 75  # what is left of a smaller image ends before the last layers


def to_inception(images: np.ndarray, rule: str) -> jax.Array:
    """Images as the network takes them: float32 [batch, 299, 299, 3].

    The range is that of the named program: 2 x / 255 - 1 for 'pytorch-fid' and 'none', from -1 to 1;
    (x - 128) / 128 for 'torch-fidelity' and 'clean', from -1 to 0.992.

    Args:
      images: uint8 [batch, height, width, channels], 3 channels, or 1, which is repeated.
      rule: one of RULES.

    Raises:
      UserError: no such rule, images of another kind, or smaller than 75x75 with 'none'.
    """
    if rule not in RULES:
        raise UserError(f"no resizing rule {rule!r}: there are {', '.join(RULES)}.")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise UserError(
            f"images are {images.dtype} {list(images.shape)}: uint8 [batch, height, width, 1 or 3] are needed, because "
            "scores are those of images as they are saved."
        )
    if rule == "none" and min(images.shape[1:3]) < _SMALLEST:
        raise UserError(
            f"images of {images.shape[1]}x{images.shape[2]} are too small for the network, which needs "
            f"{_SMALLEST}x{_SMALLEST}: take another resizing rule than 'none'."
        )
    if images.shape[3] == 1:
        images = np.repeat(images, 3, 3)
    if rule == "clean":
        return (jnp.asarray(_clean(images)) - 128.0) / 128.0
    return _on_device(jnp.asarray(images), rule)


@functools.partial(jax.jit, static_argnums=1)
def _on_device(images: jax.Array, rule: str) -> jax.Array:
    height, width = images.shape[1:3]
    if rule == "torch-fidelity":
        y, x = (np.arange(SIDE, dtype=np.float32) * np.float32(side / SIDE) for side in (height, width))
        return (_bilinear(images.astype(jnp.float32), y, x) - 128.0) / 128.0
    fractions = images.astype(jnp.float32) / 255.0
    if rule == "pytorch-fid":
        y, x = (
            np.maximum((np.arange(SIDE, dtype=np.float32) + 0.5) * np.float32(side / SIDE) - np.float32(0.5), 0)
            for side in (height, width)
        )
        fractions = _bilinear(fractions, y, x)
    return 2.0 * fractions - 1.0


def _bilinear(images: jax.Array, y: np.ndarray, x: np.ndarray) -> jax.Array:
    """Images [batch, height, width, channels] at rows y and columns x, float32 from 0; beyond the last, the last."""
    for axis, places in ((2, x), (1, y)):
        below = np.minimum(places.astype(np.int32), images.shape[axis] - 1)
        above = np.minimum(below + 1, images.shape[axis] - 1)
        weights = (places - below).reshape(*[1] * axis, -1, *[1] * (3 - axis))
        lower = jnp.take(images, below, axis)
        images = lower + (jnp.take(images, above, axis) - lower) * weights
    return images


def _clean(images: np.ndarray) -> np.ndarray:
    """Bicubic, 0 to 255, float32 [batch, 299, 299, channels]."""
    resized = np.empty((len(images), SIDE, SIDE, images.shape[3]), np.float32)
    for image, target in zip(images, resized, strict=True):
        for channel in range(images.shape[3]):
            plane = Image.fromarray(image[:, :, channel].astype(np.float32))
            target[:, :, channel] = np.asarray(plane.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return resized.clip(0, 255)
