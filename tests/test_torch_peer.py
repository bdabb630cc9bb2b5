"""PyTorch trains the same networks: a step from the same weights has the same losses."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from dcgan_jax.machine import rng
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import models
from tests import tiny

torch = pytest.importorskip("torch")

from dcgan_jax.benchmark import torch_peer  # noqa: E402
from dcgan_jax.benchmark.torch_peer import TorchTrainer, check_peer  # noqa: E402

SIX_LAYERS = ((6, 2), (6, 1), (5, 2), (5, 1), (4, 2), (4, 1))
CASES: dict[str, dict[str, Any]] = {
    "paper": {"model.kernel_size": 5},
    "example": {"model.kernel_size": 4, "model.generator.projection_norm": "channel"},
    "fresh noise for D": {"update_order": "generator_first"},
    "MNIST": {
        "data.image_size": 28,
        "data.channels": 1,
        "model.kernel_size": 5,
        "model.num_classes": 3,
        "model.output": "sigmoid",
        "model.norm_affine": False,
        "model.generator.hidden": (7,),
        "model.discriminator.hidden": (9,),
        "update_order": "generator_first",
    },
    "six 3x3 layers": {"model.generator.stages": SIX_LAYERS, "model.discriminator.stages": SIX_LAYERS[::-1]},
    "dropout and ema": {"model.discriminator.dropout": 0.5, "model.discriminator.hidden": (9, 8), "ema_decay": 0.9},
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.config({"update_order": "discriminator_first", **CASES[name]})
    states, history = tiny.run_steps(config)
    trainer = TorchTrainer(config)
    torch_peer.load(trainer, states[0], config)
    before = [p.detach().clone() for p in trainer.generator.parameters()]
    masks = dropout_masks(config)
    monkeypatch.setattr(torch_peer.F, "dropout", lambda x, rate: x * next(masks) / (1 - rate))

    images = tiny.images(config.batch_size, config.data.image_size, config.data.channels, seed=0)
    noise = (torch.tensor(noise_of(config, stream)) for stream in ("z", "z_discriminator"))
    d_loss, g_loss = map(float, trainer.step(torch.tensor(images.transpose(0, 3, 1, 2)), *noise))
    # The second player sees the first one's update, whose first Adam step is little more than the sign of a gradient.
    first = config.update_order == "discriminator_first"
    assert d_loss == pytest.approx(history[0]["d_loss"], rel=1e-5 if first else 1e-3)
    assert g_loss == pytest.approx(history[0]["g_loss"], rel=1e-3 if first else 1e-5)
    assert next(masks, None) is None
    assert len(trainer.ema) == (len(before) if config.ema_decay else 0)
    for average, old, new in zip(trainer.ema, before, trainer.generator.parameters(), strict=False):
        assert torch.allclose(average, old + 0.1 * (new.detach() - old), atol=1e-7)
        assert not torch.equal(average, old)


def noise_of(config: ConfigDict, stream: str) -> np.ndarray:
    """What our first step draws."""
    keys = rng.example_keys(rng.stream(config.seed, stream, 0), 0, config.batch_size)
    shape, distribution = (config.model.z_dim,), config.model.z_distribution
    return np.array(jax.vmap(lambda key: models.sample_noise(key, shape, distribution))(keys))


def dropout_masks(config: ConfigDict) -> Iterator[Any]:
    """Those of our first step, in the order in which the peer asks for them."""
    if not config.model.discriminator.dropout:
        return
    side, shapes = config.data.image_size, list[tuple[int, ...]]()
    for features, stride in config.model.discriminator.stages:
        side //= stride
        shapes.append((side, side, features))
    shapes += [(width,) for width in config.model.discriminator.hidden]
    for stream in ("dropout_real", "dropout_fake_d", "dropout_fake_g"):
        keys = rng.example_keys(rng.stream(config.seed, stream, 0), 0, config.batch_size)
        for layer, shape in enumerate(shapes, 1):
            draw = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, layer), 0.5, shape))  # noqa: B023
            yield torch.tensor(np.moveaxis(np.array(draw(keys)), -1, 1).astype(np.float32))


def test_other_networks_are_refused() -> None:
    with pytest.raises(UserError, match=r"config.model.norm 'paper' only, not 'all'"):
        check_peer(tiny.config({"model.norm": "all"}))


def test_bfloat16_is_autocast() -> None:
    """The networks compute in it; parameters and images stay float32."""
    trainer = TorchTrainer(tiny.config({"precision": "bfloat16", "model.num_classes": 3}))
    dtypes = list[Any]()
    trainer.discriminator.layers[1].register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    trainer.run(1)
    assert set(dtypes) == {torch.bfloat16}
    assert {p.dtype for p in trainer.generator.parameters()} == {torch.float32}
    assert "bfloat16, eager" in trainer.facts.settings


def test_failure_to_compile_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, *arguments: Any) -> None:
        raise RuntimeError("\nNo working C++ compiler found\n  in a long traceback")

    monkeypatch.setattr(torch_peer.Generator, "compile", lambda self: monkeypatch.setattr(self, "forward", fail))
    monkeypatch.setattr(torch_peer.Discriminator, "compile", lambda self: None)
    with pytest.raises(UserError, match=r"^torch.compile fails: No working C\+\+ compiler found$"):
        TorchTrainer(tiny.config(), compiled=True)
