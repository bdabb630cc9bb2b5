"""Flags that name a trained run."""

from typing import NamedTuple

from absl import flags

from dcgan_jax import command_line
from dcgan_jax.runs import run_folder, trained
from dcgan_jax.runs.trained import Run


class RunFlags(NamedTuple):
    workdir: flags.FlagHolder
    step: flags.FlagHolder
    seed: flags.FlagHolder
    norm: flags.FlagHolder
    label: flags.FlagHolder

    def load(self) -> Run:
        """The run that the flags name. Raises UserError if there is no such run, checkpoint or class."""
        run = trained.load(self.workdir.value, self.step.value, self.norm.value)
        run.find_label(self.label.value)
        return run


def define_flags() -> RunFlags:
    """--workdir, --step, --seed, --norm and --label."""
    return RunFlags(
        workdir=command_line.define_path("workdir", None, "Folder of a trained run.", required=True),
        step=define_step_flag(),
        seed=flags.DEFINE_integer("seed", 0, "Of everything that is drawn.", lower_bound=0, upper_bound=2**31 - 1),
        norm=flags.DEFINE_enum(
            "norm", "running", ("running", "frozen"), "Statistics of batch normalisation; see sampler.py."
        ),
        label=flags.DEFINE_string(
            "label", None, "Class of all images (conditional networks), by name or number; default: number 0."
        ),
    )


def define_seeds_flag(default: str) -> flags.FlagHolder:
    """--seeds: numbers of images, a list; `default` says what is drawn without it."""
    text = (
        'Numbers of the images: "0,4,10-12" is 0, 4, 10, 11 and 12. Image i is a function of (seed, i), the same as '
        f"image i of `dcgan_jax.sample`; default: {default}."
    )
    return command_line.define_numbers("seeds", text)


class _StepParser(flags.ArgumentParser):
    """A number of steps, or BEST."""

    syntactic_help = f"a number, or '{run_folder.BEST}'"

    def parse(self, argument: str | int) -> str | int:
        if argument == run_folder.BEST:
            return run_folder.BEST
        try:
            return int(argument)
        except ValueError:
            raise ValueError(f"{argument!r} is neither a number of steps nor '{run_folder.BEST}'") from None


def define_step_flag() -> flags.FlagHolder:
    """--step, for `trained.load`."""
    text = (
        f"Checkpoint to use: its step, or '{run_folder.BEST}', the one with the lowest distance to the data among "
        "those that were evaluated; default: the latest."
    )
    return flags.DEFINE(_StepParser(), "step", None, text, serializer=flags.ArgumentSerializer())
