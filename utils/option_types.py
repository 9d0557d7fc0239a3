"""Types of options: what turns the text of a value into the value, or says what is wrong with it.

Those at the end have the names that methods written for Mammoth import from utils.
"""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path


def true_or_false(text: str | bool | int) -> bool:
    """True for true, yes, 1, on; False for false, no, 0, off; in any case."""
    value = str(text).strip().lower()
    if value in ("true", "yes", "1", "on", "t", "y"):
        return True
    if value in ("false", "no", "0", "off", "f", "n"):
        return False
    raise ArgumentTypeError(f"'{text}' is neither True nor False")


def int_list(text: str | Sequence[int]) -> list[int]:
    """Whole numbers separated by commas or spaces."""
    parts = text.replace(",", " ").split() if isinstance(text, str) else text
    try:
        return [int(part) for part in parts]
    except ValueError as error:
        raise ArgumentTypeError(f"'{text}' is not a list of whole numbers such as 3,1,2") from error


def order_name(text: str) -> str:
    """A word, not a list of numbers, which another option takes."""
    if text[:1].isdigit():
        raise ArgumentTypeError(f"'{text}': an order of your own is given as --custom_task_order 3,1,2")
    return text


def _whole(text: str | int) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ArgumentTypeError(f"'{text}' is no whole number") from error


def _number(text: str | float) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ArgumentTypeError(f"'{text}' is no number") from error


def positive(text: str | int) -> int:
    """A whole number of at least 1."""
    value = _whole(text)
    if value < 1:
        raise ArgumentTypeError(f"{value} is not at least 1")
    return value


def not_negative(text: str | int) -> int:
    """A whole number of at least 0."""
    value = _whole(text)
    if value < 0:
        raise ArgumentTypeError(f"{value} is negative")
    return value


def positive_number(text: str | float) -> float:
    """A number above 0."""
    value = _number(text)
    if not 0 < value < float("inf"):
        raise ArgumentTypeError(f"{value:g} is not above 0")
    return value


def from_zero(text: str | float) -> float:
    """A number of at least 0."""
    value = _number(text)
    if not 0 <= value < float("inf"):
        raise ArgumentTypeError(f"{value:g} is not a number of at least 0")
    return value


def seed_number(text: str | int) -> int:
    """A whole number that every generator takes as a seed: 0 to 2**63 - 1."""
    value = _whole(text)
    if not 0 <= value < 2**63:
        raise ArgumentTypeError(f"{value} is not between 0 and 2**63 - 1")
    return value


def percentage(text: str | float) -> float:
    """A number between 0 and 100, both excluded."""
    value = _number(text)
    if not 0 < value < 100:
        raise ArgumentTypeError(f"{value:g} is not between 0 and 100")
    return value


def share(text: str | float) -> float:
    """A number between 0 and 1, both included."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"{value:g} is not between 0 and 1")
    return value


def share_of_some(text: str | float) -> float:
    """A number above 0 and up to 1."""
    value = share(text)
    if not value:
        raise ArgumentTypeError("0 would leave nothing; take a number above 0 and up to 1")
    return value


def duration(text: str | float) -> float:
    """Seconds: a number, or a number with s, m, h behind it for seconds, minutes, hours."""
    number = str(text).strip().lower()
    unit = {"s": 1, "m": 60, "h": 3600}.get(number[-1:])
    try:
        value = float(number[:-1]) * unit if unit else float(number)
    except ValueError as error:
        raise ArgumentTypeError(f"'{text}' is no duration such as 90, 90s, 15m or 2h") from error
    return positive_number(value)


def interval(text: str | Sequence[float]) -> list[float]:
    """Two numbers separated by a comma or a space, the lower first."""
    parts = text.replace(",", " ").split() if isinstance(text, str) else text
    try:
        low, high = map(float, parts)
    except ValueError as error:
        raise ArgumentTypeError(f"'{text}' is not two numbers such as 0,100") from error
    if not float("-inf") < low < high < float("inf"):
        raise ArgumentTypeError(f"'{text}': the first number must be below the second, and both finite")
    return [low, high]


def plugin_file(text: str) -> str:
    """The absolute path of a Python file."""
    path = Path(text).expanduser().resolve()
    if not path.is_file():
        raise ArgumentTypeError(f"there is no file {path}")
    return str(path)


def wandb_project(text: str) -> str:
    """A name that wandb takes for a project."""
    if not text or len(text) > 128 or set(text) & set("/\\#?%:"):
        raise ArgumentTypeError(f"'{text}': wandb takes up to 128 characters, none of them / \\ # ? % :")
    return text


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
