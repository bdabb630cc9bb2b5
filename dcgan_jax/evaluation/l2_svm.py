"""A linear L2-SVM for feature matrices that fill the memory, one class against the rest for all classes at once.

Minimises, for every class k with targets t = +1 (that class) or -1,

    1/2 |w_k|^2 + 1/2 b_k^2 + C sum_i max(0, 1 - t_ik (x_i . w_k + b_k))^2,

which is what scikit-learn's LinearSVC(C) minimises with its defaults (L2 penalty, squared hinge, regularised
intercept) and what the paper calls a regularised linear L2-SVM [section 5.1]. The loss is once differentiable with a
piecewise constant Hessian, so Newton's method with conjugate gradients [Keerthi and DeCoste 2005] takes few steps; each
product with the Hessian is two passes over the features. There is one copy of the features (`to_device`), nothing of
their size is made besides.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dcgan_jax.machine.progress import tqdm

_ROWS = 1024  # copied at once
_TOLERANCE = 1e-5  # gradient, relative to that at zero
_MOST_NEWTON_STEPS = 100
_MOST_PRODUCTS = 100  # conjugate gradient steps in a Newton step
_FORCING = 0.1  # residual of the Newton system, relative to the gradient
_MOST_HALVINGS = 20


class LinearClassifier(NamedTuple):
    """Scores are features @ weights + intercept.

    Attributes:
      weights: float32 [features, classes]; intercept: float32 [classes].
      gradient_left: Euclidean norm of the objective's gradient that is left, relative to that at zero weights: the
        largest over classes. A fit that has converged has 1e-5 or less, or a little more where float32 has no better
        point.
    """

    weights: np.ndarray
    intercept: np.ndarray
    gradient_left: float = 0.0

    def scores(self, features: np.ndarray | jax.Array) -> np.ndarray:
        """float32 [examples, classes] of features [examples, features]."""
        return np.asarray(_scores(jnp.asarray(features), self.weights, self.intercept))

    def predict(self, features: np.ndarray | jax.Array) -> np.ndarray:
        """The class with the largest score of each row of features [examples, features], int64 [examples]."""
        return self.scores(features).argmax(1)


def to_device(matrices: Sequence[np.ndarray], numbers: np.ndarray) -> jax.Array:
    """Rows `numbers` of each matrix float32 [examples, features], one below the other, copied once.

    Matrices may be mapped from files. JAX takes memory that begins at a multiple of 64 bytes as it is, on the CPU;
    NumPy's own begins anywhere.
    """
    shape = (len(matrices) * len(numbers), matrices[0].shape[1])
    size = math.prod(shape) * 4
    memory = np.empty(size + 64, np.uint8)
    begin = -memory.ctypes.data % 64
    rows = memory[begin : begin + size].view(np.float32).reshape(len(matrices), len(numbers), -1)
    for below, matrix in zip(rows, matrices, strict=True):
        for first in range(0, len(numbers), _ROWS):
            below[first : first + _ROWS] = matrix[numbers[first : first + _ROWS]]
    return jnp.asarray(rows.reshape(shape))


def fit(
    features: np.ndarray | jax.Array,
    labels: np.ndarray,
    num_classes: int,
    c: float,
    progress: str = "",
    start: LinearClassifier | None = None,
) -> LinearClassifier:
    """Trains a classifier.

    Args:
      features: float32 [examples, features]; one that is on the device already is not copied.
      labels: integers [examples], 0 to num_classes - 1.
      num_classes: two classes are trained as two problems that mirror each other.
      c: weight of the loss, C above.
      progress: stands beside the progress bar; '' for none.
      start: where to start from, such as the solution for another C; the result is the same.

    Returns:
      The classifier, and how much of the gradient is left: after 100 Newton steps a badly conditioned problem may not
      be solved.
    """
    x = jnp.asarray(features)
    targets = 2.0 * jax.nn.one_hot(labels, num_classes, dtype=x.dtype) - 1.0
    weights = jnp.zeros((x.shape[1] + 1, num_classes), x.dtype)  # the last row is the intercept
    value, slope, active = _objective(x, targets, weights, c)
    first = jnp.linalg.norm(slope, axis=0)
    if start is not None:
        weights = jnp.concatenate([start.weights, start.intercept[None]])
        value, slope, active = _objective(x, targets, weights, c)
    with tqdm(desc=progress, unit="Newton step", disable=None if progress else True) as bar:
        for _ in range(_MOST_NEWTON_STEPS):
            left = _largest_share(slope, first)
            bar.set_postfix(gradient=f"{left:.1e}")
            if left <= _TOLERANCE:
                break
            step = _newton_step(x, active, slope, c)
            moved = _line_search(x, targets, weights, step, value, slope, c)
            if not bool(jnp.any(moved != weights)):
                break  # float32 has no better point along the step
            weights = moved
            value, slope, active = _objective(x, targets, weights, c)
            bar.update()
    return LinearClassifier(np.asarray(weights[:-1]), np.asarray(weights[-1]), _largest_share(slope, first))


def _largest_share(slope: jax.Array, first: jax.Array) -> float:
    """Norm of a gradient [features + 1, classes] relative to the norms `first` [classes], the largest over classes."""
    return float((jnp.linalg.norm(slope, axis=0) / jnp.maximum(first, jnp.finfo(slope.dtype).tiny)).max())


@jax.jit
def _scores(x: jax.Array, weights: jax.Array, intercept: jax.Array) -> jax.Array:
    return x @ weights + intercept[None]


@jax.jit
def _objective(x: jax.Array, targets: jax.Array, weights: jax.Array, c: float) -> tuple[jax.Array, ...]:
    """Value [classes], gradient [features + 1, classes], and 1 for examples inside the margin [examples, classes]."""
    miss = 1.0 - targets * (x @ weights[:-1] + weights[-1:])
    active = (miss > 0).astype(x.dtype)
    value = 0.5 * jnp.square(weights).sum(0) + c * (active * jnp.square(miss)).sum(0)
    pull = -2.0 * c * active * targets * miss
    return value, weights + _transposed(x, pull), active


@jax.jit
def _newton_step(x: jax.Array, active: jax.Array, slope: jax.Array, c: float) -> jax.Array:
    """Approximate solution of Hessian step = -slope, by conjugate gradients for every class side by side."""

    def product(v: jax.Array) -> jax.Array:
        return v + _transposed(x, 2.0 * c * active * (x @ v[:-1] + v[-1:]))

    goal = _FORCING * jnp.linalg.norm(slope, axis=0)

    def unfinished(state: Any) -> jax.Array:
        i, _, residual, _, _ = state
        return (i < _MOST_PRODUCTS) & jnp.any(jnp.linalg.norm(residual, axis=0) > goal)

    def improve(state: Any) -> Any:
        i, step, residual, direction, square = state
        along = product(direction)
        curvature = (direction * along).sum(0)
        done = jnp.sqrt(square) <= goal  # that class waits for the others
        length = jnp.where(done, 0.0, square / jnp.where(curvature > 0, curvature, 1.0))
        step, residual = step + length[None] * direction, residual - length[None] * along
        next_square = jnp.square(residual).sum(0)
        ratio = jnp.where(done, 0.0, next_square / jnp.where(square > 0, square, 1.0))
        direction = jnp.where(done, direction, residual + ratio[None] * direction)
        return i + 1, step, residual, direction, jnp.where(done, square, next_square)

    start = (jnp.int32(0), jnp.zeros_like(slope), -slope, -slope, jnp.square(slope).sum(0))
    return lax.while_loop(unfinished, improve, start)[1]


@jax.jit
def _line_search(
    x: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    step: jax.Array,
    value: jax.Array,
    slope: jax.Array,
    c: float,
) -> jax.Array:
    """weights + length * step, the length of each class halved until the value falls enough [Armijo]."""
    before, change = x @ weights[:-1] + weights[-1:], x @ step[:-1] + step[-1:]
    descent = (slope * step).sum(0)

    def fell(length: jax.Array) -> jax.Array:
        miss = jnp.maximum(0.0, 1.0 - targets * (before + length[None] * change))
        reached = 0.5 * jnp.square(weights + length[None] * step).sum(0) + c * jnp.square(miss).sum(0)
        return reached <= value + 1e-4 * length * descent

    def halve(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        i, length = state
        return i + 1, jnp.where(fell(length), length, length / 2)

    start = (jnp.int32(0), jnp.ones_like(value))
    _, length = lax.while_loop(lambda s: (s[0] < _MOST_HALVINGS) & ~jnp.all(fell(s[1])), halve, start)
    return jnp.where(fell(length), weights + length[None] * step, weights)


def _transposed(x: jax.Array, pull: jax.Array) -> jax.Array:
    """Transpose of the map from weights and intercept to scores: [examples, classes] -> [features + 1, classes].

    The product is formed as pull.T @ x and turned afterwards: x.T @ pull is six times as slow in XLA on a CPU, and what
    the barrier keeps apart would become it.
    """
    product = lax.optimization_barrier(lax.dot_general(pull, x, (((0,), (0,)), ((), ()))))
    return jnp.concatenate([product.T, pull.sum(0, keepdims=True)])
