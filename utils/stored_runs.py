"""Run folders as they lie on the disk: finding them, reading them, telling how far each one came.

Reading never fails because of a folder that a crash left half-written: what is missing is empty, and `problems` says
so.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from utils.args import WITHOUT_EFFECT
from utils.config import read_yaml
from utils.errors import DataError, UsageError
from utils.files import lock_is_held
from utils.run import read_json

STATES = {
    "finished": "came to its end",
    "running": "a process is at work in it",
    "stopped": "ended by --stop_after; --resume goes on",
    "interrupted": "stopped by a signal after writing a checkpoint; --resume goes on",
    "failed": "ended by an error",
    "killed": "its process is gone without a word; --resume goes on",
    "broken": "half-written: it never began, or its configuration cannot be read",
}
USUAL_PLACES = ("data/runs", "data/sweeps")
MARKS = ("config.yaml", "status.json", "log.txt")


class StoredRun:
    """One run folder; parts are read when first asked for.

    Attributes:
        path: the folder.
        problems: what could not be read, one message each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration; empty if it cannot be read."""
        path = self.path / "config.yaml"
        try:
            content = read_yaml(path)
            if content and not path.read_bytes().endswith(b"\n"):
                self.problems.append(f"{path} was cut")
        except (UsageError, OSError) as error:
            self.problems.append(str(error))
            return {}
        return content

    @cached_property
    def status(self) -> dict[str, Any]:
        return self._json("status.json")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The final figures; empty unless the run has finished or was stopped after a task."""
        return self._json("summary.json")

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self._json("environment.json")

    @property
    def turned_on(self) -> set[str]:
        """Options that resumptions turned on."""
        return {name for part in self.environment.get("resumed", []) for name in part.get("turned_on", [])}

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The objects of metrics.jsonl; a last line that a crash cut is left out."""
        try:
            lines = (self.path / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            lines = []
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(f"{self.path / 'metrics.jsonl'} cannot be read: {error}")
            return []
        if not lines:
            self._expected("metrics.jsonl")
        records = []
        for number, line in enumerate(lines):
            try:
                records.append(json.loads(line))
            except ValueError:
                self.problems.append(f"{self.path / 'metrics.jsonl'}, line {number + 1} cannot be read")
        return [record for record in records if isinstance(record, dict)]

    def matrix(self, name: str) -> np.ndarray:
        """R of a metric, (sessions, tasks), NaN where unmeasured; (0, 0) if there is none."""
        table = self._table(f"R_{name}.csv")
        try:
            rows = [[float(cell) if cell else np.nan for cell in row[1:]] for row in table[1:]]
            return np.asarray(rows, dtype=np.float64) if rows else np.empty((0, 0))
        except ValueError as error:
            self.problems.append(f"{self.path / f'R_{name}.csv'} cannot be read: {error}")
            return np.empty((0, 0))

    def task_names(self, name: str) -> list[str]:
        """The tasks that the columns of `matrix(name)` stand for."""
        return self._table(f"R_{name}.csv")[0][1:] if self._table(f"R_{name}.csv") else []

    def predictions(self, session: int | None = None) -> dict[str, np.ndarray]:
        """outputs, truth and task of every evaluation sample after a session (the last by default); may be empty.

        Of open-vocabulary methods also class_il and task_il, the classes that they chose.
        """
        folder = self.path / "predictions"
        if session is None:
            numbers = [int(path.stem.rpartition("-")[2]) for path in folder.glob("session-*.npz")]
            known = self.summary.get("session", -1)
            session = max([*numbers, known if isinstance(known, int) else -1], default=-1)
        try:
            with np.load(folder / f"session-{session}.npz") as stored:
                return {name: stored[name] for name in stored.files}
        except Exception as error:  # numpy's reader meets a damaged file with almost any exception
            if session >= 0:
                self.problems.append(f"cannot read the predictions of session {session}: {error}")
            return {}

    @property
    def state(self) -> str:
        """One of `STATES`."""
        if not self.config or "model" not in self.config or "dataset" not in self.config:
            return "broken"
        state = str(self.status.get("state", "killed"))
        if state == "finished":
            return state if self.summary else "broken"
        if lock_is_held(self.path / ".lock"):
            return "running"
        return "killed" if state == "running" or state not in STATES else state

    @property
    def reason(self) -> str:
        """Why it is in this state, in a line; empty where the state says it all."""
        if self.state == "broken":
            return "; ".join(self.problems) or f"no complete config.yaml and summary.json in {self.path}"
        return str(self.status.get("message", "")) if self.state in ("failed", "interrupted") else ""

    @property
    def model(self) -> str:
        return str(self.config.get("model", "?"))

    @property
    def dataset(self) -> str:
        return str(self.config.get("dataset", "?"))

    @property
    def seed(self) -> int:
        seed = self.config.get("seed", 0)
        return seed if isinstance(seed, int) else 0

    @property
    def data(self) -> str:
        """Fingerprint of the samples; empty before they were read."""
        return str(self.split.get("data", ""))

    @property
    def split(self) -> dict[str, Any]:
        """What the stream consisted of; empty before it was opened."""
        return next((record for record in self.records if record.get("event") == "split"), {})

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that repetitions of one experiment have in common: the configuration without the seed and without
        what has no effect on results, and the data."""
        settings = {name: value for name, value in self.config.items() if name not in {"seed", *WITHOUT_EFFECT}}
        return {**settings, "evaluated_on": self.summary.get("evaluated_on", ""), "data": self.data}

    def _json(self, name: str) -> dict[str, Any]:
        content = read_json(self.path / name)
        if not content and (self.path / name).exists():
            self.problems.append(f"{self.path / name} cannot be read")
        elif not content and name != "status.json":
            self._expected(name)
        return content

    def _expected(self, name: str) -> None:
        """Note that a file is missing, or has nothing in it, that a run which has ended leaves."""
        if self.status.get("state") == "finished":
            self.problems.append(f"{self.path / name} is missing or empty")

    def _table(self, name: str) -> list[list[str]]:
        try:
            text = (self.path / name).read_text(errors="replace")
        except OSError:
            text = ""
        table = list(csv.reader(text.splitlines()))
        if not table and ((self.path / name).exists() or not any(self.path.glob("R_*.csv"))):
            self._expected(name)
        is_whole = text.startswith("session,") and text.endswith("\n") and len({len(row) for row in table}) == 1
        if table and not is_whole:
            self.problems.append(f"{self.path / name} was cut or is damaged")
            return []
        return table


def open_run(path: Path) -> StoredRun:
    """The run in a folder.

    Raises:
        DataError: there is none.
    """
    if not (path / "config.yaml").exists():
        raise DataError(f"{path} is no run folder (no config.yaml)")
    return StoredRun(path)


def usual_places() -> list[Path]:
    """Those of the folders where runs lie unless told otherwise that exist."""
    return [path for path in map(Path, USUAL_PLACES) if path.is_dir()]


def find_runs(places: Iterable[str | Path]) -> list[StoredRun]:
    """The run folders among and below some folders, each once, in the order of their paths.

    Raises:
        DataError: a place does not exist.
    """
    found: dict[Path, Path] = {}
    half: dict[Path, Path] = {}
    for place in map(Path, places):
        if not place.is_dir():
            raise DataError(f"no folder {place}")
        for folder, below, files in os.walk(place):
            if "config.yaml" in files:
                found.setdefault(Path(folder).resolve(), Path(folder))
                below.clear()
            elif any(mark in files for mark in MARKS):
                half.setdefault(Path(folder).resolve(), Path(folder))
    # What looks like a run that never began may be a folder of runs with a log of its own.
    above = {parent for path in (*found, *half) for parent in path.parents}
    found |= {place: path for place, path in half.items() if place not in above}
    return [StoredRun(path) for path in sorted(found.values())]


def differing(runs: Sequence[StoredRun]) -> dict[str, Counter[str]]:
    """The settings in which some runs are not all equal: name -> how many runs have which value ("absent": none)."""
    names = sorted({name for run in runs for name in run.settings})
    values = {name: Counter(str(run.settings.get(name, "absent")) for run in runs) for name in names}
    return {name: counts for name, counts in values.items() if len(counts) > 1}
