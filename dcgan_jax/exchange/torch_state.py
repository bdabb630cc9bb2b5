"""Networks as PyTorch's state_dicts, written and read without PyTorch.

Nothing in a file is run: torch_file.py reads its pickle. A network with the structure of PyTorch's example is written
under the example's names, and its classes load it with strict=True. Any other network is written with its batch
normalisation folded in; dcgan_torch.py, which is put beside it, loads that.
"""

import io
import json
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from dcgan_jax.exchange import torch_layout
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import torch_file
from dcgan_jax.nets import layers, models
from dcgan_jax.nets.layers import Layer
from dcgan_jax.nets.models import Discriminator, Generator
from dcgan_jax.runs.trained import Run

_STORAGES = {np.dtype(np.float32): "FloatStorage", np.dtype(np.int64): "LongStorage"}
_LOCAL_HEADER = 30  # bytes in front of a member's name in a zip archive
_ALIGNMENT = 64  # of the storages, as torch.save aligns them


def write(folder: Path, run: Run) -> list[Path]:
    """Writes generator.pt and discriminator.pt: state_dicts for `torch.load(file, weights_only=True)`.

    Where one of them is not PyTorch's example, networks.json with its layers and dcgan_torch.py are written too.

    Args:
      folder: made if need be.
      run: its generator is written as it draws: averaged weights if there are any.

    Returns:
      The files, in the order in which they were written.
    """
    written, spec = [], {}

    def save(name: str, content: bytes) -> None:
        files.write_atomically(folder / name, content)
        written.append(folder / name)

    for name, network, variables in _networks(run):
        sides = models.first_sides(run.generator.image_shape, network.stages)
        if torch_layout.follows_example(network, sides):
            state = torch_layout.to_state_dict(network, variables, sides, run.step)
        else:
            found = _plain_layers(network, variables)
            maps = None if isinstance(network, Generator) else run.generator.image_shape
            state, spec[name] = _folded(found, maps)
        save(f"{name}.pt", dumps(state))
    if spec:
        height, width, channels = run.generator.image_shape
        image = {"image_size": height, **({} if width == height else {"image_width": width}), "channels": channels}
        noise = {name: run.config.model[name] for name in ("z_dim", "z_distribution")}
        about = {**noise, **image, "range": [-1, 1] if run.config.model.output == "tanh" else [0, 1]}
        save("networks.json", (json.dumps({**about, "classes": run.class_names, **spec}, indent=1) + "\n").encode())
        save("dcgan_torch.py", Path(__file__).with_name("dcgan_torch.py").read_bytes())
    return written


def _networks(run: Run) -> list[tuple[str, Generator | Discriminator, Mapping[str, Any]]]:
    networks: list[tuple[str, Generator | Discriminator, Mapping[str, Any]]] = [
        ("generator", run.generator, run.variables)
    ]
    if run.has_discriminator:
        networks.append(("discriminator", run.discriminator, run.state.discriminator.variables))
    return networks


def _plain_layers(network: Generator | Discriminator, variables: Mapping[str, Any]) -> list[Layer]:
    if isinstance(network, Generator):
        return layers.generator_layers(network, variables)
    return layers.discriminator_layers(network, variables)


def _folded(
    found: list[Layer], maps: tuple[int, int, int] | None
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """A state_dict of plain layers, and their description for dcgan_torch.py.

    `maps`: (height, width, features) of the input; None for a vector. PyTorch's maps have their features first, so the
    columns of a dense layer that makes maps, and the rows of one that reads them, change places.
    """
    state: dict[str, np.ndarray] = {}
    described = []
    for layer in found:
        kernel, bias = layer.kernel, layer.bias
        if layer.kind == "dense":
            if layer.before == "flatten" and maps:
                features = np.moveaxis(np.arange(layer.in_features).reshape(maps), -1, 0).ravel()
                kernel = np.concatenate([kernel[features], kernel[layer.in_features :]])
            if layer.reshape:
                units = np.moveaxis(np.arange(layer.out_features).reshape(layer.reshape), -1, 0).ravel()
                kernel, bias = kernel[:, units], bias[units]
            weight = kernel.T
            maps = layer.reshape
        else:
            weight = kernel.transpose(3, 2, 0, 1)  # see torch_layout.py
            maps = _result(layer, maps)
        state |= {f"{layer.name}.weight": weight, f"{layer.name}.bias": bias}
        described.append(
            {
                "name": layer.name,
                "kind": layer.kind,
                "inputs": layer.in_features,
                "labels": layer.labels,
                "outputs": layer.out_features,
                "kernel_size": None if layer.kind == "dense" else len(layer.kernel),
                "stride": layer.stride,
                "padding": layer.padding,
                "before": layer.before,
                "maps": layer.reshape and (layer.reshape[2], *layer.reshape[:2]),
                "activation": layer.activation,
                "after": layer.after,
            }
        )
    return state, described


def _result(layer: Layer, maps: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """(height, width, features) that a convolution makes of maps."""
    assert maps
    height, width = maps[:2]
    if layer.before == "repeat":
        height, width = 2 * height, 2 * width
    if layer.kind == "conv_transpose":
        height, width = height * layer.stride, width * layer.stride
    else:
        factor = layer.stride * (2 if layer.after == "max_pool" else 1)
        height, width = height // factor, width // factor
    return height, width, layer.out_features


def dumps(state: Mapping[str, np.ndarray]) -> bytes:
    """The file that torch.save would write of a state_dict, float32 and int64 arrays by name."""
    arrays = [np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<")) for value in state.values()]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        _add(archive, "archive/data.pkl", _pickle(state))
        _add(archive, "archive/byteorder", b"little")
        for i, array in enumerate(arrays):
            _add(archive, f"archive/data/{i}", array.tobytes())
        _add(archive, "archive/version", b"3\n")
    return content.getvalue()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Adds a member, not compressed, with a date that never changes. A field that readers skip aligns its bytes."""
    assert archive.fp
    member = zipfile.ZipInfo(name)
    begin = archive.fp.tell() + _LOCAL_HEADER + len(name) + 4
    padding = -begin % _ALIGNMENT
    member.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    archive.writestr(member, content)


def _pickle(state: Mapping[str, np.ndarray]) -> bytes:
    """An OrderedDict of tensors in protocol 2, opcode by opcode: pickle itself would need torch's classes."""
    ordered_dict = b"ccollections\nOrderedDict\n)R"
    parts = [b"\x80\x02", ordered_dict, b"("]
    for i, (name, value) in enumerate(state.items()):
        strides = [stride // value.itemsize for stride in np.empty_like(value, order="C").strides]
        storage = [b"(", _text("storage"), f"ctorch\n{_STORAGES[value.dtype]}\n".encode()]
        storage += [_text(str(i)), _text("cpu"), _number(value.size), b"tQ"]
        tensor = [*storage, _number(0), _tuple(value.shape), _tuple(strides), b"\x89", ordered_dict]  # 89: False
        parts += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n(", *tensor, b"tR"]
    return b"".join([*parts, b"u."])


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _tuple(values: Any) -> bytes:
    return b"(" + b"".join(_number(int(value)) for value in values) + b"t"


def read(path: Path) -> dict[str, np.ndarray]:
    """Tensors by name of a file of PyTorch, or of a .safetensors file. Nothing in it is run.

    Dictionaries within a checkpoint add their names: 'netG.main.0.weight'. Tensors come in the file's order; a
    .safetensors file has none, so its names are sorted, 'main.2' before 'main.10'.

    Raises:
      UserError: the file is missing, truncated or damaged, or asks for anything besides tensors.
    """
    if path.suffix != ".safetensors":
        return torch_file.read_tensors(path)
    try:
        with files.reading(path):
            found = safetensors.numpy.load_file(path)
    except files.Missing as error:
        raise UserError(f"{path}: there is no such file.") from error
    except files.Damaged as error:
        raise UserError(f"{path} is damaged, or not a .safetensors file ({error.reason}).") from error
    return {name: found[name] for name in sorted(found, key=_natural)}


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts the numbers in names by value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
