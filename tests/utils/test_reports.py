"""What a report computes and which runs it puts together, on run folders written here and worked examples."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from utils.errors import DataError, StorageError, UsageError
from utils.reports import markdown, plots
from utils.reports.comparisons import compare, marks
from utils.reports.contents import decimal, figures_of, seconds, size
from utils.reports.document import BEST, SECOND
from utils.reports.groups import Groups, Row, group_runs, ranges, stream_options
from utils.reports.latex import escaped as tex_escaped
from utils.reports.notes import notes_of
from utils.reports.report import Options, check_folder, make_report
from utils.reports.statistics import estimate, holm, mean_over_runs, paired_t_test
from utils.stored_runs import StoredRun, find_runs

pytest.importorskip("matplotlib")

NAN = float("nan")
SCORE_FIGURES = {"srcc_pooled": 50.0, "srcc_mean": 40.0, "srcc_forgetting": 5.0, "mae": 0.02}
Writer = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path) -> Writer:
    """Write the folder of a finished run; keywords replace settings, `figures` figures, `environment` its values."""
    count = iter(range(10_000))

    def write(
        model: str = "er",
        seed: int = 0,
        value: float | None = 50.0,
        figures: dict[str, Any] | None = None,
        environment: dict[str, Any] | None = None,
        data: str = "a" * 32,
        evaluated_on: str = "test",
        state: str = "finished",
        **settings: Any,
    ) -> Path:
        path = tmp_path / "runs" / f"run{next(count):03d}"
        path.mkdir(parents=True)
        config = {"model": model, "dataset": "uiprmd", "lr": 0.1, "n_tasks": None, "seed": seed, **settings}
        summary = {"evaluated_on": evaluated_on, "seed": seed, **SCORE_FIGURES, "srcc_pooled": value, **(figures or {})}
        known = {
            "started": f"2026-01-01T00:00:{next(count) % 60:02d}+0000",
            "commit": "c" * 40,
            "packages": {"torch": "2.11"},
            "gpus": [],
            "processor": "x86_64",
            **(environment or {}),
        }
        tasks = [{"task": "grade 1"}, {"task": "grade 2"}]
        records = [
            {"event": "split", "data": data, "tasks": tasks},
            {"event": "session", "session": 0, "srcc_pooled": 60.0},
            {"event": "session", "session": 1, "srcc_pooled": value},
        ]
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        (path / "summary.json").write_text(json.dumps(summary))
        (path / "environment.json").write_text(json.dumps(known))
        (path / "status.json").write_text(json.dumps({"state": state, "message": "why"}))
        (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (path / "R_srcc.csv").write_text("session,grade 1,grade 2\n0,60.0,\n1,40.0,80.0\n")
        (path / "predictions").mkdir()
        arrays = {"outputs": np.array([[0.1], [0.2], [0.4]]), "truth": np.array([0.1, 0.3, 0.2]), "task": [0, 1, 1]}
        np.savez(path / "predictions" / "session-1.npz", **{k: np.asarray(v) for k, v in arrays.items()})
        return path

    return write


@pytest.fixture
def group(tmp_path: Path) -> Callable[..., Groups]:
    """Sort the runs written so far."""
    return lambda **options: group_runs(find_runs([tmp_path / "runs"]), **options)


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """The files of a report over the runs written so far."""
    return lambda **options: make_report(find_runs([tmp_path / "runs"]), Options(**options))[1]


def labels(groups: Groups) -> dict[tuple[str, str], list[int]]:
    return {(column.label, row.label): cell.seeds for (column, row), cell in groups.cells.items()}


# Statistics


def test_estimate_of_a_worked_example() -> None:
    one = estimate([1.0, 2.0, 3.0, None, NAN])
    assert (one.mean, one.deviation, one.n) == (2.0, 1.0, 3)
    # t(0.975, 2) = 4.302653, divided by the root of 3.
    assert (one.low, one.high) == pytest.approx((2 - 2.4841377, 2 + 2.4841377))


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30).filter(lambda values: np.std(values) > 1e-6))
def test_confidence_interval_is_that_of_scipy(values: list[float]) -> None:
    one = estimate(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (one.low, one.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)


def test_one_value_has_no_deviation_and_none_has_no_mean() -> None:
    assert estimate([3.0]).mean == 3
    assert all(map(math.isnan, (estimate([3.0]).deviation, estimate([3.0]).low, estimate([]).mean)))
    assert estimate([None]).n == 0


def test_paired_test_is_that_of_scipy_on_the_shared_seeds_only() -> None:
    first = {0: 1.0, 1: 2.5, 2: 2.0, 3: 5.0, 7: 100.0}
    second = {0: 0.5, 1: 1.0, 2: 2.5, 3: 3.0, 8: -100.0, 9: NAN}
    p, n = paired_t_test(first, second)
    expected = stats.ttest_rel([1.0, 2.5, 2.0, 5.0], [0.5, 1.0, 2.5, 3.0]).pvalue
    assert (p, n) == (pytest.approx(expected), 4)
    assert paired_t_test(second, first) == (pytest.approx(expected), 4), "two-sided"


def test_paired_test_is_undefined_below_two_shared_seeds_and_for_constant_differences() -> None:
    assert math.isnan(paired_t_test({0: 1.0, 1: 2.0}, {1: 1.0, 2: 3.0})[0])
    assert math.isnan(paired_t_test({0: 0.3, 1: 0.2, 2: 0.1}, {0: 0.2, 1: 0.1, 2: 0.0})[0])
    assert paired_t_test({0: 0.3, 1: 0.2}, {0: 0.3, 1: 0.2}) == (1.0, 2)


def test_holm_of_a_worked_example() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never below the one before.
    assert holm([0.01, 0.04, NAN, 0.03, 0.005]) == pytest.approx([0.03, 0.06, NAN, 0.06, 0.02], nan_ok=True)
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_mean_over_runs_is_undefined_only_where_every_run_is() -> None:
    mean = mean_over_runs([np.array([[1.0, NAN, NAN]]), np.array([[3.0, 5.0, NAN]])])
    np.testing.assert_array_equal(mean, [[2.0, 5.0, NAN]])


# Groups


def test_runs_that_differ_in_the_seed_and_in_how_they_were_executed_share_a_cell(write_run: Writer, group: Any) -> None:
    write_run(seed=1, data_root="/there", num_workers=4)
    write_run(seed=0, data_root="/here", num_workers=0)
    assert labels(group()) == {("uiprmd", "er"): [0, 1]}


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"fewshot": False}, {"fewshot": True}, ["uiprmd, fewshot=False", "uiprmd, fewshot=True"]),
        ({"n_tasks": 3}, {"n_tasks": None}, ["uiprmd", "uiprmd, n_tasks=3"]),
        ({"custom_task_order": [2, 1]}, {}, ["uiprmd, custom_task_order=2,1", "uiprmd, custom_task_order=absent"]),
        ({"data": "b" * 32}, {}, ["uiprmd, data=aaaaaaaa", "uiprmd, data=bbbbbbbb"]),
        ({"evaluated_on": "validation"}, {}, ["uiprmd", "uiprmd, evaluated on validation"]),
        ({"dataset": "seq-digits"}, {}, ["seq-digits", "uiprmd"]),
        (
            {"dataset": "jigsaws"},
            {"dataset": "jigsaws", "fewshot": True},
            ["jigsaws, fewshot=True", "jigsaws, fewshot=absent"],
        ),
    ],
)
def test_different_streams_are_never_averaged(write_run: Writer, group: Any, a: dict, b: dict, expected: list) -> None:
    write_run(**a)
    write_run(**b, seed=1)
    assert sorted(column for column, _ in labels(group())) == sorted(expected)


def test_a_stream_that_no_longer_exists_is_told_apart_by_the_settings_all_have(write_run: Writer, group: Any) -> None:
    write_run(dataset="gone", task_order="ascending")
    write_run(dataset="gone", task_order="descending")
    assert {column for column, _ in labels(group())} == {"gone, task_order=ascending", "gone, task_order=descending"}
    assert "fewshot" in stream_options("uiprmd") - stream_options("gone")


def test_what_the_network_looks_like_does_not_make_another_stream(write_run: Writer, group: Any) -> None:
    write_run("er", backbone="temporal", score_head="linear", score_scale="unit")
    write_run("magr", backbone="mlp", score_head="gaussian", score_scale="raw")
    assert set(labels(group())) == {("uiprmd", "er"), ("uiprmd", "magr")}


def test_a_column_on_validation_samples_always_says_so(write_run: Writer, group: Any) -> None:
    write_run(evaluated_on="validation", validation=20.0)
    assert set(labels(group())) == {("uiprmd, evaluated on validation", "er")}


def test_buffer_sizes_are_rows_where_a_method_has_several_and_meet_the_same_size_elsewhere(
    write_run: Writer, group: Any
) -> None:
    for buffer_size in (100, 20):
        write_run(buffer_size=buffer_size)
    write_run(buffer_size=20, dataset="other")
    write_run("magr", buffer_size=20)
    write_run("sgd")
    groups = group()
    assert [row.label for row in groups.rows] == ["er, buffer_size=20", "er, buffer_size=100", "magr", "sgd"]
    assert ("other", "er, buffer_size=20") in labels(groups)


def test_a_row_that_stands_for_other_buffer_sizes_on_other_streams_says_so(write_run: Writer, group: Any) -> None:
    write_run(buffer_size=20)
    write_run(buffer_size=10, dataset="other")
    write_run("magr", buffer_size=20)
    write_run("magr", buffer_size=20, dataset="other")
    write_run("wa", buffer_size=None, exemplars_per_class=5)
    write_run("wa", buffer_size=20, dataset="other")
    found = [note for note in notes(group()) if "the buffer" in note]
    sizes = {"er": "10 on other, 20 on uiprmd", "wa": "20 on other, 5 a class on uiprmd"}
    assert found == [f"{name}: the buffer is of size {text}." for name, text in sizes.items()]


def test_seeds_may_be_chosen_and_never_make_rows(write_run: Writer, group: Any) -> None:
    for seed in range(4):
        write_run(seed=seed)
    assert [run.seed for run in group(where=["seed=1", "seed=3"]).runs] == [1, 3]
    with pytest.raises(UsageError, match="--where seed"):
        group(by=["seed"])


def test_other_differences_within_a_cell_are_refused_with_values_counts_and_the_way_out(
    write_run: Writer, group: Any
) -> None:
    for seed, lr in enumerate((0.1, 0.1, 0.01)):
        write_run(seed=seed, lr=lr)
    write_run("sgd", seed=0, n_epochs=1)
    write_run("sgd", seed=1, n_epochs=2)
    with pytest.raises(UsageError) as refused:
        group()
    text = str(refused.value)
    assert "er on uiprmd: lr = 0.01 (1 run), 0.1 (2 runs)" in text
    assert "sgd on uiprmd: n_epochs = 1 (1 run), 2 (1 run)" in text
    assert "--by lr n_epochs" in text
    assert "--where lr=0.01" in text


def test_by_gives_each_value_a_row_and_where_keeps_one(write_run: Writer, group: Any) -> None:
    for lr in (0.1, 0.01):
        write_run(lr=lr)
    assert [row.label for row in group(by=["lr"]).rows] == ["er, lr=0.01", "er, lr=0.1"]
    chosen = group(where=["lr=0.1"])
    assert [row.label for row in chosen.rows] == ["er"]
    assert len(chosen.not_chosen) == 1
    assert len(group(by=["lr"], where=["lr=0.1", "lr=0.01"]).runs) == 2, "values of one name are alternatives"
    write_run("sgd", lr=0.1)
    assert [row.label for row in group(where=["lr=0.1", "model=sgd"]).rows] == ["sgd"], "all names must fit"


def test_by_all_splits_by_whatever_differs_on_any_stream(write_run: Writer, group: Any) -> None:
    for lr in (0.1, 0.01):
        write_run(lr=lr)
    write_run(lr=0.1, dataset="other", batch_size=3)
    assert set(labels(group(by=["all"]))) == {
        ("uiprmd", "er, lr=0.01"),
        ("uiprmd", "er, lr=0.1"),
        ("other", "er, lr=0.1"),
    }


@pytest.mark.parametrize(
    ("options", "nearest"),
    [
        ({"by": ["learning_rat", "lr"]}, "--by learning_rat: no finished run has it; known: "),
        ({"by": ["n_task"]}, "did you mean n_tasks?"),
        ({"where": ["ln=1"]}, "did you mean lr?"),
        ({"where": ["lr"]}, "expected NAME=VALUE"),
        ({"where": ["lr=7"]}, r"lr is 0.1 \(1 runs\)"),
    ],
)
def test_names_that_do_not_exist_are_refused_with_the_nearest(
    write_run: Writer, group: Any, options: dict, nearest: str
) -> None:
    write_run()
    with pytest.raises(UsageError, match=nearest):
        group(**options)


def test_of_the_same_settings_and_seed_only_the_latest_run_counts(write_run: Writer, group: Any) -> None:
    write_run(value=1.0, environment={"started": "2026-03-01T00:00:00+0000"})
    write_run(value=2.0, environment={"started": "2026-03-01T01:30:00+0200"})
    write_run(value=3.0, environment={"started": "unknown"})
    groups = group()
    (cell,) = groups.cells.values()
    assert cell.values("srcc_pooled") == [1.0]
    assert len(cell.superseded) == 2
    assert any("only the latest run counts: er on uiprmd (2 earlier)" in note for note in notes(groups))


def test_runs_that_have_not_finished_or_are_damaged_are_left_out_with_the_reason(
    write_run: Writer, group: Any, report: Any
) -> None:
    write_run()
    write_run(state="failed")
    damage: dict[str, Callable[[Path], Any]] = {
        "config.yaml": lambda path: (path / "config.yaml").write_text(""),
        "summary.json": lambda path: (path / "summary.json").write_text('{"srcc_pooled": 5'),
        "seed": lambda path: (path / "config.yaml").write_text("model: er\ndataset: uiprmd\nlr: 0.1\n"),
        "metrics.jsonl": lambda path: (path / "metrics.jsonl").write_bytes(b"\xff\xfe\x00"),
        "no figure": lambda path: (path / "summary.json").write_text('{"seed": 0, "srcc": [1, 2]}'),
        "status": lambda path: (path / "status.json").write_text("{"),
    }
    for spoil in damage.values():
        spoil(write_run(seed=1))
    groups = group()
    assert [run.seed for run in groups.runs] == [0]
    states = [(entry.state, bool(entry.reason)) for entry in groups.left_out]
    assert states == [("failed", True), *[("broken", True)] * 5, ("killed", False)]
    page = report()["index.html"]
    assert all(str(entry.run.path) in page for entry in groups.left_out)


def test_a_finished_run_with_damaged_side_files_keeps_its_figures_and_the_page_says_what_is_missing(
    write_run: Writer, report: Any
) -> None:
    for seed in range(3):
        path = write_run(seed=seed, value=50.0 + seed)
    (path / "R_srcc.csv").write_text("session,grade 1,grade 2\n0,60.0,\n1,4")
    (path / "predictions" / "session-1.npz").write_bytes(b"PK\x03\x04 cut")
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"event": "sess')
    first = write_run("sgd")
    (first / "predictions" / "session-1.npz").write_bytes(b"PK")
    files = report()
    assert "51.00 ± 1.00" in files["report.md"]
    for name in ("R_srcc.csv", "metrics.jsonl, line 4"):
        assert name in files["index.html"]
    assert "cannot read the predictions of session 1" in files["index.html"]


def test_no_finished_run_is_an_error_that_counts_what_is_there(write_run: Writer, group: Any) -> None:
    write_run(state="stopped")
    with pytest.raises(DataError, match=r"no finished run there \(1 stopped\)"):
        group()
    with pytest.raises(DataError, match="no finished run"):
        group_runs([])


# Best, second, baseline


def test_best_and_second_follow_the_direction_of_the_figure_and_leave_upper_bounds_out(
    write_run: Writer, group: Any
) -> None:
    for model, value, mae in (("a", 10.0, 0.1), ("b", 30.0, 0.3), ("c", 20.0, 0.2), ("z", 30.0, None)):
        write_run(model, value=value, figures={"mae": mae})
    write_run("joint", value=99.0, figures={"mae": 0.0}, joint=True)
    groups = group()
    assert groups.rows[-1] == Row("joint", (), True)
    cells = groups.in_column(groups.columns[0])
    shown = {
        figure: {row.label: mark for row, mark in marks(cells, figure).items()} for figure in ("srcc_pooled", "mae")
    }
    assert shown["srcc_pooled"] == {"b": BEST, "z": BEST, "c": SECOND}
    assert shown["mae"] == {"a": BEST, "c": SECOND}
    assert marks(cells, "seconds") == {}


def test_a_joint_run_of_another_method_is_an_upper_bound_in_a_row_of_its_own(write_run: Writer, group: Any) -> None:
    write_run("sgd", joint=False)
    write_run("sgd", joint=True)
    assert [(row.label, row.is_bound) for row in group().rows] == [("sgd", False), ("sgd, joint", True)]


def test_comparisons_pair_seeds_and_are_corrected_over_all_streams(write_run: Writer, group: Any) -> None:
    values = {
        ("uiprmd", "er"): [5.0, 6.5, 9.0, 7.0],
        ("uiprmd", "sgd"): [1.0, 2.0, 3.0, 2.5],
        ("uiprmd", "magr"): [1.5, 3.0, 2.0, 2.5],
        ("other", "er"): [3.0, 9.0, 1.0, 4.0],
        ("other", "sgd"): [2.0, 9.5, 0.5, 3.0],
    }
    for (dataset, model), mine in values.items():
        for seed, value in enumerate(mine):
            write_run(model, seed=seed, value=value, dataset=dataset, figures={"mae": value})
    groups = group()
    tested = compare(groups, "sgd", {column: ["srcc_pooled"] for column in groups.columns})
    found = {(column.label, row.label): one for (column, row, _), one in tested.items()}
    keys = [("uiprmd", "er"), ("uiprmd", "magr"), ("other", "er")]
    expected = [stats.ttest_rel(values[key], values[key[0], "sgd"]).pvalue for key in keys]
    assert [found[key].p for key in keys] == pytest.approx(expected)
    assert [found[key].corrected for key in keys] == pytest.approx(holm(expected))
    assert [found[key].is_significant for key in keys] == [True, False, False]
    assert len(found) == 3
    assert {one.n for one in found.values()} == {4}


def test_a_baseline_with_several_sizes_is_met_at_the_same_size_or_refused(write_run: Writer, group: Any) -> None:
    for model in ("er", "magr"):
        for buffer_size in (10, 20):
            for seed in (0, 1):
                write_run(model, seed=seed, value=seed + buffer_size, buffer_size=buffer_size)
    groups = group()
    figures = figures_of(groups, [])
    tested = compare(groups, "er", figures)
    assert {(row.label, one.baseline.label) for (_, row, _), one in tested.items()} == {
        ("magr, buffer_size=10", "er, buffer_size=10"),
        ("magr, buffer_size=20", "er, buffer_size=20"),
    }
    write_run("sgd")
    groups = group()
    with pytest.raises(
        UsageError, match=r'sgd on uiprmd .* name one of them: "er, buffer_size=10", "er, buffer_size=20"'
    ):
        compare(groups, "er", figures_of(groups, []))
    assert compare(groups, "er, buffer_size=20", figures_of(groups, []))
    with pytest.raises(UsageError, match="--baseline magrr: no finished run has it; did you mean magr"):
        compare(groups, "magrr", figures_of(groups, []))


# Notes


def notes(groups: Groups) -> list[str]:
    return notes_of(groups, figures_of(groups, []), ())


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (
            {"commit": "a" * 40},
            {"commit": "b" * 40},
            "different commits: er on uiprmd (aaaaaaaa: 1 run, bbbbbbbb: 1 run)",
        ),
        ({"packages": {"torch": "2.11"}}, {"packages": {"torch": "2.12"}}, "different versions of torch"),
        ({"gpus": ["H200"]}, {"gpus": []}, "different hardware: er on uiprmd (H200: 1 run, x86_64: 1 run)"),
        (
            {"uncommitted_changes": True},
            {},
            "uncommitted changes of the code (changes.diff in each folder): er on uiprmd (1 run)",
        ),
    ],
)
def test_runs_of_a_cell_that_were_made_differently_are_noted(
    write_run: Writer, group: Any, first: dict, second: dict, expected: str
) -> None:
    write_run(seed=0, environment=first)
    write_run(seed=1, environment=second)
    assert len(notes(group())) == 1
    assert expected in notes(group())[0]


def test_runs_made_alike_with_the_same_seeds_need_no_note(write_run: Writer, group: Any) -> None:
    for model in ("er", "sgd"):
        for seed in (0, 1):
            write_run(model, seed=seed)
    assert notes(group()) == []


def test_single_seeds_unshared_seeds_stand_ins_and_undefined_values_are_noted(write_run: Writer, group: Any) -> None:
    for seed in (0, 1, 2):
        write_run("er", seed=seed, dataset="aqa7-mini", figures={"mae": None if seed else 0.5})
    write_run("sgd", seed=5, dataset="aqa7-mini")
    text = "\n".join(notes(group()))
    assert "aqa7-mini is a stand-in for absent data. Its figures are not those of aqa7." in text
    assert "A single seed, so no deviation and no test: sgd on aqa7-mini." in text
    assert "aqa7-mini: methods were not run with the same seeds (er: 0-2; sgd: 5)." in text
    assert "mae of er on aqa7-mini (2 of 3 runs)" in text


# What figures are made of


def class_run(tmp_path: Path, counts: list[list[int]]) -> StoredRun:
    """A run on 4 classes in 2 tasks; 2 samples a class, right: both of class 0, one of class 1 and of class 3."""
    path = tmp_path / "classes"
    (path / "predictions").mkdir(parents=True)
    truth = np.repeat(np.arange(4), 2)
    said = np.array([0, 0, 1, 3, 3, 3, 3, 0])
    arrays = {"outputs": np.eye(4)[said], "truth": truth, "task": truth // 2}
    np.savez(path / "predictions" / "session-1.npz", **arrays)
    tasks = [{"task": f"task {k + 1}", "class_counts": mine} for k, mine in enumerate(counts)]
    (path / "metrics.jsonl").write_text(json.dumps({"event": "split", "tasks": tasks}) + "\n")
    return StoredRun(path)


def test_classes_are_grouped_by_task_while_their_training_counts_are_alike(tmp_path: Path) -> None:
    assert plots.class_groups(class_run(tmp_path, [[50, 99], [60, 60]])) == {"task 1": 75.0, "task 2": 25.0}


def test_classes_of_a_long_tail_are_grouped_by_their_training_counts(tmp_path: Path) -> None:
    found = plots.class_groups(class_run(tmp_path, [[101, 100], [20, 19]]))
    assert found == dict(zip(plots.SHOT_GROUPS, [100.0, 25.0, 50.0], strict=True))


def test_a_group_without_classes_is_undefined(tmp_path: Path) -> None:
    found = plots.class_groups(class_run(tmp_path, [[500, 500], [101, 5]]))
    assert list(found.values()) == pytest.approx([50.0, NAN, 50.0], nan_ok=True)


def test_a_task_matrix_that_was_cut_is_left_out_of_the_mean_whichever_run_it_is_of(
    write_run: Writer, group: Any
) -> None:
    for seed in range(3):
        path = write_run(seed=seed)
        last = "" if seed == 0 else f"1,{40.0 + seed},80.0\n"
        (path / "R_srcc.csv").write_text(f"session,grade 1,grade 2\n0,60.0,\n{last}")
    groups = group()
    cells = groups.in_column(groups.columns[0])
    (found,) = plots.matrices_of(cells, plots.looks_of(groups.rows))
    np.testing.assert_array_equal(mean_over_runs(found.each), [[60.0, NAN], [41.5, 80.0]])
    assert found.names == ["grade 1", "grade 2"]


def test_sessions_without_a_defined_figure_are_left_out_of_the_curve(write_run: Writer) -> None:
    run = StoredRun(write_run(value=None))
    assert plots.session_values(run, "srcc_pooled") == {0: 60.0}
    assert plots.session_values(run, "unknown") == {}


def test_only_streams_that_differ_in_nothing_but_the_order_share_a_curve(write_run: Writer, report: Any) -> None:
    for order in ("ascending", "descending"):
        write_run(dataset="one", task_order=order)
        write_run(dataset="two", task_order=order, n_tasks=3 if order == "ascending" else 4)
    files = report()
    assert [name for name in files if "orders" in name] == ["figures/task-orders-1.svg"]
    assert "one: SRCC, pooled over all tasks [%] by the order of tasks" in files["index.html"]


def test_a_stream_without_the_baseline_is_noted_and_the_symbol_explained_where_there_was_a_test(
    write_run: Writer, report: Any
) -> None:
    for seed in range(3):
        write_run("er", seed=seed, value=90.0 + 0.1 * seed**2)
        write_run("sgd", seed=seed, value=10.0 + 0.2 * seed)
        write_run("er", seed=seed, dataset="other", value=1.0)
    files = report(baseline="sgd")
    text = files["report.md"]
    assert files["index.html"].count('<span class="symbol">†</span>') == text.count(" † |") >= 2
    assert "No comparison with sgd on other: it was not run there" in text
    assert "†: differs from sgd, p < 0.05 in a two-sided paired t-test over the seeds both have (n = 3)" in text
    assert len(re.findall(r"90\.17 ± 0\.21 †", text.replace("*", ""))) == 2, "main table and that of the stream"
    assert "†" not in report()["report.md"]


# Files


class Outline(HTMLParser):
    """Texts of the cells of tables, counts of tags, ids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.said: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attributes if name == "id"]
        self.said += [value or "" for name, value in attributes if name in ("title", "aria-label")]
        if tag not in ("meta", "br", "image", "path", "use", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attributes if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        elif tag not in ("image", "path", "use", "rect"):
            self.unbalanced.append(tag)


ODD = '<b>&"|_%$\\#{}~^*`[x](y)'


def test_names_with_special_characters_break_no_file(write_run: Writer, report: Any) -> None:
    for seed in (0, 1):
        write_run(ODD, seed=seed, dataset=ODD)
        write_run("er", seed=seed, value=10.0 * seed, dataset=ODD)
    files = report()
    outline = Outline(files["index.html"])
    assert outline.tags.count("b") == 5, "the five numbers of the headline are all that is bold by tag"
    assert not outline.unbalanced
    assert f"{ODD} on {ODD}, srcc_mean: n = 2 seeds (0-1); " in {text[: text.find("95 %")] for text in outline.said}
    assert f"{ODD}: predicted against true scores" in outline.said
    assert not outline.open
    header = next(line for line in files["report.md"].splitlines() if line.startswith("| method"))
    row = next(line for line in files["report.md"].splitlines() if line.startswith(r"| \<b>"))
    assert len(re.findall(r"(?<!\\)\|", header)) == len(re.findall(r"(?<!\\)\|", row))
    assert next(csv.DictReader(io.StringIO(files["cells.csv"])))["method"] == ODD
    check_tex(files["tables.tex"])


def check_tex(text: str) -> None:
    """Structure of LaTeX tables: environments, braces, columns, characters."""
    body = re.sub(r"(?<!\\)%.*", "", text)
    assert re.findall(r"\\begin{(\w+)}", body) == ["table", "tabular"] * (body.count(r"\begin{table}"))
    assert re.findall(r"\\end{(\w+)}", body) == ["tabular", "table"] * (body.count(r"\begin{table}"))
    bare = body.replace(r"\\", "").replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"\\\\\s*\[", body), "a bracket after a line break is its argument"
    for columns, rows in re.findall(r"\\begin{tabular}{(l?r*)}(.*?)\\end{tabular}", body, re.DOTALL):
        lines = [line for line in rows.strip().splitlines() if "rule" not in line]
        assert lines
        for line in lines:
            assert line.endswith(r"\\")
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
    outside = re.sub(r"\$[^$]*\$|\\label{[^}]*}", "", re.sub(r"\\[&%$#_{}]", "", body))
    outside = re.sub(r"\\begin{tabular}{l?r*}", "", outside)
    assert not re.search(r"[_$#^~%<>|]", outside.replace(" & ", ""))
    assert outside.isascii()


def test_tex_escapes_every_special_character() -> None:
    assert tex_escaped("a_b & 5% ± {x} \\") == r"a\_b \& 5\% $\pm$ \{x\} \textbackslash{}"


def test_the_same_runs_give_the_same_bytes_and_no_two_elements_the_same_id(write_run: Writer, report: Any) -> None:
    for seed in (0, 1):
        write_run("er", seed=seed, value=50.0 + seed, buffer_size=10)
        write_run("er", seed=seed, value=60.0 + seed, buffer_size=20)
        write_run("er", seed=seed, value=60.0 + seed, buffer_size=20, dataset="other", task_order="a")
        write_run("er", seed=seed, value=65.0 + seed, buffer_size=20, dataset="other", task_order="b")
    files = report()
    assert files == report()
    ids = Outline(files["index.html"]).ids
    assert len(ids) == len(set(ids))
    assert files["index.html"].count("<svg") == len([name for name in files if name.endswith(".svg")])
    assert {name.rpartition("-")[2] for name in files if name.startswith("figures/stream-uiprmd")} == {
        "sessions.svg",
        "matrices.svg",
        "forgetting.svg",
        "scores.svg",
        "buffer.svg",
    }
    assert "figures/task-orders-1.svg" in files
    linked = set(re.findall(r"\]\((figures/[^)]+)\)", files["report.md"]))
    assert linked == {name for name in files if name.startswith("figures/")}


def test_the_page_asks_nothing_from_the_network(write_run: Writer, report: Any) -> None:
    write_run()
    page = report()["index.html"]
    assert not re.search(r"<(script|link|img|iframe)|@import|url\((?!#)", page)
    assert not re.search(r'(?:href|src)="(?!#|data:)', page)


def test_cells_have_every_figure_with_interval_and_test_at_full_precision(write_run: Writer, report: Any) -> None:
    values = {"er": [1.0, 2.0, 4.0], "sgd": [0.5, 1.0, 1.25]}
    for model, mine in values.items():
        for seed, value in enumerate(mine):
            write_run(model, seed=seed, value=value, figures={"seconds": 3.0})
    rows = list(csv.DictReader(io.StringIO(report(baseline="sgd")["cells.csv"])))
    (row,) = [one for one in rows if (one["method"], one["figure"]) == ("er", "srcc_pooled")]
    expected = estimate(values["er"])
    found = [float(row[name]) for name in ("mean", "deviation", "n", "ci_low", "ci_high", "p")]
    p = stats.ttest_rel(values["er"], values["sgd"]).pvalue
    assert found == pytest.approx([expected.mean, expected.deviation, 3, expected.low, expected.high, p], rel=1e-12)
    assert row["baseline"] == "sgd"
    own = next(one for one in rows if (one["method"], one["figure"]) == ("sgd", "srcc_pooled"))
    assert (own["p"], own["p_corrected"], own["baseline"]) == ("", "", "")
    assert next(one for one in rows if one["figure"] == "seconds")["mean"] == "3.0"


def test_every_run_has_a_line_in_runs_csv_that_says_what_became_of_it(write_run: Writer, report: Any) -> None:
    kept = write_run(seed=3, environment={"started": "2026-02-02T00:00:00+0000"})
    earlier = write_run(seed=3, environment={"started": "2026-02-01T00:00:00+0000"})
    failed, other = write_run(state="failed"), write_run(lr=7)
    rows = {row["path"]: row for row in csv.DictReader(io.StringIO(report(where=["lr=0.1"])["runs.csv"]))}
    assert {path: row["use"] for path, row in rows.items()} == {
        str(kept): "averaged",
        str(earlier): "an earlier run of this seed",
        str(failed): "left out: why",
        str(other): "left out by --where",
    }
    assert rows[str(kept)]["seed"] == "3"
    assert rows[str(kept)]["srcc_pooled"] == "50.0"


def test_settings_in_which_methods_differ_are_shown_and_shared_ones_folded(write_run: Writer, report: Any) -> None:
    write_run("er", lr=0.1, alpha=3, optimizer="adam")
    write_run("sgd", lr=0.2, optimizer="adam")
    page = report()["index.html"]
    differing = page[page.index('id="stream-uiprmd-differing"') : page.index('id="stream-uiprmd-some"')]
    some = page[page.index('id="stream-uiprmd-some"') : page.index('id="stream-uiprmd-shared"')]
    assert ">lr<" in differing
    assert ">0.1<" in differing
    assert ">0.2<" in differing
    assert ">optimizer<" not in differing
    assert ">alpha<" in some
    assert "<details><summary>Settings that all methods share</summary>" in page


def test_figures_asked_for_replace_the_usual_ones_and_the_first_is_the_main_one(write_run: Writer, report: Any) -> None:
    write_run(figures={"mae": 0.1234})
    table = report(figures=["mae", "srcc_mean"])["report.md"]
    assert "0.1234" in table
    assert "pooled" not in table
    with pytest.raises(UsageError, match="--figures mea: no finished run has it; did you mean mae"):
        report(figures=["mea"])


def test_at_most_twelve_panels_are_drawn_and_the_page_says_how_many_are_not(write_run: Writer, report: Any) -> None:
    for i in range(14):
        write_run(f"method{i}")
    files = report()
    assert files["figures/stream-uiprmd-matrices.svg"].count(">after 1<") == 12
    assert files["figures/stream-uiprmd-scores.svg"].count(">SRCC 50.0<") == 12
    assert files["index.html"].count("2 more methods are left out.") == 2


def test_an_out_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        check_folder(file)
    with pytest.raises(UsageError, match="is a file; name a folder"):
        check_folder(file / "below")
    check_folder(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


def test_an_out_that_may_not_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(StorageError, match="may not be written to"):
        check_folder(tmp_path / "report")


# Text


def test_numbers_read_well() -> None:
    assert [decimal(value, 2) for value in (-0.5, NAN)] == ["\N{MINUS SIGN}0.50", "\N{EN DASH}"]
    assert [size(value) for value in (0, 2048, 3 * 2**20, 5 * 2**40)] == ["0 B", "2.0 KiB", "3.0 MiB", "5.0 TiB"]
    assert [seconds(value) for value in (1.234, 50, 600, 7200)] == ["1.23 s", "50.0 s", "10.0 min", "2.0 h"]
    assert ranges([5, 0, 1, 2, 2, 9]) == "0-2, 5, 9"


def test_markdown_escapes_what_would_be_markup_and_nothing_else() -> None:
    assert markdown.escaped("buffer_size=3 [%] p < 0.05") == "buffer_size=3 [%] p < 0.05"
    assert markdown.escaped("<b> *x* _y_ a|b [t](u)") == r"\<b> \*x\* \_y\_ a\|b [t\](u)"
