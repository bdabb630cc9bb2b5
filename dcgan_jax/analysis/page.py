"""The page of all experiments: runs them on a trained run, one after the other, and writes analysis/index.html."""

import base64
import html
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dcgan_jax.analysis import directions, guided_backprop, latent_walk, turn_vector, vector_arithmetic, window_dropout
from dcgan_jax.datasets import opening
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.progress import tqdm
from dcgan_jax.nets.shapes import image_shape
from dcgan_jax.reports import report
from dcgan_jax.reports.report import Report
from dcgan_jax.runs.trained import Run

# Called with the run and the folder of the experiment's results.
Experiment = Callable[[Run, Path], Report]


def _walk(run: Run, folder: Path) -> Report:
    """With path lengths and nearest training images, if the run's images can be had."""
    return latent_walk.measure(run, memorization=_has_images(run))


def _has_images(run: Run) -> bool:
    """Whether the run's images are on this machine, or can be made."""
    try:
        opening.open_or_build(run.config.data)
    except (UserError, OSError, ImportError):
        return False
    return True


def _dropout(run: Run, folder: Path) -> Report:
    """With the boxes that were drawn by hand, if there are any."""
    file = folder / window_dropout.BOXES_FILE
    return window_dropout.measure(run, boxes_file=file if file.exists() else None)


def _arithmetic(run: Run, folder: Path) -> Report:
    """Leaves the sheet of numbered samples even where no formula is known: one chooses from it."""
    vector_arithmetic.save_sheet(run, folder)
    return vector_arithmetic.measure(run)


# Those of the paper, in its order; and one of others that is quick.
EXPERIMENTS: Mapping[str, Experiment] = {
    latent_walk.NAME: _walk,
    guided_backprop.NAME: lambda run, folder: guided_backprop.measure(run),
    window_dropout.NAME: _dropout,
    vector_arithmetic.NAME: _arithmetic,
    turn_vector.NAME: lambda run, folder: turn_vector.measure(run),
    directions.NAME: lambda run, folder: directions.measure(run),
}


class Outcome(NamedTuple):
    """What `write` made.

    Attributes:
      page: the file.
      failed: names of the experiments that ended with an error of the program, not of what they were given.
    """

    page: Path
    failed: list[str]


def write(run: Run, *, rerun: bool = False, experiments: Mapping[str, Experiment] = EXPERIMENTS) -> Outcome:
    """Runs the experiments that have no results of this checkpoint yet, and writes the page.

    An experiment that fails does not end the others: its section says why. The run's generator is compiled once for
    all of them.

    Args:
      run: a trained run.
      rerun: make results again that are already there.
      experiments: by name.
    """
    sections, failed = [], []
    for name in (bar := tqdm(experiments, disable=None)):
        bar.set_description(name)
        folder = report.folder(run.workdir, "analysis", name)
        kept, reason = None if rerun else _kept_section(folder, run.step), ""
        if kept is None:
            try:
                experiments[name](run, folder).save(folder, _command(name, run))
                kept = _kept_section(folder, run.step)
            except UserError as error:
                reason = str(error)
            except Exception as error:  # whatever it is, the others are worth having
                traceback.print_exc()
                reason = f"failed: {type(error).__name__}: {error}"
                failed.append(name)
        if kept is None:
            kept = f'<h2>{name}</h2>\n<p class="reason">{html.escape(reason)}</p>'
            print(f"{name}: {reason}", file=sys.stderr)
        sections.append(kept)
    target = run.workdir / "analysis" / "index.html"
    text = page(run.workdir.absolute().name, run.config, run.step, sections)
    files.write_atomically(target, text.encode(errors="xmlcharrefreplace"))
    return Outcome(target, failed)


def _command(name: str, run: Run) -> str:
    """The command that makes one experiment's results."""
    norm = [] if name == guided_backprop.NAME else [f"--norm={run.sampler.norm}"]  # that one has its own statistics
    walk = ["--memorization"] if name == latent_walk.NAME and _has_images(run) else []
    arguments = [f"--workdir={run.workdir}", f"--step={run.step}", *norm, *walk]
    return shlex.join(["python", "-m", f"dcgan_jax.analysis.{name}", *arguments])


_STYLE = """
body { margin: 0 auto; max-width: 70rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem }
th, td { padding: .15rem .8rem .15rem 0; text-align: right; vertical-align: top }
th:first-child, td:first-child { text-align: left; white-space: pre-wrap }
figure { margin: 1rem 0 } figcaption { color: #555; font-size: .9rem }
img, video { max-width: 100%; min-width: min(100%, 20rem); image-rendering: pixelated }
code { font-size: .85rem; overflow-wrap: anywhere } .reason { color: #844 }
"""


def page(name: str, config: ConfigDict, step: int, sections: list[str]) -> str:
    """The whole page of a run called `name`."""
    title = html.escape(name)
    height, width, _ = image_shape(config.data)
    about = f"{config.data.source}, {height} x {width} pixels, width {config.model.width:g}, step {step:,}"
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n<h1>The paper's experiments on {title}</h1>\n<p>{html.escape(about)}</p>\n"
        + "\n".join(sections)
        + "\n</html>\n"
    )


def section(results: dict[str, Any], folder: Path) -> str:
    """Table, pictures and command of one experiment, from its results.json and the files beside it."""
    lines = [
        [html.escape(row[name]).replace(" %", "&nbsp;%") for name in ("what", "here", "paper")]
        for row in results["table"]
    ]
    cells = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in lines)
    pictures = "".join(
        f"<figure>{_element(folder / picture['file'])}"
        f"<figcaption>{html.escape(picture['caption'])}</figcaption></figure>"
        for picture in results["pictures"]
    )
    return (
        f"<h2>{html.escape(results['title'])}</h2>\n"
        f'<div class="wide"><table><tr><th></th><th>here</th><th>paper</th></tr>{cells}</table></div>\n'
        f"{pictures}\n<p><code>{html.escape(results['command'])}</code></p>"
    )


def _element(file: Path) -> str:
    """A picture or a film, in an address that holds it."""
    film = file.suffix == ".mp4"
    kind = f"{'video' if film else 'image'}/{html.escape(file.suffix[1:])}"
    address = f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
    return f'<video autoplay loop muted src="{address}"></video>' if film else f'<img alt="" src="{address}">'


def _kept_section(folder: Path, step: int) -> str | None:
    """The section of what an experiment has left for this checkpoint, or None."""
    try:
        results = files.read_json(folder / "results.json", dict)
        beside = all(Path(picture["file"]).name == picture["file"] for picture in results["pictures"])
        return section(results, folder) if beside and results["step"] == step else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # missing, or damaged
        return None
