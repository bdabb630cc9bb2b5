"""What flips and augmentation do for a DCGAN that is trained on few images.

    for n in 300 1000 3000 10000; do
        python -m dcgan_jax.evaluation.small_sets --config=configs/cifar10.py --workdir=runs/small_$n --seeds=3 \
            --config.data.num_examples=$n --config.eval.split=test \
            --config.model.width=0.25 --config.batch_size=32 --config.num_steps=3000
    done

Trains the given config as it is, which should have neither, and once for each way to make more of its images; see
variations.py for how, and for what is measured. Held-out images (config.eval.split or config.eval.source) are what
samples are compared with here: a generator that repeats 300 training images would be near to those.
docs/own_images.md has the results.
"""

from functools import partial

from ml_collections import ConfigDict

from dcgan_jax.evaluation import variations
from dcgan_jax.evaluation.variations import Study, Variation
from dcgan_jax.nets import augment


def _quarter_of_the_images(config: ConfigDict) -> int:
    return config.num_steps * config.batch_size // 4


_ALL = tuple(augment.OPERATIONS)
_FLIPPED = {"data.flip": "x"}
_AUGMENTED = {"augment.operations": _ALL}
# 500,000 images are a fiftieth of the runs of Karras et al. 2020; here the probability can rise in a quarter of a run.
_ADAPTIVE = {**_AUGMENTED, "augment.probability": 0.0, "augment.target": 0.6}

STUDY = Study(
    "small_sets",
    "Few images: flips and augmentation",
    "as_given",
    {
        "flipped": Variation(_FLIPPED, "half of the training images mirrored"),
        "augmented": Variation(_AUGMENTED, "colour, translation, cutout; Zhao et al. 2020"),
        "adaptive": Variation(
            {**_ADAPTIVE, "augment.ramp_images": _quarter_of_the_images},
            "the same, its probability adjusted; Karras et al. 2020",
        ),
        "flipped_and_augmented": Variation({**_FLIPPED, **_AUGMENTED}, "both"),
    },
    needs_held_out=True,
)

# measure(config, *, workdir, seeds, variations, init_from, probe_source, probe_split) -> Report
measure = partial(variations.measure, STUDY)


if __name__ == "__main__":
    variations.command(STUDY)
