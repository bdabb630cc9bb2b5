"""The same networks and training step in PyTorch, as fast as PyTorch's users know how to make them: a peer to measure.

Layers, loss, update order, batch normalisation, coupled L2 and Adam are those of this package: a test starts both from
the same weights and compares the steps. What makes it fast: channels-last tensors, fused Adam, no gradients of the
discriminator's weights in the generator's update, fakes reused where the update order allows; on a GPU also bfloat16
autocast or TF32, and torch.compile with CUDA graphs where that measures faster.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import nn

from dcgan_jax.benchmark.trainer import Facts
from dcgan_jax.config import flatten, need_convolutions
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import models
from dcgan_jax.nets.activations import LEAK

_POOL_BATCHES = 4  # random batches that the steps go through in turn
# The one value that the peer knows of fields that change the networks or the losses.
_ONLY = {
    "model.output": "tanh",
    "model.num_classes": 0,
    "model.resampling": "strided",
    "model.norm": "paper",
    "model.norm_affine": True,
    "model.generator.hidden": (),
    "model.generator.activation": "relu",
    "model.discriminator.hidden": (),
    "model.discriminator.activation": "leaky_relu",
    "model.discriminator.head": "dense",
    "model.discriminator.dropout": 0.0,
    "loss": "non_saturating",
    "ema_decay": 0.0,
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
    """Noise [batch, z_dim] -> images [batch, channels, height, width] in [-1, 1]."""

    def __init__(self, config: ConfigDict) -> None:
        super().__init__()
        ours = models.build_generator(config)
        side, first = models.first_side(config.data.image_size, ours.stages), ours.stages[0][0]
        self.maps = (-1, first, side, side)
        self.per_unit = config.model.generator.projection_norm == "unit"
        self.projection = nn.Linear(config.model.z_dim, first * side * side, bias=False)
        norm = nn.BatchNorm1d if self.per_unit else nn.BatchNorm2d
        self.projection_norm = norm(first * side * side if self.per_unit else first, *_norm_settings(config))
        self.layers = nn.ModuleList()
        outputs = models.generator_widths(ours.stages, config.data.channels)[1:]
        kernel = config.model.kernel_size
        pad = (kernel - 1) // 2
        for (features, stride), output in zip(ours.stages, outputs, strict=True):
            missing = stride - kernel + 2 * pad  # rows at the end that ConvTranspose2d would leave out
            self.layers.append(nn.ConvTranspose2d(features, output, kernel, stride, pad, missing, bias=False))
        self.norms = nn.ModuleList(nn.BatchNorm2d(features, *_norm_settings(config)) for features in outputs[:-1])
        _initialise(self)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.projection(z)
        x = self.projection_norm(x).view(self.maps) if self.per_unit else self.projection_norm(x.view(self.maps))
        x = F.relu(x, inplace=True).contiguous(memory_format=torch.channels_last)
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = F.relu(norm(layer(x)), inplace=True)
        return torch.tanh(self.layers[-1](x).float())


class Discriminator(nn.Module):
    """Images [batch, channels, height, width] -> logits [batch]."""

    def __init__(self, config: ConfigDict) -> None:
        super().__init__()
        ours = models.build_discriminator(config)
        kernel, inputs, side = config.model.kernel_size, config.data.channels, config.data.image_size
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        for i, (features, stride) in enumerate(ours.stages):
            self.layers.append(nn.Conv2d(inputs, features, kernel, stride, (kernel - 1) // 2, bias=False))
            self.norms.append(nn.BatchNorm2d(features, *_norm_settings(config)) if i else nn.Identity())
            inputs, side = features, side // stride
        self.logit = nn.Linear(inputs * side * side, 1, bias=False)
        _initialise(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.leaky_relu(norm(layer(x)), LEAK, inplace=True)
        return self.logit(x.flatten(1))[:, 0].float()


class TorchTrainer:
    """Both networks with their optimizers, ready to run steps on random images.

    Attributes:
      generator, discriminator: the networks, channels last.
      facts: what was chosen, on what device, and the time to the end of the first step.
    """

    def __init__(self, config: ConfigDict) -> None:
        check_peer(config)
        self._config = config
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        networks = Generator(config).to(self._device), Discriminator(config).to(self._device)
        self.generator, self.discriminator = networks
        for network in networks:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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
        data = config.data
        shape = (_POOL_BATCHES, config.batch_size, data.channels, data.image_size, data.image_size)
        self._pool = torch.randint(0, 256, shape, dtype=torch.uint8, device=self._device)
        self._step, settings = self.step, f"{self._config.precision}, eager"
        start = time.perf_counter()
        self.run(1)
        seconds = time.perf_counter() - start
        name = f"CPU, {torch.get_num_threads()} threads"
        if self._device.type == "cuda":
            self._step, settings = self._fastest()
            name = torch.cuda.get_device_name()
        platform = "gpu" if self._device.type == "cuda" else "cpu"
        self.facts = Facts(f"torch {torch.__version__}, channels_last, fused Adam, {settings}", name, seconds, platform)

    def run(self, steps: int) -> int:
        """Runs training steps and waits for them."""
        for i in range(steps):
            images = self._pool[i % _POOL_BATCHES].contiguous(memory_format=torch.channels_last)
            self._step(images, self.noise(), self.noise())
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

        `z_discriminator` is used by the update order 'generator_first' only.
        """
        real = images.float() / 127.5 - 1.0
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.precision == "bfloat16"):
            fakes = self.generator(z)
            if self._config.update_order == "discriminator_first":
                d_loss = self._update_discriminator(real, fakes.detach())
                g_loss = self._update_generator(fakes)
            else:
                g_loss = self._update_generator(fakes)
                with torch.no_grad():
                    fakes = self.generator(z_discriminator)
                d_loss = self._update_discriminator(real, fakes)
        return [d_loss, g_loss]

    def memory_bytes(self) -> int | None:
        """Most bytes in use so far on the GPU; None on the CPU."""
        return torch.cuda.max_memory_allocated() if self._device.type == "cuda" else None

    def _update_discriminator(self, real: torch.Tensor, fakes: torch.Tensor) -> torch.Tensor:
        self.optimizers[1].zero_grad(set_to_none=True)
        loss = F.softplus(-self.discriminator(real)).mean() + F.softplus(self.discriminator(fakes)).mean()
        loss.backward()
        self.optimizers[1].step()
        return loss.detach()

    def _update_generator(self, fakes: torch.Tensor) -> torch.Tensor:
        self.discriminator.requires_grad_(False)
        self.optimizers[0].zero_grad(set_to_none=True)
        loss = F.softplus(-self.discriminator(fakes)).mean()
        loss.backward()
        self.optimizers[0].step()
        self.discriminator.requires_grad_(True)
        return loss.detach()

    def _fastest(self) -> tuple[Callable[..., list[torch.Tensor]], str]:
        """The fastest of: the step in one CUDA graph, compiled networks, compiled networks in one CUDA graph."""
        candidates = {"eager, CUDA graph": self._captured()}
        self.generator.compile()
        self.discriminator.compile()
        candidates["torch.compile, CUDA graph"] = self._captured()
        candidates["torch.compile"] = self.step
        speeds = {}
        for name, self._step in candidates.items():
            self.run(5)
            start = time.perf_counter()
            self.run(20)
            speeds[name] = time.perf_counter() - start
        best = min(speeds, key=speeds.__getitem__)
        return candidates[best], f"{self._config.precision}, {best}"

    def _captured(self) -> Callable[..., list[torch.Tensor]]:
        """The step as it is now, recorded once and replayed on fresh inputs."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["capturable"] = True
        static = [self._pool[0].contiguous(memory_format=torch.channels_last), self.noise(), self.noise()]
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


def _norm_settings(config: ConfigDict) -> tuple[float, float]:
    return config.model.norm_epsilon, 1.0 - config.model.norm_momentum


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
