"""Progress bars: tqdm's where it is installed, none otherwise. Nothing that is computed depends on them."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Self, TextIO


class NoBar:
    """What of `tqdm.tqdm` is used here, without a bar.

    Attributes:
      n: how much is done.
    """

    def __init__(self, iterable: Iterable[Any] = (), desc: str = "", total: int = 0, **settings: Any) -> None:
        self._iterable, self.n = iterable, settings.get("initial", 0)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._iterable)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def update(self, n: int = 1) -> None:
        self.n += n

    def set_description(self, desc: str) -> None: ...

    def set_postfix(self, **values: Any) -> None: ...

    def close(self) -> None: ...

    @staticmethod
    def write(text: str, file: TextIO | None = None) -> None:
        print(text, file=file)

    @staticmethod
    def wrapattr(stream: Any, method: str, **settings: Any) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext(stream)


try:
    from tqdm import tqdm
except ImportError:
    tqdm = NoBar  # type: ignore[assignment, misc]

__all__ = ["NoBar", "tqdm"]
