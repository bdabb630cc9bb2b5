"""Reads tensors from files of torch.save, without torch and without running anything that is in them.

Both formats: a zip archive (since torch 1.6), and before that pickles followed by the bytes of the storages. The pickle
may call two things only: OrderedDict, and a stand-in of ours that notes how a tensor lies in its storage. A file that
asks for anything else is refused.
"""

import io
import mmap
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from dcgan_jax.machine.errors import UserError

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older format (torch/serialization.py)
_MOST_COPIES = 4  # tensors may share a storage, such as tied weights; with many, a small file would fill the memory
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in numbers, not bytes


def read_state_dict(file: Path) -> dict[str, np.ndarray]:
    """Tensors by name, in the order of the file, of what torch.save(network.state_dict(), file) wrote.

    Raises:
      UserError: the file is missing, truncated or damaged, or holds something else than a dictionary of dense tensors.
    """
    return _read(file, _tensors)


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """All tensors of a dictionary, or of dictionaries within it: 'netG.main.0.weight'. What is no tensor is left out.

    Raises:
      UserError: the file is missing, truncated or damaged, asks for more than dictionaries of tensors and plain Python
        values, or holds no tensors.
    """
    return _read(file, _tensors_within)


def _read(file: Path, select: "_Select") -> dict[str, np.ndarray]:
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if zipfile.is_zipfile(opened):
                return _read_zip(file, opened, select)
            return _read_pickles(file, content, select)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}.") from error
    except UserError:
        raise
    except Exception as error:  # damaged pickles raise nearly anything
        raise UserError(f"{file} is not a file of torch.save, or is damaged ({error}): download it again.") from error


def _read_zip(file: Path, opened: BinaryIO, select: "_Select") -> dict[str, np.ndarray]:
    """FOLDER/data.pkl and, for each storage, its bytes in FOLDER/data/KEY; the archive is not compressed."""
    with zipfile.ZipFile(opened) as archive:
        members = {member.filename: member for member in archive.infolist()}
        pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UserError(f"{file} is a zip archive, but not one of torch.save: it has no FOLDER/data.pkl.")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in members:
            raise UserError(f"{file} is a TorchScript program: a file of weights (a state_dict) is needed.")

        def read(name: str, size: int | None = None) -> bytes:
            member = members.get(name)
            if member is None or member.compress_type != zipfile.ZIP_STORED or size not in (None, member.file_size):
                raise UserError(f"{file} is damaged: its {name} is missing, compressed or of another size.")
            return archive.read(member)

        if f"{folder}byteorder" in members and read(f"{folder}byteorder") != b"little":
            raise UserError(f"{file} was saved on a big-endian machine: save it on a little-endian one.")
        tensors = select(file, _load_pickle(file, io.BytesIO(read(pickles[0]))))
        return _make_arrays(file, tensors, lambda one: read(f"{folder}data/{one.key}", one.length * one.dtype.itemsize))


def _read_pickles(file: Path, content: mmap.mmap, select: "_Select") -> dict[str, np.ndarray]:
    """Pickles: magic number, version, machine, the tensors, keys of the storages; then count and bytes of each."""
    if _load_pickle(file, content) != _MAGIC or _load_pickle(file, content) != _PROTOCOL:
        raise UserError(f"{file} is not a file of torch.save.")
    if not _load_pickle(file, content)["little_endian"]:
        raise UserError(f"{file} was saved on a big-endian machine: save it on a little-endian one.")
    stream = _Unpickler(file, content)
    tensors = select(file, _load_pickle(file, content, stream))
    keys = _load_pickle(file, content)
    begins, counts, position = {}, {}, content.tell()
    storages = stream.storages
    for key in keys:
        (counts[key],) = struct.unpack_from("<q", content, position)
        begins[key] = position + 8
        position = begins[key] + counts[key] * storages[key].dtype.itemsize
    if position != len(content):
        raise UserError(f"{file} has {len(content)} bytes, but its tensors need {position}: download it again.")

    def read(one: _Storage) -> bytes:
        if counts[one.key] != one.length:
            raise UserError(f"{file} is damaged: storage {one.key} has {counts[one.key]} numbers, not {one.length}.")
        return content[begins[one.key] : begins[one.key] + one.length * one.dtype.itemsize]

    return _make_arrays(file, tensors, read)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Path, stream: Any) -> None:
        super().__init__(stream, encoding="utf-8")
        self._file = file
        self.storages: dict[str, _Storage] = {}  # all that the pickle names

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        raise UserError(
            f"{self._file} asks for {module}.{name}, which plain weights have no use for: refused. Save a state_dict."
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(part is not None for part in view):
            raise UserError(f"{self._file} has a storage of an unknown kind: save its state_dict again.")
        return self.storages.setdefault(str(key), _Storage(str(key), dtype, int(count)))


def _rebuild_tensor(storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> _Tensor:
    """Of torch._utils._rebuild_tensor_v2; what follows (requires_grad, hooks, metadata) is of no use here."""
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return _Tensor(storage, int(offset), tuple(int(one) for one in shape), tuple(int(one) for one in strides))


def _load_pickle(file: Path, stream: Any, unpickler: _Unpickler | None = None) -> Any:
    """The next object of a stream. Memo numbers are checked first: Python would reserve memory for the largest."""
    begin = stream.tell()
    for opcode, argument, position in pickletools.genops(stream):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > (position or 0):
            raise pickle.UnpicklingError("a memo number is out of range")
    stream.seek(begin)
    return (unpickler or _Unpickler(file, stream)).load()


def _tensors(file: Path, tree: Any) -> Mapping[str, _Tensor]:
    if not isinstance(tree, dict) or not tree:
        raise UserError(f"{file} holds {type(tree).__name__}, but a dictionary of tensors (a state_dict) is needed.")
    for name, one in tree.items():
        if not isinstance(name, str) or not isinstance(one, _Tensor):
            raise UserError(f"{file}: its {name!r:.80} is not a tensor. Save a state_dict alone.")
    return tree


def _tensors_within(file: Path, tree: Any) -> Mapping[str, _Tensor]:
    if not isinstance(tree, dict):
        raise UserError(f"{file} holds {type(tree).__name__}, but dictionaries of tensors are needed.")
    found: dict[str, _Tensor] = {}
    seen = set()  # a dictionary may hold itself, or another one twice

    def collect(group: dict[Any, Any], prefix: str) -> None:
        if id(group) in seen:
            return
        seen.add(id(group))
        for name, one in group.items():
            if isinstance(name, str) and isinstance(one, _Tensor):
                found[f"{prefix}{name}"] = one
            elif isinstance(name, str) and isinstance(one, dict):
                collect(one, f"{prefix}{name}.")

    collect(tree, "")
    if not found:
        raise UserError(f"{file} holds no tensors: save the networks' state_dicts.")
    return found


_Select = Callable[[Path, Any], Mapping[str, _Tensor]]  # the tensors that are wanted of what a file holds


def _make_arrays(
    file: Path, tensors: Mapping[str, _Tensor], read: Callable[[_Storage], bytes]
) -> dict[str, np.ndarray]:
    storages: dict[str, np.ndarray] = {}
    arrays = {}
    room = _MOST_COPIES * file.stat().st_size
    for name, (storage, offset, shape, strides) in tensors.items():
        if storage.key not in storages:
            storages[storage.key] = np.frombuffer(read(storage), storage.dtype)
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        count = int(np.prod(shape, dtype=object))
        if min(offset, *shape, *strides, 0) < 0 or (count and max(last + 1, count) > storage.length):
            raise UserError(f"{file} is damaged: {name} does not lie within its storage.")
        room -= count * storage.dtype.itemsize
        if room < 0:
            raise UserError(f"{file}: its tensors are more than {_MOST_COPIES} times as large as the file: refused.")
        numbers = storages[storage.key]
        steps = [stride * numbers.itemsize for stride in strides]
        view = np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False)
        arrays[name] = np.array(view, order="C")
    return arrays
