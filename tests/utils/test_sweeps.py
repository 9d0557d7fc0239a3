"""Lists of commands: reading them, choosing from them, how far each line came, how long the rest may take."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from utils.args import OPERATIONAL, parse_args
from utils.config import as_dict, dump_config
from utils.errors import UsageError
from utils.run import Run
from utils.stored_runs import StoredRun
from utils.sweeps import (
    Line,
    as_ranges,
    check_folders,
    chosen,
    describe_estimate,
    estimate_seconds,
    operational,
    read_list,
)

SGD = "python main.py --model sgd --dataset uiprmd"


@pytest.fixture
def make_list(tmp_path):
    """Read a list from its text."""

    def read(text: str | bytes) -> list[Line]:
        path = tmp_path / "mine.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_list(path)

    return read


def store(folder: Path, words: str, state: str, seconds: float | None = None, session: int = 4) -> StoredRun:
    """A run folder that says what a run with these options would: it took 3 s to start, then `seconds` to train."""
    run = Run(folder)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(parse_args(words.split())))
    run.set_status(state)
    if seconds is not None:
        run.write_summary({"total_seconds": 3.0 + seconds, "seconds": seconds, "session": session})
    return StoredRun(folder)


# Reading


def test_lines_are_numbered_as_in_an_editor_and_blank_lines_and_comments_are_passed_over(make_list):
    lines = make_list(f"# a comment\n\n{SGD} --run_dir a\n   \n   # another\n{SGD} --run_dir b  # the second\n")
    assert lines == [
        Line(3, ("--model", "sgd", "--dataset", "uiprmd", "--run_dir", "a"), Path("a")),
        Line(6, ("--model", "sgd", "--dataset", "uiprmd", "--run_dir", "b"), Path("b")),
    ]


@pytest.mark.parametrize("beginning", ["python main.py", "python3 main.py", "/usr/bin/python /x/main.py", "./main.py"])
def test_line_may_name_any_interpreter_and_any_path_of_main(make_list, beginning):
    (line,) = make_list(f"{beginning} --model sgd --run_dir a")
    assert line.words == ("--model", "sgd", "--run_dir", "a")


def test_quoted_words_with_spaces_and_hashes_stay_whole(make_list):
    (line,) = make_list(SGD + """ --wandb_name 'two words # "no comment"' --run_dir "a b" """)
    assert line.words[-3:] == ('two words # "no comment"', "--run_dir", "a b")
    assert line.run_dir == Path("a b")


@pytest.mark.parametrize("spelling", ["--run_dir {}", "--run-dir {}", "--run_dir={}", "--run-dir={}"])
def test_folder_of_a_run_is_found_however_main_lets_it_be_written(make_list, spelling):
    text = f"{SGD} {spelling.format('there')} --seed 3"
    (line,) = make_list(text)
    assert line.run_dir == Path("there")
    assert parse_args(line.words).run_dir == "there"
    assert "--seed" in line.words


def test_line_without_a_folder_gets_one_beside_the_list_that_depends_on_the_line_alone(make_list, tmp_path):
    first, second = make_list(f"{SGD} --seed 1\n{SGD} --seed 2\n")
    assert first.run_dir.parent == second.run_dir.parent == tmp_path / "mine.runs"
    assert first.run_dir != second.run_dir
    assert first.words == ("--model", "sgd", "--dataset", "uiprmd", "--seed", "1", "--run_dir", str(first.run_dir))
    moved = make_list(f"# now first\n{SGD} --seed 3\n{SGD}   --seed 2 # same words\n{SGD} --seed 1\n")
    assert [line.run_dir for line in moved[1:]] == [second.run_dir, first.run_dir]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no command"),
        ("\n  \n# only a comment\n", "holds no command"),
        (b"\x80\x81\x82", "cannot read"),
        (b"\x00\x01\x02 \x03", "line 1"),
        (f"{SGD}\npython train.py --model sgd", "line 2: expected 'python main.py"),
        (f"{SGD}\nnice -n 5 python main.py --model sgd", "line 2: expected 'python main.py"),
        (f"{SGD}\n{SGD} --wandb_name 'open", "line 2: No closing quotation"),
        (f"{SGD} --run_dir a\n\n{SGD} --seed 1 --run_dir a", "lines 1 and 3 run in the same folder a"),
        (f"{SGD} --run_dir a/b\n{SGD} --seed 1 --run_dir=./a/b/", "lines 1 and 2 run in the same folder"),
        (f"{SGD} --run_dir a/b\n{SGD} --seed 1 --run_dir a/c/../b", "lines 1 and 2 run in the same folder"),
        (f"{SGD} --run_dir a\n{SGD} --seed 1 --run_dir {Path.cwd() / 'a'}", "lines 1 and 2 run in the same folder"),
        (f"{SGD} --seed 1\n{SGD} --seed 1", "lines 1 and 2 run in the same folder"),
    ],
)
def test_list_that_makes_no_sense_is_refused_with_file_and_line(make_list, text, said):
    with pytest.raises(UsageError, match=r"mine\.txt") as caught:
        make_list(text)
    assert said in str(caught.value)


def test_list_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match=r"mine\.txt"):
        read_list(tmp_path / "mine.txt")


# Choosing


@pytest.fixture
def five() -> list[Line]:
    return [Line(number, (), Path(str(number))) for number in (1, 2, 3, 5, 8)]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (None, [1, 2, 3, 5, 8]),
        ("2", [2]),
        ("1-3", [1, 2, 3]),
        ("8,1-2", [1, 2, 8]),
        ("2-2, 2 ,1-2", [1, 2]),
    ],
)
def test_chosen_lines_come_in_the_order_of_the_file_each_once(five, numbers, expected):
    assert [line.number for line in chosen(five, numbers)] == expected


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ("", "expected"),
        ("a", "expected"),
        ("1;2", "expected"),
        ("-3", "expected"),
        ("1-", "expected"),
        ("3-1", "3-1"),
        ("4", "line 4 holds no command"),
        ("1-5", "line 4 holds no command"),
        ("0", "line 0 holds no command"),
        ("1-100000", "line 4 holds no command"),
        ("8-100000", "line 9 holds no command"),
    ],
)
def test_choice_that_cannot_be_met_is_refused(five, numbers, said):
    with pytest.raises(UsageError, match="--lines") as caught:
        chosen(five, numbers)
    assert said in str(caught.value)


@given(st.sets(st.integers(1, 60), min_size=1))
def test_ranges_name_exactly_the_lines_that_they_were_made_from(numbers):
    lines = [Line(number, (), Path(str(number))) for number in range(1, 61)]
    text = as_ranges(sorted(numbers))
    assert {line.number for line in chosen(lines, text)} == numbers
    # Two parts never touch: SLURM and people read the shortest form.
    assert text.count(",") + 1 == sum(number - 1 not in numbers for number in numbers)


def test_ranges_in_words():
    assert as_ranges([1, 2, 3, 5]) == "1-3,5"
    assert as_ranges([7]) == "7"
    assert as_ranges([]) == ""


# Going on


def test_operational_options_are_kept_with_their_values_however_they_are_written():
    line = "--model sgd --gpus 0 1 --seed 3 --data-root /new --run_dir a --num_workers=2 --resume b --lr 0.1"
    assert operational(line.split()) == ["--gpus", "0", "1", "--data-root", "/new", "--num_workers=2"]


@given(st.lists(st.sampled_from([*OPERATIONAL, "model", "seed", "run_dir", "lr"]), unique=True))
def test_every_operational_option_but_resume_is_kept_and_nothing_else(names):
    words = [word for name in names for word in (f"--{name}", "1")]
    kept = [name for name in names if name in OPERATIONAL and name != "resume"]
    assert operational(words) == [word for name in kept for word in (f"--{name}", "1")]


def test_line_without_a_run_is_started_and_one_with_a_run_goes_on(make_list, tmp_path):
    folder = tmp_path / "run"
    (line,) = make_list(f"{SGD} --seed 3 --data_root /new --run_dir {folder}")
    assert line.state == "never started"
    assert line.to_start() == list(line.words)
    # A launcher that was killed may leave a folder with a log and nothing else.
    folder.mkdir()
    (folder / "log.txt").write_text("--- started\n")
    assert line.state == "never started"
    assert line.to_start() == list(line.words)
    folder.joinpath("log.txt").unlink()
    folder.rmdir()
    store(folder, "--model sgd --dataset uiprmd --seed 3", "interrupted")
    assert line.state == "interrupted"
    assert line.to_start() == ["--resume", str(folder), "--data_root", "/new"]
    resumed = parse_args(line.to_start())
    assert (resumed.seed, resumed.data_root) == (3, "/new")


def test_a_line_goes_on_with_its_run_whether_it_or_a_resumption_says_to_skip_what_is_unreadable(make_list, tmp_path):
    def check(words: str) -> Line:
        (line,) = make_list(f"{SGD} {words} --run_dir {folder}")
        check_folders([line], [parse_args(line.words)])
        return line

    folder = tmp_path / "run"
    store(folder, "--model sgd --dataset uiprmd", "failed")
    resume = check("--skip_corrupt 1").to_start()
    assert resume == ["--resume", str(folder), "--skip_corrupt", "1"]
    check("")
    Run(folder).note_resumption(parse_args(resume))
    check("--skip_corrupt 1")
    args = parse_args(check("").to_start())
    assert args.skip_corrupt is True
    assert args.sources["skip_corrupt"] == str(folder / "config.yaml")
    # One that began with it is another run.
    folder = tmp_path / "other"
    store(folder, "--model sgd --dataset uiprmd --skip_corrupt 1", "failed")
    with pytest.raises(UsageError, match=r"skip_corrupt True \(now False\)"):
        check("")


@pytest.mark.parametrize("state", ["interrupted", "failed", "running"])
def test_run_that_did_not_come_to_its_end_is_not_done(make_list, tmp_path, state):
    store(tmp_path / "run", "--model sgd --dataset uiprmd", state, seconds=1)
    (line,) = make_list(f"{SGD} --stop_after 1 --run_dir {tmp_path / 'run'}")
    assert not line.is_done


def test_run_that_came_to_its_end_is_done(make_list, tmp_path):
    store(tmp_path / "run", "--model sgd --dataset uiprmd", "finished", seconds=1)
    (line,) = make_list(f"{SGD} --run_dir {tmp_path / 'run'}")
    assert line.is_done


@pytest.mark.parametrize(
    ("flag", "session", "done"),
    [
        ("", 0, False),
        ("--stop_after 2", 1, True),
        ("--stop_after=2", 1, True),
        ("--stop-after 2", 1, True),
        ("--stop-after=2", 1, True),
        ("--stop_after 3", 1, False),
        ("--stop_after 1", 1, True),
    ],
)
def test_stopped_run_is_done_if_it_came_as_far_as_its_line_says(make_list, tmp_path, flag, session, done):
    store(tmp_path / "run", "--model sgd --dataset uiprmd --stop_after 2", "stopped", seconds=1, session=session)
    (line,) = make_list(f"{SGD} {flag} --run_dir {tmp_path / 'run'}")
    assert line.is_done is done


# How long it may take


def resolve(words: str) -> Namespace:
    return parse_args(words.split())


def test_estimate_is_the_mean_over_finished_runs_that_differ_in_the_seed_alone(tmp_path):
    line = "--model er --dataset uiprmd --buffer_size 10 --n_epochs 5"
    past = [
        store(tmp_path / "a", f"{line} --seed 1", "finished", 10.0),
        store(tmp_path / "b", f"{line} --seed 2 --num_workers 2 --base_path elsewhere", "finished", 20.0),
        # Neither a run that was cut short nor another setting counts while there are equal ones.
        store(tmp_path / "c", f"{line} --seed 3", "interrupted", 1000.0),
        store(tmp_path / "d", f"{line.replace('10', '20')} --seed 3", "finished", 1000.0),
        store(tmp_path / "e", f"{line} --lr 0.5", "finished", 1000.0),
    ]
    assert estimate_seconds([resolve(f"{line} --seed 7")], past) == [3 + 15.0]


def test_estimate_falls_back_on_the_same_method_stream_and_network_in_proportion_to_the_epochs(tmp_path):
    past = [
        store(tmp_path / "a", "--model er --dataset uiprmd --buffer_size 10 --n_epochs 5", "finished", 10.0),
        store(tmp_path / "b", "--model er --dataset uiprmd --buffer_size 20 --n_epochs 10", "finished", 40.0),
        store(tmp_path / "c", "--model sgd --dataset uiprmd --n_epochs 10", "finished", 1000.0),
        store(tmp_path / "d", "--model er --dataset jigsaws --buffer_size 20 --n_epochs 10", "finished", 1000.0),
        store(tmp_path / "e", "--model er --dataset uiprmd --buffer_size 20 --backbone mlp", "finished", 1000.0),
    ]
    other = resolve("--model er --dataset uiprmd --buffer_size 30 --n_epochs 20")
    # (10 / 5 + 40 / 10) / 2 seconds an epoch; starting takes as long whatever the epochs.
    assert estimate_seconds([other], past) == [3 + 60.0]


def test_estimate_of_a_run_without_epochs_is_defined(tmp_path):
    past = [store(tmp_path / "a", "--model sgd --dataset uiprmd --n_epochs 0", "finished", 2.0)]
    assert estimate_seconds([resolve("--model sgd --dataset uiprmd --n_epochs 0 --lr 0.5")], past) == [3 + 2.0]
    assert estimate_seconds([resolve("--model sgd --dataset uiprmd --n_epochs 3 --lr 0.5")], past) == [3 + 6.0]


def test_estimate_is_unknown_where_no_past_run_is_alike(tmp_path):
    past = [store(tmp_path / "a", "--model sgd --dataset uiprmd", "finished", 10.0)]
    runs = [resolve("--model joint --dataset uiprmd"), resolve("--model sgd --dataset uiprmd --seed 4")]
    assert estimate_seconds(runs, past) == [None, 3 + 10.0]
    assert estimate_seconds(runs, []) == [None, None]


def test_estimate_leaves_out_past_runs_whose_summary_lacks_the_time(tmp_path):
    run = store(tmp_path / "a", "--model sgd --dataset uiprmd", "finished", 10.0)
    (run.path / "summary.json").write_text(json.dumps({"total_seconds": None}))
    assert estimate_seconds([resolve("--model sgd --dataset uiprmd")], [StoredRun(run.path)]) == [None]


@pytest.mark.parametrize("damage", ["n_epochs: many", "n_epochs: [1]", "n_epochs: null", "lr: {a: b}"])
def test_estimate_survives_a_past_run_with_a_damaged_configuration(tmp_path, damage):
    run = store(tmp_path / "a", "--model sgd --dataset uiprmd", "finished", 10.0)
    content = {**as_dict(resolve("--model sgd --dataset uiprmd")), **yaml.safe_load(damage)}
    (run.path / "config.yaml").write_text(yaml.safe_dump(content))
    found = estimate_seconds([resolve("--model joint --dataset uiprmd")], [StoredRun(run.path)])
    assert found == [None]


@pytest.mark.parametrize(
    ("estimates", "text"),
    [
        ([None, None], "for how long is unknown: no past run is like them"),
        ([], "for how long is unknown: no past run is like them"),
        ([30.0, 40.0], "about 1 min 10 s one after the other"),
        (
            [3600.0, None, 60.0],
            "about 1 h 01 min one after the other for 2 of them; no past run is like the others",
        ),
    ],
)
def test_estimate_in_words(estimates, text):
    assert describe_estimate(estimates) == text


def test_list_beside_its_runs_is_refused_from_another_folder(tmp_path, monkeypatch):
    folder = tmp_path / "repo" / "data" / "sweeps" / "small"
    folder.mkdir(parents=True)
    (folder / "commands.txt").write_text("python main.py --model sgd --run_dir data/sweeps/small/x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"relative to {tmp_path / 'repo'}; start from there"):
        read_list(folder / "commands.txt")
    monkeypatch.chdir(tmp_path / "repo")
    assert len(read_list(folder / "commands.txt")) == 1
    (tmp_path / "elsewhere.txt").write_text((folder / "commands.txt").read_text())
    assert len(read_list(tmp_path / "elsewhere.txt")) == 1
