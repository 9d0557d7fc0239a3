"""Figures in one style: colours that colour-blind readers tell apart, no global state of matplotlib.

Every function returns a `matplotlib.figure.Figure` of its own, made without pyplot; what to do with it (an SVG in a
report, an image in a log) is the caller's. matplotlib is only imported when a figure is drawn.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.errors import UsageError
from utils.metrics import srcc

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Okabe and Ito's colours (2008), without black and yellow, the readable ones on white first.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":")
HATCHES = {"-": "", "--": "//", "-.": "..", ":": "xx"}
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, PALE, REFERENCE = "#333333", "#d9d9d9", "#6b6b6b"
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#999999",
    "axes.linewidth": 0.8,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "axes.facecolor": "none",
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "figure.facecolor": "white",
    "savefig.facecolor": "none",
}
# Beyond this many tasks a number no longer fits into its cell.
MOST_ANNOTATED = 12
# Letters of all labels under an axis together, beyond which they are written at an angle.
LONGEST_LABELS = 48


@dataclass(frozen=True)
class Look:
    """How a method is drawn, the same in all figures of a report."""

    colour: str
    dash: str = "-"
    marker: str = "o"


@dataclass(frozen=True)
class Series:
    """One method in a figure.

    Attributes:
        label: for the legend.
        x: positions on the horizontal axis; for bars and categories, indices.
        y: values; NaN where undefined.
        deviation: half the height of the band or error bar; NaN for none.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    deviation: Sequence[float]
    look: Look


def import_matplotlib() -> ModuleType:
    """matplotlib with what the figures here are made of.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import matplotlib
        import matplotlib.colors
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError as error:
        raise UsageError("drawing figures needs matplotlib: pip install -r requirements-sweeps.txt") from error
    return matplotlib


def task_matrix_figure(matrix: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """R as a heat map with its numbers.

    Args:
        matrix: (sessions, tasks) in percent; NaN, where nothing was measured, is left blank.
        names: one per task.

    Raises:
        UsageError: matplotlib is not installed.
    """
    with style():
        size = 1.4 + 0.55 * max(np.shape(matrix)[1], 3)
        figure = new_figure(size + 0.6, 1.1 + 0.4 * max(len(matrix), 3))
        draw_task_matrix(figure.add_subplot(), matrix, names, title)
    return figure


def scatter_figure(
    predicted: np.ndarray, truth: np.ndarray, task: np.ndarray, names: Sequence[str], title: str
) -> Figure:
    """Predicted against true scores with the diagonal; the pooled SRCC in percent is in the title.

    Args:
        predicted, truth: (n,) or (n, 1) scores in the data set's own unit.
        task: (n,) task of each sample, an index into `names`.

    Raises:
        UsageError: matplotlib is not installed.
    """
    with style():
        figure = new_figure(4.4, 3.4)
        axes = figure.add_subplot()
        draw_scatter(axes, predicted, truth, task, names, title)
        axes.set_xlabel("true score")
        axes.set_ylabel("predicted score")
        add_legend(figure, axes)
    return figure


# The parts that single figures and small multiples share


def style() -> AbstractContextManager[None]:
    """The shared style, in force inside the block only."""
    context: AbstractContextManager[None] = import_matplotlib().rc_context(STYLE)
    return context


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches."""
    figure: Figure = import_matplotlib().figure.Figure(figsize=(width, height), layout="constrained")
    return figure


def new_axes(width: float = 5.6, height: float = 3.2) -> tuple[Figure, Axes]:
    """A figure with one pair of axes and a horizontal grid."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    axes.grid(axis="y")
    return figure, axes


def add_legend(figure: Figure, axes: Axes) -> None:
    """A legend to the right of everything, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper", markerscale=1.3)


def task_colours(n: int) -> list[Any]:
    """One colour per task, dark to light in the order of arrival."""
    colormap = import_matplotlib().colormaps["viridis"]
    return [colormap(0.9 * i / max(n - 1, 1)) for i in range(n)]


def percent_colours() -> Colormap:
    """White at 0, blue towards 100, orange towards -100."""
    maps = import_matplotlib().colors.LinearSegmentedColormap
    colormap: Colormap = maps.from_list("percent", ["#B34700", "#F3A46B", "#FFFFFF", "#6FAED6", "#0A4C80"])
    return colormap


def draw_task_matrix(axes: Axes, matrix: np.ndarray, names: Sequence[str], title: str) -> None:
    """`task_matrix_figure` into given axes."""
    values = np.asarray(matrix, dtype=np.float64).reshape(-1, len(names))
    edges = [np.arange(n + 1) - 0.5 for n in reversed(values.shape)]
    # The same colours mean the same numbers in every matrix.
    colours: dict[str, Any] = {"cmap": percent_colours(), "vmin": -100, "vmax": 100}
    axes.pcolormesh(*edges, np.ma.masked_invalid(values), **colours, edgecolors="white", linewidth=1)
    axes.invert_yaxis()
    axes.set_xticks(range(len(names)), shorten(names))
    axes.set_yticks(range(len(values)), [f"after {i + 1}" for i in range(len(values))])
    if sum(map(len, shorten(names))) > LONGEST_LABELS:
        axes.tick_params(axis="x", rotation=45)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(textwrap.fill(title, 26))
    if values.shape[1] > MOST_ANNOTATED:
        return
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            colour = "white" if abs(value) > 60 else INK
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=8)


def draw_scatter(
    axes: Axes, predicted: np.ndarray, truth: np.ndarray, task: np.ndarray, names: Sequence[str], title: str
) -> None:
    """`scatter_figure` into given axes; one legend entry a task."""
    predicted, truth, task = np.ravel(predicted), np.ravel(truth), np.ravel(task)
    low, high = (float(f(truth)) for f in (np.min, np.max)) if truth.size else (0.0, 1.0)
    axes.plot([low, high], [low, high], color=REFERENCE, linewidth=1, linestyle=":", zorder=1)
    for k, (name, colour) in enumerate(zip(names, task_colours(len(names)), strict=True)):
        mine = task == k
        if mine.any():
            # Thousands of dots as vectors would make a page of megabytes.
            axes.scatter(
                truth[mine], predicted[mine], s=14, color=colour, alpha=0.85, linewidths=0, label=name, rasterized=True
            )
    figure = 100 * srcc(predicted, truth)
    axes.set_title(f"{textwrap.fill(title, 26)}\nSRCC {'-' if math.isnan(figure) else f'{figure:.1f}'}")
    axes.grid(True)


def shorten(names: Sequence[str], longest: int = 12) -> list[str]:
    """Names cut to what fits under a tick."""
    return [name if len(name) <= longest else name[: longest - 1] + "…" for name in names]


# Curves, bars, points


def looks(families: Sequence[str]) -> list[Look]:
    """One look per method.

    Args:
        families: the name of each method; variants of one method share it. With more methods than colours, variants
            share the colour and differ in dash and marker.
    """
    if len(families) <= len(PALETTE):
        return [Look(PALETTE[i], "-", MARKERS[i]) for i in range(len(families))]
    known = list(dict.fromkeys(families))
    counts: dict[str, int] = {}
    result = []
    for name in families:
        family, variant = known.index(name), counts.get(name, 0)
        counts[name] = variant + 1
        dash = DASHES[(family // len(PALETTE) + variant) % len(DASHES)]
        result.append(Look(PALETTE[family % len(PALETTE)], dash, MARKERS[(family + variant) % len(MARKERS)]))
    return result


def curve_figure(
    series: Sequence[Series], xlabel: str, ylabel: str, ticks: Mapping[float, str], levels: Sequence[tuple[str, float]]
) -> Figure:
    """Lines with bands of one deviation.

    Args:
        ticks: position -> label on the horizontal axis.
        levels: (label, value) drawn as dashed horizontal lines.
    """
    with style():
        figure, axes = new_axes()
        for one in series:
            look, y, spread = one.look, np.asarray(one.y), np.asarray(one.deviation)
            axes.plot(one.x, y, look.dash, marker=look.marker, color=look.colour, label=one.label)
            axes.fill_between(one.x, y - spread, y + spread, color=look.colour, alpha=0.14, linewidth=0)
        for i, (label, value) in enumerate(levels):
            axes.axhline(value, color=REFERENCE, linestyle=("--", ":", "-.")[i % 3], linewidth=1.3, label=label)
        _name_axes(axes, xlabel, ylabel, ticks)
        add_legend(figure, axes)
    return figure


def bar_figure(series: Sequence[Series], names: Sequence[str], ylabel: str) -> Figure:
    """Groups of bars, one group a name, one bar a method, with a line of one deviation to either side."""
    with style():
        figure, axes = new_axes(width=min(11.0, max(5.6, 2.2 + 0.17 * len(names) * len(series))))
        width = 0.82 / max(len(series), 1)
        for i, one in enumerate(series):
            x = np.arange(len(names)) + (i - (len(series) - 1) / 2) * width
            axes.bar(x, one.y, 0.9 * width, color=one.look.colour, hatch=HATCHES[one.look.dash], label=one.label)
            axes.errorbar(x, one.y, yerr=one.deviation, fmt="none", ecolor=INK, elinewidth=0.8)
        axes.axhline(0, color="#999999", linewidth=0.8)
        _name_axes(axes, "", ylabel, dict(enumerate(shorten(names))))
        add_legend(figure, axes)
    return figure


def size_figure(series: Sequence[Series], xlabel: str, ylabel: str, levels: Sequence[tuple[str, float]]) -> Figure:
    """As `curve_figure`, over sizes: on a logarithmic axis, unless a size is 0."""
    sizes = sorted({x for one in series for x in one.x})
    figure = curve_figure(series, xlabel, ylabel, {}, levels)
    axes = figure.axes[0]
    with style():
        if min(sizes) > 0:
            axes.set_xscale("log")
            axes.minorticks_off()
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    return figure


def cost_figure(series: Sequence[Series], xlabel: str, ylabel: str) -> Figure:
    """One point a method: x against y, with a line of one deviation of y."""
    with style():
        figure, axes = new_axes()
        for one in series:
            look = one.look
            axes.errorbar(
                one.x, one.y, yerr=one.deviation, fmt=look.marker, color=look.colour, elinewidth=1, label=one.label
            )
        every = [x for one in series for x in one.x if x > 0]
        if every and max(every) > 20 * min(every):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(import_matplotlib().ticker.StrMethodFormatter("{x:g}"))
        else:
            axes.set_xlim(left=0)
        _name_axes(axes, xlabel, ylabel, {})
        add_legend(figure, axes)
    return figure


def multiples_figure(
    panels: Sequence[Callable[[Axes], None]],
    width: float,
    height: float,
    xlabel: str = "",
    ylabel: str = "",
    has_legend: bool = False,
) -> Figure:
    """Small multiples, up to four in a line; each panel is `width` x `height` inches and draws itself.

    Args:
        has_legend: add the legend of the first panel, which then holds for all.
    """
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    with style():
        figure = new_figure(across * width + 0.9 * has_legend, down * height)
        figure.get_layout_engine().set(w_pad=0.09, h_pad=0.09)  # type: ignore[union-attr,call-arg]
        for i, draw in enumerate(panels):
            axes = figure.add_subplot(down, across, i + 1)
            draw(axes)
            axes.set_xlabel(xlabel)
            axes.set_ylabel(ylabel if i % across == 0 else "")
        if has_legend:
            add_legend(figure, figure.axes[0])
    return figure


def _name_axes(axes: Axes, xlabel: str, ylabel: str, ticks: Mapping[float, str]) -> None:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if ticks:
        labels = [text if len(ticks) <= 20 or i % 5 == 0 else "" for i, text in enumerate(ticks.values())]
        axes.set_xticks(list(ticks), labels)
        if sum(map(len, labels)) > LONGEST_LABELS:
            axes.tick_params(axis="x", rotation=30)


# SVG


def svg_text(figure: Figure) -> str:
    """The figure as an SVG file; the same figure gives the same text. Rasterised parts are embedded."""
    with style():
        target = io.BytesIO()
        figure.savefig(target, format="svg", dpi=160, metadata={"Date": None, "Creator": None})
    return target.getvalue().decode()


def inline_svg(text: str, prefix: str, label: str) -> str:
    """An SVG file made ready to stand inside an HTML page.

    Args:
        text: from `svg_text`.
        prefix: put before all ids, which must not be the same as those of another figure of the page.
        label: what the figure shows, for those who cannot see it; already escaped.
    """
    body = text[text.index("<svg") :]
    # A style element inside a page holds for the whole page.
    body = re.sub(r"<metadata>.*?</metadata>|<style\b.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'(\sid=")', rf"\1{prefix}-", body)
    body = re.sub(r'(url\(#|href="#)', rf"\1{prefix}-", body)
    return body.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()
