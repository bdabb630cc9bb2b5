"""Near-duplicates by semantic hashing, as the paper removed them from LSUN [section 4.1.1].

A 3072-128-3072 denoising, dropout-regularised ReLU autoencoder is fitted to 32x32 images; the code layer's units,
active or not, are an image's 128-bit hash, and images with the same hash count as duplicates. The cost is linear in the
number of images but for sorting their hashes.

The paper gives the sizes, ReLU, noise, dropout and "thresholding", and no settings. Chosen here: images are
standardised one by one, so that brightness and contrast do not matter; noise of that same scale; dropout 0.5 of the
code; the threshold is where the ReLU begins; Adam. `Settings` has them all. A `radius` above 0, which the paper does
not have, also joins hashes that differ in that many bits.

Everything is streamed and can be interrupted: the autoencoder is saved every few hundred steps, hashes as they are
computed, in a folder that belongs to the images.
"""

import hashlib
import io
import itertools
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from dcgan_jax.machine import files, rng
from dcgan_jax.machine.progress import tqdm

Tree = dict[str, Any]

VERSION = 1  # raise when hashes change
SIDE, BITS = 32, 128  # [paper section 4.1.1]
_LEARNING_RATE = 1e-3
_BATCH_SIZE = 256
_SAVE_EVERY = 500  # steps
_BLOCK = 4096  # images hashed at once
MOST_RADIUS = 16

_log = logging.getLogger(__name__)


class Settings(NamedTuple):
    """What the paper does not say.

    Attributes:
      noise: standard deviation of the noise added to the input, whose own is 1.
      dropout: rate, of the code's units.
      steps: of training, batches of 256.
      seed: of everything that is drawn.
    """

    noise: float = 1.0
    dropout: float = 0.5
    steps: int = 4000
    seed: int = 0


class _Autoencoder(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, dropout: float = 0.0) -> tuple[jax.Array, jax.Array]:
        """Input [batch, 3072] -> reconstruction, and the code before its ReLU [batch, 128]."""
        code = nn.Dense(BITS, name="encoder")(x)
        kept = nn.Dropout(dropout, deterministic=dropout == 0.0)(nn.relu(code))
        # From zero: a decoder that is wrong at first would teach the code to be silent, and a silent ReLU stays so.
        return nn.Dense(x.shape[1], kernel_init=nn.initializers.zeros, name="decoder")(kept), code


def autoencoder(images: np.ndarray, folder: Path, settings: Settings) -> Tree:
    """Parameters of these images' autoencoder, trained if they are not in `folder`; arguments as `hash_images`."""
    folder = _subfolder(folder, settings)
    with files.lock(folder / "lock", f"the hashes in {folder}"):
        return _fit(images, folder / "autoencoder.msgpack", settings)


def hash_images(images: np.ndarray, folder: Path, settings: Settings) -> np.ndarray:
    """Hashes uint8 [count, 16] of images, 128 bits each.

    Args:
      images: uint8 [count, 32, 32, 3]; memory-mapped ones stay on disk.
      folder: keeps the autoencoder and the hashes between calls; one for these images only.
      settings: see `Settings`.

    Raises:
      OSError: the folder cannot be written.
    """
    folder = _subfolder(folder, settings)
    done, partial = folder / "hashes.npy", folder / "hashes.partial"
    with files.lock(folder / "lock", f"the hashes in {folder}"):
        if (hashes := _load_hashes(done, len(images))) is not None:
            return hashes
        params = _fit(images, folder / "autoencoder.msgpack", settings)
        with partial.open("ab") as file:
            first = min(file.tell() // (BITS // 8), len(images)) // _BLOCK * _BLOCK  # whole blocks only
            file.truncate(first * BITS // 8)
            with tqdm(total=len(images), initial=first, desc="hashes", unit="image", disable=None) as bar:
                for begin in range(first, len(images), _BLOCK):
                    block = images[begin : begin + _BLOCK]
                    file.write(encode(params, block).tobytes())
                    bar.update(len(block))
        hashes = np.fromfile(partial, np.uint8).reshape(-1, BITS // 8)
        buffer = io.BytesIO()
        np.save(buffer, hashes)
        files.write_atomically(done, buffer.getvalue())
        partial.unlink()
        return hashes


def _load_hashes(file: Path, count: int) -> np.ndarray | None:
    """None if there are none, or they are damaged."""
    try:
        hashes = files.load_npy(file)
        if hashes.shape != (count, BITS // 8) or hashes.dtype != np.uint8:
            raise files.Damaged(file, f"it holds {hashes.dtype} {hashes.shape}")
    except files.Missing:
        return None
    except files.Damaged as error:
        _log.warning("%s is damaged (%s); hashing again.", file, error.reason)
        return None
    return hashes


def _subfolder(folder: Path, settings: Settings) -> Path:
    """Other settings, other hashes."""
    return folder / hashlib.sha256(json.dumps([VERSION, settings]).encode()).hexdigest()[:8]


def encode(params: Tree, images: np.ndarray) -> np.ndarray:
    """Hashes uint8 [count, 16] of at most 4096 uint8 images [count, 32, 32, 3]."""
    padded = np.resize(images, (_BLOCK, *images.shape[1:])) if len(images) < _BLOCK else images
    return np.packbits(np.asarray(_active(params, padded))[: len(images)], axis=1)


def encode_all(params: Tree, images: np.ndarray) -> np.ndarray:
    """The same for any number of images."""
    return np.concatenate([encode(params, images[i : i + _BLOCK]) for i in range(0, len(images), _BLOCK)])


@jax.jit
def _active(params: Tree, images: jax.Array) -> jax.Array:
    outputs: Any = _Autoencoder().apply({"params": params}, standardise(images))
    return outputs[1] > 0


def standardise(images: jax.Array) -> jax.Array:
    """uint8 [batch, 32, 32, 3] -> float32 [batch, 3072], each image with mean 0 and deviation 1 (0 if it is flat)."""
    x = images.reshape(len(images), -1).astype(jnp.float32)
    x = x - x.mean(1, keepdims=True)
    return x / jnp.maximum(jnp.sqrt(jnp.square(x).mean(1, keepdims=True)), 1.0)


def _fit(images: np.ndarray, file: Path, settings: Settings) -> Tree:
    """Trains the autoencoder, going on from `file` if it is there. Batches are a function of (seed, step)."""
    network, optimizer = _Autoencoder(), optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, settings.steps))
    params = network.init(rng.stream(settings.seed, "hash_init"), jnp.zeros((1, SIDE * SIDE * 3)))["params"]
    state = {"step": 0, "params": params, "opt_state": optimizer.init(params)}
    try:
        with files.reading(file):
            saved = flax.serialization.from_bytes(state, file.read_bytes())
            if jax.tree.map(np.shape, saved) != jax.tree.map(np.shape, state):
                raise ValueError("it belongs to another network")
            state = saved
    except files.Missing:
        pass
    except files.Damaged as error:
        _log.warning("%s is damaged (%s); training again.", file, error.reason)

    @jax.jit
    def update(params: Tree, opt_state: Tree, step: jax.Array, batch: jax.Array) -> tuple[Tree, Tree]:
        x = standardise(batch)
        noise = settings.noise * jax.random.normal(rng.stream(settings.seed, "hash_noise", step), x.shape)

        def loss(params: Tree) -> jax.Array:
            keys = {"dropout": rng.stream(settings.seed, "hash_dropout", step)}
            outputs: Any = network.apply({"params": params}, x + noise, settings.dropout, rngs=keys)
            return jnp.square(outputs[0] - x).mean()

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    bar = tqdm(initial=state["step"], total=settings.steps, desc="autoencoder", unit="step", disable=None)
    with bar:
        for step in range(state["step"], settings.steps):
            batch = images[batch_numbers(settings.seed, step, len(images))]
            params, opt_state = update(state["params"], state["opt_state"], np.int32(step), batch)
            state = {"step": step + 1, "params": params, "opt_state": opt_state}
            bar.update()
            if (step + 1) % _SAVE_EVERY == 0 or step + 1 == settings.steps:
                files.write_atomically(file, flax.serialization.to_bytes(state))
    return state["params"]


def batch_numbers(seed: int, step: int, count: int) -> np.ndarray:
    """Numbers of the images of a training step, ascending."""
    return np.sort(np.random.default_rng([seed, step]).integers(0, count, _BATCH_SIZE))


# --- Equal and nearly equal hashes -----------------------------------------------------------------------------------


def originals(hashes: np.ndarray, radius: int = 0) -> np.ndarray:
    """Which image stands for each one, in the order of the images: the first that is kept and near enough, or itself.

    Args:
      hashes: uint8 [count, 16].
      radius: 0 to 16, bits in which the hashes of a duplicate and its original may differ. Two hashes that differ in r
        bits agree in at least one of r + 1 parts, so only images that agree in a part are compared; parts get short,
        and the work long, as the radius grows.

    Returns:
      Numbers int64 [count]; images that are kept have their own. No duplicate stands for another image.
    """
    if not 0 <= radius <= MOST_RADIUS:
        raise ValueError(f"radius must be 0 to {MOST_RADIUS}, not {radius}")
    words = np.ascontiguousarray(hashes).view(np.uint64)
    first = np.arange(len(hashes))
    if radius == 0:
        order, group = _groups(words)
        first[order] = order[np.searchsorted(group, group)]
        return first
    bits = np.unpackbits(hashes, axis=1)
    edges = np.linspace(0, BITS, radius + 2).round().astype(int)
    near = []
    for begin, end in tqdm(itertools.pairwise(edges), "comparing hashes", radius + 1, unit="part", disable=None):
        for earlier, later in _pairs(np.packbits(bits[:, begin:end], axis=1)):
            close = np.bitwise_count(words[earlier] ^ words[later]).sum(1) <= radius
            near.append(np.stack([later[close], earlier[close]], 1))
    for later, earlier in np.unique(np.concatenate(near), axis=0) if near else []:  # by the later one, then the earlier
        if first[later] == later and first[earlier] == earlier:
            first[later] = earlier
    return first


def _groups(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of keys [count, words] in an order that puts equal ones together, earlier ones first; and their groups."""
    order = np.lexsort(keys.T)
    return order, np.concatenate([[0], np.cumsum(np.any(keys[order[1:]] != keys[order[:-1]], axis=1))])


def _pairs(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs (earlier, later) of rows with equal keys: next neighbours in their group, then the next but one, ..."""
    order, group = _groups(keys)
    begin, apart = np.arange(len(order) - 1), 1
    while len(begin := begin[begin + apart < len(order)]):
        begin = begin[group[begin] == group[begin + apart]]
        yield order[begin], order[begin + apart]
        apart += 1
