"""List runs, or say what two of them differ in.

    python scripts/runs.py
    python scripts/runs.py data/sweeps/uiprmd-methods --state failed interrupted killed
    python scripts/runs.py --compare data/runs/uiprmd/er/A data/runs/uiprmd/er/B

Half-written folders are shown as such.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.comparison import describe
from utils.errors import RunError, run_script
from utils.stored_runs import STATES, USUAL_PLACES, StoredRun, find_runs, open_run, usual_places
from utils.tables import duration, number, text_table

MAIN_FIGURES = ("srcc_pooled", "class_il_mean", "task_il_mean")


def main(argv: list[str] | None = None) -> int:
    states = "\n".join(f"  {state:12} {meaning}" for state, meaning in STATES.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"states:\n{states}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders", type=Path, nargs="*", help=f"runs, or folders above them (default: {' '.join(USUAL_PLACES)})"
    )
    parser.add_argument("--state", nargs="+", choices=STATES, help="only runs in these states")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="two run folders")
    args = parser.parse_args(argv)
    try:
        if args.compare:
            print(describe(*(open_run(path) for path in args.compare)))
        else:
            places = args.folders or usual_places()
            runs = find_runs(places)
            print(
                table(runs, args.state)
                if runs
                else f"no run in {', '.join(map(str, places)) or ', '.join(USUAL_PLACES)}"
            )
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def table(runs: list[StoredRun], wanted: list[str] | None) -> str:
    """One line for each run: state, figure after the last session, time, and why one failed."""
    states = {run.path: run.state for run in runs}
    shown = [run for run in runs if not wanted or states[run.path] in wanted]
    rows = [row(run, states[run.path]) for run in shown]
    counts = ", ".join(f"{n} {state}" for state, n in Counter(states.values()).most_common())
    header = ["run", "state", "model", "stream", "seed", "sessions", "figure", "%", "time"]
    reasons = [f"{states[run.path]}: {run.path}: {run.reason}" for run in shown if run.reason]
    parts = [text_table(header, rows), *reasons, f"{len(shown)} of {len(runs)} runs shown ({counts or 'none'})"]
    return "\n\n".join(parts)


def row(run: StoredRun, state: str) -> list[str]:
    """The cells of a run; whatever cannot be read is a dash."""
    sessions = [record for record in run.records if record.get("event") == "session"]
    figures = run.summary or (sessions[-1] if sessions else {})
    name = next((name for name in MAIN_FIGURES if name in figures), "-")
    n_tasks = 1 if run.config.get("joint") else len(run.split.get("tasks", [])) or "?"
    seconds = run.summary.get("total_seconds")
    return [
        str(run.path),
        state,
        run.model,
        run.dataset,
        str(run.config.get("seed", "-")),
        f"{len(sessions)}/{n_tasks}",
        name,
        number(figures[name]) if isinstance(figures.get(name), float) else "-",
        duration(seconds) if isinstance(seconds, int | float) else "-",
    ]


if __name__ == "__main__":
    sys.exit(run_script(main))
