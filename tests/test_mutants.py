"""The faults of mutants.py can be put in, are told by the tests beside them, and stand in the docs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[1]


def text_of(mutant: Mutant) -> str:
    return (ROOT / "dcgan_jax" / mutant.file).read_text()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_it_has_one_place_and_a_test(mutant: Mutant) -> None:
    assert text_of(mutant).count(mutant.old) == 1 and mutant.new != mutant.old
    file, _, name = mutant.test.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE)


def test_the_table_of_the_docs() -> None:
    rows = [f"| {mutant.what} | `{mutant.test.partition('::')[2]}` |" for mutant in MUTANTS]
    text = (ROOT / "docs" / "paper.md").read_text()
    assert [row for row in rows if row not in text] == []
    assert "\n".join(["| --- | --- |", *rows, ""]) in text  # no others, and in this order


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of what the tests need; they pass on it as it is."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("dcgan_jax", "configs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    found = subprocess.run(
        [sys.executable, "-c", "import dcgan_jax; print(dcgan_jax.__file__)"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert Path(found.stdout.strip()).is_relative_to(folder)
    assert run_tests(folder, sorted({mutant.test for mutant in MUTANTS})) == 0
    return folder


def run_tests(folder: Path, names: list[str]) -> int:
    """The exit status: 0 if all pass, 1 if one fails, others for what cannot be run."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-n", "0", "-m", ""]
    return subprocess.run([*command, *(f"tests/{name}" for name in names)], cwd=folder, capture_output=True).returncode


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_a_test_tells_it(mutant: Mutant, copy: Path) -> None:
    file = copy / "dcgan_jax" / mutant.file
    try:
        file.write_text(text_of(mutant).replace(mutant.old, mutant.new))
        assert run_tests(copy, [mutant.test]) == 1
    finally:
        file.write_text(text_of(mutant))
