"""Faces at 64 pixels from a folder of images (paper section 4.2, figure 10).

    python -m dcgan_jax.main --config=configs/faces.py --workdir=runs/faces --config.data.source=folder:/data/faces

Data: any folder of face crops. The authors' 350,000 faces were never released. CelebA is the usual stand-in: 202,599
images, 1.4 GB (img_align_celeba.zip from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html; the download is often
refused for the day, so try again or use a mirror), unpacked, with --config.data.crop_size=160.

The authors' code (faces/train_uncond_dcgan.py): 1024-512-256-128 maps, 5x5, z uniform of 100, batch 128, Adam 2e-4 and
0.5, coupled L2 1e-5, G first then D on fresh noise, 25 epochs of 350,000 images, 64-pixel centre crops of 128-pixel
faces. Their 68,375 minibatches update one network each: about 34,188 updates of each, the default num_steps here.

Deviates: the crop is resized unless crop_size is 64.

Cost: "overnight" on a 2015 GPU, say the authors. docs/results.md has a run of 49 minutes on two CPU cores at a quarter
of the width.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.source = "folder:faces"
    config.num_steps = 34_188
    return config
