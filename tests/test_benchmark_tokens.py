"""The benchmark of stored tokens runs; its figures are for the machine it runs on."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from scripts.benchmark_tokens import main, measure_compression, torch

if find_spec("open_clip") is None:
    pytest.skip("open_clip is not installed", allow_module_level=True)


def test_quick_run_prints_its_command_and_three_tables(capsys):
    assert main(["--quick"]) == 0
    printed = capsys.readouterr().out
    assert "python scripts/benchmark_tokens.py --quick" in printed
    for expected in ("scikit-learn, one by one", "tokens stored", "images re-encoded", "at 2,000", "class-balanced"):
        assert expected in printed


def test_compressing_images_together_is_faster_than_one_by_one_with_scikit_learn(capsys):
    taken = measure_compression(32, 5, torch.device("cpu"))
    assert taken["ours, together"] < taken["scikit-learn, one by one"]
