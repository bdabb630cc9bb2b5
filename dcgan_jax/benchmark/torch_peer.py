"""The same networks and training step in PyTorch, as fast as PyTorch's users know how to make them: a peer to measure.

Layers, loss, update order, batch normalisation, coupled L2 and Adam are those of this package: a test starts both from
the same weights and compares the steps. What makes it fast: channels-last tensors, fused Adam, no gradients of the
discriminator's weights in the generator's update, fakes reused where the update order allows, autocast for bfloat16;
torch.compile if asked for; on a GPU also TF32 and CUDA graphs. Learning rates stay what they are at the start.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import nn

from dcgan_jax.benchmark.trainer import Facts
from dcgan_jax.config import flatten, need_convolutions
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import models
from dcgan_jax.nets.activations import LEAK
from dcgan_jax.nets.shapes import image_shape
from dcgan_jax.train_state import GANState

Step = Callable[..., list[torch.Tensor]]

_POOL_BATCHES = 4  # random batches that the steps go through in turn
# The one value that the peer knows of fields that change the networks, their images or the losses.
_ONLY = {
    "model.resampling": "strided",
    "model.norm": "paper",
    "model.generator.activation": "relu",
    "model.discriminator.activation": "leaky_relu",
    "model.discriminator.head": "dense",
    "data.flip": "none",
    "augment.operations": (),
    "model.discriminator.spectral_norm": False,
    "regularizer.r1": 0.0,
    "regularizer.label_smoothing": 0.0,
    "regularizer.instance_noise": 0.0,
    "loss": "non_saturating",
}


def check_peer(config: ConfigDict) -> None:
    """Raises UserError if the peer cannot train this config's networks."""
    for network in ("generator", "discriminator"):
        need_convolutions(config, network)
    fields = flatten(config)
    for name, only in _ONLY.items():
        if fields[name] != only:
            raise UserError(
                f"the PyTorch peer knows config.{name} {only!r} only, not {fields[name]!r}: give that value."
            )


class Generator(nn.Module):
    """Noise [batch, z_dim], labels one-hot [batch, classes] or None -> images [batch, channels, height, width].

    Images are in the range of config.model.output.
    """

    def __init__(self, config: ConfigDict) -> None:
        super().__init__()
        ours = models.build_generator(config)
        sides, first = models.first_sides(ours.image_shape, ours.stages), ours.stages[0][0]
        units = first * math.prod(sides)
        self.maps = (-1, first, *sides)
        self.per_unit = config.model.generator.projection_norm == "unit"
        self.hidden = _HiddenLayers(config.model.z_dim, ours.hidden, config)
        self.projection = _dense(self.hidden.outputs, units, config)
        kind = nn.BatchNorm1d if self.per_unit else nn.BatchNorm2d
        self.projection_norm = _norm(kind, units if self.per_unit else first, config)
        self.layers = nn.ModuleList()
        outputs = models.generator_widths(ours.stages, config.data.channels)[1:]
        kernel = config.model.kernel_size
        pad = (kernel - 1) // 2
        for (features, stride), output in zip(ours.stages, outputs, strict=True):
            missing = stride - kernel + 2 * pad  # rows at the end that ConvTranspose2d would leave out
            inputs = features + config.model.num_classes
            self.layers.append(nn.ConvTranspose2d(inputs, output, kernel, stride, pad, missing, bias=False))
        self.norms = nn.ModuleList(_norm(nn.BatchNorm2d, features, config) for features in outputs[:-1])
        self.output = torch.tanh if config.model.output == "tanh" else torch.sigmoid
        _initialise(self)

    def forward(self, z: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        x = z
        for layer, norm in self.hidden.pairs():
            x = F.relu(norm(layer(_join(x, labels))), inplace=True)
        x = self.projection(_join(x, labels))
        x = self.projection_norm(x).view(self.maps) if self.per_unit else self.projection_norm(x.view(self.maps))
        x = F.relu(x, inplace=True).contiguous(memory_format=torch.channels_last)
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = F.relu(norm(layer(_join(x, labels))), inplace=True)
        return self.output(self.layers[-1](_join(x, labels)).float())


class Discriminator(nn.Module):
    """Images [batch, channels, height, width], labels one-hot [batch, classes] or None -> logits [batch]."""

    def __init__(self, config: ConfigDict) -> None:
        super().__init__()
        ours = models.build_discriminator(config)
        kernel, inputs = config.model.kernel_size, config.data.channels
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        for i, (features, stride) in enumerate(ours.stages):
            joined = inputs + config.model.num_classes
            self.layers.append(nn.Conv2d(joined, features, kernel, stride, (kernel - 1) // 2, bias=False))
            self.norms.append(_norm(nn.BatchNorm2d, features, config) if i else nn.Identity())
            inputs = features
        places = math.prod(models.first_sides(image_shape(config.data), ours.stages))
        self.hidden = _HiddenLayers(inputs * places, ours.hidden, config)
        self.logit = _dense(self.hidden.outputs, 1, config)
        self.dropout = ours.dropout
        _initialise(self)

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        x = images
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self._activate(norm(layer(_join(x, labels))))
        x = x.flatten(1)
        for layer, norm in self.hidden.pairs():
            x = self._activate(norm(layer(_join(x, labels))))
        return self.logit(_join(x, labels))[:, 0].float()

    def _activate(self, x: torch.Tensor) -> torch.Tensor:
        x = F.leaky_relu(x, LEAK, inplace=True)
        return F.dropout(x, self.dropout) if self.dropout else x


class _HiddenLayers(nn.Module):
    """Dense layers, each with batch normalisation; `outputs` of the last one, or the inputs if there are none."""

    def __init__(self, inputs: int, widths: tuple[int, ...], config: ConfigDict) -> None:
        super().__init__()
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        for features in widths:
            self.layers.append(_dense(inputs, features, config))
            self.norms.append(_norm(nn.BatchNorm1d, features, config))
            inputs = features
        self.outputs = inputs

    def pairs(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        return zip(self.layers, self.norms, strict=True)


def _dense(inputs: int, outputs: int, config: ConfigDict) -> nn.Linear:
    return nn.Linear(inputs + config.model.num_classes, outputs, bias=False)


def _norm(kind: Callable[..., nn.Module], features: int, config: ConfigDict) -> nn.Module:
    model = config.model
    return kind(features, model.norm_epsilon, 1.0 - model.norm_momentum, affine=model.norm_affine)


def _join(x: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """Appends one-hot labels [batch, classes] to the features, repeated over height and width of maps."""
    if labels is None:
        return x
    labels = labels.to(x.dtype)
    if x.ndim == 4:
        maps = labels[:, :, None, None].expand(-1, -1, *x.shape[2:])
        labels = maps.contiguous(memory_format=torch.channels_last)  # without it the result would not be
    return torch.cat([x, labels], 1)


class TorchTrainer:
    """Both networks with their optimizers, ready to run steps on random images.

    Attributes:
      generator, discriminator: the networks, channels last.
      ema: the generator's averaged parameters; [] without config.ema_decay.
      facts: what was chosen, on what device, and the time to the end of the first step.
    """

    def __init__(self, config: ConfigDict, compiled: bool = False) -> None:
        """Runs the first step.

        Args:
          config: see configs/default.py.
          compiled: the networks, by torch.compile. On a GPU: whatever is fastest, compiled or not, with or without a
            CUDA graph; otherwise the step is one CUDA graph there.

        Raises:
          UserError: the peer cannot train these networks, or torch.compile fails.
        """
        check_peer(config)
        self._config = config
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        networks = Generator(config).to(self._device), Discriminator(config).to(self._device)
        self.generator, self.discriminator = networks
        for network in networks:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = [p.detach().clone() for p in self.generator.parameters()] if config.ema_decay else []
        rates = config.optimizer.generator_learning_rate, config.optimizer.discriminator_learning_rate
        self.optimizers = [
            torch.optim.Adam(
                network.parameters(),
                rate,
                betas=(config.optimizer.b1, config.optimizer.b2),
                eps=config.optimizer.eps,
                weight_decay=config.optimizer.l2,
                fused=True,
            )
            for network, rate in zip((self.generator, self.discriminator), rates, strict=True)
        ]
        height, width, channels = image_shape(config.data)
        shape = (_POOL_BATCHES, config.batch_size, channels, height, width)
        self._pool = torch.randint(0, 256, shape, dtype=torch.uint8, device=self._device)
        self._labels: torch.Tensor | None = None
        if classes := config.model.num_classes:
            self._labels = torch.eye(classes, device=self._device)[torch.arange(config.batch_size) % classes]
        self._step: Step = self.step
        start = time.perf_counter()
        how = "eager"
        if compiled and self._device.type == "cpu":
            how = "torch.compile"
            self._compile()
        self.run(1)
        seconds = time.perf_counter() - start
        platform, name = "cpu", f"CPU, {torch.get_num_threads()} threads"
        if self._device.type == "cuda":
            platform, name = "gpu", torch.cuda.get_device_name()
            how, self._step = self._fastest() if compiled else ("eager, CUDA graph", self._captured())
        settings = f"torch {torch.__version__}, channels_last, fused Adam, {config.precision}, {how}"
        self.facts = Facts(settings, name, seconds, platform)

    def run(self, steps: int) -> int:
        """Runs training steps and waits for them."""
        for i in range(steps):
            self._step(*self._inputs(i))
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return steps

    def noise(self) -> torch.Tensor:
        shape = (self._config.batch_size, self._config.model.z_dim)
        if self._config.model.z_distribution == "normal":
            return torch.randn(shape, device=self._device)
        return torch.rand(shape, device=self._device) * 2 - 1

    def step(self, images: torch.Tensor, z: torch.Tensor, z_discriminator: torch.Tensor) -> list[torch.Tensor]:
        """One step on uint8 images [batch, channels, height, width]; returns d_loss and g_loss before the update.

        `z_discriminator` is used by the update order 'generator_first' only. Example i has label i modulo the classes.
        """
        real = images.float() / 127.5 - 1.0 if self._config.model.output == "tanh" else images.float() / 255.0
        fakes = self._generate(z)
        if self._config.update_order == "discriminator_first":
            d_loss = self._update_discriminator(real, fakes.detach())
            g_loss = self._update_generator(fakes)
        else:
            g_loss = self._update_generator(fakes)
            with torch.no_grad():
                fakes = self._generate(z_discriminator)
            d_loss = self._update_discriminator(real, fakes)
        if self.ema:
            with torch.no_grad():
                torch._foreach_lerp_(self.ema, list(self.generator.parameters()), 1.0 - self._config.ema_decay)
        return [d_loss, g_loss]

    def memory_bytes(self) -> int | None:
        """Most bytes in use so far on the GPU; None on the CPU."""
        return torch.cuda.max_memory_allocated() if self._device.type == "cuda" else None

    def _inputs(self, i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Arguments of step i."""
        images = self._pool[i % _POOL_BATCHES].contiguous(memory_format=torch.channels_last)
        return images, self.noise(), self.noise()

    def _autocast(self) -> torch.autocast:
        """Around forward passes only, as PyTorch advises; it forgets its copies of the weights at the end."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.precision == "bfloat16")

    def _generate(self, z: torch.Tensor) -> torch.Tensor:
        with self._autocast():
            return self.generator(z, self._labels)

    def _update_discriminator(self, real: torch.Tensor, fakes: torch.Tensor) -> torch.Tensor:
        self.optimizers[1].zero_grad(set_to_none=True)
        with self._autocast():
            logits = self.discriminator(real, self._labels), self.discriminator(fakes, self._labels)
        loss = F.softplus(-logits[0]).mean() + F.softplus(logits[1]).mean()
        loss.backward()
        self.optimizers[1].step()
        return loss.detach()

    def _update_generator(self, fakes: torch.Tensor) -> torch.Tensor:
        self.discriminator.requires_grad_(False)
        self.optimizers[0].zero_grad(set_to_none=True)
        with self._autocast():
            logits = self.discriminator(fakes, self._labels)
        loss = F.softplus(-logits).mean()
        loss.backward()
        self.optimizers[0].step()
        self.discriminator.requires_grad_(True)
        return loss.detach()

    def _compile(self) -> None:
        """Compiles both networks and runs a step of them."""
        self.generator.compile()
        self.discriminator.compile()
        try:
            self.run(1)
        except RuntimeError as error:  # as all of torch.compile's are: there is no C++ compiler, for example
            raise UserError(f"torch.compile fails: {str(error).strip().splitlines()[0]}") from error

    def _fastest(self) -> tuple[str, Step]:
        """The fastest of: the step in one CUDA graph, compiled networks, compiled networks in one CUDA graph."""
        candidates = {"eager, CUDA graph": self._captured()}
        self._compile()
        candidates["torch.compile, CUDA graph"] = self._captured()
        candidates["torch.compile"] = self.step
        speeds = {}
        for name, self._step in candidates.items():
            self.run(5)
            start = time.perf_counter()
            self.run(20)
            speeds[name] = time.perf_counter() - start
        best = min(speeds, key=speeds.__getitem__)
        return best, candidates[best]

    def _captured(self) -> Step:
        """The step as it is now, recorded once and replayed on fresh inputs."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["capturable"] = True
        static = self._inputs(0)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step(*static)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = self.step(*static)

        def replay(*inputs: torch.Tensor) -> list[torch.Tensor]:
            for target, value in zip(static, inputs, strict=True):
                target.copy_(value)
            graph.replay()
            return losses

        return replay


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
            nn.init.normal_(module.weight, 1.0, 0.02)


def load(trainer: TorchTrainer, state: GANState, config: ConfigDict) -> None:
    """Gives the peer the parameters of a state of ours, and empties its optimizers' moments."""

    def assign(parameter: Any, value: np.ndarray) -> None:
        with torch.no_grad():
            parameter.copy_(torch.tensor(np.ascontiguousarray(value)))

    def assign_norm(norm: Any, ours: Any, sides: tuple[int, ...] = (1, 1)) -> None:
        if ours:
            assign(norm.weight, _features_first(ours["gain"], sides))
            assign(norm.bias, _features_first(ours["shift"], sides))

    def assign_layers(layers: Any, norms: Any, ours: Any, name: str) -> None:
        for i, layer in enumerate(layers, 1):
            kernel = ours[f"{name}{i}"]
            assign(layer.weight, kernel["kernel"].T if name == "hidden" else kernel.transpose(3, 2, 0, 1))
        for i, norm in enumerate(norms, 1):
            assign_norm(norm, ours.get(f"{name}{i}_norm"))

    generator, ours = trainer.generator, state.generator.params
    sides = generator.maps[2:]
    assign_layers(generator.hidden.layers, generator.hidden.norms, ours, "hidden")
    assign(generator.projection.weight, _features_first(ours["projection"]["kernel"], sides).T)
    assign_norm(generator.projection_norm, ours.get("projection_norm"), sides if generator.per_unit else (1, 1))
    assign_layers(generator.layers, generator.norms, ours, "deconv")
    for average, parameter in zip(trainer.ema, generator.parameters(), strict=False):
        assign(average, parameter.detach().numpy())

    discriminator, ours = trainer.discriminator, state.discriminator.params
    assign_layers(discriminator.layers, discriminator.norms, ours, "conv")
    assign_layers(discriminator.hidden.layers, discriminator.hidden.norms, ours, "hidden")
    assign(discriminator.logit.weight, ours["logit"]["kernel"].T)
    after_maps = discriminator.hidden.layers[0] if config.model.discriminator.hidden else discriminator.logit
    assign(after_maps.weight, _features_first(after_maps.weight.detach().numpy(), sides, config.model.num_classes))
    for optimizer in trainer.optimizers:
        optimizer.state.clear()


def _features_first(values: np.ndarray, sides: tuple[int, ...], labels: int = 0) -> np.ndarray:
    """Last axis (row, column, feature) -> (feature, row, column); so many labels at its end stay there."""
    maps, rest = np.split(values, [values.shape[-1] - labels], axis=-1)
    moved = np.moveaxis(maps.reshape(*maps.shape[:-1], *sides, -1), -1, -3)
    return np.concatenate([moved.reshape(maps.shape), rest], axis=-1)
