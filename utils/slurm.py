"""Job arrays on SLURM. An element of the array runs some lines of a list with scripts/local_launcher.py, which leaves
finished runs alone and goes on with interrupted ones; so an element that is requeued simply runs again."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from utils.errors import StorageError, UsageError
from utils.files import write_text
from utils.registry import ROOT
from utils.run import read_json
from utils.sweeps import Line, as_ranges


@dataclass
class Resources:
    """What a job asks SLURM for, and how it runs.

    Attributes:
        name: of the job.
        time: limit, in SLURM's form, e.g. 4:00:00. partition, account, qos, memory: as sbatch takes them.
        gpus, cpus: for each job.
        max_at_once: elements of the array that run at the same time.
        at_once: runs at a time within a job. retry: times a failed run is started again within a job.
        warning: seconds before the limit at which the runs write their checkpoints and the job requeues itself.
        max_requeues: how often it may do so.
        setup: shell lines before the runs, e.g. module load cuda.
        extra: further options of sbatch, e.g. --constraint=a100.
        python: the interpreter on the nodes.
    """

    name: str
    python: str
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    memory: str | None = None
    gpus: int = 0
    cpus: int | None = None
    max_at_once: int | None = None
    at_once: int = 1
    retry: int = 1
    warning: int = 120
    max_requeues: int = 100
    setup: Sequence[str] = field(default_factory=list)
    extra: Sequence[str] = field(default_factory=list)


def divide(lines: Sequence[Line], per_job: int) -> dict[int, list[Line]]:
    """Lines by element of the array. What a line's element is does not depend on what else is left to run."""
    elements: dict[int, list[Line]] = {}
    for position, line in enumerate(lines):
        elements.setdefault(position // per_job, []).append(line)
    return elements


def batch_script(elements: dict[int, str], folder: Path, work: Path, resources: Resources) -> str:
    """The text for sbatch.

    The batch shell gets SIGUSR1 before the time limit, and passes it on; the runs write their checkpoints, and the job
    puts itself back into the queue. At a preemption SLURM sends SIGTERM and requeues by itself.

    Args:
        elements: the lines of each element of the array, e.g. {0: "1-4", 1: "5-8"}.
        folder: of the submission: commands.txt, and what the jobs print.
        work: the folder that relative paths of the list start from.
    """
    r = resources
    limit = f"%{r.max_at_once}" if r.max_at_once else ""
    options = {
        "job-name": r.name,
        "array": as_ranges(sorted(elements)) + limit,
        "output": f"{folder}".replace("%", "%%") + "/%a.out",
        "open-mode": "append",
        "requeue": "",
        "signal": f"B:USR1@{r.warning}",
        "time": r.time,
        "partition": r.partition,
        "account": r.account,
        "qos": r.qos,
        "mem": r.memory,
        "gres": f"gpu:{r.gpus}" if r.gpus else None,
        "cpus-per-task": str(r.cpus) if r.cpus else None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    flags = [f"--{name}={shlex.quote(value)}" if value else f"--{name}" for name, value in given.items()]
    launcher = [r.python, str(ROOT / "scripts" / "local_launcher.py"), str(folder / "commands.txt")]
    launcher += ["--at_once", str(r.at_once), "--retry", str(r.retry)]
    launcher += ["--gpus", *map(str, range(r.gpus))] if r.gpus else []
    lines_of = " ".join(f"[{element}]={lines}" for element, lines in sorted(elements.items()))
    threads = [f"export OMP_NUM_THREADS={max(1, r.cpus // r.at_once)}"] if r.cpus else []
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {flag}" for flag in [*flags, *r.extra]),
            f"cd {shlex.quote(str(work))} || exit 5",
            *r.setup,
            *threads,
            f"lines=({lines_of})",
            'echo "--- $(date) job $SLURM_JOB_ID on $(hostname), restart ${SLURM_RESTART_COUNT:-0}"',
            f'{shlex.join(launcher)} --lines "${{lines[$SLURM_ARRAY_TASK_ID]}}" &',
            "launcher=$!",
            "trap 'kill -USR1 $launcher' USR1",
            "trap 'kill -TERM $launcher' TERM",
            "# A trapped signal ends wait, not the launcher.",
            "while wait $launcher; code=$?; [ $code -gt 128 ] && kill -0 $launcher 2>/dev/null; do :; done",
            f'if [ $code -eq 138 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {r.max_requeues} ]; then',
            '    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"',
            "fi",
            "exit $code",
            "",
        ]
    )


def submit(lines: Sequence[Line], elements: dict[int, list[Line]], folder: Path, text: str) -> str:
    """Write the submission's files and hand them to sbatch; returns the job's number.

    The list is copied, so that what is in the queue does not change with the file.

    Raises:
        UsageError: there is no sbatch here, or it refuses.
        StorageError: the files cannot be written.
    """
    if shutil.which("sbatch") is None:
        raise UsageError("no sbatch on this machine: use --dry_run to see the script, scripts/local_launcher.py to run")
    by_number = {line.number: shlex.join(["python", "main.py", *line.words]) for line in lines}
    write_text(folder / "commands.txt", "\n".join(by_number.get(i, "") for i in range(1, max(by_number) + 1)) + "\n")
    write_text(folder / "job.sh", text)
    done = subprocess.run(["sbatch", "--parsable", str(folder / "job.sh")], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"sbatch refused {folder / 'job.sh'}: {done.stderr.strip()}")
    job = done.stdout.strip().partition(";")[0]
    runs = {element: [str(line.run_dir.resolve()) for line in part] for element, part in elements.items()}
    write_text(folder / "submission.json", json.dumps({"job": job, "elements": runs}, indent=1) + "\n")
    return job


def largest_array() -> int | None:
    """How many elements SLURM takes in one array; None where it does not say."""
    try:
        done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", done.stdout)
    return int(found[1]) if found else None


def seconds_of(limit: str) -> int:
    """A time limit in SLURM's forms: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].

    Raises:
        UsageError: it has none of them.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if not found:
        raise UsageError(f"--time {limit}: expected a limit such as 30, 4:00:00 or 2-12:00")
    days, *parts = (int(part) if part is not None else None for part in found.groups())
    first, second, third = parts[0] or 0, parts[1] or 0, parts[2]
    if days is not None:
        return ((days * 24 + first) * 60 + second) * 60 + (third or 0)
    return first * 60 + second if third is None else (first * 60 + second) * 60 + third


def submissions(place: Path) -> dict[Path, tuple[str, str | None]]:
    """What earlier submissions below `place` sent: run folder -> (job and element, SLURM's state such as PENDING or
    RUNNING, or None where the element has left the queue); of several submissions the last counts.

    Raises:
        StorageError: squeue does not answer.
    """
    sent: dict[Path, tuple[str, str | None]] = {}
    for path in sorted(place.glob("*/submission.json")):
        submission = read_json(path)
        job = str(submission.get("job", ""))
        states = _queue(job)
        for element, folders in submission.get("elements", {}).items():
            name = f"{job}_{element}"
            for folder in map(Path, folders):
                if states.get(name) or sent.get(folder, ("", None))[1] is None:
                    sent[folder] = (name, states.get(name))
    return sent


def _queue(job: str) -> dict[str, str]:
    """SLURM's states of the elements of a job array that are in the queue."""
    if shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--noheader", "--array", "--jobs", job, "--format", "%i %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired as error:
        raise StorageError("squeue does not answer; try again later") from error
    if done.returncode and "Invalid job id" not in done.stderr:
        raise StorageError(f"squeue failed: {done.stderr.strip()}")
    return dict(text.split() for text in done.stdout.splitlines())
