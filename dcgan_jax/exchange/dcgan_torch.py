"""The generator and discriminator beside this file, in PyTorch.

    import torch, dcgan_torch
    generator = dcgan_torch.load("generator")
    images = generator(torch.randn(16, 100))

networks.json says which layers they have, generator.pt and discriminator.pt hold the weights. Batch normalisation is
part of them: these networks draw and judge, and are not meant to be trained on. Images are [count, channels, height,
width] in the range that networks.json gives; networks with labels take them as int64 [count].
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_ACTIVATIONS: dict[str, Any] = {
    "none": lambda x: x,
    "relu": torch.relu,
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.2),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def load(name: str, folder: str | Path = Path(__file__).parent) -> "Network":
    """The network 'generator' or 'discriminator' of a folder."""
    spec = json.loads((Path(folder) / "networks.json").read_text())
    network = Network(spec[name])
    network.load_state_dict(torch.load(Path(folder) / f"{name}.pt", map_location="cpu", weights_only=True))
    return network.eval()


class Network(nn.Module):
    """Layers one after the other, as networks.json describes them."""

    def __init__(self, layers: list[dict[str, Any]]) -> None:
        super().__init__()
        self.layers = layers
        for layer in layers:
            inputs, outputs = layer["inputs"] + layer["labels"], layer["outputs"]
            if layer["kind"] == "dense":
                module = nn.Linear(inputs, outputs)
            else:
                kind = nn.Conv2d if layer["kind"] == "conv" else nn.ConvTranspose2d
                module = kind(inputs, outputs, layer["kernel_size"], layer["stride"])
            self.add_module(layer["name"], module)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        for layer in self.layers:
            if layer["before"] == "repeat":
                x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            elif layer["before"] == "flatten":
                x = x.flatten(1)
            elif layer["before"] == "mean":
                x = x.mean((2, 3))
            if layer["labels"]:
                one_hot = functional.one_hot(labels, layer["labels"]).to(x.dtype)
                one_hot = one_hot.reshape(*one_hot.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])
                x = torch.cat([x, one_hot], 1)
            low, high = layer["padding"]
            if layer["kind"] == "conv":
                x = functional.pad(x, (low, high, low, high))
            height, width = (side * layer["stride"] for side in x.shape[2:]) if x.ndim == 4 else (0, 0)
            x = self.get_submodule(layer["name"])(x)
            if layer["kind"] == "conv_transpose":
                x = x[:, :, low : low + height, low : low + width]
            if layer["maps"]:
                x = x.reshape(-1, *layer["maps"])
            x = _ACTIVATIONS[layer["activation"]](x)
            if layer["after"] == "max_pool":
                x = functional.max_pool2d(x, 2)
        return x
