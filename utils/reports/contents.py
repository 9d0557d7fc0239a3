"""From sorted runs to the report: its sections, tables and figures."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from utils.reports.comparisons import Comparison, Key, marks
from utils.reports.document import (
    DASH,
    SIGNIFICANCE_SYMBOL,
    Document,
    Line,
    Notes,
    Number,
    Picture,
    Section,
    Table,
)
from utils.reports.groups import Cell, Column, Groups, Row, figure_of, ranges, setting, stream_options
from utils.reports.notes import notes_of
from utils.reports.plots import looks_of, order_pictures, sentence, stream_pictures
from utils.reports.statistics import SIGNIFICANT, Estimate, estimate, is_defined
from utils.tables import HEADLINES, direction

HEADLINE_FIGURES = {
    True: ("srcc_pooled", "srcc_mean", "srcc_forgetting", "srcc_bwt", "srcc_fwt", "mae", "relative_l2"),
    False: (
        *("class_il_mean", "task_il_mean", "acc_incremental", "class_il_forgetting", "class_il_bwt"),
        *("acc_many", "acc_med", "acc_few"),
    ),
}
COSTS = {
    "seconds": "training and evaluation",
    "peak_memory_bytes": "peak memory",
    "peak_gpu_memory_bytes": "peak GPU memory",
    "parameters": "parameters",
    "buffer_bytes": "buffer",
}
BOUND = " (upper bound)"
Figures = Mapping[Column, Sequence[str]]


def figures_of(groups: Groups, asked: Sequence[str]) -> dict[Column, list[str]]:
    """The figures shown for every stream, the main one first: those asked for that it has, else the headlines."""
    found = {}
    for column in groups.columns:
        runs = [run for cell in groups.in_column(column) for run in cell.runs]
        chosen = [name for name in asked if any(figure_of(run, name) is not None for run in runs)]
        headlines = [name for name in HEADLINE_FIGURES[column.is_score] if any(name in run.summary for run in runs)]
        found[column] = chosen or headlines or [column.main]
    return found


def build(
    groups: Groups, figures: Figures, comparisons: Mapping[Key, Comparison], baseline: str, where: Sequence[str]
) -> Document:
    """The whole report.

    Args:
        figures: from `figures_of`.
        comparisons: against the baseline; empty without one.
        where: the conditions that runs had to satisfy.
    """
    looks = looks_of(groups.rows)
    slugs = _slugs([column.label for column in groups.columns])
    main = main_table(groups, figures, comparisons, baseline)
    sections: list[Section] = [Section("results", "Results", [main])]
    streams: list[Section] = []
    for column in groups.columns:
        cells, slug = groups.in_column(column), slugs[column.label]
        table = stream_table(column, cells, figures[column], comparisons, baseline, slug)
        pictures = stream_pictures(column, cells, figures[column][0], looks, slug)
        cost_plots = [picture for picture in pictures if picture.slug == f"{slug}-cost"]
        streams += [
            Section(slug, column.label, [table, *(picture for picture in pictures if picture not in cost_plots)]),
            Section(f"{slug}-costs", "Cost", [cost_table(column, cells, slug), *cost_plots], level=3),
            Section(f"{slug}-settings", "Settings", settings_parts(column, cells, slug), level=3),
        ]
    orders: list[Table | Picture | Notes] = [
        *order_pictures(groups, {column: figures[column][0] for column in groups.columns}, looks, "task-orders")
    ]
    # Last, for what only reading the files for the figures has shown.
    notes = [*notes_of(groups, figures, where), *_without_baseline(groups, comparisons, baseline)]
    if notes:
        sections.append(Section("notes", "Notes", [Notes(notes)]))
    sections += streams
    if orders:
        sections.append(Section("task-orders", "Order of tasks", orders))
    if groups.left_out:
        sections.append(Section("left-out", "Left out", [left_out_table(groups)]))
    return Document("Continual-learning report", facts_of(groups), main, sections)


def facts_of(groups: Groups) -> list[tuple[str, str]]:
    """The headline: how much of what is in the report."""
    runs = groups.runs
    seeds = sorted({run.seed for run in runs})
    dates = sorted({str(run.environment.get("started", ""))[:10] for run in runs} - {""})
    facts = [
        (str(len(runs)), "run" if len(runs) == 1 else "runs"),
        (str(len(groups.rows)), "method" if len(groups.rows) == 1 else "methods"),
        (str(len(groups.columns)), "stream" if len(groups.columns) == 1 else "streams"),
        (str(len(seeds)), f"seed{'' if len(seeds) == 1 else 's'} ({ranges(seeds)})"),
    ]
    if dates:
        facts.append((dates[0] if dates[0] == dates[-1] else f"{dates[0]} {DASH} {dates[-1]}", "started"))
    return facts


# Tables of figures


def main_table(groups: Groups, figures: Figures, comparisons: Mapping[Key, Comparison], baseline: str) -> Table:
    """Methods x streams, the main figure of each stream."""
    columns = {column: _numbers(groups.in_column(column), figures[column][0], comparisons) for column in groups.columns}
    several = len({len(cell.runs) for cell in groups.cells.values()}) > 1
    lines = [
        Line(
            row.label + BOUND * row.is_bound,
            [_with_n(numbers[row], several) if row in numbers else Number(DASH) for numbers in columns.values()],
            row.is_bound,
        )
        for row in groups.rows
    ]
    mains: dict[str, list[str]] = {}
    for column in groups.columns:
        mains.setdefault(figures[column][0], []).append(column.label)
    titles = [_title(name) + (f" ({'; '.join(labels)})" if len(mains) > 1 else "") for name, labels in mains.items()]
    caption = f"{'. '.join(map(sentence, titles))}. {_legend([*groups.cells.values()], comparisons, baseline, several)}"
    header = ["method", *(column.label for column in groups.columns)]
    return Table("results-table", "Results", caption, header, lines, in_tex=True)


def stream_table(
    column: Column,
    cells: Sequence[Cell],
    names: Sequence[str],
    comparisons: Mapping[Key, Comparison],
    baseline: str,
    slug: str,
) -> Table:
    """Methods x figures of one stream."""
    columns = {name: _numbers(cells, name, comparisons) for name in names}
    several = len({len(cell.runs) for cell in cells}) > 1
    lines = [
        Line(
            cell.row.label + BOUND * cell.row.is_bound,
            [_with_n(columns[name][cell.row], several) for name in names],
            cell.row.is_bound,
        )
        for cell in cells
    ]
    caption = f"All figures on {column.label}. {_legend(cells, comparisons, baseline, several)}"
    return Table(f"{slug}-table", column.label, caption, ["method", *map(_title, names)], lines, in_tex=True)


def _numbers(cells: Sequence[Cell], figure: str, comparisons: Mapping[Key, Comparison]) -> dict[Row, Number]:
    """Row -> Number of a figure on one stream, all with the same number of decimals."""
    estimates = {cell.row: estimate(cell.values(figure)) for cell in cells}
    means = [abs(one.mean) for one in estimates.values() if is_defined(one.mean)]
    digits = 2 if max(means, default=1) >= 1 else 4
    places = marks(cells, figure)
    numbers = {}
    for cell in cells:
        one, comparison = estimates[cell.row], comparisons.get((cell.column, cell.row, figure))
        numbers[cell.row] = Number(
            decimal(one.mean, digits),
            decimal(one.deviation, digits) if is_defined(one.deviation) else "",
            f"n={one.n}",
            places.get(cell.row, ""),
            comparison is not None and comparison.is_significant,
            _details(cell, figure, one, digits, comparison),
        )
    return numbers


def _with_n(number: Number, shown: bool) -> Number:
    return number if shown and number.text != DASH else replace(number, n="")


def _details(cell: Cell, figure: str, one: Estimate, digits: int, comparison: Comparison | None) -> str:
    parts = [f"{cell.label}, {figure}: n = {one.n} seed{'' if one.n == 1 else 's'} ({ranges(cell.seeds)})"]
    if is_defined(one.low):
        parts.append(f"95 % confidence interval {decimal(one.low, digits)} to {decimal(one.high, digits)}")
    if comparison is not None:
        parts.append(
            f"against {comparison.baseline.label}: p = {probability(comparison.p)}, corrected "
            f"{probability(comparison.corrected)}, {comparison.n} shared seeds"
        )
    return "; ".join(parts)


def _legend(cells: Sequence[Cell], comparisons: Mapping[Key, Comparison], baseline: str, several: bool) -> str:
    numbers = sorted({len(cell.runs) for cell in cells})
    seeds = "n seeds as given" if several else f"{numbers[0]} seed{'' if numbers[0] == 1 else 's'}"
    spread = "Mean" if numbers[-1] == 1 else "Mean ± standard deviation"
    text = f"{spread} over {seeds}"
    if len({cell.row for cell in cells if not cell.row.is_bound}) > 1:
        text += "; bold: best, underlined: second, among methods that are no upper bounds"
    text += "."
    keys = {(cell.column, cell.row) for cell in cells}
    mine = [one for (column, row, _), one in comparisons.items() if (column, row) in keys]
    if any(is_defined(one.p) for one in mine):
        n = ranges({one.n for one in mine if is_defined(one.p)})
        text += (
            f" {SIGNIFICANCE_SYMBOL}: differs from {baseline}, p < {SIGNIFICANT:g} in a two-sided paired t-test over "
            f"the seeds both have (n = {n}), after Holm's correction over all comparisons of the same figure."
        )
    return text


def _without_baseline(groups: Groups, comparisons: Mapping[Key, Comparison], baseline: str) -> list[str]:
    compared = {column for column, _, _ in comparisons}
    missing = [column.label for column in groups.columns if column not in compared]
    if not baseline or not missing:
        return []
    return [f"No comparison with {baseline} on {'; '.join(missing)}: it was not run there, or no other method was."]


def _title(figure: str) -> str:
    arrow = {1: "\N{NO-BREAK SPACE}↑", -1: "\N{NO-BREAK SPACE}↓", 0: ""}[direction(figure)]
    return HEADLINES.get(figure, figure) + arrow


# Cost, settings, what is left out


def cost_table(column: Column, cells: Sequence[Cell], slug: str) -> Table:
    """What the runs of a stream cost."""
    names = [name for name in COSTS if any(is_defined(value) for cell in cells for value in cell.values(name))]
    lines = []
    for cell in cells:
        numbers = []
        for name in names:
            one = estimate(cell.values(name))
            show = {"seconds": seconds, "parameters": count}.get(name, size)
            spread = show(one.deviation) if is_defined(one.deviation) and name == "seconds" else ""
            numbers.append(Number(show(one.mean) if one.n else DASH, spread))
        lines.append(Line(cell.row.label + BOUND * cell.row.is_bound, numbers, cell.row.is_bound))
    caption = f"Cost of a run on {column.label}, mean over seeds (of the time with one standard deviation)."
    return Table(f"{slug}-cost-table", "Cost", caption, ["method", *(COSTS[name] for name in names)], lines)


def settings_parts(column: Column, cells: Sequence[Cell], slug: str) -> list[Table | Picture | Notes]:
    """In which settings the methods differ; then, folded, those that only some have and those that all share."""
    runs = {cell.row.label: cell.runs[0] for cell in cells}
    ignored = {"model", "dataset", "joint", *stream_options(column.dataset)}
    differ, some, shared = [], [], []
    for name in sorted({name for run in runs.values() for name in run.settings}):
        values = [setting(run, name) if name in run.settings else DASH for run in runs.values()]
        present = {value for value in values if value != DASH}
        if len(present) > 1 and name not in ignored:
            differ.append(Line(name, values))
        elif DASH in values and name not in ignored:
            some.append(Line(name, values))
        elif len(present) == 1 and DASH not in values:
            shared.append(Line(name, [values[0]]))
    parts: list[Table | Picture | Notes] = []
    header = ["setting", *runs]
    if differ:
        caption = "Settings in which the methods differ. Those of a stream and the seed are not among them."
        parts.append(Table(f"{slug}-differing", "Settings in which the methods differ", caption, header, differ))
    elif len(runs) > 1:
        parts.append(Notes(["The methods have the same value of every setting that several of them have."]))
    if some:
        title = "Settings that only some methods have"
        parts.append(Table(f"{slug}-some", title, f"{title}.", header, some, is_folded=True))
    title = "Settings that all methods share" if len(runs) > 1 else "All settings"
    parts.append(Table(f"{slug}-shared", title, f"{title}.", ["setting", "value"], shared, is_folded=True))
    return parts


def left_out_table(groups: Groups) -> Table:
    """Runs that are not averaged."""
    lines = [Line(str(entry.run.path), [entry.state, entry.reason or DASH]) for entry in groups.left_out]
    caption = "Runs that have not come to their end, or cannot be read. None of the tables contains them."
    return Table("left-out-table", "Left out", caption, ["folder", "state", "reason"], lines)


# Numbers as text


def decimal(value: float, digits: int) -> str:
    """With a fixed number of decimals and a proper minus; a dash where undefined."""
    return DASH if math.isnan(value) else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def probability(p: float) -> str:
    """Three significant digits; a dash where undefined."""
    return DASH if math.isnan(p) else f"{p:.3g}"


def seconds(value: float) -> str:
    """In the unit that reads best."""
    if value < 120:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def size(n_bytes: float) -> str:
    """Bytes in the unit that reads best."""
    if n_bytes < 1024:
        return f"{n_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        n_bytes /= 1024
        if n_bytes < 1024:
            return f"{n_bytes:.1f} {unit}"
    return f"{n_bytes / 1024:.1f} TiB"


def count(n: float) -> str:
    """With separators of thousands."""
    return f"{n:,.0f}"


def _slugs(labels: Sequence[str]) -> dict[str, str]:
    """Label -> name for links and files, each once."""
    taken: dict[str, str] = {}
    for label in labels:
        base = "stream-" + (re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "unnamed")
        slug, number = base, 2
        while slug in taken.values():
            slug, number = f"{base}-{number}", number + 1
        taken[label] = slug
    return taken
