"""Figures: what is drawn where, no state left behind in matplotlib, the same bytes for the same input."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from utils.errors import UsageError
from utils.figures import (
    PALETTE,
    Look,
    Series,
    bar_figure,
    curve_figure,
    inline_svg,
    looks,
    scatter_figure,
    size_figure,
    svg_text,
    task_matrix_figure,
)

matplotlib = pytest.importorskip("matplotlib")

NAN = float("nan")
LOOK = Look(PALETTE[0])
MATRIX = np.array([[80.0, -30.0, NAN], [60.0, 75.0, 10.0], [20.0, 50.1, 99.0]])
NAMES = ["grade 1", "grade 2", "grade 3"]


def test_task_matrix_shows_each_number_in_its_cell_and_leaves_nan_blank() -> None:
    axes = task_matrix_figure(MATRIX, NAMES, "er").axes[0]
    shown = {(round(t.get_position()[1]), round(t.get_position()[0])): float(t.get_text()) for t in axes.texts}
    assert shown == {cell: value for cell, value in np.ndenumerate(MATRIX) if not np.isnan(value)}
    assert [label.get_text() for label in axes.get_xticklabels()] == NAMES
    assert [label.get_text() for label in axes.get_yticklabels()] == ["after 1", "after 2", "after 3"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first session is at the top"
    assert axes.get_title(loc="left") == "er"


def test_the_same_percentage_has_the_same_colour_in_every_task_matrix() -> None:
    meshes = [task_matrix_figure(matrix, NAMES, "").axes[0].collections[0] for matrix in (MATRIX, MATRIX / 10)]
    assert [mesh.get_clim() for mesh in meshes] == [(-100, 100), (-100, 100)]


def test_task_matrix_of_more_sessions_than_fit_has_no_numbers_but_all_cells() -> None:
    axes = task_matrix_figure(np.full((20, 20), 50.0), [f"task {i}" for i in range(20)], "er").axes[0]
    assert not axes.texts
    assert axes.collections[0].get_array().size == 400


def test_scatter_has_one_colour_a_task_and_the_pooled_srcc_in_percent_in_the_title() -> None:
    truth, predicted = np.array([1.0, 2, 3, 4]), np.array([10.0, 30, 20, 40])
    figure = scatter_figure(predicted[:, None], truth, np.array([0, 0, 1, 1]), ["a", "b"], "er")
    dots = figure.axes[0].collections
    np.testing.assert_array_equal(dots[0].get_offsets(), [[1, 10], [2, 30]])
    np.testing.assert_array_equal(dots[1].get_offsets(), [[3, 20], [4, 40]])
    assert not np.array_equal(dots[0].get_facecolor(), dots[1].get_facecolor())
    assert figure.axes[0].get_title(loc="left") == "er\nSRCC 80.0"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_scatter_without_an_order_to_find_shows_a_dash() -> None:
    title = scatter_figure(np.ones(3), np.ones(3), np.zeros(3), ["a"], "er").axes[0].get_title(loc="left")
    assert title.endswith("SRCC -")


def test_size_axis_is_logarithmic_unless_a_size_is_zero() -> None:
    def scale(sizes: list[float]) -> str:
        return size_figure([Series("er", sizes, [1, 2, 3], [NAN] * 3, LOOK)], "", "", []).axes[0].get_xscale()

    assert scale([10, 20, 50]) == "log"
    assert scale([0, 20, 50]) == "linear"


def test_bars_of_one_group_stand_side_by_side_around_its_tick() -> None:
    series = [Series(name, range(2), [1.0, 2.0], [0.1, NAN], LOOK) for name in ("a", "b", "c")]
    bars = bar_figure(series, ["x", "y"], "").axes[0].patches
    centres = [bar.get_x() + bar.get_width() / 2 for bar in bars]
    assert centres == pytest.approx([-0.82 / 3, 1 - 0.82 / 3, 0, 1, 0.82 / 3, 1 + 0.82 / 3])


def test_methods_have_a_colour_each_while_there_are_enough_and_differ_in_every_case() -> None:
    few, many = looks(["er", "er", "sgd"]), looks(["er"] * 4 + ["sgd", "magr", "lwf", "der"])
    assert len({look.colour for look in few}) == 3
    assert len(set(many)) == len(many)
    assert len({look.colour for look in many[:4]}) == 1, "variants of a method share its colour"


def test_drawing_leaves_the_settings_of_matplotlib_as_they_were() -> None:
    before = dict(matplotlib.rcParams)
    svg_text(task_matrix_figure(MATRIX, NAMES, "er"))
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_the_same_figure_gives_the_same_bytes() -> None:
    def draw() -> str:
        return svg_text(scatter_figure(np.arange(9.0), np.arange(9.0), np.zeros(9), ["a"], "er"))

    assert draw() == draw()


def test_names_are_never_read_as_formulas_or_markup() -> None:
    text = svg_text(curve_figure([Series("$x_1$ <b>", [1, 2], [1, 2], [0, 0], LOOK)], "", "", {}, []))
    assert ">$x_1$ &lt;b&gt;</text>" in text
    assert "<b>" not in text


def test_inline_figures_share_no_id_and_refer_to_their_own() -> None:
    text = svg_text(task_matrix_figure(MATRIX, NAMES, "er"))
    inline = [inline_svg(text, prefix, "label") for prefix in ("one", "two")]
    ids = [set(re.findall(r'\sid="([^"]+)"', svg)) for svg in inline]
    assert ids[0]
    assert not ids[0] & ids[1]
    for own, svg in zip(ids, inline, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', svg)) <= own
        assert svg.startswith('<svg role="img" aria-label="label"')
        assert "<style" not in svg


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"matplotlib: pip install -r requirements-sweeps\.txt"):
        task_matrix_figure(MATRIX, NAMES, "er")
