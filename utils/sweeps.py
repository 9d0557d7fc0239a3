"""Lists of commands: what each line runs, where, how far it came, and how long it may take."""

from __future__ import annotations

import hashlib
import math
import re
import shlex
from argparse import Namespace
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.args import OPERATIONAL, TURNED_ON, WITHOUT_EFFECT
from utils.config import as_dict
from utils.errors import UsageError
from utils.stored_runs import STATES, StoredRun
from utils.tables import duration

LINE_STATES = {**STATES, "never started": "no folder yet, or none with a configuration"}


@dataclass(frozen=True)
class Line:
    """One command of a list.

    Attributes:
        number: of the line in its file, from 1; blank lines and comments are counted too.
        words: the options of main.py, with --run_dir.
        run_dir: the folder of its run.
    """

    number: int
    words: tuple[str, ...]
    run_dir: Path

    @property
    def run(self) -> StoredRun:
        """The run as it lies on the disk now."""
        return StoredRun(self.run_dir)

    @property
    def state(self) -> str:
        """One of `LINE_STATES`."""
        return self.run.state if (self.run_dir / "config.yaml").exists() else "never started"

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to run; a line with --stop_after ends where it says."""
        state = self.state
        return state == "finished" or (state == "stopped" and self._n_tasks_done >= self._stop_after)

    @property
    def _stop_after(self) -> float:
        """What the line says; infinity where it says nothing."""
        found = re.search(r"(?:^| )--stop[_-]after[= ](\d+)", " ".join(self.words))
        return int(found[1]) if found else math.inf

    @property
    def _n_tasks_done(self) -> int:
        return int(self.run.summary.get("session", -1)) + 1

    def to_start(self) -> list[str]:
        """Options that start the run, or go on with it; where data lies and the like is taken from the line again."""
        if self.state == "never started":
            return list(self.words)
        return ["--resume", str(self.run_dir), *operational(self.words)]


def read_list(path: Path) -> list[Line]:
    """The commands of a file: `python main.py --model ...`, one a line, among blank lines and comments (#).

    A line without --run_dir gets a folder beside the file, named after what the line says.

    Raises:
        UsageError: the file cannot be read, holds no command, a line is none of main.py's, or two share a folder.
    """
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the list {path}: {error}") from error
    lines: list[Line] = []
    owners: dict[Path, int] = {}
    for number, text in enumerate(texts, 1):
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        line = _parse(text, number, path)
        folder = line.run_dir.resolve()
        _check_place(line, path)
        if folder in owners:
            raise UsageError(f"{path}: lines {owners[folder]} and {number} run in the same folder {line.run_dir}")
        owners[folder] = number
        lines.append(line)
    if not lines:
        raise UsageError(f"{path} holds no command; write it with scripts/prepare_grid.py")
    return lines


def check_folders(lines: Sequence[Line], resolved: Sequence[Namespace]) -> None:
    """Make sure that the folders of the lines hold no runs with other settings: they would pass for these.

    Raises:
        UsageError: one does; what differs is named.
    """
    for line, args in zip(lines, resolved, strict=True):
        stored = line.run.config if line.state != "never started" else {}
        asked = {name: value for name, value in as_dict(args).items() if name not in WITHOUT_EFFECT and name in stored}
        # A resumed run may turn these on; one that ended without them had nothing to leave out.
        later = {name for name in TURNED_ON if asked.get(name)} | line.run.turned_on
        differs = [
            f"{name} {stored[name]} (now {value})"
            for name, value in asked.items()
            if stored[name] != value and name not in later
        ]
        if differs:
            raise UsageError(
                f"line {line.number}: {line.run_dir} holds a run with other settings: {', '.join(differs)}. Name "
                "another --run_dir, or remove the folder"
            )


def chosen(lines: Sequence[Line], numbers: str | None) -> list[Line]:
    """The lines that `numbers` names, such as 1-10,12; all of them for None.

    Raises:
        UsageError: it cannot be understood, or names a line that holds no command.
    """
    if numbers is None:
        return list(lines)
    by_number = {line.number: line for line in lines}
    largest = max(by_number, default=0)
    wanted: set[int] = set()
    for part in numbers.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not found:
            raise UsageError(f"--lines {numbers}: expected numbers and ranges such as 1-10,12")
        first, last = int(found[1]), int(found[2] or found[1])
        if first > last:
            raise UsageError(f"--lines {numbers}: {part.strip()} runs backwards")
        # One number too many is enough to be refused below.
        wanted |= set(range(first, min(last, max(first, largest + 1)) + 1))
    if not wanted <= by_number.keys():
        raise UsageError(f"--lines {numbers}: line {min(wanted - by_number.keys())} holds no command")
    return [by_number[number] for number in sorted(wanted)]


def as_ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as `chosen` and SLURM read them: 1-3,5."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def operational(words: Sequence[str]) -> list[str]:
    """Those options among the words that a resumed run may be given."""
    kept: list[str] = []
    keep = False
    for word in words:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].replace("-", "_")
            keep = name in (*OPERATIONAL, *TURNED_ON) and name != "resume"
        if keep:
            kept.append(word)
    return kept


def estimate_seconds(resolved: Sequence[Namespace], past: Sequence[StoredRun]) -> list[float | None]:
    """How long each run may take: the mean over finished runs that differ in nothing but the seed; else over those of
    the same method, stream and network, training in proportion to the epochs; None where there is neither."""
    ignored = {"seed", *WITHOUT_EFFECT}
    same, alike = defaultdict[str, list[float]](list), defaultdict[str, list[tuple[float, float]]](list)
    for run in past:
        total, training = run.summary.get("total_seconds"), run.summary.get("seconds")
        if run.state == "finished" and isinstance(total, int | float) and isinstance(training, int | float):
            same[_key(run.config, run.config.keys() - ignored)].append(total)
            n_epochs = run.config.get("n_epochs")
            per_epoch = training / max(n_epochs if isinstance(n_epochs, int) else 0, 1)
            alike[_key(run.config, KIND)].append((max(total - training, 0.0), per_epoch))
    estimates: list[float | None] = []
    for args in resolved:
        config = as_dict(args)
        exact, near = same[_key(config, config.keys() - ignored)], alike[_key(config, KIND)]
        if exact:
            estimates.append(sum(exact) / len(exact))
        else:
            guesses = [start + per_epoch * max(config["n_epochs"], 1) for start, per_epoch in near]
            estimates.append(sum(guesses) / len(guesses) if guesses else None)
    return estimates


def describe_estimate(estimates: Sequence[float | None]) -> str:
    """The sum in words."""
    known = [seconds for seconds in estimates if seconds is not None]
    if not known:
        return "for how long is unknown: no past run is like them"
    rest = f" for {len(known)} of them; no past run is like the others" if len(known) < len(estimates) else ""
    return f"about {duration(sum(known))} one after the other{rest}"


KIND = ("model", "dataset", "backbone")


def _key(config: dict[str, object], names: Sequence[str] | set[str]) -> str:
    return repr([(name, str(config.get(name))) for name in sorted(names)])


def _check_place(line: Line, path: Path) -> None:
    """A list beside its runs, read from another folder than it was written for, would run everything anew elsewhere."""
    parts, here = line.run_dir.parent.parts, path.resolve().parent
    beside = not line.run_dir.is_absolute() and parts and here.parts[-len(parts) :] == parts
    if beside and line.run_dir.parent.resolve() != here:
        start = here.parents[len(parts) - 1]
        raise UsageError(f"{path}: its runs are in folders relative to {start}; start from there")


def _parse(text: str, number: int, path: Path) -> Line:
    place = f"{path}, line {number}"
    try:
        words = shlex.split(text, comments=True)
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from error
    at = next((i for i, word in enumerate(words[:2]) if Path(word).name == "main.py"), None)
    if at is None:
        raise UsageError(f"{place}: expected 'python main.py --model ...', found '{text.strip()[:80]}'")
    options = words[at + 1 :]
    folder = None
    for i, word in enumerate(options):
        flag, equals, value = word.partition("=")
        if flag.replace("-", "_") == "__run_dir":
            folder = value if equals else next(iter(options[i + 1 :]), None)
    if folder is None:
        folder = str(path.with_suffix(".runs") / hashlib.sha256(shlex.join(options).encode()).hexdigest()[:12])
        options += ["--run_dir", folder]
    return Line(number, tuple(options), Path(folder))
