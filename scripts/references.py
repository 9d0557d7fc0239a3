"""Published figures and ours, side by side; or what runs of yours say about them.

    python scripts/references.py                                  # all entries of configs/reproduce.yaml
    python scripts/references.py data/sweeps/cifar10-small        # these runs against them
    python scripts/references.py --only er derpp --dataset seq-cifar10

Where nobody else has measured a protocol, runs are compared with what came out here.

Exit codes: 0; 1 with runs that are further from a reference than its tolerance; 2 and more as of main.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.errors import RunError, UsageError, run_script
from utils.reference_results import Reference, describe, mean_of, read_references
from utils.registry import ROOT
from utils.stored_runs import StoredRun, find_runs
from utils.sweeps import as_ranges
from utils.tables import number, text_table


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", help="runs, or folders above them")
    parser.add_argument("--file", type=Path, default=ROOT / "configs" / "reproduce.yaml", help="file of references")
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="only these methods")
    parser.add_argument("--dataset", help="only this stream")
    args = parser.parse_args(argv)
    try:
        entries = [
            entry
            for entry in read_references(args.file)
            if (not args.only or entry.options.get("model") in args.only)
            and (not args.dataset or entry.options.get("dataset") == args.dataset)
        ]
        if not entries:
            raise UsageError(f"no entry of {args.file} is of that method and stream")
        runs = find_runs(args.folders) if args.folders else None
        text, all_within = compare(entries, runs)
        print(text)
        return int(not all_within)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def compare(entries: Sequence[Reference], runs: Sequence[StoredRun] | None) -> tuple[str, bool]:
    """(table and notes, whether no run is further from its reference than the tolerance)."""
    rows, all_within, sources = [], True, dict[str, str]()
    for entry in entries:
        mark = sources.setdefault(entry.source, f"[{len(sources) + 1}]")
        for figure, known in entry.known.items():
            value, seeds = entry.ours.get(figure), entry.seeds
            if runs is not None:
                value, found = mean_of(runs, entry, figure)
                seeds = as_ranges(found)
            verdict = entry.verdict(figure, value)
            reference = number(known)
            if not entry.reference:
                # With runs, what came out here is what theirs are compared with.
                reference, verdict = ("-", "ours alone") if runs is None else (f"{reference} (ours)", verdict)
            if runs is not None and value is None:
                continue
            all_within &= runs is None or verdict == "within tolerance"
            ours = "-" if value is None else number(value)
            rows.append([describe(entry.options), figure, f"{reference} {mark}", ours, seeds or "-", verdict])
    if not rows:
        raise UsageError("no finished run there belongs to an entry: its configuration must have all options of one")
    header = ["method and protocol", "figure", "reference", "ours", "seeds", "verdict"]
    notes = [f"{mark} {source}" for source, mark in sources.items()]
    notes += sorted({f"ours, {entry.date}: {entry.command}" for entry in entries if entry.ours and runs is None})
    return "\n".join([text_table(header, rows), "", *notes]), all_within


if __name__ == "__main__":
    sys.exit(run_script(main))
