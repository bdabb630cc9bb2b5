"""Seeded weights for the Inception v3 of FID and what pytorch-fid's network makes of them."""

import zlib

import numpy as np

# Of `images(299)` and `images(139)` with `weights` by pytorch-fid 0.3.0 (torch 2.13), without resizing: some features,
# some logits, and the roots of the means of their squares.
EXPECTED = {
    139: {
        "features": [0.0, 1.382908, 0.0, 0.0, 5.540644, 1.417663, 0.2222812, 1.134431],
        "logits": [0.5260316, 0.4726948, -1.74933],
        "unbiased_logits": [0.6371623, 0.6874377, -1.611093],
        "rms": [1.200007, 1.702273],
    },
    299: {
        "features": [0.0, 1.099044, 0.0, 0.0, 8.431762, 3.96991, 0.525327, 2.519305],
        "logits": [0.7563114, 0.5213845, -1.738707],
        "unbiased_logits": [0.8674421, 0.7361274, -1.60047],
        "rms": [2.134678, 3.03295],
    },
}
FEATURES = (0, 1, 319, 320, 1000, 1855, 1856, 2047)
LOGITS = (0, 500, 1007)

# SHA-256 of the lines "NAME SHAPE" of pytorch-fid's state_dict, sorted, without counters of batches.
SHAPES_SHA256 = "bd04e829988dd22dd0bbf9e499a87af311ed57c1b4309a9d20a907d8ed4123d4"


def images(side: int) -> np.ndarray:
    """uint8 [1, side, side, 3], coarse and fine noise."""
    rng = np.random.RandomState(side)
    coarse = np.kron(rng.randint(0, 200, (1, side // 20 + 1, side // 20 + 1, 3)), np.ones((1, 20, 20, 1), np.int64))
    return (coarse[:, :side, :side] + rng.randint(0, 56, (1, side, side, 3))).astype(np.uint8)


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """float32 tensors of these names and shapes, each from its own seed."""
    tensors = {}
    for name, shape in shapes.items():
        noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if name.endswith("running_var"):
            noise = np.exp(0.3 * noise)
        elif name.endswith("bn.weight"):
            noise = 1 + 0.2 * noise
        elif len(shape) > 1:
            noise = noise * np.sqrt(2 / np.prod(shape[1:]))
        else:
            noise = 0.2 * noise
        tensors[name] = noise.astype(np.float32)
    return tensors
