"""Rendered bedrooms at 64 pixels: the quick start, no download.

    python -m dcgan_jax.main --config=configs/toy_bedrooms.py --workdir=runs/toy_bedrooms

Data: 10,000 images drawn by dcgan_jax/datasets/toy_bedrooms.py with known factors (windows and their boxes, lamp, TV,
bed, colours); a 123 MB pack in the user's cache folder.

Deviates from the paper: a quarter of the width, 4x4 kernels, batch 32 and the ports' update order (D, then G on the
same fakes), all to suit a laptop. Narrow layers need larger weights, so both networks learn faster than in the paper,
and G faster than D, which easily separates clean drawings from fakes. Averaged generator weights draw the sheets.

Cost: about 10 minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.source = "toy_bedrooms"
    config.data.num_examples = 10_000
    config.batch_size = 32
    config.num_steps = 4000
    config.log_every = 50
    config.sample_every = 500
    config.checkpoint_every = 1000
    config.model.width = 0.25
    config.model.kernel_size = 4
    config.update_order = "discriminator_first"
    config.optimizer.generator_learning_rate = 1e-3
    config.optimizer.discriminator_learning_rate = 4e-4
    config.ema_decay = 0.99
    return config
