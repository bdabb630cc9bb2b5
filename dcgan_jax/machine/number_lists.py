"""Lists of numbers as people write them: 0,4,10-12."""

import re

from dcgan_jax.machine.errors import UserError

_MOST_NUMBERS = 100_000  # in one list; a mistyped range would otherwise fill a disk


def parse(text: str) -> list[int]:
    """Numbers and ranges of them in the order in which they stand, last ones included, repeated ones repeated.

    "0,4,10-12" is [0, 4, 10, 11, 12].

    Raises:
      UserError: it is no such list, a range runs backwards, or there are more than 100,000 numbers.
    """
    numbers: list[int] = []
    for part in (part.strip() for part in text.split(",")):
        found = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if not found:
            raise UserError(
                f"{part!r} is neither a number from 0 to 999,999,999 nor a range: write numbers as in 0,4,10-20."
            )
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise UserError(f"the range {part} runs backwards: write {last}-{first}.")
        if len(numbers) + last - first >= _MOST_NUMBERS:
            raise UserError(f"{part!r} makes more than {_MOST_NUMBERS:,} numbers: ask for fewer at a time.")
        numbers += range(first, last + 1)
    return numbers
