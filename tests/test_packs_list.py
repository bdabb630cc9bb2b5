"""The list of packs, and their removal."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dcgan_jax.datasets import __main__ as listing
from dcgan_jax.datasets import opening
from dcgan_jax.machine.errors import UserError
from tests import tiny
from tests.test_fuzz_data import settings_of


def some_packs(folder: Path) -> list[Path]:
    """Of 32 images, of 4 images, one that is damaged, and one that was never finished."""
    found = []
    for name, count in (("many", 32), ("few", 4)):
        data = settings_of(tiny.image_folder(folder / name, count), folder)
        found.append(opening.open_or_build(data, progress=False).path)
    for name in ("broken", "killed.building"):
        (folder / "packs" / name).mkdir()
        found.append(folder / "packs" / name)
    return found


def test_packs_are_listed_with_size_source_and_age(tmp_path: Path) -> None:
    many, few, *_ = some_packs(tmp_path)
    day = 24 * 60 * 60
    os.utime(many / "images.npy", (time.time() - 2.5 * day, time.time() - 9.5 * day))
    os.utime(few / "images.npy", (time.time() - 1.5 * day, time.time() - 1.5 * day))
    found = listing.packs(tmp_path / "packs")
    assert [one.name for one in found] == [many.name, few.name, "broken", "killed.building"]
    assert [one.source for one in found] == [
        f"folder:{tmp_path}/many",
        f"folder:{tmp_path}/few",
        "damaged",
        "unfinished",
    ]
    assert found[0].size == sum(file.stat().st_size for file in many.iterdir())
    head, first, second, *_ = listing._listing(tmp_path / "packs")
    assert head.startswith("4 packs, ") and head.endswith(f" in {tmp_path}/packs")
    assert "made 9 days ago, last used 2 days ago" in first and many.name in first
    assert "made 1 day ago, last use unknown" in second
    assert listing.packs(tmp_path / "nowhere") == []


def test_only_what_is_named_is_removed(tmp_path: Path) -> None:
    many, few, broken, killed = some_packs(tmp_path)
    for name in ("fe", few.name + "/", "../packs/" + few.name, "..", ".", "", str(few), "*"):
        with pytest.raises(UserError, match="there is no pack"):
            listing.remove(tmp_path / "packs", [many.name, name])
    assert many.exists() and few.exists()
    listing.remove(tmp_path / "packs", [many.name, killed.name])
    assert {path.name for path in (tmp_path / "packs").iterdir()} == {few.name, f"{few.name}.lock", broken.name}
    with open(tmp_path / f"packs/{few.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is being built by another process"):
            listing.remove(tmp_path / "packs", [few.name])
    assert few.exists()


def test_the_command(tmp_path: Path) -> None:
    *_, broken, killed = some_packs(tmp_path)
    command = [sys.executable, "-m", "dcgan_jax.datasets", f"--cache_dir={tmp_path}/packs"]
    options = {"capture_output": True, "text": True, "cwd": Path(__file__).parents[1]}
    assert subprocess.run([*command, f"--remove={broken.name}"], check=True, **options).stdout == f"removed {broken}\n"  # type: ignore[call-overload]
    assert not broken.exists() and killed.exists()
    assert subprocess.run(command, check=True, **options).stdout.startswith("3 packs, ")  # type: ignore[call-overload]
    refused = subprocess.run([*command, "--remove=x"], **options)  # type: ignore[call-overload]
    assert (refused.returncode, refused.stderr) == (
        2,
        f"error: there is no pack 'x' in {tmp_path}/packs; without --remove, all are listed.\n",
    )
