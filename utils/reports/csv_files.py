"""The figures of a report for other programs, at full precision; an empty cell is undefined."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from utils.reports.comparisons import Comparison, Key
from utils.reports.contents import COSTS, Figures
from utils.reports.groups import Cell, Groups, LeftOut, figure_of
from utils.reports.statistics import estimate
from utils.stored_runs import StoredRun

CELL_COLUMNS = (
    "stream",
    "method",
    "model",
    "upper_bound",
    "figure",
    "mean",
    "deviation",
    "n",
    "ci_low",
    "ci_high",
    "seeds",
    "baseline",
    "shared_seeds",
    "p",
    "p_corrected",
)


def cells_csv(groups: Groups, figures: Figures, comparisons: Mapping[Key, Comparison]) -> str:
    """One line for each stream, method and figure; costs are among the figures."""
    rows = []
    for (column, row), cell in groups.cells.items():
        for name in [*figures[column], *COSTS]:
            one, comparison = estimate(cell.values(name)), comparisons.get((column, row, name))
            tested = (
                [comparison.baseline.label, comparison.n, comparison.p, comparison.corrected]
                if comparison
                else [""] * 4
            )
            seeds = " ".join(map(str, cell.seeds))
            values = [one.mean, one.deviation, one.n, one.low, one.high, seeds, *tested]
            rows.append([column.label, row.label, row.model, row.is_bound, name, *values])
    return _csv(CELL_COLUMNS, rows)


def runs_csv(groups: Groups, figures: Figures) -> str:
    """One line for each run, whether it is averaged or not."""
    names = list(dict.fromkeys([name for column in groups.columns for name in figures[column]] + list(COSTS)))
    rows = []
    for cell in groups.cells.values():
        rows += [_run_line(run, "finished", "averaged", cell, names) for run in cell.runs]
        rows += [_run_line(run, "finished", "an earlier run of this seed", cell, names) for run in cell.superseded]
    rows += [_run_line(run, "finished", "left out by --where", None, names) for run in groups.not_chosen]
    rows += [_left_out_line(entry, len(names)) for entry in groups.left_out]
    head = ["path", "state", "use", "model", "method", "dataset", "stream", "seed", "started", *names]
    return _csv(head, sorted(rows, key=lambda row: row[0]))


def _run_line(run: StoredRun, state: str, use: str, cell: Cell | None, names: Sequence[str]) -> list[Any]:
    method, stream = (cell.row.label, cell.column.label) if cell else ("", "")
    known = [str(run.path), state, use, run.model, method, run.dataset, stream, run.seed]
    return [*known, run.environment.get("started", ""), *(figure_of(run, name) for name in names)]


def _left_out_line(entry: LeftOut, n_figures: int) -> list[Any]:
    run = entry.run
    try:
        known = [run.model, "", run.dataset, "", run.config.get("seed", ""), run.environment.get("started", "")]
    except ValueError:
        known = [""] * 6
    return [str(run.path), entry.state, f"left out: {entry.reason}".rstrip(": "), *known, *[""] * n_figures]


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_text(value) for value in row] for row in rows)
    return target.getvalue()


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else str(value)
