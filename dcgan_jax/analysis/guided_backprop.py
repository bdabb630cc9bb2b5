"""What the discriminator's last convolution looks for [paper section 6.2, figure 5].

    python -m dcgan_jax.analysis.guided_backprop --workdir=runs/toy_bedrooms

For each chosen map of the last convolution, the images of the data set with its strongest response anywhere, and guided
backpropagation from that place to the pixels: an ordinary gradient, but at every activation only what comes in positive
from both sides passes, (activation > 0)(gradient > 0) gradient [Springenberg et al. 2015, figure 1]. Beside it the same
for the network that the run began with. The paper judges by eye that trained features respond to beds and windows and
random ones to nothing in particular. Here figures are added:

    concentration   share of the guided gradient's energy in the strongest tenth of the pixels (0.1: spread evenly),
                    mean over the chosen maps
    the same, within the receptive field
                    the tenth is of the pixels that the place can see at all, up to the border. All of the gradient lies
                    there, and at a corner these are fewer pixels than in the middle, so that over the whole image a map
                    that responds at corners seems to be more concentrated. Mean and standard deviation over all maps of
                    the layer, of each the mean over its strongest images
    selectivity     how well a map's response tells one of the data's own labels or attributes, as the area under the
                    ROC curve (0.5: not at all, 1: perfectly), for the best one; mean over all maps of the layer

Batch normalisation uses frozen statistics of the data for both networks.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from absl import flags

from dcgan_jax import command_line
from dcgan_jax.analysis import concepts
from dcgan_jax.config import need_convolutions
from dcgan_jax.datasets import batches, classes, opening
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import attribute_probe
from dcgan_jax.nets import conv_lax, frozen_statistics, models, pixels
from dcgan_jax.nets.activations import Activation
from dcgan_jax.nets.models import Discriminator, Tree
from dcgan_jax.reports import image_grid, report
from dcgan_jax.reports.report import Figure, Picture, Report
from dcgan_jax.runs import run_flags, trained
from dcgan_jax.runs.sampler import BATCH_SIZE, STATISTICS_BATCHES, full_batches
from dcgan_jax.runs.trained import Run
from dcgan_jax.train_state import Player, create_state

NAME = "guided_backprop"
FEATURES, IMAGES = 6, 5  # [paper section 6.2; figure 5 has five images a feature]
PAPER_FEATURES, PAPER_IMAGES = 6, 5
TITLE = "What the discriminator's features see (section 6.2, figure 5)"
_RARE = 0.05  # of the images: of few images some map always seems to tell something
_STRONGEST = 0.1  # part of the pixels that `concentration` looks at


def guided(activation: Activation) -> Activation:
    """The same activation with the gradient of guided backpropagation."""

    @jax.custom_vjp
    def activate(x: jax.Array) -> jax.Array:
        return activation(x)

    def forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return activation(x), x > 0

    def backward(active: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
        return (jnp.where(active & (gradient > 0), gradient, 0),)

    activate.defvjp(forward, backward)
    return activate


def concentration(gradients: np.ndarray) -> np.ndarray:
    """Share of each gradient's energy in the strongest tenth of its pixels, float [count].

    Args:
      gradients: [count, height, width, channels]; one that is zero everywhere gives nan.
    """
    energy = np.sort(np.square(gradients.astype(np.float64)).sum(-1).reshape(len(gradients), -1), 1)
    strongest = max(1, round(_STRONGEST * energy.shape[1]))
    with np.errstate(invalid="ignore"):
        return energy[:, -strongest:].sum(1) / energy.sum(1)


def receptive_fields(network: Discriminator, places: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """The pixels that a discriminator's last convolution sees at some places, int [places, 4]: y0, y1, x0, x1.

    The upper bounds do not belong to it; pixels beyond the border are left out.

    Args:
      network: its stages, kernel size and resampling.
      places: row times width plus column of the last maps, int [places].
      sides: height and width of the images.
    """
    low = np.stack(np.divmod(places, models.first_sides(sides, network.stages)[1]), 1)
    high = low.copy()
    for _, stride in reversed(network.stages):
        if network.resampling == "pooling":  # stride 1, and pooling behind it
            low, high, stride = low * stride, high * stride + stride - 1, 1
        before, _ = conv_lax.padding(network.kernel_size, stride)
        low, high = low * stride - before, high * stride - before + network.kernel_size - 1
    low, high = np.maximum(low, 0), np.minimum(high + 1, sides)
    return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], 1)


def field_concentration(gradients: np.ndarray, fields: np.ndarray) -> np.ndarray:
    """`concentration` of gradients [count, height, width, channels] within `receptive_fields` [count, 4]."""
    cut = (one[None, y0:y1, x0:x1] for one, (y0, y1, x0, x1) in zip(gradients, fields, strict=True))
    return np.concatenate([concentration(one) for one in cut])


def area_under_curve(responses: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each feature, [features]; ties count half.

    Args:
      responses: [images, features].
      positive: bool [images], some of each kind.
    """
    ranks = scipy.stats.rankdata(responses, axis=0)
    yes, no = int(positive.sum()), int((~positive).sum())
    return (ranks[positive].sum(0) - yes * (yes + 1) / 2) / (yes * no)


def selectivity(
    responses: np.ndarray, dataset: ImageDataset, numbers: np.ndarray, conditional: bool = False
) -> tuple[np.ndarray, list[str]] | None:
    """The best area under the curve of each feature, and what it tells; None if the data says nothing of its images.

    Args:
      responses: [images, features].
      dataset: its labels and whole-number attributes are tried, each value that is not rare against the others.
      numbers: of the images in the data set.
      conditional: the network is told the label, which is then not tried.
    """
    areas, names = [], []
    for name, column in attribute_probe.known(dataset).items():
        if column.dtype.kind != "i" or (conditional and name == "label"):
            continue
        values = column[numbers]
        present = np.unique(values)
        for value in present[1:] if len(present) == 2 else present:
            if _RARE <= (values == value).mean() <= 1 - _RARE:
                areas.append(area_under_curve(responses, values == value))
                names.append(concepts.describe({name: int(value)}, dataset.class_names))
    if not areas:
        return None
    table = np.maximum(areas, 1.0 - np.array(areas))  # a map may as well be silent where the attribute is
    best = table.argmax(0)
    return table.max(0), [names[i] for i in best]


class _Network:
    """A discriminator with frozen statistics: responses of its last convolution, and guided gradients.

    Images are those of a data set, by number; statistics are those of the first of `numbers`.
    """

    def __init__(self, run: Run, player: Player, dataset: ImageDataset, numbers: np.ndarray) -> None:
        self._network = network = run.discriminator
        output = run.generator.output
        self.layer = f"conv{len(network.stages)}"
        self._dataset, self._classes = dataset, network.num_classes
        few = numbers[: STATISTICS_BATCHES * BATCH_SIZE]
        batches = (self._arguments(batch) for batch, _ in full_batches(few))
        arguments = ((pixels.to_network(jnp.asarray(x), output), y) for x, y in batches)
        statistics = frozen_statistics.make_estimate(network)(player.params, player.batch_stats, arguments)
        self._variables = {"params": player.params, "batch_stats": statistics}

        @jax.jit
        def respond(variables: Tree, images: jax.Array, labels: jax.Array | None) -> tuple[jax.Array, jax.Array]:
            x = pixels.to_network(images, output)
            maps = network.apply(variables, x, labels, train=False)[1][self.layer]
            places = maps.reshape(len(maps), -1, maps.shape[-1])
            return places.max(1).astype(jnp.float32), places.argmax(1)

        guided_network = network.copy(activation=guided(network.activation))

        @jax.jit
        def gradient(
            variables: Tree, images: jax.Array, labels: Any, place: jax.Array, feature: jax.Array
        ) -> jax.Array:
            def response(x: jax.Array) -> jax.Array:
                maps = guided_network.apply(variables, x, labels, train=False)[1][self.layer]
                maps = maps.reshape(len(maps), -1, maps.shape[-1])
                return maps[jnp.arange(len(maps)), place, feature].sum()

            return jax.grad(response)(pixels.to_network(images, output))

        self._respond, self._gradient = respond, gradient

    def respond(self, numbers: np.ndarray, progress: str) -> tuple[np.ndarray, np.ndarray]:
        """Strongest response of every map to each image and its place, both [count, features]."""
        batches = full_batches(numbers, progress)
        results = [self._respond(self._variables, *self._arguments(batch)) for batch, _ in batches]
        responses, places = (
            np.concatenate([np.asarray(part) for part in parts]) for parts in zip(*results, strict=True)
        )
        return responses[: len(numbers)], places[: len(numbers)]

    def gradients(self, numbers: np.ndarray, places: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Guided gradients [count, height, width, channels] of the maps `features` at `places`, an image each."""
        return np.asarray(self._gradient(self._variables, *self._arguments(numbers), places, features))

    def concentrations(self, numbers: np.ndarray, places: np.ndarray, progress: str) -> np.ndarray:
        """Of every map, the mean concentration within the receptive field over its images, float [features].

        It is nan for a map whose gradients are all zero.

        Args:
          numbers: of the images of every map, [images, features].
          places: of the responses to them, likewise.
          progress: stands beside a progress bar.
        """
        shown, total = numbers.shape
        rows = np.stack([numbers.ravel(), places.ravel(), np.tile(np.arange(total), shown)], 1)
        shares = []
        for batch, count in full_batches(rows, progress):
            gradients = self.gradients(*batch.T)
            fields = receptive_fields(self._network, batch[:, 1], gradients.shape[1:3])
            shares.append(field_concentration(gradients, fields)[:count])
        of_maps = np.concatenate(shares).reshape(shown, total)
        seen = np.isfinite(of_maps)
        return np.divide(np.nansum(of_maps, 0), seen.sum(0), out=np.full(total, np.nan), where=seen.any(0))

    def _arguments(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Images and their labels."""
        labels = self._dataset.labels
        return self._dataset.images[numbers], labels[numbers] if self._classes and labels is not None else None


def measure(
    run: Run,
    *,
    features: Sequence[int] = tuple(range(FEATURES)),
    num_images: int = 10_000,
    source: str | None = None,
    split: str | None = None,
) -> Report:
    """Searches and draws for the untrained and the trained discriminator; see the module.

    Args:
      run: a trained run, whose norm does not matter here.
      features: maps of the last convolution, by number.
      num_images: images of the data that are searched, chosen at random.
      source, split: other images, as config.data.source says; None: the run's own.

    Returns:
      Of both networks their concentration, that within the receptive field with its standard deviation over maps, and,
      where the data has labels or attributes, their selectivity; and a sheet.

    Raises:
      UserError: the discriminator has no convolutions or no such map, or the images cannot be used.
    """
    config, conditional = run.config, bool(run.generator.num_classes)
    run.need_discriminator()
    need_convolutions(config, "discriminator")
    features, total = list(features), run.discriminator.stages[-1][0]
    if beyond := [feature for feature in features if not 0 <= feature < total]:
        raise UserError(f"--features: there is no map {beyond[0]}; they are numbered 0 to {total - 1}.")
    dataset = _open_data(run, source, split)
    # At random: the images of a folder are sorted by class.
    numbers = np.random.default_rng(0).permutation(len(dataset.images))[:num_images]
    shown = min(IMAGES, len(numbers))

    # The network before training: the same seed.
    fresh = jax.jit(partial(create_state, run.gan))().discriminator
    blocks, concentrations, selectivities = [], {}, {}
    within: dict[str, np.ndarray] = {}
    best_attributes: dict[str, list[dict[str, Any]]] = {}
    for name, player in (("untrained", fresh), ("trained", run.state.discriminator)):
        searched = _Network(run, player, dataset, numbers)
        responses, places = searched.respond(numbers, f"{name}: responses")
        best = np.argsort(-responses[:, features], axis=0, kind="stable")[:shown].T.ravel()  # feature by feature
        maps = np.repeat(features, shown)
        gradients = searched.gradients(numbers[best], places[best, maps], maps)
        blocks += [
            image_grid.make_grid(dataset.images[numbers[best]], shown),
            image_grid.make_grid(_visible(gradients), shown),
        ]
        concentrations[name] = float(np.nanmean(concentration(gradients)))
        strongest = np.argsort(-responses, axis=0, kind="stable")[:shown]
        of_strongest = np.take_along_axis(places, strongest, 0)
        within[name] = searched.concentrations(numbers[strongest], of_strongest, f"{name}: gradients of all maps")
        if found := selectivity(responses, dataset, numbers, conditional):
            areas, attributes = found
            selectivities[name] = float(areas.mean())
            best_attributes[name] = [
                {"feature": feature, "tells": attributes[feature], "area": float(areas[feature])}
                for feature in features
            ]
    caption = (
        f"A row for each of the maps {', '.join(map(str, features))} of the last convolution, the {shown} images with "
        "its strongest responses. Left: the untrained network's, images and guided backpropagation. Right: the trained "
        "network's."
    )
    figures = [
        Figure("step", run.step),
        Figure("num_images", len(numbers), "images searched", f"{len(numbers):,}"),
        Figure("features", features, "features", str(len(features)), paper=PAPER_FEATURES),
        *_both("concentration", "energy of the guided gradient in the strongest tenth of pixels", concentrations),
        *_within_figures(within),
        *_both("selectivity", f"area under the curve of the best attribute, mean of {total} maps", selectivities),
        *(Figure(f"{name}_best_attributes", entries) for name, entries in best_attributes.items()),
        *(
            Figure("", text=f"  map {entry['feature']} tells {entry['tells']}", here=f"{entry['area']:.3f}")
            for entry in best_attributes.get("trained", [])
        ),
    ]
    pictures = [Picture("guided.png", image_grid.row(*blocks), caption)]
    return Report(TITLE, figures, pictures, paper={"images": PAPER_IMAGES})


def _both(name: str, text: str, values: Mapping[str, float]) -> list[Figure]:
    """The figures of the trained and the untrained network, none if they were not measured."""
    texts = {"trained": f"{text}, trained", "untrained": "  untrained"}
    return [
        Figure(f"{network}_{name}", values[network], texts[network], f"{values[network]:.3f}")
        for network in texts
        if network in values
    ]


def _within_figures(within: Mapping[str, np.ndarray]) -> list[Figure]:
    """Concentrations within the receptive field, [maps], of the trained and the untrained network."""
    figures = []
    for name, text in (("trained", "the same within the receptive field, "), ("untrained", "  ")):
        shares = within[name][np.isfinite(within[name])]
        mean, deviation = (
            (float(np.mean(shares)), float(np.std(shares, ddof=1))) if len(shares) > 1 else (math.nan,) * 2
        )
        figures += [
            Figure(
                f"{name}_field_concentration",
                mean,
                f"{text}{name}: mean and standard deviation of {len(shares)} maps",
                f"{mean:.3f} ± {deviation:.3f}",
            ),
            Figure(f"{name}_field_concentration_std", deviation),
        ]
    return figures


def main() -> None:
    run = trained.load(_WORKDIR.value, _STEP.value)
    need_convolutions(run.config, "discriminator")
    maps = run.discriminator.stages[-1][0]
    found = measure(
        run,
        features=concepts.parse_numbers("features", _FEATURES.value, maps, "map"),
        num_images=_NUM_IMAGES.value,
        source=_SOURCE.value,
        split=_SPLIT.value,
    )
    report.publish(report.folder(run.workdir, "analysis", NAME), found)


def _open_data(run: Run, source: str | None, split: str | None) -> ImageDataset:
    """The run's data set, or another one at the run's image size.

    Raises:
      UserError: it cannot be read, or has no labels although the network needs them.
    """
    config, count = run.config, run.generator.num_classes
    if source or split:
        dataset = opening.open_others(config.data, source=source or "", split=split or "")
    else:
        dataset = opening.open_or_build(config.data)
    where = source or config.data.source
    batches.check_labels(config, where, dataset)
    return classes.numbered_like(dataset, run.class_names, where, count) if count else dataset


def _visible(gradients: np.ndarray) -> np.ndarray:
    """uint8 of gradients [count, height, width, channels]: grey is 0, the largest magnitude of each is 0 or 255."""
    largest = np.abs(gradients).max((1, 2, 3), keepdims=True)
    return np.round(127.5 + 127.5 * gradients / np.where(largest > 0, largest, 1)).astype(np.uint8)


if __name__ == "__main__":
    _WORKDIR = command_line.define_path("workdir", None, "Folder of a trained run.", required=True)
    _STEP = run_flags.define_step_flag()
    _FEATURES = flags.DEFINE_string(
        "features", ",".join(map(str, range(FEATURES))), "Maps of the last convolution, by number, with commas."
    )
    _NUM_IMAGES = flags.DEFINE_integer("num_images", 10_000, "Images searched, chosen at random.", lower_bound=1)
    _SOURCE = flags.DEFINE_string("source", None, "Other images, as config.data.source says; default: the run's own.")
    _SPLIT = flags.DEFINE_string("split", None, "Of the source; default: the run's own.")
    command_line.run(main)
