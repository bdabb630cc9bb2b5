"""All experiments of the paper that a trained run allows, on one page.

    python -m dcgan_jax.analysis --workdir=runs/toy_faces

runs every experiment with its default settings, and writes <workdir>/analysis/index.html: pictures, figures and the
paper's beside them, in one file that needs nothing else. Results that are already there for the same checkpoint are
kept, also those made with other flags (--rerun makes all of them again). What does not apply is listed with the reason.

The exit status is 0 even if some experiments do not apply, and 1 if one failed for another reason.
"""

import sys

from absl import flags

from dcgan_jax import command_line
from dcgan_jax.analysis import page
from dcgan_jax.runs import trained


def main() -> None:
    run = trained.load(_WORKDIR.value, norm=_NORM.value)
    outcome = page.write(run, rerun=_RERUN.value)
    print(outcome.page)
    if outcome.failed:
        sys.exit(1)


if __name__ == "__main__":
    _WORKDIR = command_line.define_path("workdir", None, "Folder of a trained run.", required=True)
    _NORM = flags.DEFINE_enum(
        "norm", "running", ("running", "frozen"), "See sampler.py; imported weights need 'frozen'."
    )
    _RERUN = flags.DEFINE_bool("rerun", False, "Make results again that are already there.")
    command_line.run(main)
