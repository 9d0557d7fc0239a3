"""Expand a grid to the list of its commands, one a line, for scripts/local_launcher.py and scripts/slurm_sbatcher.py.

    python scripts/prepare_grid.py configs/grids/uiprmd-methods.yaml
    python scripts/prepare_grid.py configs/grids/caqa-buffer.yaml --out sweeps/buffer.txt --past data/sweeps

Every line is checked as main.py would before anything is written. The order is that of the file; a run's folder bears
an id that depends on its settings alone, so that a grid which is extended keeps the runs it has. utils/grids.py says
how a grid is written.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.errors import RunError, run_script
from utils.files import write_text
from utils.grids import check_all, read_grid
from utils.stored_runs import find_runs, usual_places
from utils.sweeps import describe_estimate, estimate_seconds


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="YAML file")
    parser.add_argument("--out", type=Path, help="file of commands (default: <folder of the grid's runs>/commands.txt)")
    parser.add_argument(
        "--past", type=Path, nargs="*", help="runs to estimate the time from (default: data/runs, data/sweeps)"
    )
    args = parser.parse_args(argv)
    try:
        prepare(args.grid, args.out, args.past)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def prepare(path: Path, out: Path | None, past: list[Path] | None) -> None:
    """Write the list of a grid and say what it holds."""
    grid = read_grid(path)
    commands = [grid.command(options) for options in grid.runs]
    resolved = check_all(enumerate((shlex.split(line)[2:] for line in commands), 1), str(path))
    seconds = estimate_seconds(resolved, find_runs(usual_places() if past is None else past))
    out = out or grid.folder / "commands.txt"
    write_text(out, "\n".join(commands) + "\n")

    counts = Counter((args.model, args.dataset) for args in resolved)
    print("\n".join(f"{n:5d}  {model} on {dataset}" for (model, dataset), n in counts.items()))
    print(f"{len(commands)} runs in {out}, {describe_estimate(seconds)}")
    if grid.notes:
        print("\n".join(f"note: {note}" for note in grid.notes))
    if grid.n_repeated:
        print(f"{grid.n_repeated} combinations were equal to others and are left out")
    quoted = shlex.quote(str(out))
    print(f"next: python scripts/local_launcher.py {quoted}, or python scripts/slurm_sbatcher.py {quoted}")


if __name__ == "__main__":
    sys.exit(run_script(main))
