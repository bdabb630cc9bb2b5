"""Values that cannot work are named before anything else happens."""

import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from configs import default
from dcgan_jax import config as config_module
from dcgan_jax.config import FIELDS, check_config, check_names, flatten, load_config
from dcgan_jax.machine.errors import UserError
from tests import tiny


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "wasserstein"}, "config.loss is 'wasserstein'; choose from 'non_saturating', 'minimax',"),
        (
            {"update_order": "both"},
            "config.update_order is 'both'; choose from 'discriminator_first', 'generator_first'",
        ),
        ({"mapper": "vmap"}, "config.mapper is 'vmap'; choose from 'shard_map', 'pmap'"),
        ({"data.placement": "gpu"}, "config.data.placement is 'gpu'; choose from 'auto', 'device', 'host'"),
        ({"conv": "fft"}, "config.conv is 'fft'; choose from 'auto', 'winograd', 'im2col', 'lax'"),
        ({"num_steps": 0}, "config.num_steps is 0; it must be at least 1 and below 2,147,483,648."),
        ({"model.discriminator.dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1."),
        ({"model.discriminator.freeze": -1}, "freeze is -1; it must be at least 0."),
        (
            {"model.discriminator.freeze": 3},
            "config.model.discriminator.freeze is 3, but the discriminator has 2 convolutions: give 2 or less.",
        ),
        ({"model.width": -1.0}, "config.model.width is -1.0"),
        ({"model.width": 1e-4}, "config.model.width is 0.0001; it must be at least 0.001, or 0."),
        ({"ema_decay": 1.5}, "config.ema_decay is 1.5"),
        ({"optimizer.generator_learning_rate": -1e-4}, "generator_learning_rate is -0.0001"),
        ({"seed": -1}, "config.seed is -1"),
        (
            {"steps_per_call": 3, "log_every": 9, "checkpoint_every": 10},
            "config.checkpoint_every is 10, not a multiple of config.steps_per_call 3",
        ),
        (
            {"eval_every": 300, "checkpoint_every": 1000},
            "config.eval_every is 300 and config.checkpoint_every 1000, and neither is a multiple of the other",
        ),
        ({"model.z_dim": 0}, "config.model.z_dim is 0; it must be at least 1 and below 65,536."),
        ({"model.resampling": "bilinear"}, "config.model.resampling is 'bilinear'; choose from 'strided', 'pooling'"),
        ({"model.generator.stages": ((6, 4),)}, "strides 1 or 2"),
        ({"data.image_size": 30}, "the multiples of 4: set --config.data.image_size to 28 or 32"),
        (
            {"optimizer.decay_begin": 2, "optimizer.decay_steps": 1},
            "config.num_steps is 4, but the learning rates are zero from step 3 on",
        ),
    ],
)
def test_bad_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_config(tiny.config(changes))
    assert message in str(error.value)


def test_a_config_of_another_version() -> None:
    config = tiny.config().unlock()
    del config.steps_per_call
    with pytest.raises(UserError, match=r"config.steps_per_call is missing: .* another version"):
        check_config(config)


@pytest.mark.parametrize("size", [28, 32, 64, 96, 128, 256])
def test_sizes_that_fit(size: int) -> None:
    check_config(tiny.config({"data.image_size": size}))


def test_a_config_file_cannot_invent_fields(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs import default\n"
        "def get_config():\n"
        "    config = default.get_config()\n"
        "    config.model.widht = 0.25\n"
        "    return config\n"
    )
    with pytest.raises(AttributeError, match="width"):
        runpy.run_path(str(file))["get_config"]()


def test_the_table_has_the_fields_of_the_default_config_in_its_order() -> None:
    config = default.get_config()
    assert FIELDS.keys() == flatten(config).keys()
    source = Path(default.__file__).read_text()
    places = [source.index(f" {assignment(name)} = ") for name in FIELDS]
    assert places == sorted(places)
    check_config(config)


def assignment(name: str) -> str:
    """How configs/default.py writes a field: 'model.generator.hidden' is `generator.hidden`."""
    *groups, field = name.split(".")
    group = {"eval": "evaluation"}.get(groups[-1], groups[-1]) if groups else "config"
    return f"{group}.{field}"


@pytest.mark.parametrize(
    ("name", "nearest"), [("model.widht", "model.width"), ("data.imagesize", "data.image_size"), ("sede", "seed")]
)
def test_a_field_that_is_not_in_the_table(name: str, nearest: str) -> None:
    config = tiny.config().unlock()
    config.update_from_flattened_dict({name: 1})
    with pytest.raises(UserError, match=rf"there is no field config\.{name}; the nearest is config\.{nearest}\."):
        check_config(config)


def test_what_is_no_config() -> None:
    with pytest.raises(UserError, match=r"the config is None; it must be a ConfigDict"):
        check_config(None)


MINE = """
from configs import default

def get_config():
    config = default.get_config()
    config.batch_size = 16
    return config
"""


@pytest.mark.parametrize("kind", [str, Path])
def test_a_config_is_loaded_as_on_the_command_line(kind: type, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    stages = [[8, 2], [4, 2]]
    config = load_config(kind(tmp_path / "mine.py"), {"model.generator.stages": stages, "model.width": 1, "seed": 3})
    assert config.is_locked
    assert (config.batch_size, config.seed, config.model.generator.stages) == (16, 3, ((8, 2), (4, 2)))
    assert type(config.model.width) is float  # as the default's
    expected = flatten(default.get_config())
    expected.update({"batch_size": 16, "seed": 3, "model.generator.stages": ((8, 2), (4, 2))})
    assert flatten(config) == expected
    assert load_config(kind(tmp_path / "mine.py")).seed == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.widht": 0.5}, r"there is no field config\.model\.widht; the nearest is config\.model\.width\."),
        ({"model": 3}, r"there is no field config\.model; "),
        ({"batch_size": "8"}, r"config\.batch_size is '8'; it must be a whole number\."),
        ({"data.dir": Path("x")}, r"config\.data\.dir is PosixPath\('x'\); it must be text\."),
        ({"data.image_size": 30}, r"image_size 30 does not fit config\.model\.generator\.stages"),
    ],
)
def test_changes_that_cannot_be_made(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    with pytest.raises(UserError, match=message):
        load_config(tmp_path / "mine.py", changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"there is no config file .*mine\.py; the configs are in configs/\."),
        ("def get_config():\n    return 1 / 0", r"mine\.py cannot be used: line 2: ZeroDivisionError"),
        ("def get_config():\n    return 3", "needs a function"),
        (MINE.replace("config.batch_size = 16", "del config.unlock().seed"), r"config\.seed is missing"),
        (MINE.replace("config.batch_size", "config.unlock().batchsize"), r"no field config\.batchsize; .*batch_size\."),
    ],
)
def test_config_files_that_cannot_be_loaded(content: str | None, message: str, tmp_path: Path) -> None:
    if content:
        (tmp_path / "mine.py").write_text(content)
    with pytest.raises(UserError, match=message):
        load_config(tmp_path / "mine.py", {"seed": 1})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("optimizer.lr", "config.optimizer.generator_learning_rate and config.optimizer.discriminator_learning_rate"),
        ("optimizer", "config.optimizer.b1, with b2 and eps"),
        ("epochs", "config.num_steps"),
        ("data.image_sise", "the nearest is config.data.image_size"),
    ],
)
def test_hints_for_names_of_other_programs(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"there is no field config.{name}; ") + ".*" + re.escape(hint)):
        check_names([name], FIELDS)


def test_a_config_file_at_the_root_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module.os.path, "isfile", lambda path: True)
    monkeypatch.setattr(config_module.runpy, "run_path", lambda path: {"get_config": default.get_config})
    assert load_config("/mine.py").batch_size == 128


def test_configs_of_the_checkout_that_was_installed_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `pip install .`, from a script in some other folder."""
    shutil.copytree(Path(default.__file__).parent, tmp_path / "checkout" / "configs")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not (Path(path) / "configs").is_dir()])
    for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(config_module, "__file__", str(tmp_path / "site-packages" / "dcgan_jax" / "config.py"))
    assert load_config(tmp_path / "checkout" / "configs" / "cifar10_best.py").ema_decay == 0.999
    assert sys.modules["configs.cifar10"].__file__ == str(tmp_path / "checkout" / "configs" / "cifar10.py")


def test_a_probability_is_at_most_one() -> None:
    check_config(tiny.config({"augment.probability": 1.0}))
    with pytest.raises(UserError, match=r"augment\.probability is 1\.5; it must be at least 0 and at most 1\."):
        check_config(tiny.config({"augment.probability": 1.5}))


def test_no_augmentation_is_a_choice_and_no_metric_is_none() -> None:
    check_config(tiny.config({"augment.operations": ()}))
    for name, value in (
        ("augment.operations", ("blur",)),
        ("augment.operations", ("color",) * 2),
        ("eval.metrics", ()),
    ):
        with pytest.raises(UserError, match=rf"{name} is .*choose some of"):
            check_config(tiny.config({name: value}))
