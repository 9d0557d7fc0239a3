"""Mean and standard deviation over seeds of finished runs, as a Markdown table.

    python scripts/summarize.py data/runs/uiprmd
    python scripts/summarize.py data/runs/seq-cifar10 --figures class_il_mean task_il_mean

Runs are put together only if they differ in nothing but the seed; a run that has not finished is named and left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.args import OPERATIONAL
from utils.run import Run

Key = tuple[tuple[str, str], ...]
FIGURES = {
    True: ("srcc_pooled", "srcc_mean", "srcc_forgetting", "mae"),
    False: ("class_il_mean", "task_il_mean", "class_il_forgetting"),
}
SAME_RESULT = {"seed", "savecheck", "run_dir", *OPERATIONAL}


def read(folders: list[Path]) -> dict[Key, list[dict[str, Any]]]:
    """Summaries of the finished runs below some folders, by configuration without the seed."""
    groups = defaultdict(list)
    for path in sorted(path.parent for folder in folders for path in folder.rglob("config.yaml")):
        if Run(path).status().get("state") != "finished":
            print(f"left out, not finished: {path}", file=sys.stderr)
            continue
        config = yaml.safe_load((path / "config.yaml").read_text())
        key = tuple((name, str(value)) for name, value in sorted(config.items()) if name not in SAME_RESULT)
        groups[key].append(json.loads((path / "summary.json").read_text()))
    return groups


def what_differs(key: Key, keys: list[Key]) -> str:
    """The settings of a row that not every row of the same method and stream shares."""
    mine = dict(key)
    peers = [dict(k) for k in keys if all(dict(k)[name] == mine[name] for name in ("model", "dataset"))]
    names = sorted(name for name, value in mine.items() if any(peer.get(name) != value for peer in peers))
    return ", ".join(f"{name}={mine[name]}" for name in names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders above them")
    parser.add_argument("--figures", nargs="+", help="names from summary.json (default: the headline figures)")
    args = parser.parse_args()
    groups = read(args.folders)
    if not groups:
        print("error: no finished run there", file=sys.stderr)
        return 3
    for is_score, names in FIGURES.items():
        rows = {key: runs for key, runs in groups.items() if ("srcc_pooled" in runs[0]) == is_score}
        if rows:
            print(f"{table(rows, args.figures or names)}\n")
    return 0


def table(groups: dict[Key, list[dict[str, Any]]], names: Sequence[str]) -> str:
    """One row for each configuration."""
    lines = [f"| method | stream | seeds | {' | '.join(names)} |", f"|{'---|' * (3 + len(names))}"]
    for key, runs in groups.items():
        cells = []
        for name in names:
            values = np.asarray([run[name] for run in runs if run.get(name) is not None], dtype=float)
            digits = 2 if len(values) and np.abs(values).max() >= 1 else 4
            spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.{digits}f}{spread}" if len(values) else "-")
        differs = what_differs(key, list(groups))
        title = dict(key)["model"] + (f" ({differs})" if differs else "")
        seeds = len({run["seed"] for run in runs})
        repeated = f" ({len(runs)} runs)" if len(runs) != seeds else ""
        lines.append(f"| {title} | {runs[0]['dataset']} | {seeds}{repeated} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
