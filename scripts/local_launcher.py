"""Run a list of commands on this machine, some at a time.

    python scripts/local_launcher.py data/sweeps/uiprmd-methods/commands.txt --at_once 2
    python scripts/local_launcher.py sweeps/cifar.txt --at_once 8 --gpus 0 1 2 3 --retry 1

Each run writes to log.txt in its folder. Ctrl-C lets every run write its checkpoint; started again, the launcher runs
what is not finished and goes on with what was interrupted. A run that fails never stops the others. Exit codes: 0 all
finished; 1 some failed or run in another process; 2 wrong usage; 130, 143, 138 stopped by a signal.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.args import not_negative, positive
from utils.errors import RunError, run_script
from utils.grids import check_all
from utils.launching import Launcher, summary
from utils.sweeps import check_folders, chosen, describe_estimate, estimate_seconds, read_list


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path, help="file of commands, one a line (scripts/prepare_grid.py)")
    parser.add_argument("--at_once", type=positive, help="runs at a time (default: one for each GPU, else one)")
    parser.add_argument("--gpus", type=not_negative, nargs="+", default=[], help="GPUs to share out, e.g. 0 1")
    parser.add_argument("--retry", type=not_negative, default=0, help="times a failed run is started again")
    parser.add_argument("--lines", help="only these lines of the list, e.g. 1-10,12")
    args = parser.parse_args(argv)
    try:
        lines = chosen(read_list(args.list), args.lines)
        resolved = check_all(((line.number, line.words) for line in lines), str(args.list))
        check_folders(lines, resolved)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    waiting = [args for line, args in zip(lines, resolved, strict=True) if not line.is_done]
    if waiting:
        estimate = describe_estimate(estimate_seconds(waiting, [line.run for line in lines]))
        print(f"{len(waiting)} of {len(lines)} runs to do, {estimate}")
    launcher = Launcher(lines, args.at_once or max(len(args.gpus), 1), args.gpus, args.retry)
    jobs = launcher.run()
    print(summary(jobs))
    if launcher.received is not None:
        return 128 + launcher.received
    return 0 if all(job.outcome == "finished" for job in jobs) else 1


if __name__ == "__main__":
    sys.exit(run_script(main))
