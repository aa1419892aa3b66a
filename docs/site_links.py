"""For mkdocs: pages may link to files of the repository that are no part of the site, such as programs in examples/.
The site shows such a link as the path that it leads to, since it does not hold the file."""

from __future__ import annotations

import posixpath
import re
from typing import Any

LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(((?:\.\./)+[^)\s]*)\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replaces links that lead out of docs/ by their words and paths."""
    return LINK.sub(lambda link: shown(link[1], posixpath.normpath(posixpath.join("docs", link[2]))), markdown)


def shown(words: str, path: str) -> str:
    """A link's words and the path behind it, which is not said twice."""
    name = path.removeprefix("docs/").partition("#")[0]
    said = words.strip("`").removeprefix("../")
    return f"`{name}`" if said in name else f"{words} (`{name}`)"
