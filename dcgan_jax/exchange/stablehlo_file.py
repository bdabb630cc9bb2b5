"""A run's generator as one program with its weights inside, which JAX alone runs: no dcgan_jax, no Flax, no config.

    python -m dcgan_jax.export --workdir=runs/faces --format=stablehlo --out=faces_program

generator.jax_exported   what jax.export makes of it: StableHLO for CPUs, CUDA GPUs and TPUs. z float32 [N, z_dim] (and
                         labels int32 [N], if conditional) -> uint8 [N, height, width, channels]; N is any number
run.py                   ten lines that draw images with it
README.md                what it takes and gives, and which versions of JAX read it

Convolutions are XLA's own (`config.conv` 'lax'): the Winograd form for CPUs chooses its tiles by the number of images,
which is open here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import pixels
from dcgan_jax.runs.trained import Run

PROGRAM, SCRIPT, README = "generator.jax_exported", "run.py", "README.md"
PLATFORMS = ("cpu", "cuda", "tpu")
# Images that `check` compares, and by how many levels they may differ: two programs round a few values differently.
ROWS, TOLERANCE = 16, 1

_SCRIPT = """\
from pathlib import Path

import numpy as np
from jax import export

program = export.deserialize(bytearray(Path(__file__).with_name("{program}").read_bytes()))
z = np.random.default_rng(0).{draw}.astype("float32")
images = program.call({arguments})  # uint8 [16, {height}, {width}, {channels}]
np.save("images.npy", images)
"""

_README = """\
# A generator that runs in JAX alone

    pip install jax flatbuffers
    python run.py

`{program}` holds the weights of step {step}. It runs on CPUs, CUDA GPUs and TPUs.

- z: float32 [N, {z_dim}], {distribution}; N is any number, and compiled for once each
{labels}- result: uint8 [N, {height}, {width}, {channels}]

JAX {version} wrote it. JAX promises to run it in versions up to six months newer, and up to three weeks older (JAX's
documentation of jax.export, "compatibility guarantees"). To keep the weights for longer, export safetensors.
"""


def write(folder: Path, run: Run) -> list[Path]:
    """Writes the generator that a run draws with as a program, a script that runs it, and what to know of it.

    Args:
      folder: for the files; it is there already.
      run: a trained run.

    Returns:
      The files.
    """
    words = _words(run)
    contents = {
        PROGRAM: make_program(run),
        SCRIPT: _SCRIPT.format(**words).encode(),
        README: _README.format(**words).encode(),
    }
    for name, content in contents.items():
        files.write_atomically(folder / name, content)
    return [folder / name for name in contents]


def check(folder: Path, run: Run) -> dict[str, str]:
    """Reads the program that `write` wrote, and compares the images of a run's first noise with those of JAX.

    Returns:
      What was found, in words, by name of the file.

    Raises:
      UserError: they differ by more than TOLERANCE levels of 255.
    """
    program = jax.export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    inputs = (run.noise(ROWS), *_labels(run, ROWS))
    found = np.asarray(program.call(*inputs)).astype(int)
    differences = np.abs(found - np.asarray(jax.jit(_drawing(run, run.generator.conv_method))(*inputs)))
    largest, share = differences.max(), (differences > 0).mean()
    if largest > TOLERANCE:
        raise UserError(
            f"{PROGRAM} is no good: its images differ from JAX's by {largest} levels of 255. A variance near zero in "
            "batch normalisation magnifies rounding: try another --step, or --norm=frozen."
        )
    return {PROGRAM: f"{100 * share:.2g} % of the values differ from JAX's, by {largest} of 255 ({ROWS} images)"}


def make_program(run: Run) -> bytes:
    """The generator that a run draws with, for all platforms, as jax.export serialises it."""
    batch = jax.export.symbolic_shape("N")
    inputs = [jax.ShapeDtypeStruct((*batch, run.generator.z_dim), np.float32)]
    if run.generator.num_classes:
        inputs.append(jax.ShapeDtypeStruct(batch, np.int32))
    exported = jax.export.export(jax.jit(_drawing(run, "lax")), platforms=PLATFORMS)(*inputs)
    return bytes(exported.serialize())


def _drawing(run: Run, conv_method: str) -> Callable[..., jax.Array]:
    """z, and labels if there are classes -> uint8 images; in float32, whatever the run computes in."""
    generator = run.generator.copy(dtype=jnp.float32, conv_method=conv_method)
    variables = jax.tree.map(np.asarray, run.variables)

    def draw(z: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        with run.gan.multiplying():
            images, _ = generator.apply(variables, z, labels, train=False)
        return pixels.to_uint8(images, generator.output)

    return draw


def _labels(run: Run, count: int) -> list[np.ndarray]:
    """The classes in turn, int32 [count], if there are classes."""
    classes = run.generator.num_classes
    return [np.arange(count, dtype=np.int32) % classes] if classes else []


def _words(run: Run) -> dict[str, Any]:
    """What script and README say of a run."""
    generator, classes = run.generator, run.generator.num_classes
    rows = f"(16, {generator.z_dim})"
    words = {
        "program": PROGRAM,
        "step": run.step,
        "version": jax.__version__,
        "z_dim": generator.z_dim,
        **dict(zip(("height", "width", "channels"), generator.image_shape, strict=True)),
        "labels": "",
        "arguments": "z",
    }
    if generator.z_distribution == "uniform":
        words |= {"draw": f"uniform(-1, 1, {rows})", "distribution": "uniform on [-1, 1]"}
    else:
        words |= {"draw": f"normal(size={rows})", "distribution": "standard normal"}
    if classes:
        names = run.class_names or [str(label) for label in range(classes)]
        words["labels"] = f"- labels: int32 [N], numbers of {', '.join(names[:classes])}\n"
        words["arguments"] = f'z, np.arange(16, dtype="int32") % {classes}'
    return words
