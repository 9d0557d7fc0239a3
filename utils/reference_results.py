"""What is known to come out of a protocol: figures that were published or measured elsewhere, and ours beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.config import read_yaml
from utils.errors import UsageError
from utils.grids import as_typed, check_keys
from utils.stored_runs import StoredRun
from utils.tables import HEADLINES

BLOCK_KEYS = ("source", "options", "tolerance", "command", "date", "note", "rows")
ROW_KEYS = ("options", "reference", "ours", "seeds")


@dataclass
class Reference:
    """One method on one protocol.

    Attributes:
        options: what a run's configuration must say to belong here.
        reference: figure -> value, in the unit of the figure; from `source`. Empty if nobody else has one.
        ours: figure -> mean over `seeds` as recorded, empty if nobody ran it here.
        tolerance: how far ours may be from the reference to be within tolerance.
        command, date: how and when ours came about.
        note: what differs from the source.
    """

    options: dict[str, Any]
    reference: dict[str, float]
    source: str
    tolerance: float
    ours: dict[str, float] = field(default_factory=dict)
    seeds: str = ""
    command: str = ""
    date: str = ""
    note: str = ""

    @property
    def known(self) -> dict[str, float]:
        """What runs are compared with: the reference, or ours where there is none."""
        return self.reference or self.ours

    def is_of(self, run: StoredRun) -> bool:
        """Whether a run has all of the options; those it does not name may be anything."""
        return all(as_typed(run.config.get(name)) == as_typed(value) for name, value in self.options.items())

    def verdict(self, figure: str, value: float | None) -> str:
        """How a figure compares with what is known."""
        if value is None:
            return "not run"
        distance = value - self.known[figure]
        # Decimal fractions are not exact.
        return "within tolerance" if abs(distance) <= self.tolerance + 1e-9 else f"{distance:+.1f}"


def read_references(path: Path) -> list[Reference]:
    """Read a file of blocks, each a protocol with rows of methods.

    Raises:
        UsageError: it cannot be read, or a key, a figure or a value does not fit.
    """
    content = read_yaml(path)
    check_keys(content, ("protocols",), str(path))
    found = []
    for name, block in (content.get("protocols") or {}).items():
        check_keys(block, BLOCK_KEYS, f"{path}: {name}")
        for number, row in enumerate(block.get("rows") or [], 1):
            place = f"{path}: {name}, row {number}"
            check_keys(row, ROW_KEYS, place)
            ours = _figures(row.get("ours", {}), place)
            found.append(
                Reference(
                    options={**block.get("options", {}), **row.get("options", {})},
                    reference=_figures(row.get("reference", {}), place),
                    source=str(block.get("source", "")),
                    tolerance=float(block.get("tolerance", 0)),
                    ours=ours,
                    seeds=str(row.get("seeds", "")),
                    command=str(block.get("command", "")) if ours else "",
                    date=str(block.get("date", "")) if ours else "",
                    note=str(block.get("note", "")),
                )
            )
            for key, value in (("source", found[-1].source), ("reference and no figure of ours", found[-1].known)):
                if not value:
                    raise UsageError(f"{place} has no {key}")
            if ours and not (found[-1].seeds and found[-1].command and found[-1].date):
                raise UsageError(f"{place}: figures of ours need seeds, command and date")
    return found


def mean_of(runs: Sequence[StoredRun], entry: Reference, figure: str) -> tuple[float | None, list[int]]:
    """(mean, seeds) of a figure over the finished runs that belong to an entry; None without one.

    Raises:
        UsageError: two of them have one seed, so they differ in something that the entry does not name.
    """
    mine = [run for run in runs if run.state == "finished" and entry.is_of(run)]
    seeds = sorted(run.seed for run in mine)
    if len(set(seeds)) < len(seeds):
        raise UsageError(
            f"several runs of seed {next(s for s in seeds if seeds.count(s) > 1)} fit {describe(entry.options)}; name "
            "the folder of one sweep"
        )
    values = [run.summary.get(figure) for run in mine]
    known = [value for value in values if value is not None and math.isfinite(value)]
    return (float(np.mean(known)) if known else None), seeds


def describe(options: dict[str, Any]) -> str:
    """The method, and what is set for it, without the stream."""
    rest = [f"{name} {value}" for name, value in options.items() if name not in ("model", "dataset")]
    return ", ".join([str(options.get("model", "")), *rest])


def _figures(content: Any, place: str) -> dict[str, float]:
    for name, value in content.items():
        if name not in HEADLINES or not isinstance(value, int | float):
            raise UsageError(f"{place}: '{name}: {value}' is no figure; known: {', '.join(HEADLINES)}")
    return dict(content)
