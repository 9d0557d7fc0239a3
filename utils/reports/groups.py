"""Which runs are repetitions of one experiment: streams, methods, and the cells where they meet.

A column is a stream, a row is a method with the settings that tell it from others of its name, a cell holds one run a
seed. Runs of a cell differ in nothing but the seed; where they do, the report is refused rather than made.
"""

from __future__ import annotations

import functools
from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from datasets import get_dataset_class
from utils.class_heads import add_class_head_args
from utils.class_losses import add_class_loss_args
from utils.errors import DataError, UsageError
from utils.registry import nearest
from utils.run import TIME_FORMAT
from utils.second_stage import add_second_stage_args
from utils.stored_runs import StoredRun, differing
from utils.sweeps import as_ranges

# What makes a stream another one, besides the options of its own.
STREAM_SETTINGS = (
    "n_tasks",
    "task_order",
    "custom_task_order",
    "evaluated_on",
    "validation",
    "data",
    "debug_mode",
    "data_source",
    "label_noise",
    "noise_rate",
    "label_perc",
    "label_perc_by_class",
)
# Options of score streams that say what the network looks like and in which unit it is trained, not what is learnt:
# figures are in the unit of the data set in any case.
OF_THE_NETWORK = {"score_head", "score_scale", "sample_scores"}
MAIN = {True: "srcc_pooled", False: "class_il_mean"}
ABSENT = "absent"
NAMED_ANYWAY = ("model", "dataset", "joint")


@dataclass(frozen=True)
class Column:
    """A stream: the data set, and the options in which the runs of it differ.

    Attributes:
        options: (name, value) of these options, values as text.
        on_validation: whether figures are of validation samples.
        is_score: whether targets are scores, not classes.
    """

    dataset: str
    options: tuple[tuple[str, str], ...]
    on_validation: bool
    is_score: bool

    @property
    def label(self) -> str:
        """How tables call it."""
        shown = [f"{name}={value}" for name, value in self.options if name != "evaluated_on" and value != "None"]
        return ", ".join([self.dataset, *shown, *(["evaluated on validation"] if self.on_validation else [])])

    @property
    def main(self) -> str:
        """The figure that methods are compared by, unless another is asked for."""
        return MAIN[self.is_score]


@dataclass(frozen=True)
class Row:
    """A method: its name, and the settings that tell it from others of this name.

    Attributes:
        settings: (name, value) of these settings, values as text.
        is_bound: whether it is trained on all tasks at once, an upper bound for the others.
    """

    model: str
    settings: tuple[tuple[str, str], ...] = ()
    is_bound: bool = False

    @property
    def label(self) -> str:
        """How tables call it, and what --baseline takes."""
        joint = ["joint"] if self.is_bound and self.model != "joint" else []
        return ", ".join([self.model, *joint, *(f"{name}={value}" for name, value in self.settings)])


@dataclass
class Cell:
    """The runs of a method on a stream, one a seed, in the order of the seeds.

    Attributes:
        superseded: earlier runs of the same settings and seed, which do not count.
    """

    column: Column
    row: Row
    runs: list[StoredRun]
    superseded: list[StoredRun] = field(default_factory=list)

    @property
    def label(self) -> str:
        return f"{self.row.label} on {self.column.label}"

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    def values(self, figure: str) -> list[float | None]:
        """The figure of every run, in the order of `runs`; None where it has none."""
        return [figure_of(run, figure) for run in self.runs]

    def by_seed(self, figure: str) -> dict[int, float]:
        """seed -> figure, of the runs that have it."""
        pairs = zip(self.seeds, self.values(figure), strict=True)
        return {seed: value for seed, value in pairs if value is not None}


@dataclass(frozen=True)
class LeftOut:
    """A run that is not averaged, and why."""

    run: StoredRun
    state: str
    reason: str


@dataclass
class Groups:
    """All runs of a report, sorted out.

    Attributes:
        columns: streams, by name.
        rows: methods, by name; upper bounds last.
        cells: by stream and method, where there are runs.
        left_out: runs that have not finished or are damaged.
        not_chosen: finished runs that --where left out.
    """

    columns: list[Column]
    rows: list[Row]
    cells: dict[tuple[Column, Row], Cell]
    left_out: list[LeftOut]
    not_chosen: list[StoredRun]

    def in_column(self, column: Column) -> list[Cell]:
        """The cells of a stream, in the order of the rows."""
        return [self.cells[column, row] for row in self.rows if (column, row) in self.cells]

    @property
    def runs(self) -> list[StoredRun]:
        """Every run that is averaged."""
        return [run for cell in self.cells.values() for run in cell.runs]


def group_runs(found: Sequence[StoredRun], by: Sequence[str] = (), where: Sequence[str] = ()) -> Groups:
    """Sort runs into cells.

    Args:
        found: runs in any state.
        by: settings that split a method into rows; "all" for whatever differs.
        where: NAME=VALUE conditions; those on the same name are alternatives.

    Raises:
        DataError: none of them has finished.
        UsageError: a name in `by` or `where` is unknown, no run satisfies `where`, or runs that would be averaged
            differ in more than the seed.
    """
    finished, left_out = sort_out(found)
    if not finished:
        states = ", ".join(f"{n} {state}" for state, n in Counter(entry.state for entry in left_out).items())
        raise DataError(f"no finished run there{f' ({states})' if states else ''}")
    known = {name for run in finished for name in run.settings}
    if "seed" in by:
        raise UsageError("--by seed: seeds are what is averaged; choose some with --where seed=0 seed=1")
    chosen = [run for run in finished if satisfies(run, conditions(where, {"seed", *known}))]
    if not chosen:
        raise UsageError(f"no finished run satisfies --where {' '.join(where)}{_values_of(finished, where)}")
    check_names("--by", [name for name in by if name != "all"], known)
    columns = columns_of(chosen)
    splitting = splitting_settings(columns.values(), by)
    members = {
        (column, row): mine for column, runs in columns.items() for row, mine in rows_of(runs, splitting).items()
    }
    members = _join_single_sizes(members)
    _refuse_mixed_cells(members)
    cells = {key: make_cell(*key, runs) for key, runs in members.items()}
    rows = sorted({row for _, row in cells}, key=_row_order)
    ids = {id(run) for run in chosen}
    return Groups(list(columns), rows, cells, left_out, [run for run in finished if id(run) not in ids])


def sort_out(found: Iterable[StoredRun]) -> tuple[list[StoredRun], list[LeftOut]]:
    """Runs that can be averaged, and the others with the reason."""
    finished, left_out = [], []
    for run in found:
        state, reason = examine(run)
        if state == "finished":
            finished.append(run)
        else:
            left_out.append(LeftOut(run, state, reason))
    return finished, left_out


def examine(run: StoredRun) -> tuple[str, str]:
    """(state, reason) of a run; "broken" also where it has finished but its files cannot be used."""
    try:
        state, reason = run.state, run.reason
        if state != "finished":
            return state, reason
        if "seed" not in run.config:
            return "broken", f"{run.path / 'config.yaml'} names no seed; it was cut"
        if not isinstance(run.seed, int) or not run.settings:
            return "broken", f"{run.path / 'config.yaml'} holds no settings"
        if run.problems and not run.records:
            return "broken", run.problems[0]
    except Exception as error:  # a damaged file meets its reader with almost any exception
        return "broken", f"{type(error).__name__}: {error}"
    if not any(figure_of(run, name) is not None for name in run.summary if name not in ("seed", "session")):
        return "broken", f"{run.path / 'summary.json'} holds no figure"
    return "finished", ""


def figure_of(run: StoredRun, name: str) -> float | None:
    """A number of summary.json; None if it is absent, undefined or no number."""
    value = run.summary.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < float("inf") else None


# Columns


@functools.cache
def stream_options(dataset: str) -> frozenset[str]:
    """Names of the options that make this stream what it is; of an unknown stream only those that all have."""
    parser = ArgumentParser(add_help=False)
    try:
        get_dataset_class(dataset).get_parser(parser)
    except UsageError:
        return frozenset(STREAM_SETTINGS)
    return frozenset({*STREAM_SETTINGS, *(action.dest for action in parser._actions)} - OF_THE_NETWORK - of_learning())


@functools.cache
def of_learning() -> frozenset[str]:
    """Options of class streams that say by what loss, head and second stage a method learns them."""
    parser = ArgumentParser(add_help=False)
    for add in (add_class_loss_args, add_class_head_args, add_second_stage_args):
        add(parser)
    return frozenset(action.dest for action in parser._actions)


def columns_of(runs: Sequence[StoredRun]) -> dict[Column, list[StoredRun]]:
    """The runs of every stream, streams in the order of their names."""
    datasets: dict[str, list[StoredRun]] = defaultdict(list)
    for run in runs:
        datasets[run.dataset].append(run)
    columns: dict[Column, list[StoredRun]] = defaultdict(list)
    for dataset, mine in datasets.items():
        names = sorted(differing(mine).keys() & stream_options(dataset))
        for run in mine:
            options = tuple((name, setting(run, name)) for name in names)
            validated = run.settings.get("evaluated_on") == "validation"
            columns[Column(dataset, options, validated, MAIN[True] in run.summary)].append(run)
    return dict(sorted(columns.items(), key=lambda item: (item[0].dataset, _natural(item[0].options))))


def setting(run: StoredRun, name: str) -> str:
    """The value of a setting as tables show it; of the data, the first 8 digits of its fingerprint."""
    value = run.settings.get(name, ABSENT)
    if name == "data":
        return str(value)[:8] or "unknown"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


# Rows


def methods_of(runs: Iterable[StoredRun]) -> dict[tuple[str, bool], list[StoredRun]]:
    """The runs of every (method's name, whether it is an upper bound)."""
    methods: dict[tuple[str, bool], list[StoredRun]] = defaultdict(list)
    for run in runs:
        methods[run.model, bool(run.config.get("joint"))].append(run)
    return methods


def splitting_settings(streams: Iterable[Sequence[StoredRun]], by: Sequence[str]) -> dict[tuple[str, bool], list[str]]:
    """For every method the settings that split it into rows, besides the size of the buffer: those asked for; with
    "all" those in which its runs differ on any of the streams."""
    found: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for runs in streams:
        for method, mine in methods_of(runs).items():
            names = sorted(differing(mine)) if "all" in by else by
            found[method] += [name for name in names if name not in found[method] and name not in NAMED_ANYWAY]
    return found


def rows_of(runs: Sequence[StoredRun], splitting: Mapping[tuple[str, bool], list[str]]) -> dict[Row, list[StoredRun]]:
    """The runs of every method of one stream, split by its settings and by the size of its buffer if it has several."""
    rows: dict[Row, list[StoredRun]] = defaultdict(list)
    for (model, is_bound), mine in methods_of(runs).items():
        names = splitting[model, is_bound]
        if "buffer_size" in differing(mine):
            names = ["buffer_size", *(name for name in names if name != "buffer_size")]
        for run in mine:
            settings = tuple((name, setting(run, name)) for name in names if name in run.settings)
            rows[Row(model, settings, is_bound)].append(run)
    return rows


def _join_single_sizes(
    members: dict[tuple[Column, Row], list[StoredRun]],
) -> dict[tuple[Column, Row], list[StoredRun]]:
    """Where a method has one buffer size on a stream and several on another, the row of that size is the same."""
    rows = {row for _, row in members}
    joined = {}
    for (column, row), runs in members.items():
        sized = Row(row.model, (("buffer_size", setting(runs[0], "buffer_size")), *row.settings), row.is_bound)
        joined[column, sized if sized in rows else row] = runs
    return joined


def _row_order(row: Row) -> tuple[Any, ...]:
    return row.is_bound, row.model, _natural(row.settings)


def _natural(settings: tuple[tuple[str, str], ...]) -> list[tuple[str, int, float, str]]:
    """Sorts numbers as numbers, before words."""
    keys = []
    for name, value in settings:
        try:
            keys.append((name, 0, float(value), value))
        except ValueError:
            keys.append((name, 1, 0.0, value))
    return keys


# Cells


def make_cell(column: Column, row: Row, runs: Sequence[StoredRun]) -> Cell:
    """One run a seed, the one that began last."""
    latest: dict[int, StoredRun] = {}
    superseded = []
    for run in sorted(runs, key=lambda run: (started(run), str(run.path))):
        if run.seed in latest:
            superseded.append(latest[run.seed])
        latest[run.seed] = run
    return Cell(column, row, [latest[seed] for seed in sorted(latest)], superseded)


def started(run: StoredRun) -> float:
    """When it began, in seconds since 1970; 0 if unknown."""
    try:
        return datetime.strptime(str(run.environment.get("started")), TIME_FORMAT).timestamp()
    except ValueError:
        return 0.0


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers in short, in ascending order: 0-2, 5."""
    return as_ranges(sorted(set(numbers))).replace(",", ", ")


def _refuse_mixed_cells(members: dict[tuple[Column, Row], list[StoredRun]]) -> None:
    mixed = []
    names: set[str] = set()
    example = ""
    for (column, row), runs in members.items():
        differs = differing(runs)
        for name, counts in differs.items():
            values = sorted(counts.items(), key=lambda item: _natural(((name, item[0]),)))
            listed = ", ".join(f"{value} ({n} run{'s' if n > 1 else ''})" for value, n in values)
            mixed.append(f"  {row.label} on {column.label}: {name} = {listed}")
            names.add(name)
            example = example or f"--where {name}={values[0][0]}"
    if mixed:
        lines = "\n".join(mixed)
        raise UsageError(
            f"runs that differ in more than the seed are not averaged:\n{lines}\n"
            f"Give each value a row of its own with --by {' '.join(sorted(names))}, or choose one, e.g. {example}"
        )


# Names that the user gives


def check_names(flag: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names that do not exist.

    Raises:
        UsageError: with the nearest known names, or all of them if none is near.
    """
    known = sorted(known)
    for name in names:
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known)}"
            raise UsageError(f"{flag} {name}: no finished run has it; {hint}")


def conditions(where: Sequence[str], known: Iterable[str]) -> dict[str, set[str]]:
    """Name -> accepted values of `NAME=VALUE` words.

    Raises:
        UsageError: a word has no `=`, or its name is no setting.
    """
    accepted: dict[str, set[str]] = defaultdict(set)
    for word in where:
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"--where {word}: expected NAME=VALUE, e.g. --where lr=0.1")
        accepted[name].add(value)
    check_names("--where", accepted, known)
    return dict(accepted)


def satisfies(run: StoredRun, accepted: dict[str, set[str]]) -> bool:
    """Whether a run has one of the accepted values of every name; values compare as text, as shown or in full."""
    known = {"seed": run.seed, **run.settings}
    return all({str(known.get(name, ABSENT)), setting(run, name)} & values for name, values in accepted.items())


def _values_of(runs: Sequence[StoredRun], where: Sequence[str]) -> str:
    names = dict.fromkeys(word.partition("=")[0] for word in where)
    counts = {name: Counter(setting(run, name) for run in runs) for name in names}
    return "".join(
        f"; {name} is {', '.join(f'{value} ({n} runs)' for value, n in sorted(values.items()))}"
        for name, values in counts.items()
    )
