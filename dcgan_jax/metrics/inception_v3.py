"""The Inception v3 of FID: what TensorFlow released on 2015-12-05, as pytorch-fid and torch-fidelity have it.

It is not the Inception v3 of torchvision: average pools leave the padding out of the mean, the last block pools by
maxima, and there are 1,008 classes. Layers have the names of pytorch-fid's weights. Batch statistics are frozen.
"""

import functools
import hashlib
import os
import shutil
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax

from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.files import cache_folder
from dcgan_jax.machine.progress import tqdm
from dcgan_jax.metrics import resize, torch_file
from dcgan_jax.nets.models import Tree

FEATURES, CLASSES = 2048, 1008
WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
CHECKSUM = "6726825d"  # the SHA-256 begins so
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS}"
_TIMEOUT = 20  # seconds without a byte

Size = int | tuple[int, int]


class Outputs(NamedTuple):
    """float32: `features` [batch, 2048] after the last pool (pool3); `logits` [batch, 1008], and without the bias.

    torch-fidelity's Inception score is that of the unbiased logits.
    """

    features: jax.Array
    logits: jax.Array
    unbiased_logits: jax.Array


class InceptionV3(nn.Module):
    """float32 images [batch, height, width, 3], see `resize.to_inception`, to `Outputs`. Parameters never change."""

    @nn.compact
    def __call__(self, images: jax.Array) -> Outputs:
        x = _Conv(32, 3, stride=2, name="Conv2d_1a_3x3")(images)
        x = _Conv(32, 3, name="Conv2d_2a_3x3")(x)
        x = _Conv(64, 3, pad=1, name="Conv2d_2b_3x3")(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = _Conv(80, 1, name="Conv2d_3b_1x1")(x)
        x = _Conv(192, 3, name="Conv2d_4a_3x3")(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = _InceptionA(32, name="Mixed_5b")(x)
        x = _InceptionA(64, name="Mixed_5c")(x)
        x = _InceptionA(64, name="Mixed_5d")(x)
        x = _InceptionB(name="Mixed_6a")(x)
        x = _InceptionC(128, name="Mixed_6b")(x)
        x = _InceptionC(160, name="Mixed_6c")(x)
        x = _InceptionC(160, name="Mixed_6d")(x)
        x = _InceptionC(192, name="Mixed_6e")(x)
        x = _InceptionD(name="Mixed_7a")(x)
        x = _InceptionE(_average_pool, name="Mixed_7b")(x)
        x = _InceptionE(_max_pool, name="Mixed_7c")(x)
        features = x.mean((1, 2))
        kernel = self.param("fc_kernel", nn.initializers.zeros, (FEATURES, CLASSES))
        bias = self.param("fc_bias", nn.initializers.zeros, (CLASSES,))
        logits = jnp.matmul(features, kernel, precision=lax.Precision.HIGHEST)
        return Outputs(features, logits + bias[None], logits)


class _Conv(nn.Module):
    """Convolution without bias, frozen batch normalisation with an epsilon of 0.001, ReLU."""

    features: int
    size: Size
    stride: int = 1
    pad: Size = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        (height, width), (rows, columns) = _pair(self.size), _pair(self.pad)
        kernel = self.param("kernel", nn.initializers.zeros, (height, width, x.shape[3], self.features))
        gain, variance = (self.param(name, nn.initializers.ones, (self.features,)) for name in ("gain", "variance"))
        shift, mean = (self.param(name, nn.initializers.zeros, (self.features,)) for name in ("shift", "mean"))
        x = lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            ((rows, rows), (columns, columns)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,  # GPUs and TPUs would round to fewer bits, and scores would differ
        )
        scale = gain / jnp.sqrt(variance + 0.001)
        return nn.relu(x * scale[None, None, None] + (shift - mean * scale)[None, None, None])


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _average_pool(x: jax.Array) -> jax.Array:
    return nn.avg_pool(x, (3, 3), padding=((1, 1), (1, 1)), count_include_pad=False)


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), padding=((1, 1), (1, 1)))


class _InceptionA(nn.Module):
    pool_features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        single = _Conv(64, 1, name="branch1x1")(x)
        five = _Conv(48, 1, name="branch5x5_1")(x)
        five = _Conv(64, 5, pad=2, name="branch5x5_2")(five)
        double = _Conv(64, 1, name="branch3x3dbl_1")(x)
        double = _Conv(96, 3, pad=1, name="branch3x3dbl_2")(double)
        double = _Conv(96, 3, pad=1, name="branch3x3dbl_3")(double)
        pool = _Conv(self.pool_features, 1, name="branch_pool")(_average_pool(x))
        return jnp.concatenate([single, five, double, pool], 3)


class _InceptionB(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        three = _Conv(384, 3, stride=2, name="branch3x3")(x)
        double = _Conv(64, 1, name="branch3x3dbl_1")(x)
        double = _Conv(96, 3, pad=1, name="branch3x3dbl_2")(double)
        double = _Conv(96, 3, stride=2, name="branch3x3dbl_3")(double)
        return jnp.concatenate([three, double, nn.max_pool(x, (3, 3), (2, 2))], 3)


class _InceptionC(nn.Module):
    middle: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        single = _Conv(192, 1, name="branch1x1")(x)
        seven = _Conv(self.middle, 1, name="branch7x7_1")(x)
        seven = _Conv(self.middle, (1, 7), pad=(0, 3), name="branch7x7_2")(seven)
        seven = _Conv(192, (7, 1), pad=(3, 0), name="branch7x7_3")(seven)
        double = _Conv(self.middle, 1, name="branch7x7dbl_1")(x)
        double = _Conv(self.middle, (7, 1), pad=(3, 0), name="branch7x7dbl_2")(double)
        double = _Conv(self.middle, (1, 7), pad=(0, 3), name="branch7x7dbl_3")(double)
        double = _Conv(self.middle, (7, 1), pad=(3, 0), name="branch7x7dbl_4")(double)
        double = _Conv(192, (1, 7), pad=(0, 3), name="branch7x7dbl_5")(double)
        pool = _Conv(192, 1, name="branch_pool")(_average_pool(x))
        return jnp.concatenate([single, seven, double, pool], 3)


class _InceptionD(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        three = _Conv(192, 1, name="branch3x3_1")(x)
        three = _Conv(320, 3, stride=2, name="branch3x3_2")(three)
        seven = _Conv(192, 1, name="branch7x7x3_1")(x)
        seven = _Conv(192, (1, 7), pad=(0, 3), name="branch7x7x3_2")(seven)
        seven = _Conv(192, (7, 1), pad=(3, 0), name="branch7x7x3_3")(seven)
        seven = _Conv(192, 3, stride=2, name="branch7x7x3_4")(seven)
        return jnp.concatenate([three, seven, nn.max_pool(x, (3, 3), (2, 2))], 3)


class _InceptionE(nn.Module):
    pool: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        single = _Conv(320, 1, name="branch1x1")(x)
        three = _Conv(384, 1, name="branch3x3_1")(x)
        wide = _Conv(384, (1, 3), pad=(0, 1), name="branch3x3_2a")(three)
        high = _Conv(384, (3, 1), pad=(1, 0), name="branch3x3_2b")(three)
        double = _Conv(448, 1, name="branch3x3dbl_1")(x)
        double = _Conv(384, 3, pad=1, name="branch3x3dbl_2")(double)
        double_wide = _Conv(384, (1, 3), pad=(0, 1), name="branch3x3dbl_3a")(double)
        double_high = _Conv(384, (3, 1), pad=(1, 0), name="branch3x3dbl_3b")(double)
        pool = _Conv(192, 1, name="branch_pool")(self.pool(x))
        return jnp.concatenate([single, wide, high, double_wide, double_high, pool], 3)


_TORCH_NAMES = {
    "kernel": ".conv.weight",
    "gain": ".bn.weight",
    "shift": ".bn.bias",
    "mean": ".bn.running_mean",
    "variance": ".bn.running_var",
    "fc_kernel": "fc.weight",
    "fc_bias": "fc.bias",
}


def torch_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of the network's 472 tensors by pytorch-fid's names, as torch has them: [out, in, height, width]."""
    return {name: _to_torch(shape) for name, (_, shape) in _parameters().items()}


@functools.cache
def _parameters() -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Path in the parameters and shape there, by torch's name."""
    images = jax.ShapeDtypeStruct((1, resize.SIDE, resize.SIDE, 3), jnp.float32)
    variables: Any = jax.eval_shape(InceptionV3().init, jax.random.key(0), images)
    leaves = flatten_dict(variables["params"])
    return {".".join(path[:-1]) + _TORCH_NAMES[path[-1]]: (path, leaf.shape) for path, leaf in leaves.items()}


def _to_torch(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if len(shape) == 1 else (*shape[:1:-1], *shape[:2]) if len(shape) == 4 else shape[::-1]


class Weights(NamedTuple):
    """Variables of `InceptionV3`, and the file's SHA-256 in hexadecimal, to be recorded beside every score."""

    variables: Tree
    sha256: str


def load_weights(file: Path | None = None) -> Weights:
    """Reads the network's weights; nothing in the file is run, and torch is not needed.

    Args:
      file: of torch.save, with pytorch-fid's names. It is used whatever its checksum. None: the released file, which is
        downloaded into the cache folder if it is not there.

    Raises:
      UserError: the file can not be downloaded or read, or is of another network.
    """
    checked = file is None
    file = find_weights() if file is None else file
    try:
        with file.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}.") from error
    if checked and not sha256.startswith(CHECKSUM):
        raise UserError(f"{file} is damaged: its SHA-256 begins with {sha256[:8]}, not {CHECKSUM}. Delete it.")
    return Weights(convert(torch_file.read_state_dict(file), str(file)), sha256)


def convert(tensors: dict[str, np.ndarray], source: str) -> Tree:
    """Variables of `InceptionV3` from arrays by torch's names, see `torch_shapes`. Counters of batches are left out.

    Raises:
      UserError: tensors are missing, left over or of another shape; `source` is named as where they come from.
    """
    parameters = _parameters()
    tensors = {name: one for name, one in tensors.items() if not name.endswith(".num_batches_tracked")}
    for name, missing in [(name, True) for name in parameters if name not in tensors] + [
        (name, False) for name in tensors if name not in parameters
    ]:
        raise UserError(
            f"{source} has {'no' if missing else 'a'} {name}: not the Inception v3 of FID, whose weights are {WEIGHTS}."
        )
    params = {}
    for name, (path, shape) in parameters.items():
        array = tensors[name]
        if array.shape != _to_torch(shape) or array.dtype.kind != "f":
            raise UserError(
                f"{source}: {name} is {array.dtype} {list(array.shape)}, not float {list(_to_torch(shape))}: not the "
                f"Inception v3 of FID, whose weights are {WEIGHTS}."
            )
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        params[path] = jnp.asarray(array, jnp.float32)
    return {"params": unflatten_dict(params)}


def find_weights() -> Path:
    """The released file in the cache folder, downloaded if it is not there.

    Raises:
      UserError: it can not be downloaded; the message says where to get it and where to put it.
    """
    file = cache_folder() / "weights" / WEIGHTS
    if file.exists():
        return file
    temporary = file.with_name(f"{WEIGHTS}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(URL, timeout=_TIMEOUT) as response, temporary.open("wb+") as written:
            size = int(response.headers.get("Content-Length") or 0)
            with tqdm.wrapattr(response, "read", total=size, desc=WEIGHTS, disable=None) as stream:
                shutil.copyfileobj(stream, written)
            written.flush()
            os.fsync(written.fileno())
            written.seek(0)
            found = hashlib.file_digest(written, "sha256").hexdigest()
        if not found.startswith(CHECKSUM):
            raise OSError(f"what came has the SHA-256 {found[:8]}...")
        temporary.replace(file)
    except (OSError, HTTPException) as error:
        raise UserError(
            f"the weights of Inception v3 could not be downloaded ({error}). Get {WEIGHTS} (91.2 MB, SHA-256 "
            f"{CHECKSUM}...) from {URL} and put it into {file.parent}."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return file


def make_extract(variables: Tree, rule: str) -> Callable[[np.ndarray], Outputs]:
    """`extract(images)`: outputs for uint8 images [batch, height, width, 1 or 3], resized by one of `resize.RULES`.

    A batch of another shape is compiled first.
    """
    apply = jax.jit(lambda variables, images: InceptionV3().apply(variables, images))

    def extract(images: np.ndarray) -> Outputs:
        outputs: Any = apply(variables, resize.to_inception(images, rule))
        return outputs

    return extract
