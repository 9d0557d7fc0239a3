"""What scripts that compute have in common."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "scripts"
COMPUTING = [
    *("anytime_demo", "benchmark_clips", "benchmark_tokens", "check_data", "extract_features", "pretrain_clip"),
    "report",
]
# Runs a script's imports up to that of torch, and says how threads will wait.
CODE = """
import os, runpy, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"))
            sys.stdout.flush()
            os._exit(0)

sys.meta_path.insert(0, Watch())
runpy.run_path(sys.argv[1], run_name="imported")
"""


@pytest.mark.parametrize("script", COMPUTING)
def test_threads_that_wait_are_told_to_sleep_before_torch_is_imported(script):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(FOLDER / f"{script}.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "PASSIVE", done.stderr
