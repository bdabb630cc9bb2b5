"""The explorer: the page as a file, its mathematics in Node, its server, and all of it in a browser (long)."""

import base64
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dcgan_jax.explore import findings, page, server
from dcgan_jax.machine import rng
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import layers, models
from dcgan_jax.nets.layers import Layer, generator_layers
from dcgan_jax.runs import trained, weights_file
from dcgan_jax.runs.trained import Run
from tests.browser import Browser, needs_browser

HOSTILE = "</script><img src=x onerror=\"document.title='broken'\">&'{{weights}}"


@pytest.fixture(scope="module")
def conditional_page(conditional_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a conditional run whose first class has a hostile name."""
    folder = tmp_path_factory.mktemp("explore") / "run"
    shutil.copytree(conditional_run, folder)
    facts = json.loads((folder / "data.json").read_text())
    facts["class_names"][0] = HOSTILE
    (folder / "data.json").write_text(json.dumps(facts))
    return page.write(folder.parent / "page.html", trained.load(folder))


def data_of(file: Path) -> dict[str, Any]:
    """What a page knows of its run."""
    found = re.search(r'<script type="application/json" id="run">(.*?)</script>', file.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def weights_of(file: Path) -> bytes:
    found = re.search(r'<script type="text/plain" id="weights">(.*?)</script>', file.read_text(), re.DOTALL)
    assert found
    return base64.b64decode(found[1])


# --- The file ------------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_names_no_other(conditional_page: Path) -> None:
    text = conditional_page.read_text()
    assert [file.name for file in conditional_page.parent.iterdir() if file.is_file()] == ["page.html"]
    assert not re.search(r"https?:|//[a-z]+\.|@import|\burl\(", text.replace("http://www.w3.org/2000/svg", ""))
    assert not re.search(r"<(link|script|img|iframe)\b[^>]*\b(src|href)=(?!\"data:)", text.replace(HOSTILE, ""))
    assert "default-src 'none'" in text
    assert not re.search(r"\{\{\w+\}\}", text.replace(json.dumps(HOSTILE)[1:-1].replace("<", "\\u003c"), ""))


def test_a_hostile_class_name_stays_a_name(conditional_page: Path) -> None:
    assert data_of(conditional_page)["classNames"][0] == HOSTILE
    assert "<img src=x" not in conditional_page.read_text()


def test_a_hostile_name_of_the_run_stays_a_name(trained_run: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_run, tmp_path / "a<b>&c")
    text = page.write(tmp_path / "page.html", trained.load(tmp_path / "a<b>&c")).read_text()
    assert "<title>a&lt;b&gt;&amp;c</title>" in text


def test_the_page_knows_the_run(conditional_page: Path, conditional_run: Path) -> None:
    run, data = trained.load(conditional_run), data_of(conditional_page)
    assert (data["step"], data["height"], data["width"], data["channels"], data["zDim"]) == (1, 8, 8, 3, 5)
    assert (data["distribution"], data["output"], data["classes"]) == ("uniform", "tanh", 2)
    assert data["classNames"][1] == "class1"
    assert data["layers"] == [
        {"name": "projection", "height": 2, "width": 2, "features": 6},
        {"name": "deconv1", "height": 4, "width": 4, "features": 4},
    ]
    assert [one["step"] for one in data["generators"]] == [1]
    sizes = [data["generators"][0]["bytes"], data["discriminator"]["bytes"]]
    assert len(weights_of(conditional_page)) == sum(sizes)
    layers = generator_layers(run.generator, run.variables)
    assert sizes[0] >= 2 * sum(layer.kernel.size + layer.bias.size for layer in layers)


def test_larger_networks_lie_beside_the_page(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MOST_BYTES", 100)
    file = page.write(tmp_path / "page.html", trained.load(trained_run))
    data = data_of(file)
    assert data["weightsFile"] == "page.weights"
    assert weights_of(file) == b""
    entries = [*data["generators"], data["discriminator"]]
    assert (tmp_path / "page.weights").stat().st_size == sum(entry["bytes"] for entry in entries)


def test_the_discriminator_is_left_out_where_it_does_not_fit(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained.load(trained_run)
    size = data_of(page.write(tmp_path / "all.html", run))["generators"][0]["bytes"]
    monkeypatch.setattr(page, "MOST_BYTES", size)
    data = data_of(page.write(tmp_path / "page.html", run))
    assert (data["discriminator"], data["weightsFile"]) == (None, None)


@pytest.fixture(scope="module")
def run_of_two_steps(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has kept two checkpoints."""
    from dcgan_jax import training
    from dcgan_jax.runs import run_folder

    folder = tmp_path_factory.mktemp("explore") / "run"
    shutil.copytree(trained_run, folder)
    config = run_folder.load_config(folder)
    config.update(num_steps=2, keep_checkpoints=2)
    training.train(config, folder)
    return folder


def test_checkpoints_are_a_film(run_of_two_steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As networks where they fit, and otherwise as pictures."""
    run = trained.load(run_of_two_steps)
    data = data_of(page.write(tmp_path / "live.html", run))
    assert ([one["step"] for one in data["generators"]], data["frames"]) == ([1, 2], [])
    monkeypatch.setattr(page, "MOST_BYTES", data["generators"][0]["bytes"])
    data = data_of(page.write(tmp_path / "drawn.html", run))
    assert [one["step"] for one in data["generators"]] == [2]
    assert [one["step"] for one in data["frames"]] == [1, 2]
    assert all(one["image"].startswith("data:image/webp;base64,") for one in data["frames"])


def test_the_page_of_a_weights_file(run_of_two_steps: Path, tmp_path: Path) -> None:
    """It has one step, perhaps no discriminator, and no part in a run that happens to lie beside it."""
    shutil.copytree(run_of_two_steps, tmp_path / "run")
    weights = dataclasses.replace(trained.load(tmp_path / "run", step=1).weights, discriminator=None)
    file = tmp_path / "run" / "shared.safetensors"
    file.write_bytes(weights_file.encode(weights))
    data = data_of(page.write(tmp_path / "page.html", trained.load(file)))
    assert (data["name"], data["step"], data["discriminator"], data["frames"]) == ("shared", 1, None, [])
    assert [one["step"] for one in data["generators"]] == [1]


@pytest.mark.parametrize(("name", "message"), [("folder", "is a folder"), ("page.txt", "must end in .html")])
def test_a_page_cannot_be_written_there(trained_run: Path, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=message):
        page.write(tmp_path / name, trained.load(trained_run))


def test_the_command(trained_run: Path, tmp_path: Path) -> None:
    def explore(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dcgan_jax.explore", *flags]
        return subprocess.run(command, capture_output=True, text=True)

    process = explore(f"--workdir={trained_run}", f"--out={tmp_path / 'page.html'}")
    assert process.returncode == 0, process.stderr
    assert process.stdout == f"{tmp_path / 'page.html'}: 0.1 MB\n"
    process = explore(f"--workdir={tmp_path}", f"--out={tmp_path / 'other.html'}")
    assert process.returncode == 2
    assert "is not a run's folder" in process.stderr
    assert not (tmp_path / "other.html").exists()


# --- What is known of the run --------------------------------------------------------------------------------------


def test_along_finds_the_direction_of_an_attribute() -> None:
    z = np.random.default_rng(0).uniform(-1, 1, (2000, 6))
    vector, correlation = findings.along((z[:, 2] - z[:, 4] > 0.3).astype(float), z)
    np.testing.assert_allclose(vector, [0, 0, 0.7071, 0, -0.7071, 0], atol=0.1)
    assert correlation > 0.7
    assert np.isnan(findings.along(np.ones(2000), z)[1])
    assert abs(findings.along(np.random.default_rng(1).normal(size=2000), z)[1]) < 0.2


def test_directions_of_the_first_layer(trained_run: Path) -> None:
    """The first is the one that the layer makes longest, and all are orthogonal."""
    run = trained.load(trained_run)
    layers = generator_layers(run.generator, run.variables)
    found = findings.directions(run)
    assert {direction.group for direction in found} == {findings.CLOSED_FORM}
    vectors = np.array([direction.vector for direction in found])
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(5), atol=1e-5)
    gains = np.linalg.norm(vectors @ layers[0].kernel, axis=1)
    np.testing.assert_allclose(gains, np.linalg.svd(layers[0].kernel, compute_uv=False), rtol=1e-4)


def test_what_experiments_found_is_on_the_page(trained_run: Path, tmp_path: Path) -> None:
    """Only for the same checkpoint, and only if it is what it should be."""
    shutil.copytree(trained_run, tmp_path / "run")
    run = trained.load(tmp_path / "run")

    def keep(name: str, results: Any) -> None:
        file = tmp_path / "run" / "analysis" / name / "results.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results))

    keep("turn_vector", {"step": 1, "seed": 3, "left": [0, 2], "right": [5, 7], "attribute": "yaw"})
    keep("window_dropout", {"step": 1, "layer": "deconv1", "dropped": [1, 3]})
    assert findings.window_maps(run) == {"deconv1": [1, 3]}
    turn = findings.directions(run)[0]
    z = run.noise(8, seed=3)
    vector = (z[5] + z[7] - z[0] - z[2]) / 2
    assert turn.name == "turn vector (yaw)"
    np.testing.assert_allclose(turn.vector, vector / np.linalg.norm(vector), rtol=1e-5)
    for wrong in (
        {"step": 2, "layer": "deconv1", "dropped": [1]},
        {"step": 1, "layer": 5, "dropped": "x"},
        {"step": 1},
    ):
        keep("window_dropout", wrong)
        assert findings.window_maps(run) == {}
    for wrong in ({"step": 1, "seed": -1, "left": "ab", "right": [5]}, {"step": 1}):
        keep("turn_vector", wrong)
        assert findings.directions(run)[0].group == findings.CLOSED_FORM


# --- The mathematics, in Node --------------------------------------------------------------------------------------

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="needs Node")


def evaluate(expression: str) -> Any:
    """The value of a JavaScript expression that may use Latent."""
    source = resources.files("dcgan_jax.explore").joinpath("latent.js").read_text()
    program = f"{source};process.stdout.write(JSON.stringify({expression}))"
    process = subprocess.run(["node", "-e", program], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@needs_node
@pytest.mark.parametrize(("distribution", "tolerance"), [("uniform", 0), ("normal", 1e-6)])
def test_noise_is_that_of_the_run(distribution: str, tolerance: float) -> None:
    seeds, stream = [0, 1, 255, 100_000, 2**31 - 1], rng.stream(0, "sample")
    key = np.asarray(jax.random.key_data(stream)).tolist()
    drawn = evaluate(f"{seeds}.map((seed) => [...Latent.draw(Latent.foldIn({key}, seed), 100, '{distribution}')])")
    keys = jax.vmap(lambda seed: jax.random.fold_in(stream, seed))(np.array(seeds, np.int32))
    expected = jax.vmap(lambda key: models.sample_noise(key, (100,), distribution))(keys)
    np.testing.assert_allclose(np.array(drawn, np.float32), expected, rtol=0, atol=tolerance)


@needs_node
def test_sums_by_hand() -> None:
    a, b, c = "Float32Array.of(1, 2)", "Float32Array.of(3, 6)", "Float32Array.of(0, -4)"
    assert evaluate(f"[...Latent.blend({a}, {b}, 0.25)]") == [1.5, 3]
    assert evaluate(f"[...Latent.arithmetic(2, [{a}, {b}], [{b}], [{c}])]") == [2 - 3 + 0, 4 - 6 - 4]
    assert evaluate(f"[...Latent.arithmetic(2, [{a}], [], [])]") == [1, 2]


@needs_node
def test_the_middle_of_nine_has_no_noise() -> None:
    nine = np.array(evaluate("Latent.around(Float32Array.of(1, 2, 3), [1, 2]).map((z) => [...z])")) - [1, 2, 3]
    assert not nine[4].any()
    others = np.delete(nine, 4, axis=0)
    assert 0.2 < np.abs(others).max() <= 0.25
    assert len(np.unique(others)) == 24


@needs_node
def test_a_walk_through_points_returns_to_the_first() -> None:
    points = "[Float32Array.of(0), Float32Array.of(8), Float32Array.of(2)]"
    places = [0, 0.5, 1, 1.5, 2, 2.5, 3, 5.5]
    assert evaluate(f"{places}.map((at) => Latent.chain({points}, at)[0])") == [0, 4, 8, 5, 2, 1, 0, 1]
    assert evaluate("[...Latent.chain([Float32Array.of(7)], 0.3)]") == [7]


@needs_node
@pytest.mark.parametrize(("distribution", "reach"), [("uniform", (2 / 3) ** 0.5), ("normal", 2**0.5)])
def test_an_endless_walk_keeps_the_length_of_noise(distribution: str, reach: float) -> None:
    """A sine of this reach has the prior's mean square, 1/3 or 1; neighbouring frames are near each other."""
    times = np.linspace(0, 600, 4001).tolist()
    walk = np.array(evaluate(f"{times}.map((time) => [...Latent.wave(20, '{distribution}', time, [3, 4])])"))
    assert reach - 0.01 < np.abs(walk).max() <= reach + 1e-6
    assert np.square(walk).mean() == pytest.approx(reach**2 / 2, rel=0.02)
    assert 0 < np.abs(np.diff(walk, axis=0)).max() < 0.15 * 2 * np.pi * 0.09 * reach * 1.01
    assert np.linalg.matrix_rank(walk) == 20


@needs_node
@pytest.mark.parametrize(
    "source",
    [
        {"kind": "seed", "seed": 12},
        {"kind": "blend", "from": 3, "to": 2**31 - 1, "t": 0.25},
        {"kind": "sum", "a": [1, 2], "b": [], "c": [7]},
        {"kind": "walk", "points": [4, 5, 6], "position": 1.5},
        {"kind": "wave", "seconds": 12.5},
        {"kind": "painted", "z": [0.5, -1, 0.25]},
    ],
)
def test_an_address_holds_the_view(source: dict[str, Any]) -> None:
    view = json.dumps({"source": source, "moves": {"2": -1.5, "3": 0}, "label": 3, "step": 500, "tab": "maps"})
    shared = "((view) => ({...view, off: Object.entries(view.off).map(([name, maps]) => [name, [...maps]]), "
    shared += "source: {...view.source, ...(view.source.z && {z: [...view.source.z]})}}))"
    found = evaluate(
        f"{shared}(Latent.fromAddress('#' + Latent.toAddress({{...{view}, off: {{deconv1: new Set([4, 9])}}}}), 3))"
    )
    expected = {"source": source, "moves": {"2": -1.5}, "label": 3, "step": 500, "tab": "maps"}
    assert found == {**expected, "off": [["deconv1", [4, 9]]]}


@needs_node
@pytest.mark.parametrize(
    "address",
    [
        "",
        "#",
        "#seed=x",
        "#seed=-1",
        "#blend=3",
        "#z=zz",
        "#z=00",
        "#move=a:b,1",
        "#off=%%%",
        "#a=&b=2",
        "#walk=..",
        "#=&=&",
    ],
)
def test_a_damaged_address_is_no_view(address: str) -> None:
    found = evaluate(f"Latent.fromAddress({json.dumps(address)}, 3)")
    assert (found["source"], found["moves"], found["off"], found["label"]) == (None, {}, {}, None)


@needs_node
def test_numbers_of_an_address_stay_in_their_ranges() -> None:
    found = evaluate("Latent.fromAddress('seed=9999999999&move=1:99', 3)")
    assert (found["source"]["seed"], found["moves"]) == (2**31 - 1, {"1": 8})
    assert evaluate("Latent.fromAddress('blend=1.2&at=7', 3).source.t") == 1


# --- The server ----------------------------------------------------------------------------------------------------


@contextmanager
def served(file: Path) -> Iterator[str]:
    with server.make_server(file, 0) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join(10)


def read(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.read()


def test_the_server_knows_names_as_browsers_send_them(tmp_path: Path) -> None:
    (tmp_path / "my Gesichter ä.html").write_text("the page")
    (tmp_path / "my Gesichter ä.weights").write_bytes(b"weights")
    with served(tmp_path / "my Gesichter ä.html") as address:
        assert read(address + urllib.parse.quote("my Gesichter ä.weights")) == b"weights"


def test_the_server_gives_the_page_and_its_weights_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("the page")
    (tmp_path / "page.weights").write_bytes(b"weights")
    (tmp_path / "secret").write_text("secret")
    with served(tmp_path / "page.html") as address:
        assert (read(address), read(address + "page.weights")) == (b"the page", b"weights")
        for path in ("secret", "page.html/../secret", "%2e%2e/secret", "other.weights"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                read(address + path)
        (tmp_path / "page.weights").unlink()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            read(address + "page.weights")
        port = int(address.rsplit(":", 1)[1].strip("/"))
        with pytest.raises(UserError, match=f"port {port} cannot be used"):
            server.make_server(tmp_path / "page.html", port)


# --- In a browser --------------------------------------------------------------------------------------------------


def vivid(run: Run) -> Run:
    """The run with larger weights in its last layers, whose images and logits differ from seed to seed.

    Networks of one step draw nearly the same for all noise, and tests on them would pass with any.
    """
    scales = {"generator": ("deconv2", 30.0), "discriminator": ("logit", 20.0)}
    players = {}
    for player, (layer, scale) in scales.items():
        state = getattr(run.state, player)
        larger = jax.tree.map(lambda leaf, scale=scale: leaf * np.float32(scale), state.params[layer])
        players[player] = state.replace(params={**state.params, layer: larger})
    return dataclasses.replace(run, state=run.state.replace(**players))


def rounded(network: list[Layer]) -> list[Layer]:
    """The layers with weights in half precision."""

    def half(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float16).astype(np.float32)

    return [dataclasses.replace(layer, kernel=half(layer.kernel), bias=half(layer.bias)) for layer in network]


class Explorer(Browser):
    """The page in a browser."""

    def __init__(self, file: Path, address: str = "", **settings: Any) -> None:
        super().__init__(f"{file.as_uri()}{address}", **settings)
        self.wait_for("document.body.dataset.ready")
        self.settle()

    def settle(self) -> None:
        """Waits until nothing is left to draw."""
        self.run("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.wait_for(
            "![...document.querySelectorAll('canvas.sample')].some((c) => c.stale && c.what && c.offsetParent)"
        )

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")
        self.settle()

    def set(self, selector: str, value: float | str, event: str = "input") -> None:
        """Moves a slider, or chooses from a list, as a person's hand would."""
        found = f"const element = document.querySelector({json.dumps(selector)}); element.value = {json.dumps(value)};"
        self.run(f"{found} element.dispatchEvent(new Event('{event}', {{bubbles: true}}))")
        self.settle()

    def place(self, selector: str, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
        """A point of an element on the screen; in its middle, or at other shares of its width and height."""
        script = f"const element = document.querySelector({json.dumps(selector)});"
        script += "element.scrollIntoView({block: 'nearest'}); const box = element.getBoundingClientRect();"
        left, top, width, height = self.run(f"{script} return [box.x, box.y, box.width, box.height]")
        return left + x * width, top + y * height

    def text(self, selector: str) -> str:
        return self.run(f"return document.querySelector({json.dumps(selector)}).textContent")

    def pixels(self, selector: str = "#image") -> np.ndarray:
        """uint8 [height, width, 3] of a canvas."""
        script = f"const c = document.querySelector({json.dumps(selector)});"
        script += "return [c.height, c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]"
        height, width, values = self.run(script)
        return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


@pytest.fixture(scope="module")
def vivid_run(conditional_run: Path) -> Run:
    return vivid(trained.load(conditional_run, norm="frozen"))


@pytest.fixture(scope="module")
def vivid_page(vivid_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page.write(tmp_path_factory.mktemp("explore") / "page.html", vivid_run)


def draw(run: Run, z: np.ndarray, label: int, gates: dict[str, np.ndarray] | None = None) -> np.ndarray:
    """uint8 [height, width, 3]: what the network in half precision draws of noise [z_dim], by nets/layers.py."""
    network = rounded(generator_layers(run.generator, run.variables))
    for i, layer in enumerate(network):
        if gates and layer.name in gates:  # a ReLU keeps what is scaled by 0 or 1
            kernel = layer.kernel * gates[layer.name][:, None]
            network[i] = dataclasses.replace(layer, kernel=kernel, bias=layer.bias * gates[layer.name])
    image, _ = layers.apply(network, z[None].astype(np.float32), np.array([label]))
    return np.clip(np.round((image[0] + 1) * 127.5), 0, 255).astype(np.uint8)


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """Within one level of the rounding."""
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.long
@needs_browser
def test_every_tool_in_a_browser(vivid_page: Path, vivid_run: Run) -> None:
    """From a file, with the mouse and with keys; every picture is what the network draws of the noise it should."""
    z = vivid_run.noise(16)
    assert np.abs(draw(vivid_run, z[2], 0).astype(int) - draw(vivid_run, z[3], 0).astype(int)).max() > 40
    browser = Explorer(vivid_page)
    try:
        # An endless walk plays from the beginning.
        assert browser.text("#what").startswith("Endless walk")
        before = browser.pixels()
        browser.wait_for("document.getElementById('play').textContent === 'Pause'")
        browser.run("return new Promise((done) => setTimeout(done, 500))")
        assert (browser.pixels() != before).any()

        # Samples are those of the run, their classes in turn, until a class is chosen.
        browser.click("#sheet [data-seed='3']")
        assert browser.text("#what") == "Seed 3 · class1"
        assert_same(browser.pixels(), draw(vivid_run, z[3], 1))
        assert_same(browser.pixels(), vivid_run.sample(4)[3])
        assert_same(browser.pixels("#sheet [data-seed='2'] canvas"), draw(vivid_run, z[2], 0))
        logits, _ = vivid_run.discriminate(vivid_run.sample(4), np.array([0, 1, 0, 1]))
        said = float(browser.text("#opinion output").split("(")[1].strip(")").replace("\u2212", "-"))
        assert said == pytest.approx(float(logits[3]), abs=0.1)
        browser.click("#classes [data-label='0']")
        assert_same(browser.pixels(), draw(vivid_run, z[3], 0))
        browser.click("#opinions")
        assert "\u00a0% real" in browser.run("return document.querySelector('#sheet [data-seed=\"3\"]').ariaLabel")
        browser.set("#first", 8, "change")
        assert browser.text("#sheet .tile span").startswith("8")
        browser.set("#first", 0, "change")

        # Blending: a sample dragged onto another, the slider, and the key X.
        browser.drag(*(browser.place(f"#sheet [data-seed='{seed}']") for seed in (2, 4, 5)))
        browser.settle()
        assert browser.text("#what").replace("\u00a0", " ").startswith("50 % seed 2, 50 % seed 5")
        assert_same(browser.pixels(), draw(vivid_run, (z[2] + z[5]) / 2, 0))
        browser.set("#t", 0.25)
        assert_same(browser.pixels(), draw(vivid_run, 0.75 * z[2] + 0.25 * z[5], 0))
        browser.run("document.querySelector('#sheet [data-seed=\"6\"]').focus()")
        browser.type("\ue014x")  # arrow right
        browser.settle()
        assert browser.run("return location.hash, document.activeElement.dataset.seed") == "7"
        assert_same(browser.pixels(), draw(vivid_run, (z[2] + z[7]) / 2, 0))

        # Arithmetic: A by a click, B by a key, C by dragging.
        browser.click("[data-tab=sum]")
        for seed in (1, 3):
            browser.click(f"#sheet [data-seed='{seed}']")
        browser.run("document.querySelector('#sheet [data-seed=\"4\"]').focus()")
        browser.type("b")
        browser.drag(browser.place("#sheet [data-seed='5']"), browser.place(".tray[data-drop=c]"))
        browser.settle()
        assert_same(browser.pixels(), draw(vivid_run, (z[1] + z[3]) / 2 - z[4] + z[5], 0))
        assert_same(browser.pixels("#around canvas:nth-child(5)"), browser.pixels())
        assert (browser.pixels("#around canvas:nth-child(4)") != browser.pixels()).any()
        browser.click("#c .tile")
        assert_same(browser.pixels(), draw(vivid_run, (z[1] + z[3]) / 2 - z[4], 0))

        # A walk through two samples loops, and stops.
        browser.click("[data-tab=walk]")
        browser.click("#through")
        for seed in (1, 2):
            browser.click(f"#sheet [data-seed='{seed}']")
        browser.wait_for("document.getElementById('what').textContent.startsWith('Walk through 2')")
        browser.set("#pace", 3)
        browser.click("#play")
        browser.wait_for("/walk=1.2&at=[01]/.test(location.hash)")
        at = float(browser.run("return location.hash").split("at=")[1].split("&")[0])
        t = at if at < 1 else 2 - at
        assert 0 < at < 2
        assert_same(browser.pixels(), draw(vivid_run, (1 - t) * z[1] + t * z[2], 0))

        # Directions.
        browser.click("[data-tab=look]")
        browser.click("#sheet [data-seed='3']")
        browser.click("[data-tab=move]")
        browser.set("[data-move='1']", 2)
        vector = np.array(data_of(vivid_page)["directions"][1]["vector"])
        assert_same(browser.pixels(), draw(vivid_run, z[3] + 2 / 3**0.5 * vector, 0))
        browser.click("#reset-moves")
        assert_same(browser.pixels(), draw(vivid_run, z[3], 0))

        # Painting on the noise, with keys and with the pointer.
        browser.click("[data-tab=paint]")
        browser.run("document.querySelector('.cell').focus()")
        browser.type("\ue0140")  # arrow right, zero
        painted = z[3].copy()
        painted[1] = 0
        browser.settle()
        assert_same(browser.pixels(), draw(vivid_run, painted, 0))
        browser.set("#brush", -1)
        browser.drag(browser.place("[data-cell='3']"), browser.place("[data-cell='4']"))
        painted[3:5] = -1
        browser.settle()
        assert_same(browser.pixels(), draw(vivid_run, painted, 0))
        share = np.linalg.norm(painted) / (5 / 3) ** 0.5
        assert browser.text("#length-text").replace("\u00a0", " ") == f"{100 * share:.0f} %"
        browser.click("#unpaint")

        # Maps that are switched off.
        browser.click("[data-tab=maps]")
        browser.set("#layer", "deconv1", "change")
        for i in (0, 2):
            browser.click(f"[data-map='{i}']")
        gate = {"deconv1": np.array([0, 1, 0, 1], np.float32)}
        assert browser.text("#off") == "2 of 4 off"
        assert_same(browser.pixels(), draw(vivid_run, z[3], 0, gate))
        assert_same(browser.pixels("#sheet [data-seed='2'] canvas"), draw(vivid_run, z[2], 0, gate))
        assert (draw(vivid_run, z[3], 0, gate) != draw(vivid_run, z[3], 0)).any()
        browser.click("#compare")
        assert_same(browser.pixels(), draw(vivid_run, z[3], 0))
        browser.click("#compare")
        browser.wait_for("location.hash.includes('off=deconv1:0.2')")
        address = browser.run("return location.hash")
        assert browser.complaints() == []
    finally:
        browser.close()

    # The address shows the same again.
    browser = Explorer(vivid_page, address)
    try:
        assert_same(browser.pixels(), draw(vivid_run, z[3], 0, gate))
        assert browser.text("#what") == "Seed 3 · class0 · 2 maps off"
        assert browser.run("return document.querySelector('[role=tab][aria-selected=true]').dataset.tab") == "maps"
    finally:
        browser.close()


@pytest.mark.long
@needs_browser
def test_a_phone(vivid_page: Path) -> None:
    """360 pixels wide nothing sticks out, everything has a name, and a finger that rests on a sample drags it."""
    controls = "button, input, select, [role=grid], [role=gridcell], canvas[role=img]"
    nameless = f"""
      return [...document.querySelectorAll('{controls}')].filter((element) => {{
        return !(element.textContent.trim() || element.ariaLabel || element.labels?.[0]?.textContent.trim())
      }}).map((element) => element.outerHTML)"""
    wide = """
      return [...document.querySelectorAll('main *')].filter((element) => {
        const scrolls = element.closest('[role=tablist], #classes');
        return element.offsetParent && !scrolls && element.getBoundingClientRect().right > innerWidth + 1
      }).map((element) => element.outerHTML)"""
    browser = Explorer(vivid_page, width=360, height=740, phone=True)
    try:
        for tab in ("look", "blend", "sum", "walk", "move", "paint", "maps", "film"):
            browser.click(f"[data-tab={tab}]")
            assert browser.run("return document.documentElement.scrollWidth") == 360, tab
            assert browser.run(wide) == [], tab
            assert browser.run(nameless) == [], tab
        browser.click("[data-tab=look]")
        places = [browser.place(f"#sheet [data-seed='{seed}']") for seed in (2, 3, 4)]
        browser.drag(*places, hold=500)
        browser.settle()
        assert "seed 2" in browser.text("#what") and "seed 4" in browser.text("#what")
        assert browser.complaints() == []
    finally:
        browser.close()


@pytest.mark.long
@needs_browser
def test_the_training_as_a_film(run_of_two_steps: Path, tmp_path: Path) -> None:
    """The slider draws with the networks of an earlier checkpoint."""
    run = vivid(trained.load(run_of_two_steps, norm="frozen"))
    file = page.write(tmp_path / "page.html", run)
    browser = Explorer(file, "#seed=3&tab=film")
    try:
        assert_same(browser.pixels(), draw(run, run.noise(4)[3], 0))
        browser.set("#step", 0)
        browser.wait_for("document.getElementById('what').textContent.includes('step 1')")
        browser.settle()
        earlier = run.at(1)
        assert_same(browser.pixels(), draw(earlier, run.noise(4)[3], 0))
        assert (browser.pixels() != draw(run, run.noise(4)[3], 0)).any()
    finally:
        browser.close()


@pytest.mark.long
@needs_browser
def test_a_page_with_its_weights_beside_it(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server gives them; a page from a file says what to do."""
    monkeypatch.setattr(page, "MOST_BYTES", 0)
    run = vivid(trained.load(trained_run, norm="frozen"))
    file = page.write(tmp_path / "page.html", run)
    with served(file) as address:
        browser = Browser(f"{address}#seed=2")
        try:
            browser.wait_for("document.body.dataset.ready")
            browser.wait_for("document.getElementById('what').textContent === 'Seed 2'")
        finally:
            browser.close()
    browser = Browser(file.as_uri())
    try:
        browser.wait_for("document.getElementById('problem').textContent.includes('page.weights')")
        assert "--serve" in browser.run("return document.getElementById('problem').textContent")
    finally:
        browser.close()


@pytest.mark.long
@needs_browser
def test_a_hostile_name_in_a_browser(conditional_page: Path) -> None:
    browser = Explorer(conditional_page)
    try:
        assert browser.run("return document.title") == "run"
        assert browser.text("#classes [data-label='0']") == HOSTILE
        assert browser.run("return document.querySelectorAll('img').length") == 0
    finally:
        browser.close()
