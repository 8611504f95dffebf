"""An extension of Griffe for the API pages. Docstrings name other objects as Hugging Face's do: [`BSTaRConfig`]."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

LINK = re.compile(r"\[`(~?[\w.]+)`\]")
PAGE = Path(__file__).parents[1] / "docs" / "api.md"


class DocstringLinks(griffe.Extension):
    """Turns such a name into a link if the API pages describe the object, and into plain code if not."""

    def __init__(self) -> None:
        paths = re.findall(r"^::: ([\w.]+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
        self.described = {path.rsplit(".", 1)[-1]: path for path in paths}

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = LINK.sub(lambda match: self._linked(obj, match[1]), obj.docstring.value)

    def _linked(self, obj: griffe.Object, name: str) -> str:
        """The name as Markdown. A name without a dot may be a method of the class that `obj` is or belongs to."""
        shown = name.rsplit(".", 1)[-1] if name.startswith("~") else name
        first, *rest = name.split(".")
        owner = obj if obj.is_class else obj.parent
        if first in self.described:
            return f"[`{shown}`][{'.'.join([self.described[first], *rest])}]"
        if owner is not None and owner.is_class and owner.name in self.described and name in owner.members:
            return f"[`{shown}`][{self.described[owner.name]}.{name}]"
        return f"`{shown}`"
