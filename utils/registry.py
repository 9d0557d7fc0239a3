"""Finding methods, streams and backbones by folder, importing only the one that is asked for.

A file registers names by a class attribute (`NAME = "er"`) or a decorator (`@register_backbone("c3d")`). The names are
read from the text of the files, so that `--help` can list hundreds of entries without importing torch. Files elsewhere
(`--plugin`, utils/plugins.py) come before those of the folder, in the runs that name them.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.absent_names import why_absent
from utils.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
_NAME = re.compile(
    r"""^\s+NAME(?:\s*:\s*[\w\[\].]+)?\s*=\s*["']([^"']+)["'] | ^@register_\w+\(\s*["']([^"']+)["']""",
    re.MULTILINE | re.VERBOSE,
)
PACKAGES = ("backbone", "datasets", "models", "utils")


def normalise(name: str) -> str:
    """Registry form of a name: lower case, hyphens for underscores, p for + (der++ is derpp)."""
    return name.strip().lower().replace("_", "-").replace("+", "p")


def nearest(name: str, known: Iterable[str], n: int = 3, cutoff: float = 0.5) -> list[str]:
    """The registered names most similar to `name`, best first; may be empty.

    Args:
        cutoff: the least similarity, as of difflib: 1 for equal names, 0 for names without a letter in common.
    """
    return difflib.get_close_matches(name, list(known), n=n, cutoff=cutoff)


def unknown_name_message(what: str, name: str, known: Iterable[str]) -> str:
    """The text of an error about a name nobody registered: nearest names first, else all of them."""
    known = sorted(known)
    close = nearest(name, known)
    hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known)}"
    return f"unknown {what} '{name}'; {hint}"


def import_problem(path: Path, error: Exception) -> UsageError:
    """What to tell about an error that ended the import of a file: where, what, and what to do about it."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    if line is None:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
        line = frames[-1].lineno if frames else None
    hint = ""
    if isinstance(error, ImportError):
        package = (error.name or "").partition(".")[0]
        if package in PACKAGES:
            hint = f"; {why_absent(error) or 'the project has no such part'}"
            if isinstance(error, ModuleNotFoundError):
                hint += (
                    ". A plugin in a folder called models, datasets, backbone or utils also finds the modules that lie "
                    "beside it and in its sister folders"
                )
        elif package:
            hint = f". Install {package}, or leave out what needs it"
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return UsageError(f"{path}{f', line {line}' if line else ''}: {type(error).__name__}: {message}{hint}")


@contextmanager
def imports_explained() -> Iterator[None]:
    """An import within the block that fails, in a hook of a method say, is told as one at the head of a file is.

    Raises:
        UsageError: in place of the ImportError, with the file of the project or of a plugin that it came out of.
    """
    try:
        yield
    except ImportError as error:
        files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
        ours = [path for path in files if path in Registry.active or path.is_relative_to(ROOT)]
        raise import_problem(ours[-1], error) from error


@functools.cache
def _names_in(path: Path, changed: int, size: int) -> tuple[str, ...]:
    """Names that a file registers, read once for each state of the file: a grid asks for them at every line."""
    text = path.read_text(encoding="utf-8")
    return tuple(normalise(match.group(1) or match.group(2)) for match in _NAME.finditer(text))


def _is_of_project(entry: object) -> bool:
    name = getattr(entry, "__module__", "")
    file = getattr(sys.modules.get(name), "__file__", None)
    return name.partition(".")[0] in PACKAGES and file is not None and Path(file).is_relative_to(ROOT)


class Registry:
    """The entries of one package folder, and those of the plugins of the run.

    Attributes:
        active: the plugins of the run; what others registered is hidden.
        loading: the plugin that is being imported, if any: what is registered now is its own.

    Args:
        package: name of the package, a folder at the root of the repository.
        what: the word for one entry in messages ("model", "dataset", "backbone").
    """

    active: tuple[Path, ...] = ()
    loading: Path | None = None

    def __init__(self, package: str, what: str) -> None:
        self.package = package
        self.what = what
        self._entries: dict[str, object] = {}
        self._of_plugins: dict[Path, dict[str, object]] = {}

    def modules(self) -> dict[str, str]:
        """Map from registry name to module path, in alphabetical order, without importing anything.

        Raises:
            UsageError: two files of the folder have the same name.
        """
        found: dict[str, str] = {}
        for path in sorted((ROOT / self.package).glob("*.py")):
            if path.name.startswith("_"):
                continue
            status = path.stat()
            for key in _names_in(path, status.st_mtime_ns, status.st_size):
                module = f"{self.package}.{path.stem}"
                if found.setdefault(key, module) != module:
                    first = ROOT / self.package / f"{found[key].rpartition('.')[2]}.py"
                    raise UsageError(f"{self.what} '{key}' is defined twice, in {first} and in {path}; rename one")
        return dict(sorted(found.items()))

    def names(self) -> list[str]:
        """All names: those in the folder and those registered from elsewhere at run time."""
        return sorted({*self.modules(), *self._entries, *self.plugin_of()})

    def plugin_of(self) -> dict[str, Path]:
        """Map from the names that plugins of the run define to the plugin.

        Raises:
            UsageError: two of them define the same name.
        """
        found: dict[str, Path] = {}
        for path in self.active:
            for key in self._of_plugins.get(path, {}):
                if found.setdefault(key, path) != path:
                    raise UsageError(f"--plugin: {found[key]} and {path} both define the {self.what} '{key}'")
        return found

    def defined_by(self, plugin: Path) -> list[str]:
        """Names that a plugin has registered."""
        return sorted(self._of_plugins.get(plugin, {}))

    def add(self, name: str, entry: object) -> None:
        """Register an entry (a class or a factory) under a name.

        Raises:
            ValueError: another entry has that name already.
        """
        key = normalise(name)
        if self.loading is not None and not _is_of_project(entry):
            self._of_plugins.setdefault(self.loading, {})[key] = entry
            return
        taken = self._entries.get(key)
        if taken is not None and getattr(taken, "__module__", None) != getattr(entry, "__module__", None):
            raise ValueError(f"{self.what} '{name}' is registered twice: {taken!r} and {entry!r}")
        self._entries[key] = entry

    def get(self, name: str) -> object:
        """The entry called `name`; its file is imported if it was not yet.

        Raises:
            UsageError: no such name, the nearest ones are given; or its file imports what is not there.
        """
        key = normalise(name)
        plugin = self.plugin_of().get(key)
        if plugin is not None:
            return self._of_plugins[plugin][key]
        if key not in self._entries:
            modules = self.modules()
            if key not in modules:
                raise UsageError(unknown_name_message(self.what, name, self.names()))
            path = ROOT / self.package / f"{modules[key].rpartition('.')[2]}.py"
            from utils.torchvision_import import declare_operators

            declare_operators()
            try:
                module = importlib.import_module(modules[key])
            except ImportError as error:
                raise import_problem(path, error) from error
            if key not in self._entries:
                for value in vars(module).values():
                    if isinstance(value, type) and isinstance(value.__dict__.get("NAME"), str):
                        self._entries.setdefault(normalise(value.__dict__["NAME"]), value)
        return self._entries[key]
