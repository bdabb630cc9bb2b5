"""Reads weights that others trained into a run's folder.

    python -m dcgan_jax.import_weights --config=configs/svhn.py --weights=FOLDER --workdir=runs/svhn_authors
    python -m dcgan_jax.sample --workdir=runs/svhn_authors --norm=batch --out=svhn_authors --num=100
    python -m dcgan_jax.import_weights --config=configs/imagenet32.py --weights=FOLDER --layers=4 --workdir=runs/x
    python -m dcgan_jax.import_weights --config=configs/pytorch_example.py --weights=netG.pth,netD.pth --workdir=runs/x

--weights is one of these:

    the authors' files   a folder with one .npy file per parameter, as in github.com/Newmu/dcgan_code:
                         *_gen_params.jl_01.npy, _02.npy, ... and *_discrim_params.jl_01.npy, ... in the order in which
                         the layers use them: a layer's weights, then, where the layer is normalised, its gain and shift
    PyTorch's            one or two state_dicts, or a checkpoint that holds them, of a network as in pytorch/examples
                         (exchange/torch_layout.py); .pt, .pth or .safetensors, or a folder with them and no others.
                         Nothing in a file is run
    our own              model.safetensors, or its folder (runs/weights_file.py)

What differs in the authors' from ours: convolution weights are [out, in, k, k] and transposed ones [in, out, k, k],
both flipped, because Theano convolves where XLA correlates; maps are flattened channels first. The authors keep no
running averages: those of the imported generator are frozen statistics (see dcgan_jax.sample), and those of the
discriminator stay at their initial values, because they need images.

--layers=4 takes the first four layers of the authors' discriminator and nothing else: some files of their ImageNet
network are missing. The other layers and the generator keep their initial values, and dcgan_jax.evaluation.linear_svm
reads its features off these four. A network that no file holds keeps its initial values, too. The command names what
does, and whatever needs the whole discriminator refuses such a run until it is trained.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags
from safetensors import SafetensorError, safe_open

from dcgan_jax import command_line
from dcgan_jax.config import check_config, flatten, need_convolutions
from dcgan_jax.exchange import torch_layout, torch_state
from dcgan_jax.exchange.torch_layout import Mapped
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.mesh import make_mesh, replicate
from dcgan_jax.nets import models
from dcgan_jax.nets.models import Tree
from dcgan_jax.nets.shapes import image_shape
from dcgan_jax.runs import checkpoint, run_folder, weights_file
from dcgan_jax.runs.sampler import make_estimate_statistics
from dcgan_jax.train_state import Gan, GANState, Player, build_gan, create_state


class Imported(NamedTuple):
    """A state of step 0 with imported parameters and fresh optimizer states, and what became what.

    Attributes:
      layers: how many of the discriminator's first layers were imported; None: it is whole.
      initial: what keeps its initial values, in words.
    """

    state: GANState
    mapped: list[Mapped]
    layers: int | None = None
    initial: str = ""


def import_weights(config: ConfigDict, weights: Path | Sequence[Path], layers: int = 0) -> Imported:
    """A state with the parameters of other networks, see the module's docstring.

    Args:
      config: of the network that the weights belong to.
      weights: a folder or file, or two files of PyTorch.
      layers: how many of the discriminator's first layers are taken from a folder of the authors', and nothing else;
        0: both networks.

    Raises:
      UserError: files are missing, left over, damaged or of another network than the config's.
    """
    paths = [weights] if isinstance(weights, Path) else list(weights)
    own = weights_file.find(paths[0]) if len(paths) == 1 and _is_own(paths[0]) else None
    if layers and (own or not paths[0].is_dir()):
        raise UserError(f"--layers={layers} is for a folder of the authors' files: leave it out.")
    if own:
        return _import_own(config, own)
    if len(paths) == 1 and not paths[0].is_file():
        in_folder = [] if layers else _torch_files(paths[0])
        if not in_folder:
            return _import_authors(config, paths[0], layers)
        paths = in_folder
    return _import_torch(config, paths)


# --- The authors' files --------------------------------------------------------------------------------------------


def _import_authors(config: ConfigDict, folder: Path, layers: int) -> Imported:
    if config.model.num_classes or config.model.generator.hidden or config.model.discriminator.hidden:
        raise UserError("only networks without labels and without dense hidden layers can be imported.")
    if config.model.norm != "paper" or not config.model.norm_affine:
        raise UserError("the released networks need config.model.norm='paper' and config.model.norm_affine=True.")
    for network in ("generator", "discriminator"):
        need_convolutions(config, network)
    gan = build_gan(config)
    if layers > len(gan.discriminator.stages):
        raise UserError(f"--layers={layers}, but the discriminator has {len(gan.discriminator.stages)} convolutions.")
    shapes = jax.eval_shape(partial(create_state, gan))
    g, mapped = ({}, []) if layers else _authors_generator(config, gan, folder, shapes.generator.params)
    d, more = _authors_discriminator(config, gan, folder, shapes.discriminator.params, layers)
    state = jax.jit(partial(create_state, gan))()
    discriminator = {**state.discriminator.variables, "params": {**state.discriminator.params, **d}}
    if layers:
        initial = f"the generator, and the discriminator's layers behind conv{layers}"
        return Imported(_with(state, None, discriminator), more, layers, initial)
    statistics = make_estimate_statistics(gan)(jax.tree.map(jnp.asarray, g), state.generator.batch_stats)
    return Imported(_with(state, {"params": g, "batch_stats": statistics}, discriminator), mapped + more)


def _authors_generator(config: ConfigDict, gan: Gan, folder: Path, like: Tree) -> tuple[dict[str, Any], list[Mapped]]:
    """Its parameters; `like`: their shapes."""
    arrays, stages = _Parameters(folder, "gen_params"), gan.generator.stages
    sides, features = models.first_sides(image_shape(config.data), stages), stages[0][0]
    params: dict[str, Any] = {"projection": {"kernel": _columns_last(arrays.take(), features, sides)}}
    gain, shift = (_columns_last(arrays.take()[None], features, sides)[0] for _ in range(2))
    params["projection_norm"] = {"gain": gain, "shift": shift}
    for i in range(1, len(stages) + 1):
        params[f"deconv{i}"] = _kernel(arrays.take())
        if i < len(stages):
            params[f"deconv{i}_norm"] = {"gain": arrays.take(), "shift": arrays.take()}
    arrays.check_all_used()
    return params, arrays.check(params, like)


def _authors_discriminator(
    config: ConfigDict, gan: Gan, folder: Path, like: Tree, layers: int
) -> tuple[dict[str, Any], list[Mapped]]:
    """Its parameters; `layers`: how many convolutions are read; 0: the whole network."""
    arrays, stages = _Parameters(folder, "discrim_params"), gan.discriminator.stages
    params: dict[str, Any] = {}
    for i in range(1, (layers or len(stages)) + 1):
        params[f"conv{i}"] = _kernel(arrays.take())
        if i > 1:
            params[f"conv{i}_norm"] = {"gain": arrays.take(), "shift": arrays.take()}
    if not layers:
        sides, features = models.first_sides(image_shape(config.data), stages), stages[-1][0]
        params["logit"] = {"kernel": _columns_last(arrays.take().T, features, sides).T}
        arrays.check_all_used()
    return params, arrays.check(params, like)


class _Parameters:
    """The .npy files of one network, taken in order."""

    def __init__(self, folder: Path, name: str) -> None:
        self._paths = sorted(folder.glob(f"*{name}.jl_*.npy"))
        if not self._paths:
            first = ", or --layers, if the first layers of the discriminator are what you want"
            hint = first if any(folder.glob("*discrim_params.jl_*.npy")) else ""
            raise UserError(
                f"{folder} has no files *{name}.jl_NN.npy: give the folder of the authors' released weights{hint}."
            )
        self._remaining: Iterator[Path] = iter(self._paths)
        self._taken: list[tuple[str, tuple[int, ...]]] = []

    def take(self) -> np.ndarray:
        path, number = next(self._remaining, None), len(self._taken) + 1
        if path is None:
            raise UserError(f"{self._paths[-1]} is the last file, but the config's network has more parameters.")
        if not path.stem.endswith(f"_{number:02d}"):
            missing = f"{path.stem.rpartition('_')[0]}_{number:02d}.npy"
            raise UserError(
                f"{path.parent} has no {missing}. If the files of the discriminator's first layers are there, --layers "
                "takes those alone."
            )
        try:
            with files.reading(path):
                array = files.load_npy(path, mapped=True).astype(np.float32, casting="same_kind")
        except files.Damaged as error:
            raise UserError(f"{path} is not an array of numbers ({error.reason}).") from error
        self._taken.append((path.name, array.shape))
        return array

    def check_all_used(self) -> None:
        left = next(self._remaining, None)
        if left:
            raise UserError(f"the config's network has fewer parameters than there are files: {left.name} is left.")

    def check(self, params: dict[str, Any], like: Tree) -> list[Mapped]:
        """What became what. Raises UserError if a shape is not the network's."""
        expected, mapped = flax.traverse_util.flatten_dict(like, sep="/"), []
        read = flax.traverse_util.flatten_dict(params, sep="/")  # in the order of the files
        for (source, shape), (name, value) in zip(self._taken, read.items(), strict=True):
            if name not in expected or expected[name].shape != value.shape:
                want = expected[name].shape if name in expected else "no such parameter"
                raise UserError(f"{name} has shape {value.shape} in the files, but {want} in the config's network.")
            mapped.append(Mapped(source, shape, name, value.shape))
        return mapped


def _kernel(weights: np.ndarray) -> np.ndarray:
    """[small_features, large_features, k, k], flipped -> [k, k, large_features, small_features].

    A convolution's [out, in] and a transposed one's [in, out] are both [small, large].
    """
    if weights.ndim != 4:
        raise UserError(f"the config's network has a convolution where the files have an array {weights.shape}.")
    return np.ascontiguousarray(weights.transpose(2, 3, 1, 0)[::-1, ::-1])


def _columns_last(matrix: np.ndarray, features: int, sides: tuple[int, int]) -> np.ndarray:
    """[rows, features * height * width], columns ordered (feature, y, x) -> ordered (y, x, feature)."""
    units = features * math.prod(sides)
    if matrix.ndim != 2 or matrix.shape[1] != units:
        raise UserError(f"{units} units of {features} maps do not fit an array {matrix.shape}.")
    return matrix.reshape(-1, features, *sides).transpose(0, 2, 3, 1).reshape(len(matrix), -1)


# --- PyTorch's files -----------------------------------------------------------------------------------------------

# What a config needs so that its networks are sequences of PyTorch's layers, see exchange/torch_layout.py.
_TORCH = {
    "model.norm": "paper",
    "model.norm_affine": True,
    "model.norm_epsilon": torch_layout.EPSILON,
    "model.resampling": "strided",
    "model.num_classes": 0,
    "model.generator.hidden": (),
    "model.generator.projection_norm": "channel",
    "model.discriminator.hidden": (),
    "model.discriminator.head": "dense",
    "model.discriminator.spectral_norm": False,
}
# What checkpoints call the two, in front of their tensors' names, and what lies around that.
_NAMES = {"generator": r"(net_?|model_?)?g|gen|generator", "discriminator": r"(net_?|model_?)?d|disc|discriminator"}
_WRAPPERS = ("module", "model", "state_dict", "model_state_dict")


def _import_torch(config: ConfigDict, paths: Sequence[Path]) -> Imported:
    for name, needed in _TORCH.items():
        if (value := flatten(config)[name]) != needed:
            raise UserError(
                f"config.{name} is {value!r}, but PyTorch's networks have {needed!r}: give --config.{name}={needed}."
            )
    for network in ("generator", "discriminator"):
        need_convolutions(config, network)
    gan, players = build_gan(config), _players(paths)
    shapes = jax.eval_shape(partial(create_state, gan))
    found: dict[str, Any] = {}
    mapped: list[Mapped] = []
    for player, (file, tensors) in players.items():
        network = getattr(gan, player)
        sides = models.first_sides(image_shape(config.data), network.stages)
        like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), getattr(shapes, player).variables)
        found[player], more = torch_layout.from_state_dict(network, tensors, like, sides, str(file))
        mapped += more
    state = jax.jit(partial(create_state, gan))()
    return _imported(_with(state, found.get("generator"), found.get("discriminator")), mapped, found)


def _torch_files(folder: Path) -> list[Path]:
    """Those of a folder, by name; none if it holds files of the authors'."""
    if any(folder.glob("*_params.jl_*.npy")):
        return []
    return sorted(path for path in folder.glob("*") if path.suffix in (".pt", ".pth", ".safetensors"))


def _players(paths: Sequence[Path]) -> dict[str, tuple[Path, dict[str, np.ndarray]]]:
    """The file and the tensors, by name, of 'generator' and 'discriminator', or of one of them."""
    found: dict[str, tuple[Path, dict[str, np.ndarray]]] = {}
    for path in paths:
        tensors = torch_state.read(path)
        named = {player: {name: one for name, one in tensors.items() if _owner(name) == player} for player in _NAMES}
        if not any(named.values()):
            named = {_guess_player(path, tensors): tensors}
        for player, group in named.items():
            if group and player in found:
                raise UserError(f"{found[player][0]} and {path} both hold a {player}: give one of them.")
            if group:
                found[player] = path, group
    return found


def _owner(name: str) -> str | None:
    """The player that a tensor's name begins with."""
    parts = name.split(".")
    while parts[0] in _WRAPPERS and len(parts) > 1:
        parts = parts[1:]
    first = parts[0].lower().removesuffix("_state_dict")
    return next((player for player, pattern in _NAMES.items() if re.fullmatch(pattern, first)), None)


def _guess_player(path: Path, tensors: Mapping[str, np.ndarray]) -> str:
    """A discriminator's last kernel [out, in, k, k] makes one number; a generator's, [in, out, k, k], reads many."""
    kernels = [one for one in tensors.values() if one.ndim == 4]
    if not kernels:
        raise UserError(f"{path} has no convolutions: a state_dict of a DCGAN is needed.")
    return "discriminator" if len(kernels[-1]) == 1 else "generator"


# --- Our own -------------------------------------------------------------------------------------------------------


def _is_own(path: Path) -> bool:
    """Whether it is a weights file of dcgan_jax, or a folder with one. Files of others have the suffix, too."""
    file = path / weights_file.FILE if path.is_dir() else path
    if file.suffix != ".safetensors" or not file.is_file():
        return False
    try:
        with safe_open(file, framework="numpy") as opened:
            return (opened.metadata() or {}).get("format") == "dcgan_jax"
    except (OSError, SafetensorError):
        return False  # whoever reads it will say so


def _import_own(config: ConfigDict, file: Path) -> Imported:
    weights = weights_file.read(file)
    theirs, ours = flatten(weights.config), flatten(config)
    for name in ours:
        of_network = name.startswith("model.") or name in ("data.image_size", "data.image_width", "data.channels")
        if of_network and ours[name] != theirs[name]:
            raise UserError(
                f"config.{name} is {ours[name]!r}, but {theirs[name]!r} in {file}: give --config.{name}={theirs[name]}."
            )
    gan = build_gan(config)
    state = jax.jit(partial(create_state, gan))()
    mapped = []
    for player, variables in (("generator", weights.generator), ("discriminator", weights.discriminator)):
        for collection in (variables or {}).values():
            for name, value in flax.traverse_util.flatten_dict(collection, sep="/").items():
                mapped.append(Mapped(f"{player}.{name.replace('/', '.')}", value.shape, name, value.shape))
    found = {"generator": weights.generator, "discriminator": weights.discriminator}
    return _imported(_with(state, weights.generator, weights.discriminator), mapped, found)


# -------------------------------------------------------------------------------------------------------------------


def _with(state: GANState, generator: Mapping[str, Tree] | None, discriminator: Mapping[str, Tree] | None) -> GANState:
    """The state with other variables; None leaves a player as it is."""

    def put(player: Player, variables: Mapping[str, Tree] | None) -> Player:
        return player if variables is None else player.replace(**jax.tree.map(jnp.asarray, dict(variables)))

    made = put(state.generator, generator)
    return state.replace(
        generator=made,
        discriminator=put(state.discriminator, discriminator),
        ema=None if state.ema is None else made.params,
    )


def _imported(state: GANState, mapped: list[Mapped], found: Mapping[str, Any]) -> Imported:
    """`found`: what there was of 'generator' and 'discriminator', whole ones."""
    missing = next((player for player in ("generator", "discriminator") if not found.get(player)), None)
    layers = 0 if missing == "discriminator" else None
    return Imported(state, mapped, layers, f"the {missing}" if missing else "")


def table(mapped: Sequence[Mapped]) -> str:
    """A line for each array of the files: its name and shape, and those of the parameter that it became."""
    sources = [f"{one.source} {list(one.source_shape)}" for one in mapped]
    width = max(map(len, sources), default=0)
    lines = [f"{source:{width}}  ->  {one.name} {list(one.shape)}" for source, one in zip(sources, mapped, strict=True)]
    return "\n".join(lines)


def _paths(value: str) -> list[Path]:
    """Of --weights: one path, or two with a comma between them."""
    if Path(value).expanduser().exists():
        return [Path(value).expanduser()]
    return [Path(part).expanduser() for part in value.split(",")]


def main() -> None:
    workdir = Path(_WORKDIR.value)
    if run_folder.checkpoints(workdir).exists():
        raise UserError(f"{workdir} already holds a run: choose another --workdir.")
    check_config(_CONFIG.value)
    state, mapped, layers, initial = import_weights(_CONFIG.value, _paths(_WEIGHTS.value), _LAYERS.value)
    run_folder.check(workdir, _CONFIG.value)
    about = {"source": _WEIGHTS.value} | ({} if layers is None else {"layers": layers})
    run_folder.record(workdir, _CONFIG.value, about)
    with checkpoint.Checkpoints(workdir) as checkpoints:
        checkpoints.save(replicate(make_mesh(jax.device_count()), state))
    kept = f"not imported, at initial values: {initial}\n" if initial else ""
    print(f"{table(mapped)}\n{kept}imported into {workdir}")


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "Config of the network.", lock_config=True)
    _WEIGHTS = flags.DEFINE_string(
        "weights", None, "Folder or file of the weights; two files of PyTorch with a comma between them.", required=True
    )
    _LAYERS = flags.DEFINE_integer(
        "layers", 0, "Take this many of the authors' discriminator's first layers alone; 0: everything.", lower_bound=0
    )
    _WORKDIR = command_line.define_path("workdir", None, "Folder of the new run.", required=True)
    flags.mark_flag_as_required("config")
    command_line.run(main)
