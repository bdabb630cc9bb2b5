"""What the README and the docs name is there: files, headings, commands, flags, fields; and the Python block runs."""

import configparser
import functools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dcgan_jax.config import FIELDS
from tests import tiny

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "launch" / "README.md", *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"python -m (dcgan_jax\b[\w.]*)(.*)")
FIELD = re.compile(r"--config\.([a-z][\w.]*\w)")


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{target} in {page.name}"
        if anchor:
            assert anchor in anchors(file), f"{target} in {page.name}"


def commands() -> Iterator[tuple[str, list[str]]]:
    """Module and arguments of every command in the pages; lines that end in a backslash are joined."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for line in re.findall(r"^    .+|`[^`\n]+`", text, re.MULTILINE):
            found = COMMAND.search(line.strip("`"))
            if found and not found[1].endswith("."):  # what precedes the names of a table
                yield found[1], shlex.split(found[2], comments=True)


def test_commands_and_their_flags_exist() -> None:
    used: dict[str, set[str]] = {}
    for module, arguments in commands():
        flags = {part.strip("[").split("=")[0].lstrip("-") for part in arguments if part.strip("[").startswith("--")}
        used.setdefault(module, set()).update(flag for flag in flags if not flag.startswith("config."))
    assert len(used) >= 12

    def helped(module: str) -> str:
        command = [sys.executable, "-m", module, "--helpfull"]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300).stdout

    without_flags = ("dcgan_jax.benchmark.report", "dcgan_jax.reports.curves")
    modules = [module for module in used if module not in without_flags]
    with ThreadPoolExecutor(2) as pool:
        for module, text in zip(modules, pool.map(helped, modules), strict=True):
            known = set(re.findall(r"^\s+--\[?(?:no\])?(\w+)", text, re.MULTILINE))
            assert known, f"python -m {module} has no help"
            assert used[module] <= known, f"python -m {module}: no flags {used[module] - known}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_overrides_name_fields(page: Path) -> None:
    """In commands and in sentences."""
    named = set(FIELD.findall(page.read_text()))
    assert named <= FIELDS.keys(), f"--config.{sorted(named - FIELDS.keys())} in {page.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_spans_name_what_is_there(page: Path) -> None:
    """Files by any end of their path, and config fields or groups of them.

    `train.py` is what a decision is about; an export writes `run.py`.
    """
    files = [f"/{path}" for path in tracked()]
    parts = [name.split(".") for name in FIELDS]
    fields = {".".join(names[:depth]) for names in parts for depth in range(1, len(names) + 1)}
    for span in re.findall(r"`([^`\n]+)`|^    (?:bash|python) (.+)", page.read_text(), re.MULTILINE):
        text = "".join(span)
        for name in re.findall(r"(?<![\w/.:*-])[\w/-]+\.(?:py|sh)(?![\w.*])", text):
            known = any(file.endswith(f"/{name}") for file in files)
            assert known or Path(name).name in ("train.py", "download.py", "run.py"), f"{name} in {page.name}"
        for name in re.findall(
            r"(?<![\w/])config\.([a-z][\w.]*\w)", text.replace("config.json", "").replace("config.py", "")
        ):
            assert name in fields, f"config.{name} in {page.name}"


def test_modules_of_the_tables_exist() -> None:
    files = tracked()
    for page in PAGES:
        for name in re.findall(
            r"^\| `((?:analysis|evaluation|datasets|benchmark)\.\w+)` \|", page.read_text(), re.MULTILINE
        ):
            assert f"dcgan_jax/{name.replace('.', '/')}.py" in files, f"{name} in {page.name}"


def test_the_map_has_every_module() -> None:
    """And no other: docs/architecture.md names a file as `name.py`, in the wings that measure also as `name`."""
    block = (ROOT / "docs" / "architecture.md").read_text().split("## Module map")[1].split("\n## ")[0]
    measuring = block.split("    analysis/")[1]
    files = re.findall(r"(\w+)\.py", block)
    modules = [Path(file) for file in tracked() if re.fullmatch(r"dcgan_jax/.+\.py", file)]
    for path in modules:
        words = measuring if path.parts[1] in ("analysis", "evaluation", "benchmark") else " ".join(files)
        assert path.name == "__init__.py" or re.search(rf"\b{path.stem}\b", words), f"{path} is not in the map"
    others = {Path(file).stem for file in tracked() if file.startswith(("configs/", "tests/"))}
    assert set(files) <= {path.stem for path in modules} | others


def test_the_wings_stand_in_the_order_of_the_contract() -> None:
    """A line of docs/architecture.md for each of setup.cfg."""
    contract = configparser.ConfigParser()
    contract.read(ROOT / "setup.cfg")
    layers = contract["importlinter:contract:wings"]["layers"].replace("dcgan_jax.", "").split("\n")[1:]
    block = (ROOT / "docs" / "architecture.md").read_text().split("## Wings")[1].split("\n## ")[0]
    wings = re.findall(r"^    (\w+(?:, \w+)*)", block, re.MULTILINE)
    assert [wing.split(", ") for wing in wings] == [layer.split(" | ") for layer in layers]


def test_every_selector_of_the_reliability_page_selects_a_test() -> None:
    """`-k` without a file means test_reliability.py in the first table, and any test_fuzz_*.py below it."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "long or not long",
    ]
    files = [f for f in tracked() if re.fullmatch(r"tests/test_\w+\.py", f) and Path(f).stem != Path(__file__).stem]
    collected = subprocess.run([*command, *files], capture_output=True, text=True, cwd=ROOT, timeout=300).stdout
    tests = [line for line in collected.splitlines() if "::" in line]
    faults, files_of_users = (ROOT / "docs" / "reliability.md").read_text().split("## Damaged and hostile files")
    for part, usual in ((faults, "test_reliability.py"), (files_of_users, "test_fuzz_")):
        for file, words in re.findall(r"`(?:(test_\w+\.py) )?-k \"?([\w ]+)\"?`", part):
            for word in words.split(" or "):
                found = [test for test in tests if (file or usual) in test and word in test.partition("::")[2]]
                assert found, f"{file or usual} -k {word}"
    reported = faults_reported()
    assert len(reported) >= 30
    for name in reported:
        assert any(name in test.partition("::")[2] for test in tests), name


def faults_reported() -> list[str]:
    """Tests that the table of reported faults names: `test_FILE `this`, `that``, without the file for the second."""
    page = (ROOT / "docs" / "reliability.md").read_text()
    rows = page.split("## Images, environments, answers")[1].split("\n## ")[0].splitlines()
    cells = [row.split(" | ")[3] for row in rows if row.startswith("| ") and row.count(" | ") == 4]
    return re.findall(r"`(\w+)`", " ".join(cells))


@functools.cache
def tracked() -> frozenset[str]:
    """Files of the repository, relative to its root."""
    folders = ("configs", "dcgan_jax", "docs", "launch", "tests")
    return frozenset(str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.*"))


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As written, in a folder with a tiny config of the name that it gives."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    tiny.write_config(tmp_path, {"num_steps": 2, "data.source": tiny.image_folder(tmp_path / "images")})
    (tmp_path / "configs").mkdir()
    (tmp_path / "config.py").rename(tmp_path / "configs" / "toy_bedrooms.py")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block, names)
    assert (tmp_path / "samples.png").exists() and (tmp_path / "walk" / "results.json").exists()
    assert names["between"].shape == (1, 64, 64, 3) and names["report"]["unevenness"] >= 1
    assert names["run"].step == 2 and names["run"].config.model.width == names["config"].model.width == 0.5
