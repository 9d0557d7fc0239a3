"""Search hyper-parameters with Optuna, on validation data only.

    python scripts/search.py configs/searches/uiprmd-magr.yaml --trials 40 --workers 2
    python scripts/search.py configs/searches/uiprmd-magr.yaml --status
    srun python scripts/search.py FILE --trials 200 --worker $SLURM_ARRAY_TASK_ID      # one of many on a cluster

Unpromising trials are pruned after a task. Stopped or killed workers lose nothing; started again, the search goes on.
At the end the best values are in the search's folder: best.yaml for --config, and final.yaml, a grid of runs with these
values on test data and with other seeds, for scripts/prepare_grid.py. utils/search.py says how a search is written.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml

from utils.args import not_negative, positive
from utils.conf import n_cores
from utils.errors import STOP_SIGNALS, RunError, run_script
from utils.files import write_text
from utils.search import Search, open_study, read_search, work
from utils.tables import text_table

N_FINAL_SEEDS = 5


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="YAML file of the search")
    parser.add_argument("--trials", type=positive, default=50, help="of the whole search, over all workers and starts")
    parser.add_argument("--workers", type=positive, default=1, help="on this machine")
    parser.add_argument("--worker", type=not_negative, help="number of this worker, where you start them yourself")
    parser.add_argument("--seed", type=not_negative, default=0, help="of the sampler")
    parser.add_argument("--status", action="store_true", help="say what was found so far, run nothing")
    args = parser.parse_args(argv)
    try:
        search = read_search(args.file)
        code = 0
        if not args.status and (args.workers == 1 or args.worker is not None):
            work(search, args.trials, args.worker or 0, args.seed)
        elif not args.status:
            open_study(search)
            code = start_workers(args)
        if args.worker is None:
            print(findings(search, args.trials))
        return code
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def start_workers(args: argparse.Namespace) -> int:
    """Run workers as processes of their own, passing on what asks this one to stop; the largest of their exit codes."""
    words = [sys.executable, __file__, str(args.file), "--trials", str(args.trials), "--seed", str(args.seed)]
    environment = {"OMP_NUM_THREADS": str(max(1, n_cores() // args.workers)), **os.environ}
    workers = [
        subprocess.Popen([*words, "--worker", str(i)], env=environment, start_new_session=True)
        for i in range(args.workers)
    ]

    def pass_on(number: int, frame: FrameType | None) -> None:
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(number)

    for number in STOP_SIGNALS:
        signal.signal(number, pass_on)
    return max(abs(worker.wait()) for worker in workers)


def findings(search: Search, n_trials: int) -> str:
    """The best trials so far; writes the files for what comes after the search."""
    study = open_study(search)
    trials = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    n_pruned = sum(trial.state.name == "PRUNED" for trial in study.trials)
    count = f"{len(trials)} trials completed and {n_pruned} pruned of {n_trials}, on validation data"
    if not trials:
        return count
    others = [seed for seed in range(N_FINAL_SEEDS + len(search.seeds)) if seed not in search.seeds]
    best = sorted(trials, key=lambda trial: trial.value, reverse=search.direction == "maximize")
    rows = [[str(t.number), f"{t.value:.4g}", *(_value(t.params[name]) for name in search.space)] for t in best[:5]]
    final = {
        "values": {
            # A list is one value of an option that takes several; a grid would take its items for alternatives.
            **{name: _single(value) for name, value in search.values.items() if name != "validation"},
            **{name: _single(value) for name, value in best[0].params.items()},
            "seed": others[:N_FINAL_SEEDS],
        },
        "folder": f"data/sweeps/{search.name}-final",
    }
    write_text(search.folder / "best.yaml", yaml.safe_dump(best[0].params, sort_keys=False))
    write_text(search.folder / "final.yaml", yaml.safe_dump(final, sort_keys=False))
    table = text_table(["trial", search.figure, *search.space], rows)
    return f"{table}\n\n{count}\nnext: python scripts/prepare_grid.py {shlex.quote(str(search.folder / 'final.yaml'))}"


def _single(value: object) -> object:
    return [value] if isinstance(value, list | tuple) else value


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(run_script(main))
