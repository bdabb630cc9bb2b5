"""Convolutions as matrix products for the CPU: Winograd on space-to-depth blocks, and im2col.

*Blocks.* A stride-2 convolution with k taps is a stride-1 convolution with r = ceil(k/2) taps on 2x2 blocks of pixels:
writing tap t = 2m + phase, the pixels of a block stand side by side in the channel axis (phase_y, phase_x, feature),
and a missing last tap is a zero. Stride 1 needs no blocks (r = k).

*Winograd / Toom-Cook F(m, r).* m outputs of an r-tap correlation need only n = m + r - 1 multiplications: evaluate the
polynomials of the kernel and of the output tile at n points (0, 1, -1, 2, -2, infinity), multiply point by point, and
interpolate. With the n x r matrix G, n x m matrix A and n x n matrix B^T of that evaluation, a tile of the input x
gives A^T [(G k) * (B^T x)] in one dimension and the same along both axes in two. The products at each of the n^2 points
run over features and tiles at once: n^2 matrix products with batch * h * w / m^2 rows.

*im2col* copies the r x r neighbourhood of blocks into one row each: a single matrix product. It serves the
three-feature image ends, where transforms cost more than the product.

The three linear maps of a plan (`large`, `kernel`, `small`) and their transposes are all that `conv.py` needs.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Evaluation points besides infinity, by the number of points n. Small integers keep float32 rounding small:
# errors relative to lax.conv stay below 2e-6 (m = 2) and 1e-5 (m = 4).
_POINTS = {2: (0,), 3: (0, 1), 4: (0, 1, -1), 5: (0, 1, -1, 2), 6: (0, 1, -1, 2, -2)}
# With fewer rows than this the matrix products of m = 4 are too thin and m = 2 is faster (measured).
_MIN_ROWS = 128
# Below this many large features (the image ends) the products are too small to pay for the transforms (measured).
_MIN_FEATURES = 16


def make_plan(
    large_shape: tuple[int, ...], kernel_shape: tuple[int, ...], stride: int, pad: int, method: str
) -> "Winograd | Im2col":
    """Chooses the formulation of one layer.

    Args:
      large_shape: (batch, stride*h, stride*w, large_features).
      kernel_shape: (k, k, large_features, small_features).
      stride: 1 or 2.
      pad: zeros before the first row and column.
      method: 'winograd' (falls back on im2col where that is faster) or 'im2col'.

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
    shape = (batch, height, width, features, small_features, size, stride, pad)
    taps = -(-size // stride)
    for m in (4, 2):
        # taps - 1 <= m: a tile overlaps only with the next one (5x5 and 4x4 kernels at stride 1 do not fit).
        fits = height % m == 0 and width % m == 0 and taps - 1 <= m and m + taps - 1 <= max(_POINTS)
        enough_rows = m == 2 or batch * height * width // m**2 >= _MIN_ROWS
        if method == "winograd" and features >= _MIN_FEATURES and taps > 1 and fits and enough_rows:
            return Winograd(*shape, m)
    return Im2col(*shape)


@functools.cache
def toom_cook(m: int, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrices (A [n, m], B^T [n, n], G [n, r]) of F(m, r), n = m + r - 1; the last point is infinity.

    For any x [n] and k [r], A^T ((G k) * (B^T x)) are the m outputs sum_t k[t] x[i + t].
    """
    n = m + r - 1
    points = _POINTS[n]
    powers = np.array([[float(p) ** i for i in range(n)] for p in points] + [[0.0] * (n - 1) + [1.0]])
    a, g = powers[:, :m].copy(), powers[:, :r].copy()
    a[-1], g[-1] = np.arange(m) == m - 1, np.arange(r) == r - 1
    b_t = np.linalg.inv(powers).T
    for j, p in enumerate(points):  # move the denominators from the data's side to the kernel's
        denominator = np.prod([p - q for q in points if q != p])
        b_t[j] *= denominator
        g[j] /= denominator
    return a, np.round(b_t, 9), g


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Layer:
    """Shapes of one layer, and what both formulations share: pixels to blocks, kernel to blocks."""

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

    @property
    def block_features(self) -> int:
        return self.stride**2 * self.large_features

    def blocks(self, large: jax.Array) -> jax.Array:
        """Large map -> zero-padded blocks [batch, h + r - 1, w + r - 1, block_features]."""
        s, rows, columns = self.stride, self.height + self.taps - 1, self.width + self.taps - 1
        after = s * (self.taps - 1) - self.pad
        # The barriers keep XLA from recomputing the producer of a map inside each of its many consumers.
        padded = jnp.pad(lax.optimization_barrier(large), ((0, 0), (self.pad, after), (self.pad, after), (0, 0)))
        if s > 1:
            padded = padded.reshape(self.batch, rows, s, columns, s * self.large_features)
            padded = padded.transpose(0, 1, 3, 2, 4).reshape(self.batch, rows, columns, self.block_features)
        return lax.optimization_barrier(padded)

    def blocks_transpose(self, blocks: jax.Array) -> jax.Array:
        s, (_, rows, columns, _) = self.stride, blocks.shape
        if s > 1:
            blocks = blocks.reshape(self.batch, rows, columns, s, s * self.large_features).transpose(0, 1, 3, 2, 4)
            blocks = blocks.reshape(self.batch, s * rows, s * columns, self.large_features)
        return blocks[:, self.pad : self.pad + s * self.height, self.pad : self.pad + s * self.width]

    def kernel_blocks(self, kernel: jax.Array) -> jax.Array:
        """Kernel -> [r, r, block_features, small_features]; the tap that does not exist is zero."""
        r, s = self.taps, self.stride
        missing = s * r - self.size
        kernel = jnp.pad(kernel, ((0, missing), (0, missing), (0, 0), (0, 0)))
        kernel = kernel.reshape(r, s, r, s, self.large_features, self.small_features)
        return kernel.transpose(0, 2, 1, 3, 4, 5).reshape(r, r, self.block_features, self.small_features)

    def kernel_blocks_transpose(self, blocks: jax.Array) -> jax.Array:
        r, s = self.taps, self.stride
        blocks = blocks.reshape(r, r, s, s, self.large_features, self.small_features).transpose(0, 2, 1, 3, 4, 5)
        kernel = blocks.reshape(s * r, s * r, self.large_features, self.small_features)
        return kernel[: self.size, : self.size]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Im2col(_Layer):
    """Every map becomes a list of one matrix.

    Large [batch * h * w, r * r * block_features], kernel [r * r * block_features, small_features], small
    [batch * h * w, small_features].
    """

    def large(self, large: jax.Array) -> list[jax.Array]:
        blocks, r = self.blocks(large), self.taps
        patches = [blocks[:, i : i + self.height, j : j + self.width] for i in range(r) for j in range(r)]
        return [jnp.concatenate(patches, -1).reshape(-1, r * r * self.block_features)]

    def large_transpose(self, matrices: list[jax.Array]) -> jax.Array:
        r = self.taps
        patches = lax.optimization_barrier(matrices[0])
        patches = patches.reshape(self.batch, self.height, self.width, r * r, self.block_features)
        shifted = [
            jnp.pad(patches[:, :, :, i * r + j], ((0, 0), (i, r - 1 - i), (j, r - 1 - j), (0, 0)))
            for i in range(r)
            for j in range(r)
        ]
        return self.blocks_transpose(functools.reduce(jnp.add, shifted))

    def kernel(self, kernel: jax.Array) -> list[jax.Array]:
        return [self.kernel_blocks(kernel).reshape(-1, self.small_features)]

    def kernel_transpose(self, matrices: list[jax.Array]) -> jax.Array:
        return self.kernel_blocks_transpose(matrices[0])

    def small(self, small: jax.Array) -> list[jax.Array]:
        return [small.reshape(-1, self.small_features)]

    def small_transpose(self, matrices: list[jax.Array]) -> jax.Array:
        return matrices[0].reshape(self.batch, self.height, self.width, self.small_features)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Winograd(_Layer):
    """Every map becomes n^2 matrices, one per pair of evaluation points (row point major).

    Large [batch * tiles, features], kernel [features, small_features], small [batch * tiles, small_features], where
    features is block_features, or fewer at the points where a phase is missing.
    """

    m: int  # outputs per tile and axis

    @property
    def points(self) -> int:  # n
        return self.m + self.taps - 1

    @property
    def tiles(self) -> tuple[int, int]:
        return self.height // self.m, self.width // self.m

    def large(self, large: jax.Array) -> list[jax.Array]:
        _, b_t, _ = toom_cook(self.m, self.taps)
        m, n, (rows, columns) = self.m, self.points, self.tiles
        blocks = self.blocks(large)
        # Tile t covers blocks m*t .. m*t + n - 1, so the i-th block of all tiles is a slice with step m.
        by_row = [blocks[:, i : i + m * (rows - 1) + 1 : m] for i in range(n)]
        by_row = lax.optimization_barrier([_combine(b_t[a], by_row) for a in range(n)])
        matrices = []
        for a in range(n):
            by_column = [by_row[a][:, :, j : j + m * (columns - 1) + 1 : m] for j in range(n)]
            for b in range(n):
                matrix = _combine(b_t[b], by_column).reshape(-1, self.block_features)
                matrices.append(self._drop_missing(matrix, a, b, axis=1))
        return matrices

    def large_transpose(self, matrices: list[jax.Array]) -> jax.Array:
        n, (rows, columns) = self.points, self.tiles
        full = [
            self._restore_missing(matrices[a * n + b], a, b, axis=1).reshape(self.batch, rows, columns, -1)
            for a in range(n)
            for b in range(n)
        ]
        by_row = [self._overlap_add(full[a * n : (a + 1) * n], axis=2) for a in range(n)]
        blocks = self._overlap_add(lax.optimization_barrier(by_row), axis=1)
        return self.blocks_transpose(lax.optimization_barrier(blocks))

    def kernel(self, kernel: jax.Array) -> list[jax.Array]:
        _, _, g = toom_cook(self.m, self.taps)
        n, r = self.points, self.taps
        blocks = lax.optimization_barrier(self.kernel_blocks(kernel))
        by_row = [_combine(g[a], [blocks[i] for i in range(r)]) for a in range(n)]
        return [
            self._drop_missing(_combine(g[b], [by_row[a][j] for j in range(r)]), a, b, axis=0)
            for a in range(n)
            for b in range(n)
        ]

    def kernel_transpose(self, matrices: list[jax.Array]) -> jax.Array:
        _, _, g = toom_cook(self.m, self.taps)
        n, r = self.points, self.taps
        full = [self._restore_missing(matrices[a * n + b], a, b, axis=0) for a in range(n) for b in range(n)]
        by_row = [[_combine(g[:, i], full[b::n]) for b in range(n)] for i in range(r)]
        blocks = jnp.stack([jnp.stack([_combine(g[:, j], by_row[i]) for j in range(r)]) for i in range(r)])
        return self.kernel_blocks_transpose(blocks)

    def small(self, small: jax.Array) -> list[jax.Array]:
        a_, _, _ = toom_cook(self.m, self.taps)
        m, n, (rows, columns) = self.m, self.points, self.tiles
        small = lax.optimization_barrier(small).reshape(self.batch, rows, m, columns, m, self.small_features)
        by_row = [[_combine(a_[a], [small[:, :, i, :, j] for i in range(m)]) for j in range(m)] for a in range(n)]
        return [_combine(a_[b], by_row[a]).reshape(-1, self.small_features) for a in range(n) for b in range(n)]

    def small_transpose(self, matrices: list[jax.Array]) -> jax.Array:
        a_, _, _ = toom_cook(self.m, self.taps)
        m, n, (rows, columns) = self.m, self.points, self.tiles
        by_row = [
            [_combine(a_[:, i], matrices[b::n]).reshape(self.batch, rows, columns, -1) for b in range(n)]
            for i in range(m)
        ]
        tiles = [jnp.stack([_combine(a_[:, j], by_row[i]) for j in range(m)], axis=3) for i in range(m)]
        return jnp.stack(tiles, axis=2).reshape(self.batch, self.height, self.width, self.small_features)

    def _overlap_add(self, tiles: list[jax.Array], axis: int) -> jax.Array:
        """Transpose of cutting n-long tiles with step m: n point maps -> blocks along `axis`."""
        _, b_t, _ = toom_cook(self.m, self.taps)
        m, count = self.m, tiles[0].shape[axis]
        taps = [_combine(b_t[:, j], tiles) for j in range(self.points)]
        after, before = [(0, 0)] * 4, [(0, 0)] * 4
        after[axis], before[axis] = (0, 1), (1, 0)
        # The last r - 1 blocks of a tile are the first of the next.
        phases = [
            jnp.pad(taps[i], after) + (jnp.pad(taps[m + i], before) if m + i < self.points else 0.0) for i in range(m)
        ]
        shape = list(tiles[0].shape)
        shape[axis] = m * (count + 1)
        blocks = jnp.stack(phases, axis + 1).reshape(shape)
        return lax.slice_in_dim(blocks, 0, m * count + self.taps - 1, axis=axis)

    # An odd kernel at stride 2 has no last tap in phase 1, so at the point infinity, which sees only the last tap,
    # phase 1 is zero: leave it out of the product.

    def _phases(self, a: int, b: int) -> tuple[int, int]:
        odd = self.stride == 2 and self.size % 2 == 1
        last = self.points - 1
        return (1 if odd and a == last else self.stride), (1 if odd and b == last else self.stride)

    def _drop_missing(self, matrix: jax.Array, a: int, b: int, axis: int) -> jax.Array:
        y, x = self._phases(a, b)
        s = self.stride
        if (y, x) == (s, s):
            return matrix
        if axis == 1:
            return matrix.reshape(-1, s, s, self.large_features)[:, :y, :x].reshape(matrix.shape[0], -1)
        return matrix.reshape(s, s, self.large_features, -1)[:y, :x].reshape(-1, matrix.shape[1])

    def _restore_missing(self, matrix: jax.Array, a: int, b: int, axis: int) -> jax.Array:
        y, x = self._phases(a, b)
        s = self.stride
        if (y, x) == (s, s):
            return matrix
        zeros = ((0, s - y), (0, s - x), (0, 0))
        if axis == 1:
            full = jnp.pad(matrix.reshape(-1, y, x, self.large_features), ((0, 0), *zeros))
            return lax.optimization_barrier(full.reshape(-1, self.block_features))
        full = jnp.pad(matrix.reshape(y, x, self.large_features, -1), (*zeros, (0, 0)))
        return lax.optimization_barrier(full.reshape(self.block_features, -1))


def _combine(coefficients: np.ndarray, arrays: list[jax.Array]) -> jax.Array:
    """sum_i coefficients[i] * arrays[i], without the terms that are zero."""
    terms = [a if c == 1 else -a if c == -1 else a * float(c) for c, a in zip(coefficients, arrays, strict=True) if c]
    return functools.reduce(jnp.add, terms)
