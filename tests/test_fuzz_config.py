"""Any value in any field, any flag, any config file: refused with a message, or it works."""

import contextlib
import io
import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import pytest
from absl import flags
from hypothesis import example, given
from hypothesis import strategies as st
from ml_collections import ConfigDict, config_flags

from configs import default
from dcgan_jax import command_line, train_step
from dcgan_jax.config import FIELDS as TABLE
from dcgan_jax.config import check_config, flatten
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import flops
from dcgan_jax.train_state import build_gan, create_state
from tests import fuzz, tiny

ROOT = Path(__file__).parents[1]
FIELDS = sorted(flatten(tiny.config()))

# --- Values ----------------------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 9),
    st.integers(-(10**300), 10**300),
    st.floats(),
    st.text(max_size=4),
    st.binary(max_size=2),
    st.builds(object),
    st.sampled_from([2**31, 2**63, 1e300, -0.0, math.nan, math.inf, "lax", "pooling", "all", "none", "hinge", "\0"]),
)
PAIRS = st.lists(st.tuples(st.integers(-1, 9), st.integers(0, 3)), max_size=3).map(tuple)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.lists(SCALARS, max_size=3).map(tuple),
    PAIRS,
    st.dictionaries(st.text("abc", max_size=3), SCALARS, max_size=2),
)


def with_values(values: dict[str, Any]) -> ConfigDict:
    """The tiny config with any values, of any type."""
    config = tiny.config().unlock()
    for name, value in values.items():
        *parents, field = name.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        with node.ignore_type():
            node[field] = value
    return config


@fuzz.examples(400)
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=2))
def test_any_value_is_refused_or_can_be_built(values: dict[str, Any]) -> None:
    config = with_values(values)
    try:
        check_config(config)
    except UserError:
        return
    config.model.width = config.model.width or 0.25  # decided by `training.train`, before it builds anything
    jax.eval_shape(partial(create_state, build_gan(config)))


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_checked(name: str) -> None:
    """No field takes an object that is no value at all; each message names the field."""
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        check_config(with_values({name: object()}))


@pytest.mark.parametrize(
    ("name", "value"), [("data.channels", 3.0), ("data.channels", True), ("batch_size", True), ("model.z_dim", 5.0)]
)
def test_equal_numbers_of_another_type(name: str, value: object) -> None:
    with pytest.raises(UserError, match=name):
        check_config(with_values({name: value}))


def test_what_is_no_group_of_fields() -> None:
    for value in (3, "text", None, (1, 2)):
        config = ConfigDict({**tiny.config().to_dict(), "model": value})
        with pytest.raises(UserError, match=r"config\.model\..* is missing"):
            check_config(config)


STAGES = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 2)), max_size=4).map(tuple)
WIDTHS = st.lists(st.integers(1, 5), max_size=2).map(tuple)
ALLOWED = {
    **{
        name: st.sampled_from(field.choices)
        for name, field in TABLE.items()
        if field.choices and field.type is not tuple
    },
    "batch_size": st.sampled_from([2, 4]),
    "data.image_size": st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16]),
    "data.image_width": st.sampled_from([0, 1, 2, 4, 6, 8, 12]),
    "ema_decay": st.sampled_from([0.0, 0.5]),
    "model.cross_replica_norm": st.booleans(),
    "model.discriminator.dropout": st.sampled_from([0.0, 0.5]),
    "model.discriminator.hidden": WIDTHS,
    "model.discriminator.stages": STAGES,
    "model.generator.hidden": WIDTHS,
    "model.generator.stages": STAGES,
    "model.norm_affine": st.booleans(),
    "model.num_classes": st.integers(0, 3),
    "model.width": st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    "model.z_dim": st.integers(1, 3),
    "optimizer.decay_steps": st.sampled_from([0, 10]),
}


@fuzz.examples(30)
@given(st.fixed_dictionaries({}, optional=ALLOWED))
def test_any_config_that_passes_can_be_trained(values: dict[str, Any]) -> None:
    """The whole step is traced, on two devices: shapes and types fit, and the state comes back as it was."""
    config = tiny.config(values)
    try:
        check_config(config)
    except UserError as error:
        assert "does not fit" in str(error)
        return
    if config.precision == "auto":  # decided by `training.train`, before it builds anything
        config.precision = "float32"
    config.model.width = config.model.width or 0.25  # likewise
    state = jax.eval_shape(partial(create_state, build_gan(config)))
    mesh = tiny.mesh(2)
    step = train_step.make_mapped_step(build_gan(config), mesh, config.mapper)
    after, metrics = jax.eval_shape(step, state, {}, tiny.shard_batch(config, mesh, seed=0))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (after, metrics["d_loss"])) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), (state, jax.ShapeDtypeStruct((), "float32"))
    )
    assert flops.flops_per_image(config) > 0


# --- Flags -----------------------------------------------------------------------------------------------------------

WORDS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["1", "-1", "1e5", "nan", "True", "maybe", "((4,2),)", "(1,", "()", "", "None", "9" * 50, "[1]", "('a',)", "{}"]
    ),
)
FLAGS = st.one_of(
    st.builds("--config.{}={}".format, st.sampled_from(FIELDS), WORDS),
    st.builds("--noconfig.{}={}".format, st.sampled_from(FIELDS), WORDS),
    st.builds("-config.{}[0]={}".format, st.sampled_from(FIELDS), WORDS),
    st.builds("--{}config.{}".format, st.sampled_from(["", "no"]), st.sampled_from(FIELDS)),
    st.text(max_size=10),
    st.builds("--{}".format, st.text(max_size=10)),
    st.sampled_from(["--", "--config", "--config=", "--config=configs", "--workdir", "--flagfile=/no/such/file"]),
)


def parse(arguments: list[str]) -> tuple[flags.FlagValues, str, int]:
    """The flags as `dcgan_jax.main` reads them; what is said, and the exit status, 0 if it goes on."""
    values, said = flags.FlagValues(), io.StringIO()
    config_flags.DEFINE_config_file("config", None, "", lock_config=True, flag_values=values)
    flags.DEFINE_string("workdir", None, "", required=True, flag_values=values)
    argv = ["program", *arguments]
    with (
        mock.patch.object(sys, "argv", argv),  # where ml_collections looks for overrides
        mock.patch.object(flags, "FLAGS", values),
        contextlib.redirect_stderr(said),
    ):
        try:
            command_line._parse_flags(argv)
        except SystemExit as exit:
            return values, said.getvalue(), int(exit.code or 0)
    return values, said.getvalue(), 0


@fuzz.examples(400)
@given(st.lists(FLAGS, max_size=3), st.booleans())
@example(["-config", "\x00"], False)
def test_any_flags_are_refused_in_a_line_or_parsed(extra: list[str], behind: bool) -> None:
    usual = [f"--config={default.__file__}", "--workdir=x"]
    values, said, status = parse(usual + extra if behind else extra + usual)
    if status:
        assert status == 2
        assert said.startswith("error: ") and "Traceback" not in said
    else:
        with contextlib.suppress(UserError):
            check_config(values.config)


def test_names_of_folders_are_no_fields() -> None:
    values, _, status = parse([f"--config={default.__file__}", "--workdir=runs/my-config.v2"])
    assert (values.workdir, status) == ("runs/my-config.v2", 0)


# --- Config files ----------------------------------------------------------------------------------------------------

GET = "def get_config():\n    "
FILES = [
    "def get_config(:",
    "config = 1",
    "get_config = 3",
    "import no_such_module",
    "def get_config(argument): return argument",
    GET + "return get_config()",
    GET + "return None",
    GET + "return {'batch_size': 3}",
    *(GET + f"raise {name}('reason')" for name in ("OSError", "ValueError", "TypeError", "KeyError", "AttributeError")),
    GET + "from configs import default\n    config = default.get_config()\n    config.widht = 3\n    return config",
    GET + "from configs import default\n    config = default.get_config()\n    config.seed = 'x'\n    return config",
]


@fuzz.examples(80)
@given(st.sampled_from(FILES).map(str.encode) | st.binary(max_size=20))
def test_config_files_that_cannot_be_used_are_told_in_a_line(content: bytes) -> None:
    with fuzz.folder() as folder:
        file = folder / "mine.py"
        file.write_bytes(content)
        _, said, status = parse([f"--config={file}", f"--workdir={folder}/run"])
    assert status == 2
    assert said.startswith("error: ") and str(file) in said and "Traceback" not in said


def test_the_message_says_where_a_config_file_fails(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(GET + "return 1 / 0")
    _, said, _ = parse([f"--config={file}", "--workdir=x"])
    assert said == f"error: the config file {file} cannot be used: line 2: ZeroDivisionError: division by zero\n"


@pytest.mark.parametrize(
    ("work", "status", "said"),
    [
        ("open('/no/such/file')", 2, "error: [Errno 2] No such file or directory: '/no/such/file'"),
        ("bytearray(2**62)", 2, "error: memory does not suffice (out of memory)"),
        ("jax.numpy.ones((2**20, 2**27)).block_until_ready()", 2, "error: memory does not suffice (RESOURCE_EXHAUSTED"),
        ("print('caf\\udce9')", 0, ""),
    ],
)
def test_what_the_system_refuses_is_told_in_a_line(work: str, status: int, said: str) -> None:
    script = f"import jax; from dcgan_jax import command_line; command_line.run(lambda: {work})"
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == status
    assert process.stderr.startswith(said) and process.stderr.count("\n") == bool(said)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("--config={folder}/broken.py", "broken.py cannot be used: SyntaxError"),
        ("--config.batch_size=abc", "invalid literal for int"),
        ("--config.model.generator.stages=(1,2,3)", "config.model.generator.stages is (1, 2, 3); it must be a list of"),
        ("surplus", "unexpected arguments: surplus"),
    ],
)
def test_the_real_command(mistake: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def get_config(:\n")
    command = [sys.executable, "-m", "dcgan_jax.main", "--config=configs/default.py", f"--workdir={tmp_path}/run"]
    process = subprocess.run(
        [*command, mistake.format(folder=tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "run").exists()
