"""Counts of arithmetic and memory against those worked out by hand."""

import pytest

from configs import default
from dcgan_jax.nets import flops
from tests import tiny

# The paper's network, by hand: each hidden (transposed) convolution has 4*4 * 25 * 512 * 1024 = 209,715,200
# multiplications, the image end 32*32 * 25 * 3 * 128 = 9,830,400; the projection 100 * 16,384, the logit 16,384.
HIDDEN, END = 209_715_200, 9_830_400


def test_paper_network() -> None:
    g_layers, d_layers = flops.layers(default.get_config())
    assert [layer.multiplications for layer in g_layers] == [1_638_400, HIDDEN, HIDDEN, HIDDEN, END]
    assert [layer.multiplications for layer in d_layers] == [END, HIDDEN, HIDDEN, HIDDEN, 16_384]
    assert [layer.outputs for layer in g_layers] == [16_384, 32_768, 65_536, 131_072, 12_288]
    assert [layer.outputs for layer in d_layers] == [131_072, 65_536, 32_768, 16_384, 1]


@pytest.mark.parametrize(("order", "gflop"), [("discriminator_first", 14.02), ("generator_first", 15.31)])
def test_one_step_of_the_paper_network(order: str, gflop: float) -> None:
    """14.02 and 15.31 GFLOP an image: 3 or 4 forward passes of G, 8 of D, less the gradients that nobody asks for."""
    config = default.get_config()
    config.update_order = order
    assert flops.flops_per_image(config) / 1e9 == pytest.approx(gflop, abs=0.005)


def test_labels_join_every_layer() -> None:
    plain, conditional = (flops.layers(tiny.config({"model.num_classes": classes})) for classes in (0, 2))
    # 8 pixels, 3x3: D's first layer has 4*4 * 9 * 3 * 4 multiplications, and 2 maps more with two classes.
    assert plain[1][0].multiplications == 4 * 4 * 9 * 3 * 4
    assert conditional[1][0].multiplications == 4 * 4 * 9 * 5 * 4
    # G's projection: 5 -> 2*2*6, and 7 -> 2*2*6.
    assert (plain[0][0].multiplications, conditional[0][0].multiplications) == (5 * 24, 7 * 24)


def test_images_that_are_not_square() -> None:
    """8 x 12 pixels from 2 x 3 maps."""
    g_layers, d_layers = flops.layers(tiny.config({"data.image_width": 12}))
    assert [layer.multiplications for layer in g_layers] == [5 * 36, 2 * 3 * 9 * 6 * 4, 4 * 6 * 9 * 4 * 3]
    assert [layer.multiplications for layer in d_layers] == [4 * 6 * 9 * 3 * 4, 2 * 3 * 9 * 4 * 6, 36]
    assert [layer.outputs for layer in g_layers] == [36, 4 * 6 * 4, 8 * 12 * 3]
    assert [layer.outputs for layer in d_layers] == [4 * 6 * 4, 36, 1]


def test_activations() -> None:
    """G puts out 24 + 4*4*4 + 8*8*3 values, D 4*4*4 + 2*2*6 + 1: each twice, D's for two images."""
    values = 2 * (24 + 64 + 192) + 4 * (64 + 24 + 1)
    assert flops.activation_bytes_per_image(tiny.config()) == 4 * values
    assert flops.activation_bytes_per_image(tiny.config({"precision": "bfloat16"})) == 2 * values


def test_pooling_and_dense_networks() -> None:
    """Pooling: every convolution has stride 1 on the larger side. Dense: 5 -> 7 -> 192 and 192 -> 6 -> 1."""
    g_layers, d_layers = flops.layers(tiny.config({"model.resampling": "pooling"}))
    assert [layer.multiplications for layer in g_layers] == [5 * 24, 4 * 4 * 9 * 6 * 4, 8 * 8 * 9 * 4 * 3]
    assert [layer.multiplications for layer in d_layers] == [8 * 8 * 9 * 3 * 4, 4 * 4 * 9 * 4 * 6, 24]
    assert [layer.outputs for layer in d_layers] == [8 * 8 * 4, 4 * 4 * 6, 1]  # before pooling
    changes = {"model.generator.hidden": (7,), "model.discriminator.hidden": (6,)}
    dense = tiny.config({"model.generator.stages": (), "model.discriminator.stages": (), **changes})
    g_layers, d_layers = flops.layers(dense)
    assert [layer.multiplications for layer in g_layers] == [5 * 7, 7 * 192]
    assert [layer.multiplications for layer in d_layers] == [192 * 6, 6]
