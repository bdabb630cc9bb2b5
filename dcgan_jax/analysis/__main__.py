"""All experiments of the paper that a trained run allows, on one page.

    python -m dcgan_jax.analysis --workdir=runs/toy_faces

runs every experiment with its default settings, and writes <workdir>/analysis/index.html: pictures, figures and the
paper's beside them, in one file that needs nothing else. Results that are already there for the same checkpoint are
kept, also those made with other flags (--rerun makes all of them again). What does not apply is listed with the reason.
"""

import base64
import html
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from dcgan_jax import command_line
from dcgan_jax.config import check_config
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.reports import report
from dcgan_jax.reports.report import Row
from dcgan_jax.runs import checkpoint, run_folder

# Those of the paper, in its order.
EXPERIMENTS = ("latent_walk", "guided_backprop", "window_dropout", "vector_arithmetic", "turn_vector")

_STYLE = """
body { margin: 0 auto; max-width: 70rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem }
th, td { padding: .15rem .8rem .15rem 0; text-align: right; vertical-align: top }
th:first-child, td:first-child { text-align: left; white-space: pre-wrap }
figure { margin: 1rem 0 } figcaption { color: #555; font-size: .9rem }
img { max-width: 100%; min-width: min(100%, 20rem); image-rendering: pixelated }
code { font-size: .85rem; overflow-wrap: anywhere } .reason { color: #844 }
"""


def page(name: str, config: ConfigDict, step: int, sections: list[str]) -> str:
    """The whole page of a run called `name`."""
    title = html.escape(name)
    about = f"{config.data.source}, {config.data.image_size} pixels, width {config.model.width:g}, step {step:,}"
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n<h1>The paper's experiments on {title}</h1>\n<p>{html.escape(about)}</p>\n"
        + "\n".join(sections)
        + "\n</html>\n"
    )


def section(results: dict[str, Any], folder: Path) -> str:
    """Table, pictures and command of one experiment, from its results.json and the files beside it."""
    lines = [[html.escape(row[name]).replace(" %", "&nbsp;%") for name in Row._fields] for row in results["table"]]
    cells = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in lines)
    pictures = "".join(
        f'<figure><img alt="" src="{_data(folder / picture["file"])}">'
        f"<figcaption>{html.escape(picture['caption'])}</figcaption></figure>"
        for picture in results["pictures"]
    )
    return (
        f"<h2>{html.escape(results['title'])}</h2>\n"
        f'<div class="wide"><table><tr><th></th><th>here</th><th>paper</th></tr>{cells}</table></div>\n'
        f"{pictures}\n<p><code>{html.escape(results['command'])}</code></p>"
    )


def _data(file: Path) -> str:
    """A picture as an address that holds it."""
    return f"data:image/{html.escape(file.suffix[1:])};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _kept_section(folder: Path, step: int) -> str | None:
    """The section of what an experiment has left for this checkpoint, or None."""
    try:
        results = files.read_json(folder / "results.json", dict)
        beside = all(Path(picture["file"]).name == picture["file"] for picture in results["pictures"])
        return section(results, folder) if beside and results["step"] == step else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # missing, or damaged
        return None


def _run(name: str, workdir: Path, step: int, norm: str) -> str:
    """Runs an experiment; '' or the reason why it does not apply."""
    flag = [] if name == "guided_backprop" else [f"--norm={norm}"]  # that one has statistics of its own
    command = [sys.executable, "-m", f"dcgan_jax.analysis.{name}", f"--workdir={workdir}", f"--step={step}", *flag]
    process = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    if process.returncode == 2:
        return process.stderr.strip().splitlines()[-1].removeprefix("error: ")
    if process.returncode:
        raise UserError(f"{name} failed:\n{process.stderr}")
    return ""


def main() -> None:
    """Runs what has no results of this step yet, and writes the page."""
    workdir = Path(_WORKDIR.value)
    config = run_folder.load_config(workdir)
    check_config(config)
    step = checkpoint.newest_intact(workdir, partial(print, file=sys.stderr))
    if step is None:
        raise UserError(f"{workdir} has no checkpoint yet.")
    sections = []
    for name in (bar := tqdm(EXPERIMENTS, disable=None)):
        bar.set_description(name)
        folder = report.folder(workdir, "analysis", name)
        reason = "" if not _RERUN.value and _kept_section(folder, step) else _run(name, workdir, step, _NORM.value)
        kept = _kept_section(folder, step)
        if kept and not reason:
            sections.append(kept)
        else:
            sections.append(f'<h2>{name}</h2>\n<p class="reason">{html.escape(reason)}</p>')
            print(f"{name}: {reason}", file=sys.stderr)
    target = workdir / "analysis" / "index.html"
    text = page(workdir.absolute().name, config, step, sections)
    files.write_atomically(target, text.encode(errors="xmlcharrefreplace"))
    print(target)


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run.", required=True)
    _NORM = flags.DEFINE_enum(
        "norm", "running", ("running", "frozen"), "See sample.py; imported weights need 'frozen'."
    )
    _RERUN = flags.DEFINE_bool("rerun", False, "Make results again that are already there.")
    command_line.run(main)
