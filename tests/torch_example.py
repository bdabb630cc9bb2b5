"""The two networks of PyTorch's DCGAN example in our own words. Needs torch; run it to rewrite tests/torch_files.

    python -m tests.torch_example

Names of parameters, shapes and order are those of github.com/pytorch/examples, dcgan/main.py.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
from torch import nn

NOISE, CHANNELS, WIDTH = 8, 3, 2  # of the files
SHOWN = (slice(None, 32), slice(16, 48))  # rows and columns of the images that are kept


class Example(nn.Module):
    """A sequence under the name 'main'."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.main = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.main(x)


def generator(noise: int = NOISE, width: int = WIDTH, channels: int = CHANNELS, bias: bool = False) -> Example:
    """[batch, noise, 1, 1] -> [batch, channels, 64, 64] in [-1, 1]."""
    layers: list[nn.Module] = []
    maps = [noise, 8 * width, 4 * width, 2 * width, width]
    for i, (before, after) in enumerate(itertools.pairwise(maps)):
        stride, padding = (2, 1) if i else (1, 0)
        layers.append(nn.ConvTranspose2d(before, after, 4, stride, padding, bias=bias))
        layers += [nn.BatchNorm2d(after), nn.ReLU(True)]
    return Example(*layers, nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False), nn.Tanh())


def discriminator(width: int = WIDTH, channels: int = CHANNELS) -> Example:
    """[batch, channels, 64, 64] -> probability [batch, 1, 1, 1]."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    for factor in (1, 2, 4):
        layers.append(nn.Conv2d(factor * width, 2 * factor * width, 4, 2, 1, bias=False))
        layers += [nn.BatchNorm2d(2 * factor * width), nn.LeakyReLU(0.2, True)]
    return Example(*layers, nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False), nn.Sigmoid())


def randomise(network: Example, seed: int) -> Example:
    """Values of a trained network's size: activations are about 1 and no two units are alike. In evaluation mode."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.main:
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.6, 1.4, generator=draw)
                module.bias.uniform_(-0.5, 0.5, generator=draw)
                module.running_mean.uniform_(-0.5, 0.5, generator=draw)
                module.running_var.uniform_(0.5, 2.0, generator=draw)
                module.num_batches_tracked.fill_(7)
            elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                inputs = module.in_channels * 16 / module.stride[0] ** 2
                module.weight.normal_(0, inputs**-0.5, generator=draw)
                if module.bias is not None:
                    module.bias.uniform_(-0.5, 0.5, generator=draw)
    return network.eval()


def noise(count: int, size: int = NOISE) -> np.ndarray:
    """float32 [count, size], from NumPy, so that tests without torch have the same."""
    return np.random.default_rng(0).standard_normal((count, size)).astype(np.float32)


def draw(network: Example, z: np.ndarray) -> np.ndarray:
    """Images [count, 64, 64, channels] in [-1, 1]."""
    with torch.no_grad():
        return network(torch.tensor(z)[:, :, None, None]).permute(0, 2, 3, 1).numpy()


def judge(network: Example, images: np.ndarray) -> np.ndarray:
    """Logits [count] of images [count, 64, 64, channels]."""
    with torch.no_grad():
        maps = torch.tensor(images.transpose(0, 3, 1, 2))
        return network.main[:-1](maps)[:, 0, 0, 0].numpy()


def write_files(folder: Path) -> None:
    g, d = randomise(generator(), 0), randomise(discriminator(), 1)
    images = draw(g, noise(2))
    torch.save(g.state_dict(), folder / "example_generator.pth")
    torch.save(d.state_dict(), folder / "example_discriminator.pth")
    np.savez_compressed(folder / "example.npz", z=noise(2), images=images[:, *SHOWN], logits=judge(d, images))


if __name__ == "__main__":
    write_files(Path(__file__).parent / "torch_files")
