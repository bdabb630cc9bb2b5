"""MNIST at 28 pixels: the conditional network of the authors' MNIST script (paper, appendix).

    python -m dcgan_jax.main --config=configs/mnist.py --workdir=runs/mnist

Data: 60,000 images and labels, TFDS set mnist, downloads 11 MB; the pack takes 47 MB.

The authors' code (mnist/train_cond_dcgan.py): labels joined at every layer of both networks; G: 1024 dense, 7x7x128,
64 maps, sigmoid; D: 64, 128 maps, 1024 dense; 5x5; batch normalisation without gain and shift; coupled L2 2.5e-5; batch
128; 100 epochs at learning rate 2e-4 and 100 of linear decay to zero; G first, then D on fresh noise. Of their 78,200
minibatches each network gets half: 39,100 steps here, of which the second half decay.

As there, the first 50,000 images are for training and the other 10,000 for validation: `nnd` and `nnc_accuracy` of
10,000 samples are measured on the latter.

Deviates: the decay is per step instead of per epoch. The authors measure every five epochs, which are 977.5
steps here; this config measures every 1,000. They also use 1,000 and 100,000 samples.

Cost: "about an hour" on a 2015 GPU, say the authors; docs/results.md has digits of every class after the first
500 steps.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.source = "tfds:mnist"
    config.data.image_size = 28
    config.data.channels = 1
    config.data.split = "train[:50000]"
    config.num_steps = 39_100
    config.eval_every = 1000
    config.eval.split = "train[50000:]"
    config.model.num_classes = 10
    config.model.output = "sigmoid"
    config.model.norm_affine = False
    config.model.generator.hidden = (1024,)
    config.model.generator.stages = ((128, 2), (64, 2))
    config.model.discriminator.stages = ((64, 2), (128, 2))
    config.model.discriminator.hidden = (1024,)
    config.optimizer.l2 = 2.5e-5
    config.optimizer.decay_begin = config.num_steps // 2
    config.optimizer.decay_steps = config.num_steps // 2
    return config
