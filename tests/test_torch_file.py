"""Files of torch.save: what torch wrote, and what is refused.

Those in torch_files were made with torch 2.13: one state_dict in both formats, a whole network, a TorchScript program.
"""

import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics.torch_file import read_state_dict

FILES = Path(__file__).parent / "torch_files"
EXPECTED: dict[str, np.ndarray] = {
    "dense": np.array([[1.5, -2], [0.25, 3]], np.float32),
    "transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "part": np.array([5, 6, 7, 8], np.float32),  # of the same storage
    "step": np.array(7, np.int64),
    "half": np.array([0.5, 65504], np.float16),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "bytes": np.array([0, 255], np.uint8),
    "double": np.array([1e300]),
}


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_what_torch_wrote(name: str) -> None:
    found = read_state_dict(FILES / name)
    assert list(found) == list(EXPECTED)
    for key, expected in EXPECTED.items():
        assert (found[key].dtype, found[key].shape) == (expected.dtype, expected.shape), key
        np.testing.assert_array_equal(found[key], expected)


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_every_truncation_is_told(name: str, tmp_path: Path) -> None:
    whole, file = (FILES / name).read_bytes(), tmp_path / "cut.pth"
    for size in range(0, len(whole), 7):
        file.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"cut\.pth"):
            read_state_dict(file)


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_damaged_bytes_are_told_or_harmless(name: str, tmp_path: Path) -> None:
    """One byte of the file is another: an error for the user, or arrays, but never another exception."""
    whole, file, rng = (FILES / name).read_bytes(), tmp_path / "bad.pth", np.random.default_rng(0)
    for place in rng.permutation(len(whole))[:400]:
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        file.write_bytes(damaged)
        try:
            found = read_state_dict(file)
        except UserError:
            continue
        assert sum(array.nbytes for array in found.values()) < 1000


class Calls:
    """Pickles as a call of `what`."""

    def __init__(self, what: Any, *arguments: Any) -> None:
        self._call = what, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._call


def legacy(file: Path, tree: bytes, rest: bytes = b"") -> Path:
    """A file of the older format around a pickle."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    file.write_bytes(b"".join(pickle.dumps(one, 2) for one in head) + tree + rest)
    return file


def in_zip(file: Path, tree: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", tree)
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return file


@pytest.mark.parametrize("write", [legacy, in_zip])
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_named_and_never_run(write: Any, protocol: int, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    code = f"__import__('shutil').rmtree({victim.as_posix()!r})"
    for call, named in [
        (Calls(shutil.rmtree, victim.as_posix()), "shutil.rmtree"),
        (Calls(exec, code), "__builtin__.exec" if protocol == 2 else "builtins.exec"),
    ]:
        file = write(tmp_path / "evil.pth", pickle.dumps({"weight": call}, protocol))
        with pytest.raises(UserError, match=rf"evil.pth asks for {re.escape(named)}, .*refused"):
            read_state_dict(file)
        assert victim.exists()


def test_a_memo_number_sets_no_memory_aside(tmp_path: Path) -> None:
    """LONG_BINPUT 2^32 - 1 would take 64 GB."""
    with pytest.raises(UserError, match="memo number"):
        read_state_dict(legacy(tmp_path / "a.pth", b"\x80\x02}r\xff\xff\xff\xff."))


def tensor(dtype: str, key: str, count: int, offset: int, shape: bytes, strides: bytes) -> bytes:
    """Pickle of {"a": a tensor}; shape and strides as opcodes."""
    return (
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        + f"ctorch\n{dtype}\n".encode()
        + b"X"
        + len(key).to_bytes(4, "little")
        + key.encode()
        + b"X\x03\x00\x00\x00cpuK"
        + bytes([count])
        + b"tQK"
        + bytes([offset])
        + shape
        + strides
        + b"\x89}tRs."
    )


def test_a_tensor_by_hand(tmp_path: Path) -> None:
    numbers = np.arange(6, dtype=np.float32)
    tree = tensor("FloatStorage", "0", 6, 1, b"K\x02K\x02\x86", b"K\x01K\x02\x86")
    found = read_state_dict(in_zip(tmp_path / "a.pth", tree, **{"data/0": numbers.tobytes()}))
    np.testing.assert_array_equal(found["a"], [[1, 3], [2, 4]])


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (3, b"K\x02K\x02\x86", b"K\x01K\x02\x86"),  # the last number would be one past the end
        (0, b"J\xff\xff\xff\xff\x85", b"K\x01\x85"),  # a shape of -1
        (5, b"K\x02\x85", b"J\xff\xff\xff\xff\x85"),  # a stride of -1
        (0, b"J\x00\x00\x00\x40\x85", b"K\x00\x85"),  # one number 2^30 times
    ],
)
def test_tensors_lie_within_their_storages(offset: int, shape: bytes, strides: bytes, tmp_path: Path) -> None:
    tree = tensor("FloatStorage", "0", 6, offset, shape, strides)
    with pytest.raises(UserError, match="a does not lie within its storage"):
        read_state_dict(in_zip(tmp_path / "a.pth", tree, **{"data/0": bytes(24)}))


def test_storages_are_of_the_archive(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(24))
    for key in ("../secret", "../../secret", str(tmp_path / "secret"), "1"):
        tree = tensor("FloatStorage", key, 6, 0, b"K\x06\x85", b"K\x01\x85")
        with pytest.raises(UserError, match=f"data/{key} is missing"):
            read_state_dict(in_zip(tmp_path / "a.pth", tree, **{"data/0": bytes(24)}))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (FILES / "network.pth", "asks for torch.nn.modules.linear.Linear, .*refused. Save a state_dict"),
        (FILES / "program.pt", "is a TorchScript program: a file of weights"),
        (FILES / "missing.pth", "missing.pth: No such file"),
        (FILES, "Is a directory"),
        (Path(__file__), "is not a file of torch.save"),
    ],
)
def test_other_files(file: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_state_dict(file)


def test_other_contents(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    with pytest.raises(UserError, match="holds list, but a dictionary of tensors"):
        read_state_dict(in_zip(file, pickle.dumps([1], 2)))
    with pytest.raises(UserError, match="its 'epoch' is not a tensor"):
        read_state_dict(in_zip(file, pickle.dumps({"epoch": 3}, 2)))
    with pytest.raises(UserError, match="big-endian"):
        read_state_dict(in_zip(file, pickle.dumps({"epoch": 3}, 2), byteorder=b"big"))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.txt", "")
    with pytest.raises(UserError, match=r"a zip archive, but not one of torch\.save"):
        read_state_dict(file)
