"""configs/reproduce.yaml and scripts/references.py: what is known to come out, and whether it did."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.references import main
from tests.conftest import Finished
from utils.errors import UsageError
from utils.grids import check_words, to_words
from utils.reference_results import Reference, read_references
from utils.registry import ROOT

REGISTRY = ROOT / "configs" / "reproduce.yaml"
LINE = "--model er --dataset seq-digits --n_tasks 2 --n_epochs 1 --max_samples_per_class 20"


@pytest.mark.parametrize("entry", read_references(REGISTRY), ids=lambda entry: str(entry.options)[:80])
def test_every_protocol_of_the_repository_is_one_that_main_takes(entry: Reference) -> None:
    args = check_words(to_words({**entry.options, "data_root": "elsewhere"}))
    assert all(getattr(args, name) == value for name, value in entry.options.items())


def test_every_figure_of_ours_is_in_a_table_of_the_documentation() -> None:
    text = "".join((ROOT / name).read_text() for name in ("README.md", "docs/classes.md"))
    for entry in read_references(REGISTRY):
        for value in entry.ours.values():
            assert f"{value:.2f}" in text


@pytest.fixture
def registry(tmp_path: Path) -> Callable[..., Path]:
    def write(row: dict[str, Any], **block: Any) -> Path:
        path = tmp_path / "references.yaml"
        options = {"dataset": "seq-digits", "n_epochs": 1}
        block = {"source": "somebody, somewhere", "tolerance": 100, "options": options, "rows": [row], **block}
        path.write_text(yaml.safe_dump({"protocols": {"digits": block}}))
        return path

    return write


def row(buffer_size: int = 6, **more: Any) -> dict[str, Any]:
    return {"options": {"model": "er", "buffer_size": buffer_size}, "reference": {"class_il_mean": 50.0}, **more}


def test_runs_are_compared_with_the_entry_whose_options_they_have(
    launch: Callable[..., Finished], registry: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [launch(f"{LINE} --buffer_size 6 --seed {seed}") for seed in (3, 4)]
    launch(f"{LINE} --buffer_size 8 --seed 3")
    folder = str(runs[0].path.parent)
    mean = sum(run.summary["class_il_mean"] for run in runs) / 2
    capsys.readouterr()
    assert main([folder, "--file", str(registry(row()))]) == 0
    out = capsys.readouterr().out
    assert f"{mean:.2f}" in out
    assert "3-4" in out
    assert "within tolerance" in out
    assert main([folder, "--file", str(registry(row(), tolerance=abs(mean - 50) - 0.01))]) == 1
    assert f"{mean - 50:+.1f}" in capsys.readouterr().out
    assert main([folder, "--file", str(registry(row(), tolerance=abs(mean - 50)))]) == 0
    assert main([folder, "--file", str(registry(row(buffer_size=7)))]) == 2
    assert "no finished run there belongs to an entry" in capsys.readouterr().err


def test_runs_that_differ_in_what_no_entry_names_are_not_averaged(
    launch: Callable[..., Finished], registry: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = launch(f"{LINE} --buffer_size 6").path.parent
    launch(f"{LINE} --buffer_size 6 --lr 0.01")
    assert main([str(folder), "--file", str(registry(row()))]) == 2
    assert "several runs of seed 0 fit er, n_epochs 1, buffer_size 6" in capsys.readouterr().err


def test_without_runs_the_recorded_figures_are_shown(
    registry: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = {"ours": {"class_il_mean": 48.5}, "seeds": "0-2"}
    path = registry(row(**recorded), command="make it", date="2026-01-02", tolerance=1)
    assert main(["--file", str(path)]) == 0
    out = capsys.readouterr().out
    assert all(part in out for part in ("50.00 [1]", "48.50", "0-2", "-1.5", "[1] somebody", "2026-01-02: make it"))
    assert main(["--file", str(registry(row()))]) == 0
    assert "not run" in capsys.readouterr().out
    assert main(["--file", str(path), "--only", "der"]) == 2


def test_what_nobody_else_has_measured_is_compared_with_ours(
    launch: Callable[..., Finished], registry: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = launch(f"{LINE} --buffer_size 6 --seed 3")
    value = run.summary["class_il_mean"]
    recorded = {"reference": {}, "ours": {"class_il_mean": round(value + 1, 2)}, "seeds": "0-2"}
    for tolerance, code, verdict in ((2, 0, "within tolerance"), (0.5, 1, "-1.0")):
        path = registry(row(**recorded), command="make it", date="2026-01-02", tolerance=tolerance)
        assert main(["--file", str(path)]) == 0
        assert "ours alone" in capsys.readouterr().out
        assert main([str(run.path), "--file", str(path)]) == code
        out = capsys.readouterr().out
        assert all(part in out for part in (f"{value + 1:.2f} (ours)", f"{value:.2f}", verdict))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"referenc": {"mae": 1}}, "did you mean reference"),
        ({"reference": {}}, "row 1 has no reference and no figure of ours"),
        ({"reference": {"accuracy": 1.0}}, "'accuracy: 1.0' is no figure"),
        ({"reference": {"mae": "low"}}, "'mae: low' is no figure"),
        ({"ours": {"mae": 1}}, "need seeds, command and date"),
    ],
)
def test_what_is_no_entry_is_refused(registry: Callable[..., Path], change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_references(registry(row() | change))


def test_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "scripts" / "references.py", tmp_path / "none"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3
    assert "no folder" in done.stderr
