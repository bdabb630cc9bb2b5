"""A page in which the generator runs: samples, blends, walks, arithmetic, directions, maps, the training as a film.

    python -m dcgan_jax.explore --workdir=runs/toy_faces --out=faces.html

The page is one file that needs no network and no installation; phones open it, too. The weights of networks beyond
8 MB lie beside it, in faces.weights; browsers read them only from a server, which --serve is, on this machine.
"""

from pathlib import Path

from absl import flags

from dcgan_jax import command_line
from dcgan_jax.explore import page, server
from dcgan_jax.runs import run_flags, run_folder, trained


def main() -> None:
    workdir = Path(_WORKDIR.value)
    out = Path(_OUT.value) if _OUT.value else _default_out(workdir)
    page.check_path(out)
    written = page.write(out, trained.load(_WORKDIR.value, _STEP.value, _NORM.value))
    beside = written.with_suffix(".weights")
    sizes = {file: f"{file.stat().st_size / 1e6:.1f} MB" for file in (written, beside) if file.exists()}
    print("\n".join(f"{file}: {size}" for file, size in sizes.items()))
    if _SERVE.value:
        server.serve(written, _PORT.value)


def _default_out(workdir: Path) -> Path:
    """In a run's folder; what else the networks come from is left alone, and the page lies in the current folder."""
    return workdir / "explorer.html" if run_folder.steps(workdir) else Path(f"{workdir.absolute().stem}.html")


if __name__ == "__main__":
    _WORKDIR = command_line.define_path("workdir", None, "Folder of a trained run, or a weights file.", required=True)
    _STEP = run_flags.define_step_flag()
    _NORM = flags.DEFINE_enum(
        "norm", "running", ("running", "frozen"), "See sampler.py; imported weights need 'frozen'."
    )
    _OUT = command_line.define_path("out", None, "The page; default: explorer.html in the run's folder.")
    _SERVE = flags.DEFINE_bool("serve", False, "Serve the page on this machine, until Ctrl-C.")
    _PORT = flags.DEFINE_integer("port", 0, "Of the server; 0 takes a free one.", lower_bound=0, upper_bound=65535)
    command_line.run(main)
