"""Finding methods, streams and backbones by folder, importing only the one that is asked for.

A file registers names by a class attribute (`NAME = "er"`) or a decorator (`@register_backbone("c3d")`). The names are
read from the text of the files, so that `--help` can list hundreds of entries without importing torch.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from pathlib import Path

from utils.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
_NAME = re.compile(
    r"""^\s+NAME(?:\s*:\s*[\w\[\].]+)?\s*=\s*["']([^"']+)["'] | ^@register_\w+\(\s*["']([^"']+)["']""",
    re.MULTILINE | re.VERBOSE,
)


def normalise(name: str) -> str:
    """Registry form of a name: lower case, hyphens for underscores, p for + (der++ is derpp)."""
    return name.strip().lower().replace("_", "-").replace("+", "p")


def nearest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """The registered names most similar to `name`, best first; may be empty."""
    return difflib.get_close_matches(name, list(known), n=n, cutoff=0.5)


def unknown_name_message(what: str, name: str, known: Iterable[str]) -> str:
    """The text of an error about a name nobody registered: nearest names first, else all of them."""
    known = sorted(known)
    close = nearest(name, known)
    hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known)}"
    return f"unknown {what} '{name}'; {hint}"


class Registry:
    """The entries of one package folder.

    Args:
        package: name of the package, a folder at the root of the repository.
        what: the word for one entry in messages ("model", "dataset", "backbone").
    """

    def __init__(self, package: str, what: str) -> None:
        self.package = package
        self.what = what
        self._entries: dict[str, object] = {}

    def modules(self) -> dict[str, str]:
        """Map from registry name to module path, in alphabetical order, without importing anything."""
        found = {}
        for path in sorted((ROOT / self.package).glob("*.py")):
            if path.name.startswith("_"):
                continue
            for match in _NAME.finditer(path.read_text(encoding="utf-8")):
                found[normalise(match.group(1) or match.group(2))] = f"{self.package}.{path.stem}"
        return dict(sorted(found.items()))

    def names(self) -> list[str]:
        """All names: those in the folder and those registered from elsewhere at run time."""
        return sorted({*self.modules(), *self._entries})

    def add(self, name: str, entry: object) -> None:
        """Register an entry (a class or a factory) under a name.

        Raises:
            ValueError: another entry has that name already.
        """
        key = normalise(name)
        taken = self._entries.get(key)
        if taken is not None and getattr(taken, "__module__", None) != getattr(entry, "__module__", None):
            raise ValueError(f"{self.what} '{name}' is registered twice: {taken!r} and {entry!r}")
        self._entries[key] = entry

    def get(self, name: str) -> object:
        """The entry called `name`; its file is imported if it was not yet.

        Raises:
            UsageError: no such name; the nearest ones are given.
        """
        key = normalise(name)
        if key not in self._entries:
            modules = self.modules()
            if key not in modules:
                raise UsageError(unknown_name_message(self.what, name, self.names()))
            module = importlib.import_module(modules[key])
            if key not in self._entries:
                for value in vars(module).values():
                    if isinstance(value, type) and isinstance(value.__dict__.get("NAME"), str):
                        self._entries.setdefault(normalise(value.__dict__["NAME"]), value)
        return self._entries[key]
