"""Curves of a run."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcgan_jax import plot_metrics
from dcgan_jax.machine.errors import UserError
from dcgan_jax.runs import run_folder


def test_running_mean_shrinks_at_the_ends() -> None:
    values = np.array([0.0, 3.0, 6.0, 9.0])
    np.testing.assert_allclose(plot_metrics.running_mean(values, 1), [1.5, 3.0, 6.0, 7.5])


def test_plot(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no metrics"):
        plot_metrics.plot(tmp_path)
    line = '{{"step": {}, "d_loss": 1.0, "g_loss": 2.0, "d_real": 0.6, "d_fake": 0.4}}\n'
    run_folder.metrics(tmp_path).write_text("".join(line.format(step) for step in (1, 2, 3)))
    with Image.open(plot_metrics.plot(tmp_path)) as image:
        assert image.size == (1100, 352)
