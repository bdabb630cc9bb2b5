"""Values that cannot work are named before anything else happens."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from dcgan_jax.config import check_config
from dcgan_jax.machine.errors import UserError
from tests import tiny


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "wasserstein"}, "config.loss is 'wasserstein'; choose from 'non_saturating', 'minimax',"),
        (
            {"update_order": "both"},
            "config.update_order is 'both'; choose from 'discriminator_first', 'generator_first'",
        ),
        ({"mapper": "vmap"}, "config.mapper is 'vmap'; choose from 'shard_map', 'pmap'"),
        ({"data.placement": "gpu"}, "config.data.placement is 'gpu'; choose from 'auto', 'device', 'host'"),
        ({"conv": "fft"}, "config.conv is 'fft'; choose from 'auto', 'winograd', 'im2col', 'lax'"),
        ({"num_steps": 0}, "config.num_steps is 0; it must be at least 1 and below 2,147,483,648."),
        ({"model.discriminator.dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1."),
        ({"model.width": -1.0}, "config.model.width is -1.0"),
        ({"ema_decay": 1.5}, "config.ema_decay is 1.5"),
        ({"optimizer.generator_learning_rate": -1e-4}, "generator_learning_rate is -0.0001"),
        ({"seed": -1}, "config.seed is -1"),
        (
            {"steps_per_call": 3, "log_every": 9, "checkpoint_every": 10},
            "config.checkpoint_every is 10, not a multiple of config.steps_per_call 3",
        ),
        (
            {"eval_every": 300, "checkpoint_every": 1000},
            "config.eval_every is 300 and config.checkpoint_every 1000, and neither is a multiple of the other",
        ),
        ({"model.z_dim": 0}, "config.model.z_dim is 0; it must be at least 1 and below 65,536."),
        ({"model.resampling": "bilinear"}, "config.model.resampling is 'bilinear'; choose from 'strided', 'pooling'"),
        ({"model.generator.stages": ((6, 4),)}, "strides 1 or 2"),
        ({"data.image_size": 30}, "the multiples of 4: set --config.data.image_size to 28 or 32"),
        (
            {"optimizer.decay_begin": 2, "optimizer.decay_steps": 1},
            "config.num_steps is 4, but the learning rates are zero from step 3 on",
        ),
    ],
)
def test_bad_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_config(tiny.config(changes))
    assert message in str(error.value)


def test_a_config_of_another_version() -> None:
    config = tiny.config().unlock()
    del config.steps_per_call
    with pytest.raises(UserError, match=r"config.steps_per_call is missing: .* another version"):
        check_config(config)


@pytest.mark.parametrize("size", [28, 32, 64, 96, 128, 256])
def test_sizes_that_fit(size: int) -> None:
    check_config(tiny.config({"data.image_size": size}))


def test_a_config_file_cannot_invent_fields(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs import default\n"
        "def get_config():\n"
        "    config = default.get_config()\n"
        "    config.model.widht = 0.25\n"
        "    return config\n"
    )
    with pytest.raises(AttributeError, match="width"):
        runpy.run_path(str(file))["get_config"]()
