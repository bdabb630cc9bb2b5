"""ImageNet-1k at 32 pixels: the run behind the CIFAR-10 features (paper sections 4.3 and 5.1).

    python -m dcgan_jax.main --config=configs/imagenet32.py --workdir=runs/imagenet32 \
        --config.data.source=folder:/data/imagenet/train

Data: 1,281,167 images, 138 GB (ILSVRC2012_img_train.tar after registration at https://image-net.org, unpacked to one
folder per class); or TFDS's prepared set, --config.data.source=tfds:imagenet2012. The pack takes 3.9 GB. "32x32
min-resized centre crops" [section 4.3]: the largest centred square, resized.

The authors' released weights (imagenet/load_pretrained.py): six 3x3 layers a network, strides alternating 2,1,2,1,2,1
in G and 1,2,1,2,1,2 in D, 512 to 128 maps, z uniform of 256, after 30 epochs. The training script was never released;
optimizer, L2 and update order are those of the faces script: G first, then D on fresh noise.

Cost: 30 epochs are 300,300 of the authors' minibatches, which update one network each: 150,150 steps here.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.source = "folder:imagenet/train"
    config.data.image_size = 32
    config.model.z_dim = 256
    config.model.kernel_size = 3
    config.model.generator.stages = ((512, 2), (512, 1), (256, 2), (256, 1), (128, 2), (128, 1))
    config.model.discriminator.stages = ((128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2))
    config.num_steps = 150_150
    config.checkpoint_every = 2000
    return config
