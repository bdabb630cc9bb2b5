"""The DCGAN of PyTorch's examples as state_dicts: where they keep what our networks keep, both ways.

github.com/pytorch/examples, dcgan/main.py, and dcgan.torch, from which it comes: a network is one sequence of
convolutions, batch normalisations and activations. The generator begins with a transposed convolution of stride 1 from
1x1 noise, which is our dense projection; the discriminator ends in a convolution to 1x1, which is our dense logit.

Both frameworks correlate, so nothing is flipped: Conv2d has [out, in, k, k] and ConvTranspose2d [in, out, k, k], which
both are [small, large, k, k], and ours is [k, k, large, small].
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets.activations import ACTIVATIONS
from dcgan_jax.nets.models import Discriminator, Generator

EPSILON = 1e-5  # what torch.nn.BatchNorm2d adds to the variance
# Parts of a BatchNorm2d and of our BatchNorm: (PyTorch's name, our collection, our name).
_NORM = (
    ("weight", "params", "gain"),
    ("bias", "params", "shift"),
    ("running_mean", "batch_stats", "mean"),
    ("running_var", "batch_stats", "var"),
)
_COUNTER = "num_batches_tracked"

Network = Generator | Discriminator
Variables = Mapping[str, Any]  # 'params' and 'batch_stats'


class Mapped(NamedTuple):
    """One array of a file, and the parameter of ours that it became."""

    source: str
    source_shape: tuple[int, ...]
    name: str
    shape: tuple[int, ...]


def follows_example(network: Network, sides: tuple[int, int]) -> bool:
    """Whether PyTorch's example class is the same network: 64 pixels, 4x4, normalised per channel, unconditional.

    `sides`: height and width of the generator's first maps, or the discriminator's last ones.
    """
    features = [maps for maps, _ in network.stages]
    common = (
        (network.kernel_size, *sides) == (4, 4, 4)
        and [stride for _, stride in network.stages] == [2, 2, 2, 2]
        and (network.num_classes, network.hidden, network.resampling) == (0, (), "strided")
        and network.norm == "paper"
    )
    if isinstance(network, Generator):
        narrowest, factors = features[-1:], (8, 4, 2, 1)
        own = (network.output, network.projection_norm) == ("tanh", "channel")
        own = own and network.activation is ACTIVATIONS["relu"]
    else:
        narrowest, factors = features[:1], (1, 2, 4, 8)
        own = network.head == "dense" and network.activation is ACTIVATIONS["leaky_relu"]
        own = own and not network.spectral_norm
    return common and own and features == [factor * maps for maps in narrowest for factor in factors]


def to_state_dict(network: Network, variables: Variables, sides: tuple[int, int], step: int) -> dict[str, np.ndarray]:
    """The state_dict of PyTorch's example class, 'main.0.weight' and so on, of a network that `follows_example`.

    Its layers add `EPSILON` to the variance. Where our network adds something else, the gains make up for it. `sides`:
    see `follows_example`. `step`: what the layers give as the number of batches that they have seen.
    """
    state: dict[str, np.ndarray] = {}
    position = 0
    for name, normalised in _layers(network):
        state[f"main.{position}.weight"] = _to_torch(name, _get(variables, "params", name), sides)
        if normalised:
            position += 1
            norm = f"{name}_norm"
            mean, variance = (_get(variables, "batch_stats", norm, part) for part in ("mean", "var"))
            learned = variables["params"].get(norm, {"gain": np.ones_like(mean), "shift": np.zeros_like(mean)})
            exact = variance.astype(np.float64)
            correction = np.sqrt((exact + EPSILON) / (exact + network.norm_epsilon))
            values = {
                "weight": np.asarray(learned["gain"]) * correction,
                "bias": learned["shift"],
                "running_mean": mean,
                "running_var": variance,
            }
            state |= {f"main.{position}.{part}": np.asarray(value, np.float32) for part, value in values.items()}
            state[f"main.{position}.{_COUNTER}"] = np.array(step, np.int64)
        position += 2  # an activation lies between
    return state


def from_state_dict(
    network: Network, tensors: Mapping[str, np.ndarray], like: Variables, sides: tuple[int, int], file: str
) -> tuple[dict[str, Any], list[Mapped]]:
    """Variables of our network from a state_dict whose tensors come in the order of the layers, under any names.

    Args:
      network: strided, without labels and dense hidden layers, normalised per channel, with gains and shifts.
      tensors: by name.
      like: variables of our network, for the shapes.
      sides: height and width of the generator's first maps, or the discriminator's last ones.
      file: stands in errors.

    Returns:
      'params' and 'batch_stats' as float32 arrays, and what became what.

    Raises:
      UserError: the tensors are those of another network.
    """
    modules = iter(_modules(tensors, file).items())
    found: dict[str, Any] = {"params": {}, "batch_stats": {}}
    mapped = []

    def check(source: str, value: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
        if value.shape != shape:
            raise UserError(
                f"{file}: {source} is {list(value.shape)}, but the config's {name} needs {list(shape)} there."
            )
        with np.errstate(over="ignore"):
            value = value.astype(np.float32)
        if not np.isfinite(value).all():
            raise UserError(f"{file}: {source} has numbers that are not finite.")
        if source.endswith(".running_var") and (value < 0).any():
            raise UserError(f"{file}: {source} has negative variances.")
        return value

    for name, normalised in _layers(network):
        module, parts = _take(modules, {"weight"}, name, file)
        shape = _to_torch(name, _get(like, "params", name), sides).shape
        weight = check(f"{module}.weight", parts["weight"], shape, name)
        kernel = np.ascontiguousarray(_from_torch(name, weight))
        found["params"][name] = {"kernel": kernel} if name in _DENSE else kernel
        full = f"{name}/kernel" if name in _DENSE else name
        mapped.append(Mapped(f"{module}.weight", weight.shape, full, kernel.shape))
        bias_of, bias = f"{module}.bias", parts.get("bias")
        if not normalised:
            if bias is not None and bias.any():
                raise UserError(f"{file}: {bias_of} is not zero, but our {name} has no bias.")
            continue
        norm = f"{name}_norm"
        module, parts = _take(modules, {part for part, _, _ in _NORM}, norm, file)
        for part, collection, ours in _NORM:
            shape = _get(like, collection, norm, ours).shape
            value = check(f"{module}.{part}", parts[part], shape, f"{norm}/{ours}")
            mapped.append(Mapped(f"{module}.{part}", shape, f"{norm}/{ours}", shape))
            if ours == "mean" and bias is not None:  # the normalisation takes a bias off again
                value = value - check(bias_of, bias, shape, f"{norm}/{ours}")
            found[collection].setdefault(norm, {})[ours] = value
    if left := next(modules, None):
        raise UserError(f"{file} has more layers than the config's network: {left[0]} is left.")
    return found, mapped


_DENSE = ("projection", "logit")


def _layers(network: Network) -> Iterator[tuple[str, bool]]:
    """Names of our layers that have a kernel, in order, and whether batch normalisation follows."""
    count = len(network.stages)
    if isinstance(network, Generator):
        yield "projection", True
        for i in range(1, count + 1):
            yield f"deconv{i}", i < count
    else:
        for i in range(1, count + 1):
            yield f"conv{i}", i > 1
        yield "logit", False


def _modules(tensors: Mapping[str, np.ndarray], file: str) -> dict[str, dict[str, np.ndarray]]:
    """Tensors by module and part, without the counters of batch normalisation."""
    modules: dict[str, dict[str, np.ndarray]] = {}
    for name, value in tensors.items():
        module, _, part = name.rpartition(".")
        if part == _COUNTER:
            continue
        if value.dtype.kind != "f":
            raise UserError(f"{file}: {name} holds {value.dtype}, but weights are floating point numbers.")
        modules.setdefault(module, {})[part] = value
    return modules


def _take(
    modules: Iterator[tuple[str, dict[str, np.ndarray]]], needed: set[str], name: str, file: str
) -> tuple[str, dict[str, np.ndarray]]:
    """The next module, which must have the needed parts and at most a bias besides."""
    module, parts = next(modules, (None, {}))
    if module is None:
        raise UserError(f"{file} has fewer layers than the config's network: {name} is missing.")
    if not needed <= parts.keys() <= needed | {"bias"}:
        has, needs = ", ".join(parts), ", ".join(sorted(needed))
        raise UserError(f"{file}: {module} has {has}, but the config's {name} needs {needs} there.")
    return module, parts


def _get(variables: Variables, collection: str, name: str, part: str = "") -> np.ndarray:
    value = variables[collection][name]
    if part or name in _DENSE:
        value = value[part or "kernel"]
    return np.asarray(value, np.float32)


def _to_torch(name: str, kernel: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """Our kernel -> [small, large, k, k]; a dense one, whose maps have their features last, as a convolution to 1x1."""
    if name == "projection":
        return kernel.reshape(len(kernel), *sides, -1).transpose(0, 3, 1, 2)
    if name == "logit":
        return kernel.reshape(*sides, -1, kernel.shape[1]).transpose(3, 2, 0, 1)
    return kernel.transpose(3, 2, 0, 1)


def _from_torch(name: str, weight: np.ndarray) -> np.ndarray:
    """Inverse of `_to_torch`."""
    if name == "projection":
        return weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
    if name == "logit":
        return weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))
    return weight.transpose(2, 3, 1, 0)
