"""The page of a run: its networks, what its tools need to know, and the program that runs them, in one HTML file."""

import base64
import html
import io
import json
import re
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from dcgan_jax.explore import findings, network
from dcgan_jax.machine import files, rng
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.progress import tqdm
from dcgan_jax.nets.layers import Layer, discriminator_layers, generator_layers
from dcgan_jax.reports import image_grid
from dcgan_jax.runs import run_folder, weights_file
from dcgan_jax.runs.trained import Run

# Bytes of weights that a page holds. As text they are 4/3 as long, and the page stays below 12 MB.
MOST_BYTES = 8_250_000
# Checkpoints of the film, and the samples of a frame that is drawn in advance.
_MOST_FRAMES, _FRAME_SAMPLES, _FRAME_COLUMNS = 24, 16, 4
_QUALITY = 88  # of a frame, WebP's scale to 100
# Losses whose logit is the log odds of a real image.
_ODDS = ("non_saturating", "minimax")


def write(path: Path, run: Run) -> Path:
    """Writes the page of a run.

    Args:
      path: of the page. The weights of larger networks are a file beside it, with the suffix .weights.
      run: a trained run.

    Returns:
      The page.

    Raises:
      UserError: the path is a folder, or cannot be written.
    """
    check_path(path)
    layers, weights = generator_layers(run.generator, run.variables), _Weights()
    own = weights.add(layers, run.step)
    inside = len(weights.content) <= MOST_BYTES
    data = _about(run, layers, own["spec"]) | {"generators": [own], "discriminator": None, "frames": []}
    if run.has_discriminator:
        judging = discriminator_layers(run.discriminator, run.state.discriminator.variables)
        if not inside or weights.fits(judging):
            data["discriminator"] = weights.add(judging, run.step, run.generator.image_shape[:2])
    steps = _film_steps(run)
    if inside and weights.fits(layers * len(steps)):
        others = _checkpoints(run, steps)
        added = [weights.add(generator_layers(then.generator, then.variables), then.step) for then in others]
        data["generators"] = sorted([own, *added], key=_step)
    elif steps:
        every = [run, *_checkpoints(run, steps)]
        frames = [{"step": then.step, "image": _address(then.sample(_FRAME_SAMPLES))} for then in every]
        data["frames"] = sorted(frames, key=_step)
    data["weightsFile"] = None if inside else path.with_suffix(".weights").name
    if not inside:
        files.write_atomically(path.with_suffix(".weights"), bytes(weights.content))
    files.write_atomically(path, _compose(data, weights.content if inside else b"").encode())
    return path


def check_path(path: Path) -> None:
    """Raises UserError unless a page can be written there."""
    if path.is_dir():
        raise UserError(f"--out {path} is a folder: give the name of a file, such as {path / 'page.html'}.")
    if path.suffix not in (".html", ".htm"):
        raise UserError(f"--out {path} must end in .html, so that browsers open it.")
    files.make_writable(path.parent, "--out")


class _Weights:
    """Those of several networks, one after the other."""

    def __init__(self) -> None:
        self.content = bytearray()

    def add(self, layers: list[Layer], step: int, sides: tuple[int, int] | None = None) -> dict[str, Any]:
        """Appends a network of a step, and says where it is; `sides` of the images that a discriminator takes."""
        spec, added = network.pack(layers, sides)
        self.content += added
        return {"step": step, "spec": spec, "offset": len(self.content) - len(added), "bytes": len(added)}

    def fits(self, layers: list[Layer]) -> bool:
        """Whether a page would still hold them."""
        return len(self.content) + 2 * _parameters(layers) <= MOST_BYTES


def _step(entry: dict[str, Any]) -> int:
    return entry["step"]


def _parameters(layers: list[Layer]) -> int:
    return sum(layer.kernel.size + layer.bias.size for layer in layers)


def _about(run: Run, layers: list[Layer], spec: dict[str, Any]) -> dict[str, Any]:
    """What the program needs to know besides the networks; `spec` of the generator with these layers."""
    generator, config, name = run.generator, run.config, _name(run)
    names = (run.class_names or [])[: generator.num_classes]
    return {
        "name": name,
        "source": weights_file.shared_config(config).data.source,
        "step": run.step,
        "parameters": _parameters(layers),
        **dict(zip(("height", "width", "channels"), generator.image_shape, strict=True)),
        "output": generator.output,
        "zDim": generator.z_dim,
        "distribution": generator.z_distribution,
        "classes": generator.num_classes,
        "classNames": names + [str(i) for i in range(len(names), generator.num_classes)],
        "key": np.asarray(jax.random.key_data(rng.stream(0, "sample"))).tolist(),  # of the noise, see sampler.py
        "layers": [_maps(layer) for layer in spec["layers"][:-1] if layer["shape"][:2] != [1, 1]],
        "marked": findings.window_maps(run),
        "directions": [
            {"group": group, "name": name, "vector": np.round(vector.astype(float), 5).tolist()}
            for group, name, vector in findings.directions(run)
        ],
        "odds": config.loss in _ODDS,
        "command": f"python -m dcgan_jax.explore --workdir={name} --serve",
    }


def _name(run: Run) -> str:
    """Of the run's folder, or of its weights file if that has a name of its own."""
    if run.file and run.file.name != weights_file.FILE:
        return run.file.stem
    return run.workdir.absolute().name


def _maps(layer: dict[str, Any]) -> dict[str, Any]:
    return dict(zip(("name", "height", "width", "features"), (layer["name"], *layer["shape"]), strict=True))


def _film_steps(run: Run) -> list[int]:
    """Steps of other kept checkpoints, _MOST_FRAMES of them at most, evenly chosen."""
    steps = [] if run.file else [step for step in run_folder.steps(run.workdir) if step != run.step]
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _MOST_FRAMES)).round().astype(int))
    return [steps[i] for i in chosen]


def _checkpoints(run: Run, steps: list[int]) -> Iterator[Run]:
    """The run at these steps; one that is damaged is left out, which is said."""
    for step in tqdm(steps, desc="checkpoints", unit="step", disable=None):
        try:
            yield run.at(step)
        except UserError as error:
            print(f"step {step} is left out of the film: {error}", file=sys.stderr)


def _address(images: np.ndarray) -> str:
    """A sheet of images as an address that holds it."""
    sheet = image_grid.make_grid(images, _FRAME_COLUMNS)
    buffer = io.BytesIO()
    Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet).save(buffer, "WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _compose(data: dict[str, Any], weights: bytes | bytearray) -> str:
    """The HTML text. Nothing in `data` can end the element that holds it, or open another."""
    parts = {
        "title": html.escape(data["name"]),
        "style": _source("explorer.css"),
        "engine": network.engine_script(),
        "latent": _source("latent.js"),
        "explorer": _source("explorer.js"),
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "weights": base64.b64encode(weights).decode(),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _source("explorer.html"))


def _source(name: str) -> str:
    return resources.files("dcgan_jax.explore").joinpath(name).read_text()
