"""The grids of the repository, and scripts/prepare_grid.py: every line is checked before anything is written."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import pytest

from scripts.prepare_grid import main
from utils.errors import UsageError
from utils.grids import check_all, read_grid
from utils.registry import ROOT
from utils.sweeps import read_list

FILES = sorted((ROOT / "configs" / "grids").glob("*.yaml"))


@pytest.fixture
def prepare(tmp_path, capsys):
    """Run the script on a grid; returns (exit code, the file it may have written, output, messages)."""

    def run(grid: str | Path, *words: str) -> tuple[int, Path, str, str]:
        path, out = tmp_path / "mine.yaml", tmp_path / "out" / "commands.txt"
        if isinstance(grid, str):
            path.write_text(f"{grid}\nfolder: {tmp_path / 'runs'}\n")
        (tmp_path / "past").mkdir(exist_ok=True)
        words = words or ("--past", str(tmp_path / "past"))
        code = main([str(grid if isinstance(grid, Path) else path), "--out", str(out), *words])
        return code, out, *capsys.readouterr()

    return run


def files_below(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file())


# The repository's own


def test_there_are_grids():
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_grid_of_the_repository_expands_to_lines_that_main_takes(prepare, path):
    code, out, output, messages = prepare(path)
    assert (code, messages) == (0, "")
    lines = read_list(out)
    assert len(lines) == len(read_grid(path).runs)
    assert f"{len(lines)} runs in {out}" in output
    assert all(line.run_dir.parent == Path("data/sweeps") / path.stem for line in lines)
    assert all("--data_source" in line.words for line in lines)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_grid_of_the_repository_begins_by_saying_what_it_is_for(path):
    assert path.read_text().startswith("# ")


def test_grid_of_the_table_in_the_readme_is_the_readmes():
    runs = read_grid(ROOT / "configs/grids/caqa-methods.yaml").runs
    table = (ROOT / "README.md").read_text().split("Scores: pooled SRCC")[1].split("<details>")[0]
    models = re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE)
    assert {name.replace("magr++", "magrpp") for name in models} == {run["model"] for run in runs}
    assert len(runs) == len(models) * 3 * 2 * 5
    assert all(run["buffer_size"] == 10 for run in runs if "buffer_size" in run)


# What is written


def test_list_holds_one_command_a_line_each_in_its_own_folder_and_asks_for_the_full_data(prepare, tmp_path):
    code, out, output, _ = prepare("values: {model: [sgd, joint], dataset: uiprmd, seed: [0, 1, 1]}")
    assert code == 0
    texts = out.read_text().splitlines()
    assert len(texts) == 4
    for text, (model, seed) in zip(texts, [("sgd", 0), ("sgd", 1), ("joint", 0), ("joint", 1)], strict=True):
        begin = f"python main.py --data_source full --model {model} --dataset uiprmd --seed {seed} --run_dir "
        assert text.startswith(begin + str(tmp_path / "runs" / f"{model}-uiprmd-seed{seed}-"))
    assert len(set(texts)) == 4
    assert "    2  sgd on uiprmd\n    2  joint on uiprmd\n4 runs in" in output
    assert "2 combinations were equal to others and are left out" in output
    assert "for how long is unknown" in output


def test_same_file_twice_gives_the_same_bytes(prepare):
    grid = "values: {model: [sgd, joint], dataset: [uiprmd, seq-digits], seed: {from: 0, to: 2}}"
    first = prepare(grid)[1].read_bytes()
    assert prepare(grid)[1].read_bytes() == first
    assert first.count(b"\n") == 12


def test_list_is_put_beside_the_runs_if_nothing_else_is_said(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(f"values: {{model: sgd, dataset: uiprmd}}\nfolder: {tmp_path / 'some where'}")
    (tmp_path / "past").mkdir()
    assert main([str(path), "--past", str(tmp_path / "past")]) == 0
    (line,) = read_list(tmp_path / "some where" / "commands.txt")
    assert line.run_dir.parent == tmp_path / "some where"


# What is refused


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("model: [sgd, er], dataset: uiprmd, buffer_size: 10", ["line 1", "--buffer_size"]),
        ("model: sgd, dataset: uiprmd, n_epoch: [3, 4]", ["line 1 and 1 more", "--n_epoch", "--n_epochs"]),
        ("model: sgd, dataset: uiprmd, lr: [0.1, -1]", ["line 2", "--lr", "-1"]),
        ("model: sgd, dataset: uiprmd, optimizer: [sgd, adamm]", ["line 2", "--optimizer", "adamm"]),
        ("model: [sgd, magrr], dataset: uiprmd", ["line 2", "magrr", "magr"]),
        ("model: sgd, dataset: [uiprmd, uiprmdd]", ["line 2", "uiprmdd", "uiprmd"]),
        ("model: sgd, dataset: uiprmd, backbone: [temporal, tempral]", ["line 2", "tempral", "temporal"]),
        ("model: magr, buffer_size: 10, dataset: [uiprmd, seq-digits]", ["line 2", "magr", "class-il", "sgd"]),
        ("model: er, dataset: uiprmd", ["line 1", "--buffer_size"]),
        ("dataset: uiprmd", ["line 1", "--model is required"]),
        ("model: sgd, dataset: uiprmd, resume: /some/run", ["line 1"]),
        ("model: sgd, dataset: uiprmd, help: true", ["line 1", "--help"]),
        ("model: sgd, dataset: uiprmd, seed: []", ["mine.yaml", "seed", "empty"]),
    ],
)
def test_grid_that_main_would_refuse_is_refused_before_anything_is_written(prepare, tmp_path, values, said):
    code, _, output, messages = prepare(f"values: {{{values}}}")
    assert code == UsageError.exit_code
    assert output == ""
    assert messages.startswith("error: ")
    assert "Traceback" not in messages
    for part in ["mine.yaml", *said]:
        assert part in messages
    assert files_below(tmp_path) == [tmp_path / "mine.yaml"]


def test_wrong_folder_of_past_runs_is_refused_before_anything_is_written(prepare, tmp_path):
    code, out, _, messages = prepare("values: {model: sgd, dataset: uiprmd}", "--past", str(tmp_path / "nowhere"))
    assert code == 3
    assert "nowhere" in messages
    assert not out.exists()


def test_list_that_stood_there_stays_if_the_grid_is_refused(prepare):
    code, out, *_ = prepare("values: {model: sgd, dataset: uiprmd}")
    before = out.read_bytes()
    assert prepare("values: {model: sgd, dataset: uiprmd, sed: 1}")[0] == UsageError.exit_code
    assert code == 0
    assert out.read_bytes() == before


def test_grid_whose_data_lies_on_other_machines_is_prepared_here(prepare, tmp_path):
    streams = "[aqa7, jigsaws, seq-cifar10]"
    code, out, *_ = prepare(f"values: {{model: sgd, dataset: {streams}, data_root: {tmp_path / 'on the nodes'}}}")
    assert code == 0
    assert [line.words[line.words.index("--data_root") + 1] for line in read_list(out)] == (
        [str(tmp_path / "on the nodes")] * 3
    )


def test_a_thousand_lines_are_checked_in_seconds(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "values: {model: [er, magr], dataset: uiprmd, buffer_size: [5, 10, 20, 50], seed: {from: 1, to: 125}}"
    )
    began = time.process_time()
    grid = read_grid(path)
    words = [shlex.split(grid.command(options))[2:] for options in grid.runs]
    assert len(check_all(enumerate(words, 1), str(path))) == 1000
    assert time.process_time() - began < 15
