"""What the choices that the paper leaves open buy, or that others make: one is changed at a time.

    python -m dcgan_jax.evaluation.choices --config=configs/cifar10.py --workdir=runs/choices --seeds=3 \
        --config.model.width=0.25 --config.num_steps=1000

Trains the given config as it is and once for each choice, all on equally many images, and with the layers of the
paper; see variations.py for how, and for what is measured. docs/quality.md has the results.
"""

from functools import partial

from dcgan_jax.evaluation import variations
from dcgan_jax.evaluation.variations import Study, Variation

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
        "averaged": Variation({"ema_decay": 0.99}, "averaged weights of G, Yazici et al. 2019"),
        "batch_32": Variation({"batch_size": 32}, "four times as many steps"),
        "batch_64": Variation({"batch_size": 64}, "twice as many steps"),
        "batch_256": Variation({"batch_size": 256}, "half as many steps"),
    },
)

# measure(config, *, workdir, seeds, variations) -> Report
measure = partial(variations.measure, STUDY)


if __name__ == "__main__":
    variations.command(STUDY)
