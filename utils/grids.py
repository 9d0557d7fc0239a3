"""Grids: a YAML file of values, expanded to the commands of a sweep.

    values:                               # every combination; the last name varies fastest
      model: [sgd, er, magr]
      dataset: uiprmd
      seed: {from: 0, to: 4}
    when:                                 # more values, or other ones, for the runs that match
      - match: {model: [er, magr]}
        values: {buffer_size: [5, 10]}
    exclude:                              # runs to leave out
      - {model: magr, buffer_size: 5}

A name stands for the option of main.py. A value is one value or a list of alternatives; a list within the list is one
value of an option that takes several (`lr_milestones: [[30, 40]]`); null leaves the option out. `{from, to, step}` is a
range with both ends, `{from, to, count, scale: linear | log}` that many numbers between both ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import shlex
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.args import OPERATIONAL, parse_args
from utils.config import read_yaml
from utils.errors import RunError, UsageError
from utils.registry import nearest

KEYS = ("values", "when", "exclude", "folder")
RANGE_KEYS = ({"from", "to"}, {"from", "to", "step"}, {"from", "to", "count"}, {"from", "to", "count", "scale"})
LARGEST_GRID = 100_000


@dataclass(frozen=True)
class Grid:
    """What a grid file says.

    Attributes:
        name: of the file, without its suffix.
        runs: the options of every run, in the order of the file, each different from all others.
        n_repeated: how many more combinations were equal to one of these.
        folder: where the runs go, each into a folder of its own.
        notes: blocks that match no run.
    """

    name: str
    runs: list[dict[str, Any]]
    n_repeated: int
    folder: Path
    notes: list[str] = field(default_factory=list)

    def command(self, options: dict[str, Any]) -> str:
        """The line that starts a run from the root of the repository."""
        words = to_words({**options, "run_dir": str(self.folder / run_id(options))})
        line = shlex.join(["python", "main.py", *words])
        if len(line.splitlines()) > 1:
            raise UsageError(f"grid {self.name}: a value with a line break does not fit on a line: {line!r}")
        return line


def read_grid(path: Path) -> Grid:
    """Read and expand a grid file.

    Raises:
        UsageError: it cannot be read, a key or a value does not fit, or nothing is left of it.
    """
    content = read_yaml(path)
    check_keys(content, KEYS, str(path))
    notes: list[str] = []
    combinations = expand(content.get("values"), content.get("when"), content.get("exclude"), str(path), notes)
    runs = {run_id(options): options for options in combinations}
    folder = content.get("folder") or f"data/sweeps/{path.stem}"
    if not isinstance(folder, str):
        raise UsageError(f"{path}: 'folder' is the path of a folder, not {folder!r}")
    return Grid(path.stem, list(runs.values()), len(combinations) - len(runs), Path(folder), notes)


def expand(values: Any, when: Any, exclude: Any, place: str, notes: list[str] | None = None) -> list[dict[str, Any]]:
    """All combinations of a grid's parts, in order. Stand-ins for absent data are refused unless asked for by name.

    Args:
        notes: gets a line for every block that matches no run.

    Raises:
        UsageError: a part does not have the form shown above, or nothing is left.
    """
    if not isinstance(values, dict) or not values:
        raise UsageError(f"{place}: 'values' must name the options of the runs, e.g. values: {{model: [sgd, er]}}")
    runs = product({"data_source": "full", **_mapping(values, f"{place}: 'values'")}, place)
    for number, block in enumerate(_list_of_blocks(when, place, "when"), 1):
        here = f"{place}: when, block {number}"
        check_keys(block, ("match", "values"), here)
        match, extra = (_mapping(block.get(key), f"{here}: '{key}'") for key in ("match", "values"))
        _check_names(match, runs, here)
        more = product(extra, here)
        hits = [matches(run, match, here) for run in runs]
        if notes is not None and not any(hits):
            notes.append(f"{here} matches no run")
        _check_size(len(runs) + sum(hits) * (len(more) - 1), here)
        runs = [{**run, **new} for run, hit in zip(runs, hits, strict=True) for new in (more if hit else [{}])]
    for number, match in enumerate(_list_of_blocks(exclude, place, "exclude"), 1):
        here = f"{place}: exclude, block {number}"
        _check_names(match, runs, here)
        kept = [run for run in runs if not matches(run, match, here)]
        if notes is not None and len(kept) == len(runs):
            notes.append(f"{here} matches no run")
        if not kept:
            raise UsageError(f"{here}: nothing is left of the grid")
        runs = kept
    return runs


def product(values: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """Every combination of the alternatives of some options.

    Raises:
        UsageError: an option has no alternative, a range does not fit, or there are more than `LARGEST_GRID`.
    """
    axes = {name: alternatives(value, f"{place}: {name}") for name, value in values.items()}
    _check_size(math.prod(len(axis) for axis in axes.values()), place)
    return [dict(zip(axes, choice, strict=True)) for choice in itertools.product(*axes.values())]


def alternatives(value: Any, place: str) -> list[Any]:
    """The values that an option takes, one after the other.

    Raises:
        UsageError: the list is empty, or a range does not fit.
    """
    if isinstance(value, list):
        if not value:
            raise UsageError(f"{place}: the list is empty; give a value or leave the line out")
        return [part for item in value for part in (alternatives(item, place) if isinstance(item, dict) else [item])]
    if not isinstance(value, dict):
        return [value]
    if set(value) not in RANGE_KEYS:
        raise UsageError(f"{place}: a range is {{from, to}}, {{from, to, step}} or {{from, to, count, scale}}")
    try:
        first, last = float(value["from"]), float(value["to"])
        step, count = float(value.get("step", 1)), float(value.get("count", 0))
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{place}: a range is made of numbers: {error}") from error
    if not all(map(math.isfinite, (first, last, step, count))) or count != int(count):
        raise UsageError(f"{place}: a range is made of finite numbers, and count is a whole one")
    scale = value.get("scale", "linear")
    if "count" not in value:
        if step == 0 or (last - first) / step < 0:
            raise UsageError(f"{place}: steps of {step:g} do not lead from {first:g} to {last:g}")
        _check_size((last - first) / step + 1, place)
        numbers = first + step * np.arange(np.floor((last - first) / step + 1e-9) + 1)
    elif count < 1 or scale not in ("linear", "log") or (scale == "log" and min(first, last) <= 0):
        raise UsageError(f"{place}: count is at least 1, scale is linear or log, and log needs ends above 0")
    else:
        _check_size(count, place)
        spaced = np.geomspace if scale == "log" else np.linspace
        numbers = spaced(first, last, int(count))
    # Whole numbers keep all their digits: seeds may have many.
    rounded = [number if number == int(number) else float(f"{number:.6g}") for number in numbers.tolist()]
    whole = all(number == int(number) for number in rounded)
    return [int(number) for number in rounded] if whole else rounded


def matches(run: dict[str, Any], match: dict[str, Any], place: str) -> bool:
    """Whether a run has one of the given values for every name."""
    return all(
        name in run and as_typed(run[name]) in map(as_typed, alternatives(wanted, f"{place}: {name}"))
        for name, wanted in match.items()
    )


def as_typed(value: Any) -> str:
    """One text for one value: YAML takes 1e-3 for a word, 0.001 for a number, and 1.0 is 1."""
    text = str(value)
    for kind in (int, float):
        with contextlib.suppress(ValueError, OverflowError):
            number = kind(text)
            return str(int(number) if number == int(number) else number)
    return text


def to_words(options: dict[str, Any]) -> list[str]:
    """Options as words of a command line; None is left out."""
    words: list[str] = []
    for name, value in options.items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def run_id(options: dict[str, Any]) -> str:
    """A name for a run that depends on its settings alone: not on their order, on other runs, or on where data lies."""
    kept = {name: as_typed(value) for name, value in options.items() if name not in OPERATIONAL and value is not None}
    digits = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]
    parts = [kept[name] for name in ("model", "dataset") if name in kept]
    return "-".join([*parts, *([f"seed{kept['seed']}"] if "seed" in kept else []), digits])


def check_words(words: Sequence[str]) -> Namespace:
    """Resolve a command line as main.py would, without reading data.

    Raises:
        RunError: main.py would refuse it.
    """
    from datasets import get_dataset_class
    from models import check_compatibility

    if {"-h", "--help"} & set(words):
        raise UsageError("--help runs nothing")
    args = parse_args(words, data_is_here=False)
    check_compatibility(args.model, get_dataset_class(args).resolve_setting(args), args.dataset)
    return args


def check_all(commands: Iterable[tuple[int, Sequence[str]]], place: str) -> list[Namespace]:
    """Resolve many numbered command lines.

    Raises:
        UsageError: some of them main.py would refuse; every different reason is named once, with the first line it
            holds for and how many more.
    """
    resolved, reasons = [], dict[str, list[int]]()
    for number, words in commands:
        try:
            resolved.append(check_words(words))
        except RunError as error:
            reasons.setdefault(str(error), []).append(number)
    if reasons:
        texts = [
            f"line {numbers[0]}{f' and {len(numbers) - 1} more' if numbers[1:] else ''}: {reason}"
            for reason, numbers in reasons.items()
        ]
        raise UsageError("\n".join([f"{place}: main.py would refuse {sum(map(len, reasons.values()))} lines", *texts]))
    return resolved


def check_keys(content: dict[str, Any], known: Sequence[str], place: str) -> None:
    """Refuse names that mean nothing here.

    Raises:
        UsageError: with the nearest known name.
    """
    for key in content:
        if key not in known:
            close = nearest(str(key), known)
            hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known)}"
            raise UsageError(f"{place}: unknown key '{key}'; {hint}")


def _list_of_blocks(value: Any, place: str, key: str) -> list[dict[str, Any]]:
    blocks = [] if value is None else value
    if not isinstance(blocks, list):
        raise UsageError(f"{place}: '{key}' is a list of blocks, each beginning with '-'")
    return [_mapping(block, f"{place}: '{key}'") for block in blocks]


def _mapping(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value or not all(isinstance(name, str) for name in value):
        raise UsageError(f"{place}: expected 'name: value' lines, found {value!r}")
    return {name.replace("-", "_"): part for name, part in value.items()}


def _check_size(n_runs: float, place: str) -> None:
    if n_runs > LARGEST_GRID:
        raise UsageError(f"{place}: {n_runs:g} combinations are more than {LARGEST_GRID}; search instead of listing")


def _check_names(match: dict[str, Any], runs: list[dict[str, Any]], place: str) -> None:
    """A block that can never match is a slip of the pen."""
    known = {name for run in runs for name in run}
    for name in match:
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean {', '.join(close)}?" if close else f"set so far: {', '.join(sorted(known))}"
            raise UsageError(f"{place}: no run has '{name}'; {hint}")
