"""Differentiable augmentation: what the discriminator sees of real and of generated images.

Zhao, Liu, Lin, Zhu, Han: "Differentiable Augmentation for Data-Efficient GAN Training" (NeurIPS 2020,
https://arxiv.org/abs/2006.10738). Both players' losses are of augmented images, real and generated alike, and the
generator's gradient passes through the augmentation. A discriminator that has seen a few images many times then knows
them less well, and the generator does not learn to draw augmented images, because the real ones are augmented as well.

The operations and their constants are those of the paper's official script (DiffAugment_pytorch.py of
mit-han-lab/data-efficient-gans), for images in [-1, 1].

`Adaptive` is the probability that follows the discriminator: Karras, Aittala, Hellsten, Laine, Lehtinen, Aila:
"Training Generative Adversarial Networks with Limited Data" (NeurIPS 2020, https://arxiv.org/abs/2006.06676).
"""

from collections.abc import Callable, Sequence
from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Image = jax.Array
Operation = Callable[[Image, jax.Array], Image]

_INTERVAL = 4  # steps between adjustments (Karras et al. 2020, section 3.1)

# Of the image's sides: the longest shift, and the side of the square that is cut out.
_SHIFT, _CUTOUT = 1 / 8, 1 / 2


def augmented(images: jax.Array, keys: jax.Array, operations: Sequence[str], probability: ArrayLike) -> jax.Array:
    """Images as the discriminator is to see them.

    Args:
      images: float32 [batch, height, width, channels] in [-1, 1].
      keys: [batch]; an image's augmentation is a function of its key alone.
      operations: some of OPERATIONS, in the order in which they are applied.
      probability: with which each operation is applied to each image, independently.

    Returns:
      The same shape and dtype. Colours can leave [-1, 1].
    """

    def one(image: Image, key: jax.Array) -> Image:
        for name in operations:
            whether, how = jax.random.split(jax.random.fold_in(key, _NUMBERS[name]))
            changed = OPERATIONS[name](image, how)
            image = jnp.where(jax.random.bernoulli(whether, probability), changed, image)
        return image

    return jax.vmap(one)(images, keys) if operations else images


def color(image: Image, key: jax.Array) -> Image:
    """Brightness, saturation and contrast: `color_by` with -1/2 to 1/2, 0 to 2 and 1/2 to 3/2, uniform."""
    brightness, saturation, contrast = jax.random.uniform(key, (3,))
    return color_by(image, brightness - 0.5, 2.0 * saturation, contrast + 0.5)


def color_by(image: Image, brightness: ArrayLike, saturation: ArrayLike, contrast: ArrayLike) -> Image:
    """Adds `brightness`; then scales the distance of channels to a pixel's mean; then that of pixels to the image's."""
    image = image + brightness
    grey = image.mean(axis=-1, keepdims=True)
    image = (image - grey) * saturation + grey
    mean = image.mean()
    return (image - mean) * contrast + mean


def translation(image: Image, key: jax.Array) -> Image:
    """`translated` by whole pixels of up to 1/8 of each side, uniform."""
    height, width, _ = image.shape
    limits = jnp.array([int(height * _SHIFT + 0.5), int(width * _SHIFT + 0.5)])
    return translated(image, jax.random.randint(key, (2,), -limits, limits + 1))


def translated(image: Image, shift: jax.Array) -> Image:
    """The image moved down and right by int32 `shift` [2] of fewer pixels than its sides. Uncovered pixels are 0."""
    height, width, _ = image.shape
    padded = jnp.pad(image, ((height, height), (width, width), (0, 0)))
    return jax.lax.dynamic_slice(padded, (height - shift[0], width - shift[1], 0), image.shape)


def cutout(image: Image, key: jax.Array) -> Image:
    """`cut_out` of a rectangle of half of each side, whose centre is anywhere in the image."""
    height, width, _ = image.shape
    sides = jnp.array([int(height * _CUTOUT + 0.5), int(width * _CUTOUT + 0.5)])
    centre = jax.random.randint(key, (2,), 0, jnp.array([height, width]) + (1 - sides % 2))
    return cut_out(image, centre - sides // 2, sides)


def cut_out(image: Image, first: jax.Array, sides: jax.Array) -> Image:
    """The image with 0 in the rows and columns first .. first + sides - 1, int32 [2] each, of those that exist."""
    height, width, _ = image.shape
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    inside = (y >= first[0]) & (y < first[0] + sides[0]) & (x >= first[1]) & (x < first[1] + sides[1])
    return jnp.where(inside[..., None], 0.0, image)


OPERATIONS: dict[str, Operation] = {"color": color, "translation": translation, "cutout": cutout}
_NUMBERS = {name: number for number, name in enumerate(OPERATIONS)}  # of an operation's draws among an image's


class Adaptive(flax.struct.PyTreeNode):
    """A probability that rises while the discriminator knows its training images, and falls otherwise.

    The sign is that of D's logit, less the loss's boundary, on augmented training images; its mean is 1 where D is sure
    of all of them and 0 where it guesses (r_t of Karras et al. 2020, equation 1).

    Attributes:
      probability: float32 scalar, 0 to 1.
      signs: float32 scalar, the sum over all images since the last adjustment; a whole number, and so exact.
    """

    probability: jax.Array
    signs: jax.Array

    @classmethod
    def start(cls, probability: float) -> Self:
        return cls(jnp.float32(probability), jnp.float32(0.0))

    def after(self, step: jax.Array, signs: jax.Array, batch_size: int, target: float, ramp_images: int) -> Self:
        """After a step.

        Every fourth step the probability moves by the share that the images of four steps are of `ramp_images`.

        Args:
          step: int32, 0 for the first one.
          signs: their sum over the images of the step, float32.
          batch_size: images of a step, over all devices.
          target: the mean sign that is wanted.
          ramp_images: in which the probability can go from 0 to 1.
        """
        seen, signs = _INTERVAL * batch_size, self.signs + signs
        move = jnp.sign(signs / seen - target) * min(1.0, seen / ramp_images)
        moved = jnp.clip(self.probability + move, 0.0, 1.0)
        due = (step + 1) % _INTERVAL == 0
        return self.replace(probability=jnp.where(due, moved, self.probability), signs=jnp.where(due, 0.0, signs))
