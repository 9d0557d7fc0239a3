"""Where data sets and results lie."""

from __future__ import annotations

_base_path = "data"


def base_path(override: str | None = None) -> str:
    """The folder of data sets and results of this process's run, with a slash at its end; or `override`, made so."""
    return f"{(override or _base_path).rstrip('/')}/"


def base_path_dataset() -> str:
    """`base_path()`, as streams of Mammoth ask for the folder of data sets."""
    return base_path()


def set_base_path(path: str) -> None:
    """Note the run's `--base_path`."""
    global _base_path
    _base_path = path
