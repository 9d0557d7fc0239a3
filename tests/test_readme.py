"""What the README shows can be typed in."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from utils.registry import ROOT


@pytest.mark.parametrize("stream", ["seq-digits --max_samples_per_class 10", "uiprmd"])
def test_the_method_that_the_readme_adds_runs_as_printed(launch, tmp_path: Path, stream: str) -> None:
    part = (ROOT / "README.md").read_text().split("## Add a method")[1]
    lines = part.split("configs/models/")[1].split("\n`tests/")[0].splitlines()
    code = textwrap.dedent("\n".join(line for line in lines if not line or line.startswith("    ")))
    assert len([line for line in code.splitlines() if line]) < 40
    path = tmp_path / "mine.py"
    path.write_text(code)
    run = launch(f"--plugin {path} --model mine --dataset {stream} --n_tasks 2 --n_epochs 1 --buffer_size 10")
    assert run.code == 0
    assert run.checkpoint["model"]["buffer.labels"].numel() > 0
