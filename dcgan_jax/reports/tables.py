"""Tables of Markdown pages that are made from files of results, and nothing else on the page changes.

A table stands between the lines `<!-- NAME -->` and `<!-- end -->`; whatever was between them is replaced.
"""

import re
from collections.abc import Callable, Sequence

_BLOCK = re.compile(r"<!-- (?!end -->)([^\n]+?) -->\n.*?<!-- end -->", re.DOTALL)


def rewrite(text: str, make: Callable[[str], str]) -> str:
    """The page `text` with the table `make(NAME)` at every place of one."""
    return _BLOCK.sub(lambda block: f"<!-- {block[1]} -->\n\n{make(block[1])}\n\n<!-- end -->", text)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown of a table whose first row is its head."""
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *body))
