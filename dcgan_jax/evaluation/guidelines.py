"""What each of the paper's guidelines buys [paper sections 3 and 4]: one is broken at a time.

    python -m dcgan_jax.evaluation.guidelines --config=configs/cifar10.py --workdir=runs/guidelines --seeds=3 \
        --config.model.width=0.25 --config.num_steps=1000

Trains the given config as it is, which should follow the guidelines, and once for each rule with that rule broken; see
variations.py for how, and for what is measured. The paper judges by eye and gives no numbers.
"""

from functools import partial

from dcgan_jax.evaluation import variations
from dcgan_jax.evaluation.variations import Study, Variation

STUDY = Study(
    "guidelines",
    "The architecture guidelines, broken one at a time (sections 3 and 4)",
    "paper",
    {
        "pooling": Variation({"model.resampling": "pooling"}, "section 3: pooling instead of strides"),
        "no_norm": Variation({"model.norm": "none"}, "section 3: no batch normalisation"),
        "norm_everywhere": Variation({"model.norm": "all"}, "section 3: also in G's output and D's input layer"),
        "dense_hidden": Variation(
            {"model.generator.hidden": (1024,), "model.discriminator.hidden": (1024,)},
            "section 3: dense hidden layers",
        ),
        "average_pooling": Variation(
            {"model.discriminator.head": "pool"}, "section 3: global average pooling, more stable"
        ),
        "relu_discriminator": Variation({"model.discriminator.activation": "relu"}, "section 3: ReLU in D"),
        "tanh_generator": Variation({"model.generator.activation": "tanh"}, "section 3: bounded activation in G"),
        "learning_rate_1e-3": Variation(
            {"optimizer.generator_learning_rate": 1e-3, "optimizer.discriminator_learning_rate": 1e-3},
            "section 4: 0.001 is too high",
        ),
        "beta1_0.9": Variation({"optimizer.b1": 0.9}, "section 4: oscillation"),
    },
)

# measure(config, *, workdir, seeds, variations, init_from, probe_source, probe_split) -> Report
measure = partial(variations.measure, STUDY)


if __name__ == "__main__":
    variations.command(STUDY)
