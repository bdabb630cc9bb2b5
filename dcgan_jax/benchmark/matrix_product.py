"""Products of large square matrices: about the most that a device can do, measured beside the training steps."""

import time

import jax
import jax.numpy as jnp

from dcgan_jax.benchmark import devices
from dcgan_jax.benchmark.trainer import Facts


def size(platform: str) -> int:
    """Rows of the matrices on 'cpu', 'gpu' or 'tpu'."""
    return 2048 if platform == "cpu" else 8192


def flops(platform: str, seconds: float) -> float:
    """Floating-point operations per second where one product takes so many seconds."""
    return 2 * size(platform) ** 3 / seconds


class JaxProduct:
    """In JAX. Results are float32: XLA's CPU back end reaches the processor's bfloat16 instructions only then."""

    def __init__(self, precision: str) -> None:
        rows = size(devices.found_platform("jax_product"))
        self._factor = jnp.ones((rows, rows), precision)
        self._product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
        start = time.perf_counter()
        self.run(1)
        seconds = time.perf_counter() - start
        (device,) = self._factor.devices()
        settings = f"jax {jax.__version__}, {rows} x {rows} matrices, {precision}"
        self.facts = Facts(settings, device.device_kind, seconds, devices.platform_of(device))

    def run(self, steps: int) -> int:
        for _ in range(steps):
            result = self._product(self._factor, self._factor)
        result.block_until_ready()
        return steps

    def memory_bytes(self) -> int | None:
        return None


class TorchProduct:
    """In PyTorch, with TF32 on GPUs, as JAX has it."""

    def __init__(self, precision: str) -> None:
        import torch  # an extra

        torch.backends.cuda.matmul.allow_tf32 = True
        platform = devices.found_platform("torch_product")
        rows, device = size(platform), "cuda" if platform == "gpu" else "cpu"
        self._wait = torch.cuda.synchronize if platform == "gpu" else lambda: None
        self._factor = torch.ones(rows, rows, dtype=getattr(torch, precision), device=device)
        start = time.perf_counter()
        self.run(1)
        seconds = time.perf_counter() - start
        settings = f"torch {torch.__version__}, {rows} x {rows} matrices, {precision}"
        self.facts = Facts(settings, device, seconds, platform)

    def run(self, steps: int) -> int:
        for _ in range(steps):
            self._factor.mm(self._factor)
        self._wait()
        return steps

    def memory_bytes(self) -> int | None:
        return None
