"""A report over many runs: tables with tests, figures, and the settings they stand on, in one HTML page.

    python scripts/report.py data/runs --out report
    python scripts/report.py data/runs/uiprmd data/runs/aqa7 --out report --baseline er
    python scripts/report.py data/runs --out report --by lr n_epochs     # a row for each value
    python scripts/report.py data/runs --out report --where lr=0.01      # only the runs with this value
    python scripts/report.py data/runs/seq-cifar10 --out report --figures task_il_mean class_il_mean

Runs that have finished and differ in nothing but the seed are averaged; the others are listed. Writes index.html (opens
without network), report.md with figures/*.svg, tables.tex (needs booktabs), cells.csv and runs.csv, and prints the main
table.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Before torch is imported: see main.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.errors import RunError, run_script
from utils.reports.report import Options, check_folder, main_table_text, make_report, write_report
from utils.stored_runs import find_runs


def parser() -> argparse.ArgumentParser:
    """The options of this script."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("runs", nargs="+", type=Path, help="run folders, or folders above them")
    made.add_argument("--out", required=True, type=Path, help="folder of the report; made if absent")
    made.add_argument("--by", nargs="+", default=[], metavar="NAME", help="settings that make a row of their own; all")
    made.add_argument("--where", nargs="+", default=[], metavar="NAME=VALUE", help="keep only runs with these values")
    made.add_argument("--baseline", default="", metavar="METHOD", help="test the other methods against this one")
    made.add_argument(
        "--figures", nargs="+", default=[], metavar="NAME", help="names from summary.json, main one first"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Make the report; returns the exit code (utils/errors.py)."""
    args = parser().parse_args(argv)
    try:
        check_folder(args.out)
        options = Options(list(dict.fromkeys(args.by)), args.where, args.baseline, args.figures)
        document, files = make_report(find_runs(args.runs), options)
        write_report(files, args.out)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{main_table_text(document)}\n\nreport: {args.out / 'index.html'}")
    print(f"also in {args.out}: report.md, tables.tex, cells.csv, runs.csv, figures/")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
