"""What two runs differ in: settings, environment, results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from utils.stored_runs import StoredRun
from utils.tables import text_table

# Different for any two runs, and no reason for different results.
UNIQUE = ("command", "started", "slurm_job", "resumed")
COST = ("seconds", "total_seconds", "peak_memory_bytes", "peak_gpu_memory_bytes")


def different_settings(a: StoredRun, b: StoredRun) -> list[list[str]]:
    """(name, value in a, value in b) of all settings that may have an effect, the seed and the data among them."""
    left, right = ({"seed": run.config.get("seed"), **run.settings} for run in (a, b))
    return different(left, right)


def different_environment(a: StoredRun, b: StoredRun) -> list[list[str]]:
    """(name, value in a, value in b) of the machine, the code and the packages."""
    left, right = ({k: v for k, v in run.environment.items() if k not in ("packages", *UNIQUE)} for run in (a, b))
    packages = different(a.environment.get("packages", {}), b.environment.get("packages", {}))
    changes = [_text(run, "changes.diff") for run in (a, b)]
    rows = different(left, right) + packages
    if changes[0] != changes[1]:
        rows.append(["changes.diff", *(f"{text.count(chr(10))} lines" for text in changes)])
    return rows


def different_results(a: StoredRun, b: StoredRun) -> list[list[str]]:
    """(name, value in a, value in b) of the final figures; what a run cost is no result."""
    left, right = ({k: v for k, v in run.summary.items() if k not in COST} for run in (a, b))
    return different(left, right)


def different(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[list[str]]:
    """(name, left value, right value) wherever two mappings are not equal; "absent" where one has no such name."""
    names = [*left, *(name for name in right if name not in left)]
    pairs = [(name, left.get(name, "absent"), right.get(name, "absent")) for name in names]
    return [[name, _short(x), _short(y)] for name, x, y in pairs if x != y]


def first_difference(a: StoredRun, b: StoredRun) -> str | None:
    """Where the records of two runs, or else their stored predictions, part for the first time; None if nowhere."""
    for number, (x, y) in enumerate(zip(a.records, b.records, strict=False)):
        if x != y:
            names = ", ".join(row[0] for row in different(x, y))
            place = ", ".join(f"{name} {x[name]}" for name in ("event", "task", "session", "epoch") if name in x)
            return f"record {number + 1} of metrics.jsonl ({place}): {names}"
    if len(a.records) != len(b.records):
        return f"metrics.jsonl has {len(a.records)} records in one and {len(b.records)} in the other"
    for session in range(sum(record.get("event") == "session" for record in a.records)):
        x, y = a.predictions(session), b.predictions(session)
        for run, found in ((a, x), (b, y)):
            if not found:
                return f"the predictions after session {session}, which {run.path} lacks"
        if x.keys() != y.keys() or not all(np.array_equal(x[name], y[name]) for name in x):
            return f"the predictions after session {session}"
    return None


def describe(a: StoredRun, b: StoredRun) -> str:
    """All of it, for the terminal."""
    parts = [f"A: {a.path}\nB: {b.path}"]
    for title, rows in (
        ("settings", different_settings(a, b)),
        ("environment", different_environment(a, b)),
        ("results", different_results(a, b)),
    ):
        parts.append(text_table([title, "A", "B"], rows) if rows else f"{title}: no difference")
    costs = [[name, *(_short(run.summary.get(name, "absent")) for run in (a, b))] for name in COST]
    parts.append(text_table(["cost", "A", "B"], costs))
    where = first_difference(a, b)
    parts.append(f"they part at {where}" if where else "all records and predictions are identical")
    return "\n\n".join(parts)


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _text(run: StoredRun, name: str) -> str:
    try:
        return (run.path / name).read_text()
    except OSError:
        return ""
