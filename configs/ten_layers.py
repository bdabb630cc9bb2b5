"""Faces at 64 pixels with a discriminator of ten convolutions: does depth in D help?

    python -m dcgan_jax.main --config=configs/ten_layers.py --workdir=runs/ten_layers \
        --config.data.source=folder:/data/faces

Data: any folder of face crops, as for faces.py; rendered ones need no download, --config.data.source=toy_faces.

The paper has no such network; the deepest of the authors has six convolutions (imagenet32.py). Here strides 1 and 2
take turns five times, from 64 pixels to maps of 2 x 2. There are 64 maps at first and 1,024 in the end, as in the
paper's last layer. The generator, the kernels (5x5) and all else are those of faces.py.

Cost: 1.8 times the arithmetic of faces.py an image (27.2 instead of 15.3 GFLOP, counted by nets/flops.py); D has 52
instead of 17 million parameters.
"""

from ml_collections import ConfigDict

from configs import faces


def get_config() -> ConfigDict:
    config = faces.get_config()
    config.model.discriminator.stages = tuple((maps, stride) for maps in (64, 128, 256, 512, 1024) for stride in (1, 2))
    return config
