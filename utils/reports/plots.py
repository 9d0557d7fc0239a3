"""The figures of a report: what is gathered from the runs of a stream and drawn."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils import figures
from utils.figures import Look, Series
from utils.metrics import forgetting_per_task
from utils.reports.document import Picture
from utils.reports.groups import Cell, Column, Groups, Row, ranges
from utils.reports.statistics import estimate, mean_over_runs
from utils.stored_runs import StoredRun
from utils.tables import HEADLINES

MOST_PANELS = 12
PER_TASK = {True: "srcc", False: "class_il"}
# Liu et al., Large-scale long-tailed recognition in an open world, CVPR 2019: training samples of a class.
MANY, FEW = 100, 20
LONG_TAIL = 2
Looks = Mapping[Row, Look]


def looks_of(rows: Sequence[Row]) -> dict[Row, Look]:
    """The look of every method, upper bounds in grey."""
    ordinary = [row for row in rows if not row.is_bound]
    found = dict(zip(ordinary, figures.looks([row.model for row in ordinary]), strict=True))
    return {**found, **{row: Look(figures.REFERENCE, "--", "X") for row in rows if row.is_bound}}


def stream_pictures(column: Column, cells: Sequence[Cell], main: str, looks: Looks, slug: str) -> list[Picture]:
    """All figures of a stream; those for which the runs hold nothing are left out."""
    matrices = matrices_of(cells, looks)
    made = [
        sessions_picture(column, cells, main, looks, slug),
        forgetting_picture(column, matrices, slug),
        matrices_picture(column, matrices, slug),
        scatter_picture(column, cells, slug) if column.is_score else classes_picture(column, cells, looks, slug),
        sizes_picture(column, cells, main, looks, slug),
        cost_picture(column, cells, main, looks, slug),
    ]
    return [picture for picture in made if picture is not None]


def title_of(figure: str) -> str:
    """What a figure is called on an axis."""
    return HEADLINES.get(figure, figure)


# Over sessions and tasks


def sessions_picture(column: Column, cells: Sequence[Cell], main: str, looks: Looks, slug: str) -> Picture | None:
    """The main figure after every session; upper bounds as levels."""
    series = []
    for cell in ordinary(cells):
        curves = [curve for run in cell.runs if (curve := session_values(run, main))]
        sessions = sorted({session for curve in curves for session in curve})
        if sessions:
            points = [estimate([curve.get(session) for curve in curves]) for session in sessions]
            series.append(_series(cell, looks, [session + 1 for session in sessions], points))
    if not series:
        return None
    bounds = [(cell.row.label, estimate(cell.values(main)).mean) for cell in cells if cell.row.is_bound]
    ticks = {x: f"{x:g}" for x in sorted({x for one in series for x in one.x})}
    levels = [(label, mean) for label, mean in bounds if not math.isnan(mean)]
    figure = figures.curve_figure(series, "after session", title_of(main), ticks, levels)
    caption = f"{sentence(title_of(main))} after each session: mean over seeds, band of one standard deviation."
    if levels:
        caption += " Dashed: trained on all tasks at once."
    return _picture(figure, f"{slug}-sessions", f"{column.label}: {title_of(main)} after each session", caption)


def session_values(run: StoredRun, figure: str) -> dict[int, float]:
    """Session -> figure, where it is recorded and defined."""
    found = {}
    for record in run.records:
        value, session = record.get(figure), record.get("session")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if record.get("event") == "session" and isinstance(session, int) and is_number:
            found[session] = float(value)  # type: ignore[arg-type]
    return found


@dataclass(frozen=True)
class Matrices:
    """R of the runs of a cell, all of one shape, and the names of the tasks."""

    label: str
    each: list[NDArray[np.float64]]
    names: list[str]
    look: Look


def matrices_of(cells: Sequence[Cell], looks: Looks) -> list[Matrices]:
    """The task matrices of every method that has any; upper bounds have a single session and are left out."""
    found = []
    for cell in ordinary(cells):
        name = PER_TASK[cell.column.is_score]
        read = [matrix for run in cell.runs if (matrix := matrix_of(run, name)) is not None]
        if read:
            # A file that was cut has fewer sessions than the others.
            shape = max(matrix.shape for matrix in read)
            names = _task_names(cell.runs[0], shape[1])
            each = [matrix for matrix in read if matrix.shape == shape]
            found.append(Matrices(cell.row.label, each, names[: shape[1]], looks[cell.row]))
    return found


def matrix_of(run: StoredRun, name: str) -> NDArray[np.float64] | None:
    """R of a run; None if its file is absent or damaged."""
    try:
        matrix = run.matrix(name)
    except ValueError:
        run.problems.append(f"{run.path / f'R_{name}.csv'} is cut or holds something else than numbers")
        return None
    return matrix if matrix.size else None


def matrices_picture(column: Column, found: Sequence[Matrices], slug: str) -> Picture | None:
    """Task matrices as small multiples, means over seeds."""
    if not found:
        return None
    panels = [
        functools.partial(figures.draw_task_matrix, matrix=mean_over_runs(one.each), names=one.names, title=one.label)
        for one in found[:MOST_PANELS]
    ]
    size = min(max(3, *(len(one.names) for one in found)), 9)
    figure = figures.multiples_figure(panels, 0.8 + 0.5 * size, 0.7 + 0.36 * size)
    title = "SRCC" if column.is_score else "class-IL accuracy"
    caption = f"Task matrices, {title} in percent, mean over seeds: a row for each session, a column for each task."
    if column.is_score:
        caption += " Right of the diagonal: the next task, before it is learnt."
    caption += _left_out(len(found))
    return _picture(figure, f"{slug}-matrices", f"{column.label}: task matrices of {title}", caption, is_wide=True)


def forgetting_picture(column: Column, found: Sequence[Matrices], slug: str) -> Picture | None:
    """How much of every task was forgotten."""
    series: list[Series] = []
    names: list[str] = []
    for one in found:
        drops = [forgetting_per_task(matrix)[:-1] for matrix in one.each]
        if np.isfinite(drops).any():
            points = [estimate([float(drop[k]) for drop in drops]) for k in range(len(drops[0]))]
            means, spreads = [point.mean for point in points], [point.deviation for point in points]
            series.append(Series(one.label, range(len(points)), means, spreads, one.look))
            names = max(names, one.names[:-1], key=len)
    if not series:
        return None
    figure = figures.bar_figure(series, names, "forgetting [points]")
    caption = (
        "Forgetting of each task: the best before the last session, less what is left after it, mean over seeds with "
        "one standard deviation. Below 0 the task was improved later."
    )
    return _picture(figure, f"{slug}-forgetting", f"{column.label}: forgetting of each task", caption)


# From predictions


def predictions_of(run: StoredRun) -> dict[str, NDArray[Any]] | None:
    """outputs, truth and task at the end; None if they are absent or damaged."""
    try:
        parts = run.predictions()
    except ValueError:
        run.problems.append(f"{run.path / 'predictions'} holds files that are no sessions")
        return None
    if not {"outputs", "truth", "task"} <= parts.keys() or len({len(part) for part in parts.values()}) != 1:
        return None
    return parts if len(parts["truth"]) else None


def scatter_picture(column: Column, cells: Sequence[Cell], slug: str) -> Picture | None:
    """Predicted against true scores of the run with the lowest seed of every method."""
    panels = []
    for cell in cells[:MOST_PANELS]:
        run = cell.runs[0]
        parts = predictions_of(run)
        if parts is None:
            continue
        names = _task_names(run, int(parts["task"].max()) + 1)
        scores = parts["outputs"].reshape(len(parts["truth"]), -1)[:, 0]
        panels.append(
            functools.partial(
                figures.draw_scatter,
                predicted=scores,
                truth=parts["truth"],
                task=parts["task"],
                names=names,
                title=cell.row.label,
            )
        )
    if not panels:
        return None
    figure = figures.multiples_figure(panels, 2.55, 2.5, "true score", "predicted score", has_legend=True)
    caption = (
        f"Predicted against true scores after the last session, coloured by task; dotted: predicted as judged. Of each "
        f"method the run with the lowest seed (seed {ranges(cell.runs[0].seed for cell in cells)})."
    )
    caption += _left_out(len(cells))
    label = f"{column.label}: predicted against true scores"
    return _picture(figure, f"{slug}-scores", label, caption, is_wide=True)


def classes_picture(column: Column, cells: Sequence[Cell], looks: Looks, slug: str) -> Picture | None:
    """Accuracy at the end by groups of classes."""
    series, names, long_tailed = [], [], False
    for cell in cells:
        every = [groups for run in cell.runs if (groups := class_groups(run))]
        if not every:
            continue
        every = [groups for groups in every if groups.keys() == every[0].keys()]
        points = [estimate([groups[name] for groups in every]) for name in every[0]]
        series.append(_series(cell, looks, range(len(points)), points))
        names, long_tailed = list(every[0]), long_tailed or every[0].keys() == set(SHOT_GROUPS)
    if not series:
        return None
    figure = figures.bar_figure(series, names, "class-IL accuracy [%]")
    by = "number of training samples of a class" if long_tailed else "task that brought the class"
    caption = (
        f"Accuracy per class after the last session, grouped by {by}: mean over seeds with one standard deviation."
    )
    return _picture(figure, f"{slug}-classes", f"{column.label}: accuracy by groups of classes", caption)


SHOT_GROUPS = (f"many (> {MANY})", f"medium ({FEW} to {MANY})", f"few (< {FEW})")


def class_groups(run: StoredRun) -> dict[str, float]:
    """Group -> mean accuracy in percent of its classes after the last session; empty without predictions, or where
    they were made by a method that needs to know the task.

    Groups are those of `SHOT_GROUPS` where the training counts of classes differ by a factor of two or more (an empty
    group is NaN), else one for each task.
    """
    parts = predictions_of(run)
    if parts is None or parts["outputs"].ndim != 2 or ("task_il" in run.summary and "class_il" not in run.summary):
        return {}
    right = parts.get("class_il", parts["outputs"].argmax(axis=1)) == parts["truth"]
    accuracy = {int(c): 100 * float(right[parts["truth"] == c].mean()) for c in np.unique(parts["truth"])}
    task = {int(c): int(k) for c, k in zip(parts["truth"], parts["task"], strict=True)}
    counts = class_counts(run, task)
    if counts and max(counts.values()) >= LONG_TAIL * min(counts.values()):
        sizes = {c: 0 if n > MANY else 2 if n < FEW else 1 for c, n in counts.items()}
        members = {name: [c for c in accuracy if sizes[c] == i] for i, name in enumerate(SHOT_GROUPS)}
    else:
        names = _task_names(run, max(task.values()) + 1)
        members = {name: [c for c in accuracy if task[c] == k] for k, name in enumerate(names)}
    return {name: float(np.mean([accuracy[c] for c in mine])) if mine else math.nan for name, mine in members.items()}


def class_counts(run: StoredRun, task: Mapping[int, int]) -> dict[int, int]:
    """Training samples of every class, given the task of each; empty if they are not recorded."""
    tasks = run.split.get("tasks")
    found: dict[int, int] = {}
    for k, entry in enumerate(tasks if isinstance(tasks, list) else []):
        classes = sorted(c for c, of in task.items() if of == k)
        counts = entry.get("class_counts") if isinstance(entry, dict) else None
        if not isinstance(counts, list) or len(counts) != len(classes):
            return {}
        found |= dict(zip(classes, map(int, counts), strict=True))
    return found if found.keys() == task.keys() and all(found.values()) else {}


def _task_names(run: StoredRun, at_least: int) -> list[str]:
    tasks = run.split.get("tasks")
    entries = [entry for entry in tasks if isinstance(entry, dict)] if isinstance(tasks, list) else []
    names = [str(entry.get("task", "")) for entry in entries]
    return names if len(names) >= at_least else [f"task {k + 1}" for k in range(at_least)]


# Over settings


def sizes_picture(column: Column, cells: Sequence[Cell], main: str, looks: Looks, slug: str) -> Picture | None:
    """The main figure over the size of the buffer, for methods with two sizes or more."""
    curves: dict[tuple[Any, ...], list[tuple[float, Cell]]] = {}
    for cell in ordinary(cells):
        settings = dict(cell.row.settings)
        size = settings.pop("buffer_size", None)
        if size is not None and size.isdigit():
            curves.setdefault((cell.row.model, *settings.items()), []).append((float(size), cell))
    series = []
    for (model, *others), points in curves.items():
        points.sort(key=lambda point: point[0])
        if len(points) > 1:
            label = Row(model, tuple(others)).label
            series.append(
                _series(points[0][1], looks, [x for x, _ in points], [_main(cell, main) for _, cell in points], label)
            )
    if not series:
        return None
    levels = [(cell.row.label, _main(cell, main).mean) for cell in cells if cell.row.is_bound]
    levels += [
        (cell.row.label, _main(cell, main).mean) for cell in ordinary(cells) if "buffer_size" not in cell.runs[0].config
    ]
    figure = figures.size_figure(
        series, "buffer_size", title_of(main), [(label, mean) for label, mean in levels if not math.isnan(mean)]
    )
    caption = f"{sentence(title_of(main))} by size of the buffer: mean over seeds, band of one standard deviation."
    caption += " Dashed and dotted: methods without a buffer." if levels else ""
    return _picture(figure, f"{slug}-buffer", f"{column.label}: {title_of(main)} over the buffer size", caption)


def order_pictures(groups: Groups, mains: Mapping[Column, str], looks: Looks, slug: str) -> list[Picture]:
    """For every set of streams that differ in the order of tasks only: the main figure over the order."""
    families: dict[tuple[Any, ...], list[Column]] = {}
    for column in groups.columns:
        others = tuple((name, value) for name, value in column.options if name not in ORDER_OPTIONS)
        families.setdefault((column.dataset, others, column.on_validation, mains[column]), []).append(column)
    pictures: list[Picture] = []
    for columns in families.values():
        if len(columns) < 2:
            continue
        main = mains[columns[0]]
        series = []
        for row in groups.rows:
            here = [(i, groups.cells[one, row]) for i, one in enumerate(columns) if (one, row) in groups.cells]
            if len(here) > 1:
                points = [_main(cell, main) for _, cell in here]
                series.append(_series(here[0][1], looks, [i for i, _ in here], points))
        if series:
            names = {float(i): order_of(column) for i, column in enumerate(columns)}
            figure = figures.curve_figure(series, "order of tasks", title_of(main), names, [])
            dataset = columns[0].dataset
            caption = (
                f"{dataset}: {title_of(main)} by the order of tasks, mean over seeds, band of one standard deviation."
            )
            label = f"{dataset}: {title_of(main)} by the order of tasks"
            pictures.append(_picture(figure, f"{slug}-{len(pictures) + 1}", label, caption))
    return pictures


ORDER_OPTIONS = ("task_order", "custom_task_order")


def order_of(column: Column) -> str:
    """The order of the tasks of a stream in words."""
    options = dict(column.options)
    custom = options.get("custom_task_order", "None")
    return custom if custom != "None" else options.get("task_order", "as given")


def cost_picture(column: Column, cells: Sequence[Cell], main: str, looks: Looks, slug: str) -> Picture | None:
    """Time against the main figure."""
    series = []
    for cell in cells:
        seconds, point = estimate(cell.values("seconds")).mean, _main(cell, main)
        if not math.isnan(seconds) and not math.isnan(point.mean):
            series.append(_series(cell, looks, [seconds], [point]))
    if not series:
        return None
    figure = figures.cost_figure(series, "training and evaluation [s]", title_of(main))
    caption = (
        f"Time of training and evaluation against {title_of(main)}, means over seeds with one standard deviation of "
        "the figure."
    )
    return _picture(figure, f"{slug}-cost", f"{column.label}: time against {title_of(main)}", caption)


# Parts


def ordinary(cells: Sequence[Cell]) -> list[Cell]:
    """Without upper bounds, which have a single session."""
    return [cell for cell in cells if not cell.row.is_bound]


def _main(cell: Cell, main: str) -> Any:
    return estimate(cell.values(main))


def _series(cell: Cell, looks: Looks, x: Sequence[float], points: Sequence[Any], label: str = "") -> Series:
    means, spreads = [point.mean for point in points], [point.deviation for point in points]
    return Series(label or cell.row.label, list(x), means, spreads, looks[cell.row])


def _picture(figure: Any, slug: str, alternative: str, caption: str, is_wide: bool = False) -> Picture:
    return Picture(slug, alternative, caption, figures.svg_text(figure), is_wide)


def _left_out(n: int) -> str:
    return f" {n - MOST_PANELS} more methods are left out." if n > MOST_PANELS else ""


def sentence(text: str) -> str:
    """With a capital letter."""
    return text[:1].upper() + text[1:]
