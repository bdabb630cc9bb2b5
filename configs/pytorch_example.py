"""The network and settings of PyTorch's own DCGAN example, github.com/pytorch/examples, dcgan/main.py.

    python -m dcgan_jax.main --config=configs/pytorch_example.py --workdir=runs/pytorch_example \
        --config.data.source=folder:/data/faces
    python -m dcgan_jax.import_weights --config=configs/pytorch_example.py --weights=netG.pth,netD.pth --workdir=runs/x

Data: any folder of images; the shorter side is resized to 64 pixels and the centre cut out, as there.

The example: 64 pixels, 512-256-128-64 maps, 4x4 kernels, z normal of 100, the projection normalised per channel, 1e-5
added to variances, batch 128, Adam 2e-4 and 0.5 without L2, D first, then G on the same fakes, 25 epochs. 39,575 steps
are 25 epochs of the 202,599 images of CelebA. Its netG.pth and netD.pth can be imported, and are what
dcgan_jax.exchange.torch_state writes of a run with this config.

Deviates: running averages of D follow real images only, and variances in them are biased, as everywhere here. The
example draws its sheets with statistics of the batch (--norm=batch).
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.source = "folder:images"
    config.num_steps = 39_575
    config.model.z_distribution = "normal"
    config.model.kernel_size = 4
    config.model.norm_epsilon = 1e-5
    config.model.generator.stages = ((512, 2), (256, 2), (128, 2), (64, 2))
    config.model.generator.projection_norm = "channel"
    config.model.discriminator.stages = ((64, 2), (128, 2), (256, 2), (512, 2))
    config.update_order = "discriminator_first"
    config.optimizer.l2 = 0.0
    return config
