"""What a reader should know before trusting a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from utils.reports.groups import Cell, Column, Groups, figure_of, ranges, setting
from utils.stored_runs import StoredRun


def notes_of(groups: Groups, figures: Mapping[Column, Sequence[str]], where: Sequence[str]) -> list[str]:
    """All remarks on a report, one sentence or two each.

    Args:
        figures: names of the figures shown, for every stream.
        where: the conditions that runs had to satisfy.
    """
    cells = list(groups.cells.values())
    found = [
        *_stand_ins(groups.columns),
        *_selection(groups, where),
        *_superseded(cells),
        *_single_seeds(cells),
        *_unshared_seeds(groups),
        *_buffer_sizes(groups),
        *_mixed(cells, "code of different commits", lambda run: str(run.environment.get("commit", ""))[:8]),
        *_mixed(cells, "different versions of torch", _torch),
        *_mixed(cells, "different hardware", _hardware),
        *_uncommitted(cells),
        *_undefined(cells, figures),
        *_skipped(cells),
        *_unreadable(groups.runs),
    ]
    return found


def _stand_ins(columns: Sequence[Column]) -> list[str]:
    names = dict.fromkeys(column.dataset for column in columns if column.dataset.endswith("-mini"))
    return [
        f"{name} is a stand-in for absent data. Its figures are not those of {name.removesuffix('-mini')}."
        for name in names
    ]


def _selection(groups: Groups, where: Sequence[str]) -> list[str]:
    n = len(groups.not_chosen)
    return [f"{_runs(n)} finished but not shown: only those with {', '.join(where)} are."] if n else []


def _superseded(cells: Sequence[Cell]) -> list[str]:
    with_more = [cell for cell in cells if cell.superseded]
    if not with_more:
        return []
    listed = _listed(f"{cell.label} ({len(cell.superseded)} earlier)" for cell in with_more)
    return [f"The same settings and seed were run more than once; only the latest run counts: {listed}."]


def _single_seeds(cells: Sequence[Cell]) -> list[str]:
    single = [cell.label for cell in cells if len(cell.runs) == 1]
    return [f"A single seed, so no deviation and no test: {_listed(single)}."] if single else []


def _unshared_seeds(groups: Groups) -> list[str]:
    notes = []
    for column in groups.columns:
        cells = groups.in_column(column)
        if len({tuple(cell.seeds) for cell in cells}) > 1:
            seeds = "; ".join(f"{cell.row.label}: {ranges(cell.seeds)}" for cell in cells)
            notes.append(f"{column.label}: methods were not run with the same seeds ({seeds}).")
    return notes


def _buffer_sizes(groups: Groups) -> list[str]:
    """A row that stands for another size on another stream."""
    notes = []
    for row in groups.rows:
        cells = [groups.cells[column, row] for column in groups.columns if (column, row) in groups.cells]
        sizes = [(_memory(cell.runs[0]), cell.column.label) for cell in cells]
        if len({size for size, _ in sizes}) > 1:
            notes.append(f"{row.label}: the buffer is of size {', '.join(f'{n} on {name}' for n, name in sizes)}.")
    return notes


def _memory(run: StoredRun) -> str:
    per_class = run.config.get("exemplars_per_class")
    return f"{per_class} a class" if per_class is not None else setting(run, "buffer_size")


def _mixed(cells: Sequence[Cell], what: str, value: Callable[[StoredRun], str]) -> list[str]:
    mixed = []
    for cell in cells:
        counts = Counter(value(run) or "unknown" for run in cell.runs)
        if len(counts) > 1:
            mixed.append(f"{cell.label} ({', '.join(f'{name}: {_runs(n)}' for name, n in sorted(counts.items()))})")
    return [f"Runs that are averaged were made with {what}: {_listed(mixed)}."] if mixed else []


def _uncommitted(cells: Sequence[Cell]) -> list[str]:
    counts = {cell.label: sum(bool(run.environment.get("uncommitted_changes")) for run in cell.runs) for cell in cells}
    if not any(counts.values()):
        return []
    total = sum(len(cell.runs) for cell in cells)
    if sum(counts.values()) == total:
        return [f"All {_runs(total)} were made with uncommitted changes of the code (changes.diff in each folder)."]
    listed = _listed(f"{label} ({_runs(n)})" for label, n in counts.items() if n)
    return [f"Runs with uncommitted changes of the code (changes.diff in each folder): {listed}."]


def _undefined(cells: Sequence[Cell], figures: Mapping[Column, Sequence[str]]) -> list[str]:
    found = []
    for cell in cells:
        for figure in figures[cell.column]:
            n = sum(value is None for value in cell.values(figure))
            if 0 < n < len(cell.runs):
                found.append(f"{figure} of {cell.label} ({n} of {_runs(len(cell.runs))})")
    return [f"Undefined in some runs, which are left out of n there: {_listed(found)}."] if found else []


def _skipped(cells: Sequence[Cell]) -> list[str]:
    counts = {cell.label: sum(figure_of(run, "skipped_samples") or 0 for run in cell.runs) for cell in cells}
    listed = _listed(f"{label} ({n:g})" for label, n in counts.items() if n)
    return [f"Samples that could not be read were left out: {listed}."] if listed else []


def _unreadable(runs: Sequence[StoredRun]) -> list[str]:
    problems = [problem for run in runs for problem in dict.fromkeys(run.problems)]
    return [f"Files of averaged runs that could not be read in full: {_listed(problems)}."] if problems else []


def _torch(run: StoredRun) -> str:
    packages = run.environment.get("packages")
    return str(packages.get("torch", "")) if isinstance(packages, dict) else ""


def _hardware(run: StoredRun) -> str:
    gpus = run.environment.get("gpus")
    return ", ".join(map(str, gpus)) if isinstance(gpus, list) and gpus else str(run.environment.get("processor", ""))


def _runs(n: int) -> str:
    return f"{n} run{'' if n == 1 else 's'}"


def _listed(items: Iterable[str], most: int = 12) -> str:
    every = list(items)
    more = [f"and {len(every) - most} more"] if len(every) > most else []
    return "; ".join([*every[:most], *more])
