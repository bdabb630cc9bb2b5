"""CIFAR-10 at 32 pixels, unconditional: the set on which most GANs are compared.

    python -m dcgan_jax.main --config=configs/cifar10.py --workdir=runs/cifar10

Data: 50,000 images, TFDS set cifar10, downloads 170 MB; the pack takes 154 MB.

The paper never trains on CIFAR-10 (its section 5.1 tests ImageNet features there), so this follows the ports:
4x4 kernels, 512-256-128 maps, normal noise, no L2, batch normalisation of the projection per channel with epsilon 1e-5,
D then G on the same fakes.

Cost: 40,000 steps are 102 epochs. docs/results.md has a run of half an hour on two CPU cores at half the width.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.source = "tfds:cifar10"
    config.data.image_size = 32
    config.num_steps = 40_000
    config.model.z_distribution = "normal"
    config.model.kernel_size = 4
    config.model.norm_epsilon = 1e-5
    config.model.generator.stages = ((512, 2), (256, 2), (128, 2))
    config.model.generator.projection_norm = "channel"
    config.model.discriminator.stages = ((128, 2), (256, 2), (512, 2))
    config.update_order = "discriminator_first"
    config.optimizer.l2 = 0.0
    return config
