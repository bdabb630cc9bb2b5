"""Trains a DCGAN: python -m dcgan_jax.main --config=configs/lsun.py --workdir=runs/lsun [--config.field=value ...]

Flags, nothing else; the work is in `train.train_and_evaluate`.
"""

from absl import flags
from ml_collections import config_flags

from dcgan_jax import command_line, train


def main() -> None:
    train.train_and_evaluate(_CONFIG.value, _WORKDIR.value)


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "File with the run's configuration.", lock_config=True)
    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, samples, metrics.", required=True)
    flags.mark_flag_as_required("config")
    command_line.run(main)
