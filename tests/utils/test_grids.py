"""Grids: what a file of values expands to, in which order, under which names, and what is refused."""

from __future__ import annotations

import contextlib
import itertools
import math
import shlex
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from utils.args import OPERATIONAL
from utils.errors import UsageError
from utils.grids import (
    LARGEST_GRID,
    Grid,
    alternatives,
    check_all,
    check_words,
    expand,
    matches,
    product,
    read_grid,
    run_id,
    to_words,
)
from utils.registry import ROOT
from utils.sweeps import read_list

SETTINGS = ("model", "dataset", "seed", "lr", "buffer_size", "n_epochs", "alpha")
VALUES = st.one_of(st.integers(-9, 9), st.booleans(), st.text(string.ascii_letters + " '\"#$", min_size=1, max_size=5))
OPTIONS = st.dictionaries(st.sampled_from(SETTINGS), VALUES, min_size=1)
AXES = st.dictionaries(st.sampled_from(SETTINGS), st.lists(VALUES, min_size=1, max_size=3), min_size=1, max_size=4)


@pytest.fixture
def grid(tmp_path):
    """Read a grid from its text."""

    def read(text: str) -> Grid:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return read_grid(path)

    return read


def without_source(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in run.items() if name != "data_source"} for run in runs]


# Values and ranges


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, [5]),
        ("two words", ["two words"]),
        (None, [None]),
        (False, [False]),
        ([1, "a", None, True], [1, "a", None, True]),
        ([[30, 40]], [[30, 40]]),
        ([[30, 40], [10]], [[30, 40], [10]]),
        ({"from": 0, "to": 4}, [0, 1, 2, 3, 4]),
        ({"from": 3, "to": 3}, [3]),
        ({"from": 0, "to": 10, "step": 5}, [0, 5, 10]),
        ({"from": 0, "to": 9, "step": 5}, [0, 5]),
        ({"from": 5, "to": 1, "step": -2}, [5, 3, 1]),
        ({"from": 0.1, "to": 0.5, "step": 0.1}, [0.1, 0.2, 0.3, 0.4, 0.5]),
        ({"from": 0, "to": 0.3, "step": 0.1}, [0.0, 0.1, 0.2, 0.3]),
        ({"from": 0, "to": 1, "count": 5}, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ({"from": 10, "to": 30, "count": 3, "scale": "linear"}, [10, 20, 30]),
        ({"from": 7, "to": 9, "count": 1}, [7]),
        ({"from": 1e-4, "to": 1e-2, "count": 3, "scale": "log"}, [0.0001, 0.001, 0.01]),
        ({"from": 1e-4, "to": 1e-2, "count": 5, "scale": "log"}, [0.0001, 0.000316228, 0.001, 0.00316228, 0.01]),
        ([100, {"from": 0, "to": 2}, 50], [100, 0, 1, 2, 50]),
    ],
)
def test_alternatives_of_a_value(value, expected):
    found = alternatives(value, "here")
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))


def test_range_of_whole_numbers_is_whole_for_options_that_take_nothing_else():
    assert to_words({"seed": alternatives({"from": 2, "to": 2}, "here")[0]}) == ["--seed", "2"]
    sizes = alternatives({"from": 10, "to": 1000, "count": 3, "scale": "log"}, "here")
    assert list(map(str, sizes)) == ["10", "100", "1000"]


def test_seeds_with_many_digits_keep_them_all():
    assert alternatives({"from": 20260101, "to": 20260104}, "here") == [20260101, 20260102, 20260103, 20260104]
    assert alternatives({"from": 1_000_000, "to": 3_000_001, "step": 2_000_001}, "here") == [1_000_000, 3_000_001]


@given(st.integers(-1000, 1000), st.integers(0, 50), st.integers(1, 20))
def test_range_by_steps_has_both_ends_and_equal_steps(first, n_steps, step):
    last = first + n_steps * step
    assert alternatives({"from": first, "to": last, "step": step}, "here") == list(range(first, last + 1, step))
    # An end between two steps is not passed.
    assert alternatives({"from": first, "to": last + step - 0.5, "step": step}, "here")[-1] == last


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 20), st.sampled_from(["linear", "log"]))
def test_range_by_count_has_that_many_numbers_equally_spaced_between_both_ends(first, last, count, scale):
    assume(not math.isclose(first, last, rel_tol=0.1))
    numbers = alternatives({"from": first, "to": last, "count": count, "scale": scale}, "here")
    assert len(numbers) == count
    assert numbers[0] == pytest.approx(first, rel=1e-5)
    assert numbers[-1] == pytest.approx(last, rel=1e-5)
    axis = [math.log(number) for number in numbers] if scale == "log" else numbers
    gaps = [b - a for a, b in itertools.pairwise(axis)]
    assert gaps == pytest.approx(
        [(axis[-1] - axis[0]) / (count - 1)] * (count - 1), rel=1e-3, abs=3e-6 * max(map(abs, axis))
    )


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"from": 0},
        {"to": 3},
        {"from": 0, "to": 3, "stepp": 1},
        {"from": 0, "to": 3, "step": 1, "count": 2},
        {"from": 0, "to": 3, "scale": "log"},
        {"from": "a", "to": 3},
        {"from": None, "to": 3},
        {"from": [0], "to": 3},
        {"from": 3, "to": 0},
        {"from": 0, "to": 3, "step": 0},
        {"from": 0, "to": 3, "step": -1},
        {"from": 0, "to": 3, "count": 0},
        {"from": 0, "to": 3, "count": 2.5},
        {"from": 0, "to": 3, "count": 2, "scale": "cubic"},
        {"from": 0, "to": 3, "count": 2, "scale": "log"},
        {"from": -1, "to": 3, "count": 2, "scale": "log"},
        {"from": 0, "to": float("inf")},
        {"from": float("nan"), "to": 1},
        {"from": 0, "to": 1, "step": float("nan")},
        {"from": 0, "to": 1, "count": float("inf")},
        {"from": 0, "to": 1e15},
        {"from": 0, "to": 1, "count": 10**15},
        [1, {"from": 3, "to": 0}],
    ],
    ids=str,
)
def test_list_or_range_that_makes_no_sense_is_refused_with_its_place(value):
    with pytest.raises(UsageError, match=r"mine\.yaml: lr: "):
        product({"lr": value}, "mine.yaml")


# Combinations


@given(AXES)
def test_product_is_every_combination_once_with_the_last_name_fastest(axes):
    runs = product(axes, "here")
    # Counting in a number system whose digits are the alternatives: the last name is the lowest digit.
    expected = []
    for number in range(math.prod(map(len, axes.values()))):
        run = {}
        for name in reversed(axes):
            number, digit = divmod(number, len(axes[name]))
            run[name] = axes[name][digit]
        expected.append(run)
    assert runs == expected
    assert all(list(run) == list(axes) for run in runs)


def test_grid_of_values_in_the_order_of_the_file(grid):
    runs = grid("values:\n  model: [sgd, joint]\n  dataset: uiprmd\n  seed: {from: 0, to: 2}").runs
    assert without_source(runs) == [
        {"model": model, "dataset": "uiprmd", "seed": seed} for model in ("sgd", "joint") for seed in (0, 1, 2)
    ]


def test_stand_ins_are_refused_unless_the_grid_asks_for_them(grid):
    values = "values: {model: sgd, dataset: [uiprmd, aqa7]"
    assert [run["data_source"] for run in grid(values + "}").runs] == ["full", "full"]
    assert [run["data_source"] for run in grid(values + ", data_source: auto}").runs] == ["auto", "auto"]
    block = "}\nwhen: [{match: {dataset: aqa7}, values: {data_source: mini}}]"
    assert [run["data_source"] for run in grid(values + block).runs] == ["full", "mini"]


def test_block_adds_to_the_runs_that_match_and_to_no_others(grid):
    content = """
values: {model: [sgd, er, magr], seed: [0, 1]}
when:
  - match: {model: [er, magr], seed: 1}
    values: {buffer_size: [5, 10]}
"""
    assert without_source(grid(content).runs) == [
        {"model": "sgd", "seed": 0},
        {"model": "sgd", "seed": 1},
        {"model": "er", "seed": 0},
        {"model": "er", "seed": 1, "buffer_size": 5},
        {"model": "er", "seed": 1, "buffer_size": 10},
        {"model": "magr", "seed": 0},
        {"model": "magr", "seed": 1, "buffer_size": 5},
        {"model": "magr", "seed": 1, "buffer_size": 10},
    ]


def test_later_block_sees_what_an_earlier_one_set_and_may_override_it(grid):
    content = """
values: {model: [sgd, er], n_epochs: 50}
when:
  - match: {model: er}
    values: {buffer_size: [5, 10]}
  - match: {buffer_size: 10}
    values: {n_epochs: [1, 2], lr: 0.1}
  - match: {n_epochs: 2}
    values: {buffer_size: 20}
"""
    assert without_source(grid(content).runs) == [
        {"model": "sgd", "n_epochs": 50},
        {"model": "er", "n_epochs": 50, "buffer_size": 5},
        {"model": "er", "n_epochs": 1, "buffer_size": 10, "lr": 0.1},
        {"model": "er", "n_epochs": 2, "buffer_size": 20, "lr": 0.1},
    ]


def test_earlier_block_does_not_see_what_a_later_one_sets(grid):
    content = """
values: {model: [sgd, er], n_epochs: 1}
when:
  - match: {n_epochs: 2}
    values: {lr: 0.1}
  - match: {model: er}
    values: {n_epochs: 2}
"""
    assert not any("lr" in run for run in grid(content).runs)


def test_excluded_runs_are_those_that_match_every_name_of_a_block(grid):
    content = """
values: {model: [sgd, er], seed: {from: 0, to: 3}}
exclude:
  - {model: er, seed: {from: 1, to: 2}}
  - {seed: 3}
"""
    assert [(run["model"], run["seed"]) for run in grid(content).runs] == [
        ("sgd", 0),
        ("sgd", 1),
        ("sgd", 2),
        ("er", 0),
    ]


@pytest.mark.parametrize(
    ("run", "match", "expected"),
    [
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1}, {"a": "1"}, True),
        ({"a": 1}, {"a": [2, 1]}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, False),
        ({"a": [30, 40]}, {"a": [[30, 40]]}, True),
        ({"a": [30, 40]}, {"a": [30, 40]}, False),
        ({"a": True}, {"a": True}, True),
        ({"a": True}, {"a": False}, False),
        ({"a": None}, {"a": None}, True),
        ({"a": 3}, {"a": {"from": 0, "to": 4}}, True),
    ],
    ids=str,
)
def test_match_compares_values_as_they_would_be_typed(run, match, expected):
    assert matches(run, match, "here") is expected


def test_equal_combinations_are_left_out_and_counted(grid):
    found = grid("values: {model: [sgd, sgd], seed: [0, 1, 0, 0]}")
    assert without_source(found.runs) == [{"model": "sgd", "seed": 0}, {"model": "sgd", "seed": 1}]
    assert found.n_repeated == 6
    assert grid("values: {model: sgd, seed: [0, 1]}").n_repeated == 0


def test_runs_that_differ_only_in_where_data_lies_are_the_same_run(grid):
    found = grid("values: {model: sgd, data_root: [/a, /b]}")
    assert (len(found.runs), found.n_repeated) == (1, 1)


# Names of runs


@given(OPTIONS, st.randoms(use_true_random=False))
def test_id_does_not_depend_on_the_order_of_the_options(options, draw):
    names = list(options)
    draw.shuffle(names)
    assert run_id({name: options[name] for name in names}) == run_id(options)


@given(OPTIONS, st.dictionaries(st.sampled_from(OPERATIONAL), VALUES), st.sampled_from(SETTINGS))
def test_id_does_not_depend_on_where_data_lies_or_how_a_run_is_watched(options, operational, empty):
    assert run_id({**operational, **options}) == run_id(options)
    assert run_id({empty: None, **options}) == run_id(options)


@given(OPTIONS, OPTIONS)
def test_ids_are_equal_only_if_every_setting_is(one, other):
    def typed(options):
        return {name: str(value) for name, value in options.items()}

    assert (run_id(one) == run_id(other)) is (typed(one) == typed(other))


@given(OPTIONS, st.sampled_from(SETTINGS), VALUES)
def test_changing_any_single_setting_changes_the_id(options, name, value):
    assume(name not in options or str(options[name]) != str(value))
    assert run_id({**options, name: value}) != run_id(options)


@given(AXES, st.data())
def test_grid_that_is_extended_keeps_the_ids_it_had(axes, data):
    before = {run_id(run) for run in expand(axes, None, None, "here")}
    name = data.draw(st.sampled_from(list(axes)))
    wider = {**axes, name: [*axes[name], *data.draw(st.lists(VALUES))]}
    assert before <= {run_id(run) for run in expand(wider, None, None, "here")}


def test_id_is_the_same_in_every_version_and_shows_what_runs():
    # Folders on disks bear these names: a change of this test's figures makes every sweep start anew.
    assert run_id({"model": "er", "dataset": "uiprmd", "seed": 3, "lr": 0.1}) == "er-uiprmd-seed3-467608c7"
    assert run_id({"lr_milestones": [30, 40], "fewshot": True}) == "391dc920"


def test_option_spelt_with_hyphens_is_the_option_spelt_with_underscores(grid):
    hyphens = grid("values: {model: er, buffer-size: 10, data-root: /a}\nexclude: [{buffer-size: 5}]")
    underscores = grid("values: {model: er, buffer_size: 10}")
    assert [run_id(run) for run in hyphens.runs] == [run_id(run) for run in underscores.runs]


def test_file_expands_to_the_same_bytes_in_every_process(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "values: {model: [er, magr], dataset: uiprmd, buffer_size: [10, 5], lr_milestones: [[30, 40], [1]]}\n"
        "when: [{match: {model: magr}, values: {wandb_name: two words, seed: {from: 0, to: 3}}}]"
    )
    code = (
        "import sys; from pathlib import Path; from utils.grids import read_grid; grid = read_grid(Path(sys.argv[1]));"
        "print('\\n'.join(map(grid.command, grid.runs)))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code, str(path)],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].count(b"\n") == 2 * 2 + 2 * 2 * 4


# Command lines


def test_words_of_a_command_line():
    options = {"model": "er", "lr": 0.1, "fewshot": True, "backbone": None, "lr_milestones": [30, 40], "gpus": []}
    assert to_words(options) == (
        ["--model", "er", "--lr", "0.1", "--fewshot", "True", "--lr_milestones", "30", "40", "--gpus"]
    )


@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=20))
def test_every_printable_value_survives_the_way_through_the_file_of_commands(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("grid") / "commands.txt"
    options = {"model": "sgd", "wandb_name": text}
    line = Grid("mine", [options], 0, Path("a folder")).command(options)
    assert shlex.split(line)[:6] == ["python", "main.py", "--model", "sgd", "--wandb_name", text]
    path.write_text(line + "\n", encoding="utf-8")
    (read,) = read_list(path)
    assert read.words == ("--model", "sgd", "--wandb_name", text, "--run_dir", str(read.run_dir))
    assert read.run_dir == Path("a folder") / run_id(options)


@pytest.mark.parametrize("text", ["two\nlines", "page\x0cbreak", "carriage\rreturn"], ids=repr)
def test_value_with_a_line_break_is_refused(text):
    options = {"model": "sgd", "wandb_name": text}
    with pytest.raises(UsageError, match="mine"):
        Grid("mine", [options], 0, Path("folder")).command(options)


def test_list_null_and_booleans_arrive_in_main_as_meant(grid):
    content = """
values:
  model: sgd
  dataset: uiprmd
  lr_milestones: [[30, 40], [7]]
  lr_scheduler: multistep
  fewshot: [true, false]
  clip_grad: null
"""
    found = grid(content)
    resolved = [check_words(shlex.split(found.command(run))[2:]) for run in found.runs]
    assert [(args.lr_milestones, args.fewshot) for args in resolved] == [
        ([30, 40], True),
        ([30, 40], False),
        ([7], True),
        ([7], False),
    ]
    assert all(args.clip_grad is None and args.data_source == "full" for args in resolved)


def test_folder_of_the_runs_is_named_after_the_file_unless_it_says_otherwise(grid):
    named = grid("values: {model: sgd}")
    assert named.folder == Path("data/sweeps/mine")
    assert (
        named.command({"model": "sgd"})
        == f"python main.py --model sgd --run_dir data/sweeps/mine/{run_id({'model': 'sgd'})}"
    )
    assert grid("values: {model: sgd}\nfolder: else where").folder == Path("else where")


# Errors


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vlaues: {model: sgd}", ["unknown key 'vlaues'", "values"]),
        ("values: {model: sgd}\nexlude: []", ["unknown key 'exlude'", "exclude"]),
        ("", ["'values'"]),
        ("values: {}", ["'values'"]),
        ("values: [sgd]", ["'values'"]),
        ("values: {1: 2}", ["'values'"]),
        ("values: {model: []}", ["model", "empty"]),
        ("values: {seed: {from: 4, to: 0}}", ["seed", "steps of 1"]),
        ("values: {seed: {form: 0, to: 4}}", ["seed", "range"]),
        ("values: {seed: {from: 0, to: .inf}}", ["seed"]),
        ("values: {seed: {from: 0, to: 1.0e+15}}", ["seed", str(LARGEST_GRID)]),
        ("values: {model: sgd}\nwhen: {match: {model: sgd}}", ["'when'", "list"]),
        ("values: {model: sgd}\nwhen: [sgd]", ["'when'"]),
        ("values: {model: sgd}\nwhen: [{match: {model: sgd}}]", ["when, block 1", "'values'"]),
        ("values: {model: sgd}\nwhen: [{values: {lr: 1}}]", ["when, block 1", "'match'"]),
        ("values: {model: sgd}\nwhen: [{match: {model: sgd}, vals: {lr: 1}}]", ["when, block 1", "'vals'"]),
        ("values: {model: sgd}\nwhen: [{match: {model: sgd}, values: {lr: []}}]", ["when, block 1", "lr"]),
        ("values: {model: sgd}\nwhen: [{match: {modle: sgd}, values: {lr: 1}}]", ["when, block 1", "modle", "model"]),
        ("values: {model: sgd}\nwhen: [{match: {1: 2}, values: {lr: 1}}]", ["when, block 1"]),
        (
            "values: {model: sgd}\nwhen: [{match: {model: sgd}, values: {lr: 1}}, {match: {x: 1}, values: {lr: 1}}]",
            ["when, block 2", "'x'"],
        ),
        ("values: {model: sgd}\nexclude: {model: sgd}", ["'exclude'", "list"]),
        ("values: {model: sgd}\nexclude: [{sede: 1}]", ["exclude, block 1", "sede"]),
        ("values: {model: sgd}\nexclude: [{1: 1}]", ["'exclude'"]),
        ("values: {model: sgd}\nexclude: [{model: {from: a, to: b}}]", ["exclude, block 1", "model"]),
        ("values: {model: sgd}\nexclude: [{model: sgd}]", ["nothing is left", "exclude"]),
        ("values: {model: sgd}\nexclude: [{model: sgd}, {model: er}]", ["nothing is left", "exclude"]),
        ("values: {a: {from: 1, to: 1000}, b: {from: 1, to: 101}}", [str(LARGEST_GRID)]),
        (
            "values: {a: {from: 1, to: 1000}}\nwhen: [{match: {data_source: full}, values: {b: {from: 1, to: 101}}}]",
            ["when, block 1", str(LARGEST_GRID)],
        ),
        ("values: {model: sgd}\nfolder: 5", ["folder"]),
        ("values: {model: sgd}\nfolder: [a]", ["folder"]),
        ("values: {model: 2020-13-45}", ["YAML"]),
        ("values: {model: 0x_}", ["YAML"]),
        ("values: {model: [sgd}", ["YAML"]),
        ("just words", ["name: value"]),
    ],
)
def test_mistake_in_a_grid_is_a_usage_error_that_names_file_and_place(grid, text, said):
    with pytest.raises(UsageError) as caught:
        grid(text)
    message = str(caught.value)
    assert "mine.yaml" in message
    for part in said:
        assert part in message


def test_largest_grid_is_taken():
    assert len(product({"a": {"from": 1, "to": LARGEST_GRID}}, "here")) == LARGEST_GRID


@pytest.mark.parametrize(
    "content", [None, b"\xff\xfe\x00garbage", b"values: {a: \x00}"], ids=["absent", "bytes", "null"]
)
def test_grid_that_cannot_be_read_is_a_usage_error_with_its_name(tmp_path, content):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"mine\.yaml"):
        read_grid(path)


@given(st.text(max_size=60))
def test_no_text_makes_reading_a_grid_end_in_anything_but_a_usage_error(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("grid") / "mine.yaml"
    path.write_text("values: {model: sgd, x: " + text, encoding="utf-8", errors="replace")
    with contextlib.suppress(UsageError):
        assert read_grid(path).runs


# What main.py would refuse


def test_lines_that_main_refuses_are_counted_and_every_reason_is_named_once():
    good = ["--model", "sgd", "--dataset", "uiprmd"]
    commands = [(1, good), (3, [*good, "--sed", "1"]), (4, [*good, "--sed", "2"]), (9, ["--model", "magr"])]
    with pytest.raises(UsageError) as caught:
        check_all(commands, "mine.txt")
    first, *reasons = str(caught.value).splitlines()
    assert first == "mine.txt: main.py would refuse 3 lines"
    assert len(reasons) == 2
    assert reasons[0].startswith("line 3 and 1 more: unknown option --sed")
    assert "--seed" in reasons[0]
    assert reasons[1].startswith("line 9: --dataset is required")


def test_lines_that_main_takes_are_resolved_in_order():
    words = ["--model", "sgd", "--dataset", "uiprmd", "--seed"]
    assert [args.seed for args in check_all([(i, [*words, str(i)]) for i in (4, 2)], "mine.txt")] == [4, 2]


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_line_that_asks_for_help_is_refused_not_answered(flag):
    with pytest.raises(UsageError, match=r"line 1: .*help"):
        check_all([(1, ["--model", "sgd", "--dataset", "uiprmd", flag])], "mine.txt")


@pytest.mark.parametrize("dataset", ["aqa7", "jigsaws", "seq-cifar10"])
def test_stream_whose_data_lies_on_another_machine_is_no_mistake(tmp_path, dataset):
    words = ["--model", "sgd", "--dataset", dataset, "--data_source", "full", "--data_root", str(tmp_path)]
    assert check_words(words).dataset == dataset
    with pytest.raises(UsageError, match="--sed"):
        check_words([*words, "--sed", "1"])


def test_block_that_matches_no_run_is_noted(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(
        "values: {model: [sgd, er], dataset: uiprmd}\n"
        "when:\n  - match: {model: err}\n    values: {lr: 1}\n  - match: {model: er}\n    values: {lr: 2}\n"
        "exclude:\n  - {model: errr}\n"
    )
    notes = read_grid(path).notes
    assert [note.removeprefix(f"{path}: ") for note in notes] == [
        "when, block 1 matches no run",
        "exclude, block 1 matches no run",
    ]


@pytest.mark.parametrize(("one", "other"), [("1e-3", 0.001), (1.0, 1), ("1E3", 1000), ("007", 7)])
def test_numbers_are_the_same_however_they_are_written(one, other):
    assert run_id({"lr": one}) == run_id({"lr": other})
    assert matches({"lr": one}, {"lr": other}, "here")


@pytest.mark.parametrize(("one", "other"), [("1e-3", "1e-4"), (2**63 - 1, 2**63 - 2), ("True", 1), ("inf", "nan")])
def test_values_that_differ_keep_differing_ids(one, other):
    assert run_id({"lr": one}) != run_id({"lr": other})
