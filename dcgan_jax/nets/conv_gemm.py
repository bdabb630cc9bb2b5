"""Convolutions as matrix products for the CPU: Winograd on space-to-depth blocks, and im2col.

docs/convolutions.md derives all of this, with an example in one dimension. In short:

*Blocks.* A stride-2 convolution with k taps is a stride-1 convolution with r = ceil(k/2) taps on 2x2 blocks of pixels:
writing tap t = 2m + phase, the pixels of a block stand side by side in the feature axis (phase_y, phase_x, feature),
and a missing last tap is a zero. Stride 1 needs no blocks (r = k).

*Winograd / Toom-Cook F(m, r).* m outputs of an r-tap correlation need only n = m + r - 1 multiplications: evaluate the
polynomials of the kernel and of the output tile at n points (0, 1, -1, 2, -2, infinity), multiply point by point, and
interpolate. With the n x r matrix G, n x m matrix A and n x n matrix B^T of that evaluation, a tile of the input x
gives A^T [(G k) * (B^T x)] in one dimension and the same along both axes in two. The products at each of the n^2 points
run over features and tiles at once: a stack of n^2 matrix products with batch * h * w / m^2 rows.

*im2col* copies the k x k neighbourhood of every output into one row: a single matrix product. It serves the
three-feature image ends, where transforms cost more than the product.

The three linear maps of a plan (`large`, `kernel`, `small`) and their transposes are all that `conv.py` needs. Each
writes its result once and reads its input once or from cache: on a CPU these passes over memory, not their arithmetic,
are what a transform costs. `lax.optimization_barrier` marks where a result is to be stored; XLA would otherwise
recompute it inside each of its consumers.

*bfloat16.* Matrices and maps are bfloat16 then, and their products float32. Transforms add in float32 and round each
value once, when it is stored. Kernels come as float32 and so do their gradients.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

# Evaluation points besides infinity, by the number of points n. Small integers keep float32 rounding small:
# errors relative to lax.conv stay below 2e-6 (m = 2) and 1e-5 (m = 4).
_POINTS = {2: (0,), 3: (0, 1), 4: (0, 1, -1), 5: (0, 1, -1, 2), 6: (0, 1, -1, 2, -2)}
# For bfloat16, whose rounding of the transformed values outweighs everything else: two thirds (n = 5) and half (n = 6)
# of the error that the integers give (measured).
_COARSE_POINTS = _POINTS | {5: (0, 1, -1 / 2, -2), 6: (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)}
# With fewer rows than this the matrix products of m = 4 are too thin and m = 2 is faster (measured on the paper's
# network at batch 64: m = 4 for 64 rows makes its step 3 % faster on jax 0.12, 9 % slower on 0.10).
_MIN_ROWS = 64 if jax.__version_info__ >= (0, 11) else 128
# Below this many large features (the image ends) the products are too small to pay for the transforms (measured).
_MIN_FEATURES = 16

_stored = lax.optimization_barrier


def make_plan(
    large_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    stride: int,
    pad: int,
    method: str,
    dtype: DTypeLike = jnp.float32,
) -> "Winograd | Im2col":
    """Chooses the formulation of one layer.

    Args:
      large_shape: (batch, stride*h, stride*w, large_features).
      kernel_shape: (k, k, large_features, small_features).
      stride: 1 or 2.
      pad: zeros before the first row and column.
      method: 'winograd' (falls back on im2col where that is faster) or 'im2col'.
      dtype: of the maps, float32 or bfloat16.

    Raises:
      ValueError: the kernel does not match the map, or the map's sides are no multiples of the stride.
    """
    batch, large_height, large_width, features = large_shape
    size, _, kernel_features, small_features = kernel_shape
    if kernel_features != features:
        raise ValueError(f"kernel {kernel_shape} does not fit a map with {features} features")
    if large_height % stride or large_width % stride:
        raise ValueError(f"sides {large_height} x {large_width} are not multiples of stride {stride}")
    height, width = large_height // stride, large_width // stride
    shape = (jnp.dtype(dtype), batch, height, width, features, small_features, size, stride, pad)
    direct, taps = Im2col(*shape), -(-size // stride)
    if method != "winograd" or features < _MIN_FEATURES or taps == 1:
        return direct
    plans: list[Winograd | Im2col] = [direct]
    for m in (2, 4):
        # taps - 1 <= m: a tile overlaps only with the next one (5x5 and 4x4 kernels at stride 1 do not fit).
        fits = taps - 1 <= m and m + taps - 1 <= max(_POINTS)
        plan = Winograd(*shape, m)
        if fits and (m == 2 or batch * math.prod(plan.tiles) >= _MIN_ROWS):
            plans.append(plan)
    return min(plans, key=lambda plan: plan.multiplications)


@functools.cache
def toom_cook(m: int, r: int, coarse: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrices (A [n, m], B^T [n, n], G [n, r]) of F(m, r), n = m + r - 1; the last point is infinity.

    `coarse` chooses the points for bfloat16.

    For any x [n] and k [r], A^T ((G k) * (B^T x)) are the m outputs sum_t k[t] x[i + t].
    """
    n = m + r - 1
    points = (_COARSE_POINTS if coarse else _POINTS)[n]
    powers = np.array([[float(p) ** i for i in range(n)] for p in points] + [[0.0] * (n - 1) + [1.0]])
    a, g = powers[:, :m].copy(), powers[:, :r].copy()
    a[-1], g[-1] = np.arange(m) == m - 1, np.arange(r) == r - 1
    b_t = np.linalg.inv(powers).T
    for j, p in enumerate(points):  # move the denominators from the data's side to the kernel's
        denominator = np.prod([p - q for q in points if q != p])
        b_t[j] *= denominator
        g[j] /= denominator
    return a, np.round(b_t, 12), g


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Layer:
    """Shapes of one layer.

    Attributes:
      dtype: of the maps and of the matrices that are multiplied; products and sums are float32.
    """

    dtype: np.dtype
    batch: int
    height: int  # of the small map
    width: int
    large_features: int
    small_features: int
    size: int  # k
    stride: int
    pad: int

    @property
    def taps(self) -> int:  # r
        return -(-self.size // self.stride)

    def rounded(self, values: jax.Array) -> jax.Array:
        """Sums in the layer's dtype, stored."""
        return _stored(values.astype(self.dtype))

    def padded(self, large: jax.Array, beyond: tuple[int, int] = (0, 0)) -> jax.Array:
        """Large map -> [batch, stride * (h + r - 1), stride * (w + r - 1), large_features], h and w + `beyond`."""
        y, x = ((self.pad, self.stride * (self.taps - 1 + more) - self.pad) for more in beyond)
        return _stored(jnp.pad(_stored(large), ((0, 0), y, x, (0, 0))))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Im2col(_Layer):
    """Every map becomes a list of one matrix.

    Large [batch * h * w, taps], kernel [taps, small_features], small [batch * h * w, small_features]; taps are
    (row k, column r * stride, large_features). Columns come in blocks of `stride` pixels, which lie side by side in
    memory; the tap that fills up the last block is zero.
    """

    @property
    def multiplications(self) -> int:
        """For each image, large and small feature."""
        return self.height * self.width * self.size * self.taps * self.stride

    @property
    def block_features(self) -> int:
        return self.stride * self.large_features

    def large(self, large: jax.Array) -> list[jax.Array]:
        s, h, w = self.stride, self.height, self.width
        blocks = self.padded(large).reshape(self.batch, -1, w + self.taps - 1, self.block_features)
        # In two steps, because XLA chooses between k + r slices then instead of k * r: up to twice as fast (measured).
        columns = _stored(jnp.stack([blocks[:, :, x : x + w] for x in range(self.taps)], 3))
        rows = _stored(jnp.stack([columns[:, y : y + s * (h - 1) + 1 : s] for y in range(self.size)], 3))
        return [rows.reshape(self.batch * h * w, -1)]

    def large_columns(self, large: jax.Array) -> list[jax.Array]:
        """The transpose of `large`'s matrix, [taps, batch * h * w], without a pass that transposes anything large."""
        s, r, h, w = self.stride, self.taps, self.height, self.width
        pixels = self.padded(large).reshape(self.batch, h + r - 1, s, w + r - 1, s, self.large_features)
        planes = _stored(pixels.transpose(2, 4, 5, 0, 1, 3))  # p q C N y x
        columns = [planes[:, x % s, :, :, :, x // s : x // s + w] for x in range(s * r)]
        columns = _stored(jnp.stack(columns, 1))  # p tap C N y w
        rows = _stored(jnp.stack([columns[y % s, ..., y // s : y // s + h, :] for y in range(self.size)]))
        return [rows.reshape(-1, self.batch * h * w)]  # tap tap C, N h w

    def large_transpose(self, matrices: list[jax.Array]) -> jax.Array:
        s, r, h, w = self.stride, self.taps, self.height, self.width
        patches = matrices[0].reshape(self.batch, h, w, self.size, r, self.block_features)
        columns = sum(_shifted_in(patches[:, :, :, :, x], 2, x, r) for x in range(r))
        missing = s * r - self.size
        rows = jnp.pad(_stored(columns), ((0, 0), (0, 0), (0, 0), (0, missing), (0, 0)))
        rows = rows.transpose(0, 1, 3, 2, 4).reshape(self.batch, h, r, s, -1)
        pixels = jnp.asarray(sum(_shifted_in(rows[:, :, y], 1, y, r) for y in range(r)))
        pixels = self.rounded(pixels).reshape(self.batch, s * (h + r - 1), s * (w + r - 1), self.large_features)
        return pixels[:, self.pad : self.pad + s * h, self.pad : self.pad + s * w]

    def kernel(self, kernel: jax.Array) -> list[jax.Array]:
        missing = self.stride * self.taps - self.size
        taps = jnp.pad(kernel.astype(self.dtype), ((0, 0), (0, missing), (0, 0), (0, 0)))
        return [taps.reshape(-1, self.small_features)]

    def kernel_transpose(self, matrices: list[jax.Array]) -> jax.Array:
        shape = (self.size, self.stride * self.taps, self.large_features, self.small_features)
        return matrices[0].reshape(shape)[:, : self.size]

    def small(self, small: jax.Array) -> list[jax.Array]:
        return [small.reshape(-1, self.small_features)]

    def small_transpose(self, matrices: list[jax.Array]) -> jax.Array:
        small = matrices[0].reshape(self.batch, self.height, self.width, self.small_features)
        return small.astype(self.dtype)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Winograd(_Layer):
    """Every map becomes stacks of matrices, one matrix per pair of evaluation points.

    Large [points, batch * tiles, features], kernel [points, features, small_features], small [points, batch * tiles,
    small_features]; features are (phase_y, phase_x, large_feature).

    An odd kernel at stride 2 has no last tap in phase 1. At the point infinity, which sees only the last tap, phase 1
    of its transform is zero, so it is left out of the product: a stack for each number of phases, see `_stacks`.

    Axes in the code: y and x are evaluation points or taps, i and j positions inside a tile, p and q phases.
    """

    m: int  # outputs per tile and axis

    @property
    def _matrices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return toom_cook(self.m, self.taps, coarse=self.dtype == jnp.bfloat16)

    @property
    def points(self) -> int:  # n
        return self.m + self.taps - 1

    @property
    def tiles(self) -> tuple[int, int]:
        """Along y and x. The last one may reach beyond the map, where all values are zero."""
        return -(-self.height // self.m), -(-self.width // self.m)

    @property
    def beyond(self) -> tuple[int, int]:
        """Rows and columns of the small map that the last tiles reach beyond its end."""
        rows, columns = self.tiles
        return rows * self.m - self.height, columns * self.m - self.width

    @property
    def multiplications(self) -> int:
        """For each image, large and small feature."""
        missing = self.stride * self.taps - self.size
        return math.prod(self.tiles) * (self.points * self.stride - missing) ** 2

    @property
    def _stacks(self) -> list[tuple[slice, slice, int, int]]:
        """Of each stack: its points along y and x, and how many phases along y and x its kernels have."""
        n, s = self.points, self.stride
        missing = self.size % s != 0
        axis = [(slice(0, n - 1), s), (slice(n - 1, n), 1)] if missing else [(slice(0, n), s)]
        return [(y, x, p, q) for y, p in axis for x, q in axis]

    def large(self, large: jax.Array) -> list[jax.Array]:
        _, b_t, _ = self._matrices
        m, n, s, (rows, columns) = self.m, self.points, self.stride, self.tiles
        blocks = m * columns + self.taps - 1
        pixels = self.padded(large, self.beyond)
        pixels = pixels.reshape(self.batch, m * rows + self.taps - 1, s, -1)  # N block p (column and feature)
        # Tile t covers blocks m*t .. m*t + n - 1, so the i-th block of all tiles is a slice with step m.
        by_row = self.rounded(_combine(b_t, [pixels[:, i : i + m * (rows - 1) + 1 : m] for i in range(n)], axis=2))
        by_row = by_row.reshape(self.batch, rows, n, s, blocks, s, self.large_features)
        by_row = by_row.transpose(2, 0, 1, 4, 3, 5, 6)  # y N t block p q C
        stacks = []
        for y, x, p, q in self._stacks:
            part = by_row[y, :, :, :, :p, :q]
            terms = [part[:, :, :, j : j + m * (columns - 1) + 1 : m] for j in range(n)]
            matrices = self.rounded(_combine(b_t[x], terms, axis=1))  # y x N t t p q C
            stacks.append(matrices.reshape(-1, self.batch * rows * columns, p * q * self.large_features))
        return stacks

    def large_transpose(self, matrices: list[jax.Array]) -> jax.Array:
        s, (rows, columns) = self.stride, self.tiles
        maps = []
        for (y, _, p, q), stack in zip(self._stacks, matrices, strict=True):
            shape = (len(range(self.points)[y]), -1, self.batch, rows, columns, p, q, self.large_features)
            maps.append(stack.reshape(shape).transpose(0, 2, 3, 5, 1, 4, 6, 7))  # y N t p x t q C
        # Rows, for all columns of one stack of points x ...
        by_row = [
            self._overlap_add([terms for part in parts for terms in part], tile=1, phase=2)
            for parts in self._by_x(maps)
        ]  # N t m s x t q C
        # ... then columns.
        terms = [part[:, :, :, :, x] for part in by_row for x in range(part.shape[4])]
        pixels = self._overlap_add(terms, tile=4, phase=5)
        pixels = pixels.reshape(self.batch, s * self.m * rows, s * self.m * columns, self.large_features)
        return pixels[:, : s * self.height, : s * self.width]

    def kernel(self, kernel: jax.Array) -> list[jax.Array]:
        by_row = self.rounded(self._evaluate_taps(_stored(kernel), axis=0, at=0))  # y p tap C S
        stacks = []
        for y, x, p, q in self._stacks:
            matrices = self._evaluate_taps(by_row[y, :p], axis=2, at=1, points=x)[:, :, :, :q]
            matrices = self.rounded(matrices)  # y x p q C S
            stacks.append(matrices.reshape(-1, p * q * self.large_features, self.small_features))
        return stacks

    def _evaluate_taps(self, kernel: jax.Array, axis: int, at: int, points: slice = slice(None)) -> jax.Array:
        """The polynomials of each phase: phases replace the k taps at `axis`, points are a new axis `at` <= `axis`."""
        _, _, g = self._matrices
        terms = []
        for i in range(self.taps):
            taps = lax.slice_in_dim(kernel, self.stride * i, min(self.stride * (i + 1), self.size), axis=axis)
            exists = np.arange(self.stride) < taps.shape[axis]  # a missing tap is left out
            weights = (g[points, i, None] * exists).reshape(-1, *[1] * (axis - at), self.stride)
            terms.append(_scaled(taps, weights, at))
        return functools.reduce(jnp.add, terms)

    def kernel_transpose(self, matrices: list[jax.Array]) -> jax.Array:
        sides = (self.stride * self.taps, self.stride * self.taps)
        maps = [
            stack.reshape(len(range(self.points)[y]), -1, p, q, self.large_features, self.small_features)
            for (y, _, p, q), stack in zip(self._stacks, matrices, strict=True)
        ]  # y x p q C S
        # Taps stand inside C, so that one sweep over the products serves all of them.
        by_row = [
            _stored(self._sum_points([terms for part in parts for terms in part], phase=1, at=4))
            for parts in self._by_x(maps)
        ]  # x p q C tap S
        terms = [jnp.moveaxis(part[x], 3, 0) for part in by_row for x in range(len(part))]  # tap p q C S
        taps = self._sum_points(terms, phase=2, at=2)  # tap p tap q C S
        return taps.reshape(*sides, self.large_features, self.small_features)[: self.size, : self.size]

    def _sum_points(self, terms: list[jax.Array], phase: int, at: int) -> jax.Array:
        """Transpose of `_evaluate_taps`: of a term per point, with phases along `phase`, to taps on a new axis `at`."""
        _, _, g = self._matrices
        products = []
        for row, term in zip(g, terms, strict=True):
            exists = np.arange(self.stride) < term.shape[phase]  # a missing phase is left out
            exists = exists.astype(term.dtype).reshape(*[1] * phase, -1, *[1] * (term.ndim - phase - 1))
            products.append(_scaled(term * exists, row, at))
        return functools.reduce(jnp.add, products)

    def small(self, small: jax.Array) -> list[jax.Array]:
        a_, _, _ = self._matrices
        m, (rows, columns) = self.m, self.tiles
        more_rows, more_columns = self.beyond
        pixels = jnp.pad(_stored(small), ((0, 0), (0, more_rows), (0, more_columns), (0, 0)))
        pixels = _stored(pixels).reshape(self.batch, rows, m, columns, m, self.small_features)
        by_row = self.rounded(_combine(a_, [pixels[:, :, i] for i in range(m)], axis=2))  # N t y t j S
        by_row = by_row.transpose(2, 0, 1, 3, 4, 5)
        stacks = []
        for y, x, _, _ in self._stacks:
            matrices = _combine(a_[x], [by_row[y, :, :, :, j] for j in range(m)], axis=1)  # y x N t t S
            stacks.append(self.rounded(matrices).reshape(-1, self.batch * rows * columns, self.small_features))
        return stacks

    def small_transpose(self, matrices: list[jax.Array]) -> jax.Array:
        a_, _, _ = self._matrices
        rows, columns = self.tiles
        maps = [
            stack.reshape(len(range(self.points)[y]), -1, self.batch, rows, columns, self.small_features)
            for (y, *_), stack in zip(self._stacks, matrices, strict=True)
        ]
        maps = [part.transpose(0, 2, 3, 1, 4, 5) for part in maps]  # y N t x t S
        by_row = [
            self.rounded(_combine(a_.T, [terms for part in parts for terms in part], axis=2))
            for parts in self._by_x(maps)
        ]  # N t i x t S
        terms = [part[:, :, :, x] for part in by_row for x in range(part.shape[3])]
        pixels = self.rounded(_combine(a_.T, terms, axis=4))  # N t i t j S
        pixels = pixels.reshape(self.batch, self.m * rows, self.m * columns, self.small_features)
        return pixels[:, : self.height, : self.width]

    def _by_x(self, maps: list[jax.Array]) -> list[list[jax.Array]]:
        """Regroups the maps of `_stacks` (y major, x minor): for each part of x, the maps of all y in order."""
        parts = round(len(maps) ** 0.5)
        return [maps[i::parts] for i in range(parts)]

    def _overlap_add(self, terms: list[jax.Array], tile: int, phase: int) -> jax.Array:
        """Transpose of padding, cutting n-long tiles of blocks with step m, and combining them with B^T.

        Args:
          terms: a map per evaluation point, with tiles along axis `tile` and phases along axis `phase` behind it; where
            phase 1 is missing it is zero.

        Returns:
          The maps with axis `phase` replaced by (m, stride): the pixels of a tile.
        """
        _, b_t, _ = self._matrices
        m, s = self.m, self.stride
        if self.pad % s:  # the first pixel of the unpadded map is the second one of a block
            terms = [jnp.flip(term, phase) for term in terms]
        # Pixel (v, w) of tile t is phase (w + pad) % s of block i = v + (w + pad) // s of the padded map, which is
        # block i - m * shift of tile t + shift.
        block = np.arange(m)[:, None] + (np.arange(s) + self.pad) // s
        phases = (np.arange(s) + self.pad) % s
        products = []
        for shift in (0, -1, 1):
            i = block - m * shift
            inside = (i >= 0) & (i < self.points)
            weights = np.where(inside, b_t[:, np.clip(i, 0, self.points - 1)], 0.0)  # point v w
            for weight, term in zip(weights, terms, strict=True):
                weight = weight * (phases < term.shape[phase])
                if weight.any():
                    neighbour = term if shift == 0 else _shifted(term, tile, shift)
                    products.append(_scaled(neighbour, weight, phase))
        return self.rounded(functools.reduce(jnp.add, products))


def _combine(weights: np.ndarray, terms: Sequence[jax.Array], axis: int) -> jax.Array:
    """sum_i weights[:, i] * terms[i] in float32, with a new axis for the rows of `weights`."""
    products = [_scaled(term, column, axis) for column, term in zip(weights.T, terms, strict=True) if column.any()]
    return functools.reduce(jnp.add, products)


def _scaled(term: jax.Array, weights: np.ndarray, axis: int) -> jax.Array:
    """`term` with a new axis at `axis`, times weights whose axes begin there, in float32."""
    dtype = jnp.float32 if term.dtype == jnp.bfloat16 else term.dtype
    trailing = term.ndim + 1 - axis - weights.ndim
    factors = jnp.asarray(weights.reshape(*[1] * axis, *weights.shape, *[1] * trailing), dtype)
    return jnp.expand_dims(term.astype(dtype), axis) * factors


def _shifted(array: jax.Array, axis: int, shift: int) -> jax.Array:
    """Element t of the result is element t + shift of `array`, or zero where there is none; shift is 1 or -1."""
    config = [(0, 0, 0)] * array.ndim
    config[axis] = (-1, 1, 0) if shift == 1 else (1, -1, 0)
    return lax.pad(array, jnp.zeros((), array.dtype), config)


def _shifted_in(array: jax.Array, axis: int, before: int, taps: int) -> jax.Array:
    """`array` with `before` zeros in front along `axis` and taps - 1 in all."""
    config = [(0, 0)] * array.ndim
    config[axis] = (before, taps - 1 - before)
    return jnp.pad(array, config)
