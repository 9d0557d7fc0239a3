"""Mammoth's result files, for people who have tools that read them."""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path
from typing import Any

from utils.config import as_dict
from utils.files import append_line
from utils.metrics import nan_mean
from utils.results import Results


def write_logs(args: Namespace, results: Results) -> list[Path]:
    """Append one line, a plain dict that `ast.literal_eval` reads, to `<setting>/<dataset>/<model>/logs.pyd`.

    Keys are those of Mammoth: `accmean_task<t>` after session t, `accuracy_<k>_task<t>` on task k after session t,
    and the arguments. Streams of new classes write a second file under task-il, or this alone for a method that
    needs to know the task; on score streams the figures are SRCC
    in percent.

    Returns:
        The files appended to, below `args.base_path/args.results_path`.
    """
    settings = {"task-il" if name == "task_il" else results.dataset.SETTING: name for name in results.per_task}
    written = []
    for setting, metric in settings.items():
        line: dict[str, Any] = {}
        for t, row in enumerate(results.matrices.get(metric, [])):
            seen = row[: results.n_tasks if args.joint else t + 1]
            line[f"accmean_task{t + 1}"] = nan_mean(seen)
            line |= {f"accuracy_{k + 1}_task{t + 1}": value for k, value in enumerate(seen)}
        if results.is_score and results.sessions:
            line |= {key: value for key, value in results.summary().items() if isinstance(value, float)}
        line |= as_dict(args)
        path = Path(args.base_path) / args.results_path / setting / args.dataset / args.model / "logs.pyd"
        append_line(path, repr({key: _literal(value) for key, value in line.items()}))
        written.append(path)
    return written


def _literal(value: Any) -> Any:
    """`nan` and `inf` are no Python literals."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | list | None) else str(value)
