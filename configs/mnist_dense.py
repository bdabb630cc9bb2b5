"""MNIST at 28 pixels without convolutions: the appendix's baseline, a permutation-invariant conditional GAN.

    python -m dcgan_jax.main --config=configs/mnist_dense.py --workdir=runs/mnist_dense

Data: as in mnist.py.

The paper compares its conditional DCGAN with "a permutation invariant GAN", both with batch normalisation without gain
and shift, and does not say more. Widths, depth, optimizer and schedule are chosen here: two dense hidden layers of
1,024 units in either network, as wide as the dense layers of the authors' DCGAN; everything else as in mnist.py.
"""

from ml_collections import ConfigDict

from configs import mnist


def get_config() -> ConfigDict:
    config = mnist.get_config()
    config.model.generator.hidden = (1024, 1024)
    config.model.generator.stages = ()
    config.model.discriminator.stages = ()
    config.model.discriminator.hidden = (1024, 1024)
    return config
