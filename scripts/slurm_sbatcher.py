"""Run a list of commands on SLURM, as a job array.

    python scripts/slurm_sbatcher.py sweeps/cifar.txt --partition gpu --gpus 1 --time 4:00:00 --max_at_once 20
    python scripts/slurm_sbatcher.py sweeps/small.txt --per_job 10 --at_once 2 --cpus 4 --setup "module load python"
    python scripts/slurm_sbatcher.py sweeps/cifar.txt --dry_run
    python scripts/slurm_sbatcher.py sweeps/cifar.txt --status

Every line is checked as main.py would before anything is submitted. Before the time limit, or when it is preempted, a
job's runs write their checkpoints and it goes back into the queue; they end with the same bits as without. Submitted
again, the list runs what is neither finished nor in the queue. Prepare lists with scripts/prepare_grid.py, which asks
for the full data, so that no stand-in replaces what a node does not see.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.args import not_negative, positive
from utils.errors import RunError, UsageError, run_script
from utils.files import exclusive_lock
from utils.grids import check_all
from utils.slurm import Resources, batch_script, divide, largest_array, seconds_of, submissions, submit
from utils.sweeps import Line, as_ranges, check_folders, read_list


def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    try:
        lines = read_list(args.list)
        place = args.list.with_suffix(".slurm").resolve()
        if args.status:
            print(status(lines, submissions(place)))
            return 0
        check_folders(lines, check_all(((line.number, line.words) for line in lines), str(args.list)))
        if args.time and seconds_of(args.time) <= args.warning:
            raise UsageError(
                f"--time {args.time} leaves no time before the checkpoints, which are written {args.warning} s before "
                "the limit; give more time, or a shorter --warning"
            )
        if args.dry_run:
            send(args, lines, place)
        else:
            place.mkdir(parents=True, exist_ok=True)
            with exclusive_lock(place / ".lock", f"{args.list} is being submitted by another process"):
                send(args, lines, place)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("list", type=Path, help="file of commands, one a line (scripts/prepare_grid.py)")
    add("--partition")
    add("--account")
    add("--qos")
    add("--time", help="limit of each job, e.g. 4:00:00")
    add("--memory", help="of each job, e.g. 16G")
    add("--gpus", type=not_negative, default=0, help="of each job")
    add("--cpus", type=positive, help="of each job")
    add("--max_at_once", type=positive, help="jobs that run at the same time (default: as many as SLURM lets)")
    add("--per_job", type=positive, default=1, help="lines of the list in one job")
    add("--at_once", type=positive, help="runs at a time within a job (default: one for each GPU, else one)")
    add("--retry", type=not_negative, default=1, help="times a failed run is started again within a job")
    add("--warning", type=positive, default=120, help="seconds before the limit at which runs write their checkpoints")
    add("--max_requeues", type=not_negative, default=100, help="times a job may go back into the queue by itself")
    add("--setup", action="append", default=[], metavar="LINE", help="shell line before the runs; may be repeated")
    add("--extra", action="append", default=[], metavar="OPTION", help="of sbatch, e.g. --extra=--constraint=a100")
    add("--python", help="interpreter on the nodes (default: this one; with --setup: python)")
    add("--job_name", help="(default: name of the list)")
    add("--dry_run", action="store_true", help="print the script, submit nothing")
    add("--status", action="store_true", help="say how far the list has come, submit nothing")
    return parser


def send(args: argparse.Namespace, lines: list[Line], place: Path) -> None:
    """Submit what is neither finished nor in the queue, or show what would be submitted."""
    sent = {} if args.dry_run else submissions(place)
    left = {line.number for line in lines if where(line, sent) not in ("finished", "running", "queued")}
    if not left:
        print(f"nothing to submit\n{status(lines, sent)}")
        return
    elements = {
        element: [line for line in part if line.number in left] for element, part in divide(lines, args.per_job).items()
    }
    elements = {element: part for element, part in elements.items() if part}
    largest = None if args.dry_run else largest_array()
    if largest is not None and max(elements) >= largest:
        raise UsageError(
            f"{len(lines)} lines make an array of more than {largest} jobs, which SLURM does not take here; "
            f"give --per_job {-(-len(lines) // largest)} or more"
        )
    resources = Resources(
        name=args.job_name or (args.list.resolve().parent.name if args.list.stem == "commands" else args.list.stem),
        python=args.python or ("python" if args.setup else sys.executable),
        at_once=args.at_once or max(args.gpus, 1),
        **{
            name: getattr(args, name)
            for name in ("time", "partition", "account", "qos", "memory", "gpus", "cpus", "max_at_once", "retry")
        },
        **{name: getattr(args, name) for name in ("warning", "max_requeues", "setup", "extra")},
    )
    folder = place / time.strftime("%Y%m%d-%H%M%S")
    numbers = {element: as_ranges([line.number for line in part]) for element, part in elements.items()}
    text = batch_script(numbers, folder, Path.cwd(), resources)
    if args.dry_run:
        print(text, end="")
        return
    job = submit(lines, elements, folder, text)
    print(f"job {job}: {len(left)} of {len(lines)} runs in {len(elements)} jobs; what they print is in {folder}")
    print(f"next: python scripts/slurm_sbatcher.py {shlex.quote(str(args.list))} --status")


Sent = dict[Path, tuple[str, str | None]]


def status(lines: list[Line], sent: Sent) -> str:
    """How many lines are in which state, and what is known about those that failed or never began."""
    states = {line.number: where(line, sent) for line in lines}
    counts = Counter(states.values())
    known = ("finished", "running", "queued", "interrupted", "stopped", "killed", "failed", "broken", "never started")
    texts = [f"{counts[state]:6d}  {state}" for state in known if counts[state]]
    for line in lines:
        if states[line.number] in ("failed", "broken", "killed"):
            reason = line.run.reason or "see its log.txt"
            texts.append(f"{states[line.number]}: line {line.number}, {line.run_dir}: {reason}")
        job, _ = sent.get(line.run_dir.resolve(), ("", None))
        if states[line.number] == "never started" and job:
            texts.append(
                f"never started: line {line.number}, job {job} left the queue; look at its output, or at sacct"
            )
    return "\n".join(texts)


def where(line: Line, sent: Sent) -> str:
    """The state of a line: what its folder says, and for what is not running or done whether it waits in the queue."""
    if line.is_done:
        return "finished"
    state, (_, in_queue) = line.state, sent.get(line.run_dir.resolve(), ("", None))
    return "queued" if state != "running" and in_queue else state


if __name__ == "__main__":
    sys.exit(run_script(main))
