"""Reads weights that the paper's authors released into a run's folder.

    python -m dcgan_jax.import_weights --config=configs/svhn.py --weights=FOLDER --workdir=runs/svhn_authors
    python -m dcgan_jax.sample --workdir=runs/svhn_authors --norm=batch --out=svhn_authors --num=100

FOLDER holds one .npy file per parameter, as in github.com/Newmu/dcgan_code: *_gen_params.jl_01.npy, _02.npy, ... and
*_discrim_params.jl_01.npy, ... in the order in which the layers use them: a layer's weights, then, where the layer is
normalised, its gain and shift.

What differs from ours: convolution weights are [out, in, k, k] and transposed ones [in, out, k, k], both flipped,
because Theano convolves where XLA correlates; maps are flattened channels first. The authors keep no running averages:
those of the imported generator are frozen statistics (see dcgan_jax.sample), and those of the discriminator stay at
their initial values, because they need images.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from dcgan_jax import command_line
from dcgan_jax.config import check_config, need_convolutions
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.mesh import make_mesh, replicate
from dcgan_jax.nets import models
from dcgan_jax.nets.models import Tree
from dcgan_jax.runs import checkpoint, run_folder
from dcgan_jax.runs.sampler import make_estimate_statistics
from dcgan_jax.train_state import GANState, build_gan, create_state


def import_weights(config: ConfigDict, weights: Path) -> GANState:
    """A state of step 0 with the released parameters and fresh optimizer states.

    Args:
      config: of the network that the weights belong to.
      weights: folder of .npy files, see the module's docstring.

    Raises:
      UserError: files are missing, left over, damaged or of the wrong shape.
    """
    if config.model.num_classes or config.model.generator.hidden or config.model.discriminator.hidden:
        raise UserError("only networks without labels and without dense hidden layers can be imported.")
    if config.model.norm != "paper" or not config.model.norm_affine:
        raise UserError("the released networks need config.model.norm='paper' and config.model.norm_affine=True.")
    for network in ("generator", "discriminator"):
        need_convolutions(config, network)
    gan = build_gan(config)
    generator, discriminator = gan.generator, gan.discriminator
    state = jax.jit(lambda: create_state(gan))()

    arrays = _Parameters(weights, "gen_params")
    side, features = models.first_side(config.data.image_size, generator.stages), generator.stages[0][0]
    params: dict[str, Any] = {"projection": {"kernel": _columns_last(arrays.take(), features, side)}}
    gain, shift = (_columns_last(arrays.take()[None], features, side)[0] for _ in range(2))
    params["projection_norm"] = {"gain": gain, "shift": shift}
    for i in range(1, len(generator.stages) + 1):
        params[f"deconv{i}"] = _kernel(arrays.take())
        if i < len(generator.stages):
            params[f"deconv{i}_norm"] = {"gain": arrays.take(), "shift": arrays.take()}
    generator_params = arrays.finish(params, state.generator.params)

    arrays = _Parameters(weights, "discrim_params")
    params = {}
    for i in range(1, len(discriminator.stages) + 1):
        params[f"conv{i}"] = _kernel(arrays.take())
        if i > 1:
            params[f"conv{i}_norm"] = {"gain": arrays.take(), "shift": arrays.take()}
    side, features = models.first_side(config.data.image_size, discriminator.stages), discriminator.stages[-1][0]
    params["logit"] = {"kernel": _columns_last(arrays.take().T, features, side).T}
    discriminator_params = arrays.finish(params, state.discriminator.params)

    batch_stats = make_estimate_statistics(gan)(generator_params, state.generator.batch_stats)
    return state.replace(
        generator=state.generator.replace(params=generator_params, batch_stats=batch_stats),
        discriminator=state.discriminator.replace(params=discriminator_params),
        ema=None if state.ema is None else generator_params,
    )


class _Parameters:
    """The .npy files of one network, taken in order."""

    def __init__(self, folder: Path, name: str) -> None:
        self._paths = sorted(folder.glob(f"*{name}.jl_*.npy"))
        if not self._paths:
            raise UserError(
                f"{folder} has no files *{name}.jl_NN.npy: give the folder of the authors' released weights."
            )
        self._remaining: Iterator[Path] = iter(self._paths)

    def take(self) -> np.ndarray:
        path = next(self._remaining, None)
        if path is None:
            raise UserError(f"{self._paths[-1]} is the last file, but the config's network has more parameters.")
        try:
            with files.reading(path):
                return files.load_npy(path, mapped=True).astype(np.float32, casting="same_kind")
        except files.Damaged as error:
            raise UserError(f"{path} is not an array of numbers ({error.reason}).") from error

    def finish(self, params: dict[str, Any], like: Tree) -> Tree:
        """Checks that all files were used and that every shape is the network's."""
        left = list(self._remaining)
        if left:
            raise UserError(f"the config's network has fewer parameters than there are files: {left[0].name} is left.")
        expected = dict(jax.tree_util.tree_leaves_with_path(like))
        for path, value in jax.tree_util.tree_leaves_with_path(params):
            if path not in expected or expected[path].shape != value.shape:
                want = expected[path].shape if path in expected else "no such parameter"
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                raise UserError(f"{name} has shape {value.shape} in the files, but {want} in the config's network.")
        return jax.tree.map(jnp.asarray, params)


def _kernel(weights: np.ndarray) -> np.ndarray:
    """[small_features, large_features, k, k], flipped -> [k, k, large_features, small_features].

    A convolution's [out, in] and a transposed one's [in, out] are both [small, large].
    """
    if weights.ndim != 4:
        raise UserError(f"the config's network has a convolution where the files have an array {weights.shape}.")
    return np.ascontiguousarray(weights.transpose(2, 3, 1, 0)[::-1, ::-1])


def _columns_last(matrix: np.ndarray, features: int, side: int) -> np.ndarray:
    """[rows, features * side * side], columns ordered (feature, y, x) -> ordered (y, x, feature)."""
    if matrix.ndim != 2 or matrix.shape[1] != features * side * side:
        raise UserError(f"{features * side * side} units of {features} maps do not fit an array {matrix.shape}.")
    return matrix.reshape(-1, features, side, side).transpose(0, 2, 3, 1).reshape(len(matrix), -1)


def main() -> None:
    workdir = Path(_WORKDIR.value)
    if run_folder.checkpoints(workdir).exists():
        raise UserError(f"{workdir} already holds a run: choose another --workdir.")
    check_config(_CONFIG.value)
    state = import_weights(_CONFIG.value, Path(_WEIGHTS.value))
    run_folder.check(workdir, _CONFIG.value)
    run_folder.record(workdir, _CONFIG.value, {"source": str(_WEIGHTS.value)})
    with checkpoint.Checkpoints(workdir) as checkpoints:
        checkpoints.save(replicate(make_mesh(jax.device_count()), state))
    print(f"imported into {workdir}")


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "Config of the network.", lock_config=True)
    _WEIGHTS = command_line.define_path("weights", None, "Folder of the .npy files.", required=True)
    _WORKDIR = command_line.define_path("workdir", None, "Folder of the new run.", required=True)
    flags.mark_flag_as_required("config")
    command_line.run(main)
