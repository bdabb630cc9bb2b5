"""Trains a DCGAN: python -m dcgan_jax.main --config=configs/lsun.py --workdir=runs/lsun [--config.field=value ...]

Flags and the start of the processes, nothing else; the work is in `training.train`.
"""

from absl import flags
from ml_collections import config_flags

from dcgan_jax import command_line, dry_run, machine, training
from dcgan_jax.machine import processes


def main() -> None:
    if _DETERMINISTIC.value:
        machine.repeat_exactly()
    processes.start_processes(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    act = dry_run.dry_run if _DRY_RUN.value else training.train
    act(_CONFIG.value, _WORKDIR.value, _INIT_FROM.value)


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "File with the run's configuration.", lock_config=True)
    _WORKDIR = command_line.define_path("workdir", None, "Folder of the run, made if need be.", required=True)
    _INIT_FROM = command_line.define_path(
        "init_from",
        None,
        "RUN[,STEP][,PLAYER]: a new run begins with the weights of another one, as far as they fit. RUN is what "
        "--workdir of other commands takes, STEP a number or 'best', default the newest, PLAYER 'generator' or "
        "'discriminator', default both.",
    )
    _COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, for a run of several processes.")
    _NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "How many there are.")
    _PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Which of them this one is, from 0. Clusters know all three.")
    _DETERMINISTIC = flags.DEFINE_bool(
        "deterministic",
        False,
        "GPUs: the same bits at every start, from slower programs.",
    )
    _DRY_RUN = flags.DEFINE_bool(
        "dry_run", False, "Print the config, sizes, time and memory, write sheets of the images, and stop."
    )
    flags.mark_flag_as_required("config")
    command_line.run(main)
