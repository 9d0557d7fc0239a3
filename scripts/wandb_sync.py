"""Upload the wandb runs that were logged offline.

    python scripts/wandb_sync.py data/runs
    python scripts/wandb_sync.py data/runs/uiprmd other/runs --at_once 8 --timeout 600
    python scripts/wandb_sync.py data/runs --dry_run

Runs that are uploaded already are skipped, runs in progress are named and left for later; the parts of a resumed run
become one run. The key comes from `wandb login` or WANDB_API_KEY, the server from WANDB_BASE_URL; nothing is asked for.

Exit codes: 0 all is uploaded; 2 no key; 3 a folder does not exist; 5 something could not be uploaded; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.args import not_negative, positive, positive_number
from utils.errors import RunError, StorageError, run_script
from utils.wandb_offline import Part, Uploads, check_upload, find_parts, waiting


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders above them")
    parser.add_argument("--at_once", type=positive, default=4, help="runs uploaded at the same time")
    parser.add_argument("--retry", type=not_negative, default=3, help="attempts after the first, with growing pauses")
    parser.add_argument("--timeout", type=positive_number, default=300.0, help="seconds for each attempt")
    parser.add_argument("--dry_run", action="store_true", help="only say what would be uploaded")
    args = parser.parse_args(argv)
    try:
        todo, busy, done = waiting(find_parts(args.folders))
        for folder in busy:
            print(f"left for later, in progress: {folder}")
        print(f"to upload: {len(todo)}, uploaded already: {done}, in progress: {len(busy)}")
        if args.dry_run:
            for parts in todo.values():
                print("\n".join(str(part.path.parent) for part in parts))
        elif todo:
            check_upload()
            upload(todo, args.at_once, Uploads(args.retry, args.timeout))
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; what was not uploaded yet is left for the next time", file=sys.stderr)
        return 130
    return 0


def upload(todo: dict[str, list[Part]], at_once: int, uploads: Uploads) -> None:
    """Upload runs side by side, the parts of each in order.

    Raises:
        StorageError: some could not be uploaded.
    """
    failed = []
    with ThreadPoolExecutor(at_once) as pool:
        results = [pool.submit(uploads.sync, parts) for parts in todo.values()]
        try:
            for result in tqdm(as_completed(results), total=len(results), unit="run", disable=None):
                failed += [result.result()] if result.result() else []
        except KeyboardInterrupt:
            uploads.stop()
            pool.shutdown(cancel_futures=True)
            raise
    print(f"uploaded: {len(todo) - len(failed)}, failed: {len(failed)}")
    if failed:
        raise StorageError("\n  ".join([f"{len(failed)} of {len(todo)} runs were not uploaded:", *failed]))


if __name__ == "__main__":
    sys.exit(run_script(main))
