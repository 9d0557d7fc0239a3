"""Types of options by the names that methods written for Mammoth import from utils."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError


def binary_to_boolean_type(value: str | bool | int) -> bool:
    """True for 1, true, t, yes, y; False for 0, false, f, no, n; in any case."""
    text = str(value).strip().lower()
    if text in ("1", "true", "t", "yes", "y"):
        return True
    if text in ("0", "false", "f", "no", "n"):
        return False
    raise ArgumentTypeError(f"'{value}' is neither true nor false")


def none_or_float(value: str | float) -> float | None:
    """A number, or None for the word."""
    return None if str(value).strip().lower() == "none" else float(value)


def custom_str_underscore(value: str) -> str:
    """Underscores for hyphens."""
    return str(value).replace("-", "_")


def create_if_not_exists(path: str) -> None:
    """Make a folder and those above it."""
    os.makedirs(path, exist_ok=True)
