"""Writes a trained run's networks as files that other programs read.

    python -m dcgan_jax.export --workdir=runs/faces --format=onnx --out=faces_onnx

docs/export.md says what the formats are for. What was written is compared with JAX at once, where this machine can run
it, and thrown away if it differs.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from absl import flags

from dcgan_jax import command_line
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.runs import run_flags, trained
from dcgan_jax.runs.trained import Run


class Format(NamedTuple):
    """How a format is written and checked.

    Attributes:
      write: (folder, run) -> the files.
      check: (folder, run) -> what was found, in words, by name of the file. Raises UserError if they are no good.
    """

    write: Callable[[Path, Run], list[Path]]
    check: Callable[[Path, Run], dict[str, str]] = lambda folder, run: {}


def _hub(license: str = "") -> Format:
    from dcgan_jax.exchange import hub

    return Format(partial(hub.write, license=license or "unknown"))


def _onnx(taps: bool = False) -> Format:
    from dcgan_jax.exchange import onnx_file

    return Format(partial(onnx_file.write, taps=taps), onnx_file.check)


def _page() -> Format:
    from dcgan_jax.explore import page

    return Format(lambda folder, run: [page.write(folder / "explorer.html", run)])


def _safetensors() -> Format:
    from dcgan_jax.exchange import hub

    return Format(hub.write_weights)


def _stablehlo() -> Format:
    from dcgan_jax.exchange import stablehlo_file

    return Format(stablehlo_file.write, stablehlo_file.check)


def _torch() -> Format:
    from dcgan_jax.exchange import torch_state

    return Format(torch_state.write)


# Each imports what it needs when it is asked for: not every machine has every library.
FORMATS: dict[str, Callable[..., Format]] = {
    "hub": _hub,
    "onnx": _onnx,
    "page": _page,
    "safetensors": _safetensors,
    "stablehlo": _stablehlo,
    "torch": _torch,
}
# What to install for the formats that need more than the package does.
_EXTRAS = {"onnx": "onnx"}


def find_format(name: str, *, taps: bool = False, license: str = "") -> Format:
    """The format of a name.

    Args:
      name: one of FORMATS.
      taps: every activation is an output as well, which only 'onnx' can have.
      license: of weights and samples, which only 'hub' writes down, see `hub.write`; '': unknown.

    Raises:
      UserError: there is no such format, its libraries are not installed, or it can have no taps or no license.
    """
    if name not in FORMATS:
        raise UserError(f"format is {name!r}; choose from {', '.join(map(repr, FORMATS))}.")
    if taps and name != "onnx":
        raise UserError(f"--taps is for --format=onnx, not for {name}: leave it out.")
    if license and name != "hub":
        raise UserError(f"--license is for --format=hub, not for {name}: leave it out.")
    try:
        return FORMATS[name](**({"taps": taps} if taps else {}), **({"license": license} if license else {}))
    except ModuleNotFoundError as error:
        if name not in _EXTRAS:
            raise
        extra = f"pip install 'dcgan_jax[{_EXTRAS[name]}]'"
        raise UserError(f"--format={name} needs {error.name}, which is not installed: {extra}.") from error


def check_out(out: Path) -> None:
    """Raises UserError if `out` is anything but a new or an empty folder."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out={out} is there already and not an empty folder: give a new one.")


def write(run: Run, format: Format, out: Path) -> dict[str, str]:
    """Writes a run's networks into a folder, which appears once all files are written and checked.

    Args:
      run: a trained run, whose norm is not 'batch'.
      format: see `find_format`.
      out: a new or an empty folder.

    Returns:
      What the check found, in words, by name of the file.

    Raises:
      UserError: `out` cannot be used, the run draws with statistics of batches, which no file has, or the check failed.
    """
    out = out.resolve()
    check_out(out)
    if run.sampler.norm == "batch":
        raise UserError("norm is 'batch', but an image in a file cannot depend on others: load with 'running'.")
    files.make_writable(out.parent, "--out")
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as unfinished:
        folder = Path(unfinished) / out.name
        folder.mkdir()
        written = format.write(folder, run)
        found = format.check(folder, run)
        folder.replace(out)
    return {path.name: found.get(path.name, "") for path in written}


def main() -> None:
    out = Path(_OUT.value)
    check_out(out)
    format = find_format(_FORMAT.value, taps=_TAPS.value, license=_LICENSE.value)
    run = trained.load(_WORKDIR.value, _STEP.value, _NORM.value)
    for name, found in write(run, format, out).items():
        size = f"{(out / name).stat().st_size:,} bytes"
        print(f"{out / name}: {size}{', ' if found else ''}{found}")


if __name__ == "__main__":
    _WORKDIR = command_line.define_path(
        "workdir", None, "Folder of a trained run, weights file, or name of a pretrained network.", required=True
    )
    _FORMAT = flags.DEFINE_enum("format", None, sorted(FORMATS), "What to write, see docs/export.md.", required=True)
    _OUT = command_line.define_path("out", None, "Folder for the files, new or empty.", required=True)
    _STEP = run_flags.define_step_flag()
    _NORM = flags.DEFINE_enum(
        "norm", "running", ("running", "frozen"), "Statistics of batch normalisation; see sampler.py."
    )
    _TAPS = flags.DEFINE_bool("taps", False, "Every activation is a further output (onnx).")
    _LICENSE = flags.DEFINE_string("license", "", "Of weights and samples, such as cc-by-4.0 (hub).")
    command_line.run(main)
