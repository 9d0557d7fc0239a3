"""Repeat a run and say whether its results came out identical, and if not, what differs.

    python scripts/reproduce.py data/runs/uiprmd/er/20260101-120000-seed0-4242
    python scripts/reproduce.py RUN --out again --gpus 0

The configuration, the seed and the number of threads are the run's own. Exit codes: 0 identical; 1 different; 2 and
more as of main.py.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.comparison import different_environment, different_results, first_difference
from utils.errors import RunError, UsageError, run_script
from utils.registry import ROOT
from utils.stored_runs import StoredRun, open_run
from utils.tables import text_table


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--out", type=Path, help="folder of the repetition (default: a temporary one)")
    parser.add_argument("--data_root", type=Path, help="folder of the data set, if it has moved")
    parser.add_argument("--gpus", nargs="*", help="GPUs, if others than the run's")
    args = parser.parse_args(argv)
    try:
        run = open_run(args.run)
        if run.state not in ("finished", "stopped"):
            hint = f": {run.reason}" if run.reason else ""
            raise UsageError(f"{args.run} is {run.state}{hint}; only a run that has ended can be repeated")
        with tempfile.TemporaryDirectory() as folder:
            out = args.out or Path(folder) / "run"
            extra = ["--data_root", str(args.data_root)] if args.data_root else []
            extra += ["--gpus", *args.gpus] if args.gpus is not None else []
            code = repeat(run, out, extra)
            if code:
                print(f"{own_code(run)}; --gpus names other GPUs, or none", file=sys.stderr)
            return code or verdict(run, StoredRun(out))
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def repeat(run: StoredRun, out: Path, extra: list[str]) -> int:
    """Run main.py on the stored configuration; its logs.pyd goes into the repetition's folder too."""
    command = [sys.executable, str(ROOT / "main.py"), "--config", str(run.path / "config.yaml"), "--run_dir", str(out)]
    command += ["--results_path", str((out / "results").resolve()), "--nowand", "1", "--tensorboard", "0", *extra]
    threads = run.environment.get("threads")
    # Sums over other numbers of threads differ in their last bits.
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    print(" ".join(command), flush=True)
    return subprocess.run(command, env=environment, check=False).returncode


def verdict(run: StoredRun, again: StoredRun) -> int:
    """Say how the repetition compares; 0 if it is identical."""
    where = first_difference(run, again)
    header = ["", "then", "now"]
    environment = different_environment(run, again)
    if environment:
        print(f"\nenvironment\n{text_table(header, environment)}")
    if where is None:
        print("\nidentical: every record, figure and prediction came out the same to the bit")
        return 0
    results = different_results(run, again)
    print(f"\ndifferent, from {where} on")
    print(text_table(["figure", *header[1:]], results) if results else "the final figures are the same all the same")
    print(own_code(run))
    return 1


def own_code(run: StoredRun) -> str:
    """How to get the code that the run was made with."""
    changes = (run.path / "changes.diff").resolve()
    patch = f" && git apply {shlex.quote(str(changes))}" if changes.exists() else ""
    return f"the run's own code: git checkout {run.environment.get('commit') or 'its commit, which is unknown'}{patch}"


if __name__ == "__main__":
    sys.exit(run_script(main))
