"""What the choices that the paper leaves open buy, or that others make: one is changed at a time.

    python -m dcgan_jax.evaluation.choices --config=configs/cifar10.py --workdir=runs/choices --seeds=3 \
        --config.model.width=0.25 --config.num_steps=1000

Trains the given config as it is and once for each choice, all on equally many images; see variations.py for how, and
for what is measured. The layers are those of the config, but for the discriminator of ten convolutions, which is made
for 32 pixels. docs/quality.md has the results.
"""

from functools import partial

from ml_collections import ConfigDict

from dcgan_jax.evaluation import variations
from dcgan_jax.evaluation.variations import Study, Variation

# At 32 pixels each halving down to the 4 x 4 maps of cifar10.py follows a convolution of stride 1. That makes six; more
# halvings would end in 1 x 1 maps, so the other four have stride 1.
_TEN_CONVOLUTIONS = (*((maps, stride) for maps in (128, 256, 512) for stride in (1, 2)), *4 * ((512, 1),))
_DROPOUT = "in D, after every activation; the paper has none"
_BATCH_SIZE = "as many images in all"


def _first_half(config: ConfigDict) -> int:
    return config.num_steps // 2


def _second_half(config: ConfigDict) -> int:
    return config.num_steps - config.num_steps // 2


def _half_width(config: ConfigDict) -> float:
    return config.model.width / 2


def _double_width(config: ConfigDict) -> float:
    return config.model.width * 2


STUDY = Study(
    "choices",
    "What the choices of a DCGAN's training buy",
    "as_given",
    {
        "generator_first": Variation({"update_order": "generator_first"}, "the authors' order; most ports: D first"),
        "least_squares": Variation({"loss": "least_squares"}, "Mao et al. 2017"),
        "hinge": Variation({"loss": "hinge"}, "Lim and Ye 2017; Miyato et al. 2018"),
        "ttur": Variation(
            {"optimizer.generator_learning_rate": 1e-4, "optimizer.discriminator_learning_rate": 5e-4},
            "two time scales, Heusel et al. 2017, their CIFAR-10",
        ),
        "learning_rate_5e-4": Variation(
            {"optimizer.generator_learning_rate": 5e-4, "optimizer.discriminator_learning_rate": 5e-4},
            "the authors' SVHN script",
        ),
        "decay": Variation(
            {"optimizer.decay_begin": _first_half, "optimizer.decay_steps": _second_half},
            "learning rates fall to 0 over the second half, the authors' MNIST script",
        ),
        "averaged": Variation({"ema_decay": 0.99}, "averaged weights of G over about 100 steps, Yazici et al. 2019"),
        "averaged_0.999": Variation({"ema_decay": 0.999}, "the same over about 1,000 steps, cifar10_best.py"),
        "batch_8": Variation({"batch_size": 8}, _BATCH_SIZE),
        "batch_16": Variation({"batch_size": 16}, _BATCH_SIZE),
        "batch_32": Variation({"batch_size": 32}, _BATCH_SIZE),
        "batch_64": Variation({"batch_size": 64}, _BATCH_SIZE),
        "batch_256": Variation({"batch_size": 256}, _BATCH_SIZE),
        "half_width": Variation({"model.width": _half_width}, "a half of the maps of every layer"),
        "double_width": Variation({"model.width": _double_width}, "twice the maps of every layer"),
        "dropout_0.4": Variation({"model.discriminator.dropout": 0.4}, _DROPOUT),
        "dropout_0.5": Variation({"model.discriminator.dropout": 0.5}, _DROPOUT),
        "dropout_0.7": Variation({"model.discriminator.dropout": 0.7}, _DROPOUT),
        "ten_layer_discriminator": Variation(
            {"model.discriminator.stages": _TEN_CONVOLUTIONS}, "strides 1, 2, 1, 2, 1, 2, 1, 1, 1, 1"
        ),
        "augmented": Variation({"augment.operations": ("color", "translation", "cutout")}, "Zhao et al. 2020"),
        "flipped": Variation({"data.flip": "x"}, "half of the training images mirrored"),
        "r1": Variation({"regularizer.r1": 1.0}, "every 16 steps; Mescheder et al. 2018, Karras et al. 2020"),
        "label_smoothing": Variation({"regularizer.label_smoothing": 0.1}, "one-sided, Salimans et al. 2016"),
        "instance_noise": Variation({"regularizer.instance_noise": 0.1}, "fades to 0, Sonderby et al. 2017"),
        "spectral_norm": Variation({"model.discriminator.spectral_norm": True}, "of D, Miyato et al. 2018"),
    },
)

# measure(config, *, workdir, seeds, variations, init_from, probe_source, probe_split) -> Report
measure = partial(variations.measure, STUDY)


if __name__ == "__main__":
    variations.command(STUDY)
