"""The command line: resolve the configuration, build stream, backbone and method, train."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch is imported: threads that spin while they wait make training ten times slower on a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Large pages for large tensors: preparing a batch of clips spends most of its time on page faults otherwise.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from utils.args import parse_args
from utils.errors import Interrupted, RunError

if TYPE_CHECKING:
    from models.utils.continual_model import ContinualModel
    from utils.callbacks import Callback
    from utils.run import Run
    from utils.training import Loop


def main(argv: Sequence[str] | None = None) -> int:
    """Run once; returns the exit code (utils/errors.py)."""
    began = time.monotonic()
    try:
        args = parse_args(argv)
        execute(args, began)
    except RunError as error:
        print(f"{'stopped' if isinstance(error, Interrupted) else 'error'}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped at once, without a new checkpoint", file=sys.stderr)
        return 130
    return 0


def execute(args: Namespace, began: float) -> None:
    """Build the run's folder, then train in it, keeping its status; `began`: when the process started working."""
    from datasets import get_dataset_class
    from models import check_compatibility
    from utils.run import Run
    from utils.tracking import check_installed

    check_installed(args)
    check_compatibility(args.model, get_dataset_class(args).resolve_setting(args), args.dataset)
    run = Run.reopen(args.resume) if args.resume else Run.create(args)
    with run.locked():
        run.set_status("running")
        try:
            state = train(args, run, began)
        except Interrupted as error:
            run.set_status("interrupted", str(error))
            raise
        except BaseException as error:
            run.set_status("failed", f"{type(error).__name__}: {error}")
            raise
        run.set_status(state)


def train(args: Namespace, run: Run, began: float) -> str:
    """Train and report; returns "finished", or "stopped" after --stop_after."""
    from backbone import get_backbone
    from datasets import get_dataset
    from models import get_model
    from utils.callbacks import Checkpoints, closing
    from utils.conf import set_deterministic, set_random_seed
    from utils.loggers import write_logs
    from utils.tables import split_table
    from utils.training import Loop

    set_deterministic()
    set_random_seed(args.seed)
    dataset = get_dataset(args)
    model = get_model(args, get_backbone(args), dataset.get_loss(), dataset.get_transform(), dataset)
    if args.loadcheck and not run.has_checkpoint:
        load_start(model, args)
    print(f"run: {run.path}\n{getattr(dataset, 'NOTICE', '')}".rstrip())
    if len(args.gpus) > 1:
        print(f"one run uses one GPU: this one takes {model.device}, the others stay free for other runs")
    print(f"\n{split_table(dataset)}\n")

    # Checkpoints come last, so that what the others record is in them.
    callbacks = [*optional_callbacks(args, run), Checkpoints(args.checkpoint_every)]
    with closing(callbacks):
        loop = Loop(model, dataset, args, run, callbacks)
        if args.resume:
            loop.restore()
            other_data = None
            if run.has_checkpoint:
                if args.skip_corrupt:
                    run.check_split(dataset.describe())
                position = f"task {loop.task + 1} of {dataset.N_TASKS}, epoch {loop.epoch + 1}, batch {loop.batch + 1}"
                if (data := dataset.fingerprint()) != run.recorded_split()["data"]:
                    other_data = data
                    print("note: the data is not to the last bit what this run began with", file=sys.stderr)
                print(f"going on with {position}\n")
            run.note_resumption(args, other_data)
        if not loop.started:
            split = {"data": dataset.fingerprint(), "tasks": dataset.describe()}
            run.record(event="split", dataset=dataset.NAME, setting=dataset.SETTING, **split)
        loop.train()
    report(loop, began)
    if loop.task < dataset.N_TASKS:
        return "stopped"
    run.record(event="summary", **loop.results.summary())
    write_logs(args, loop.results)
    return "finished"


def load_start(model: ContinualModel, args: Namespace) -> None:
    """Take weights and buffers from `--loadcheck`; the draws from the buffers stay those of this run's seed."""
    from utils.buffer import Buffer
    from utils.checkpoints import load_weights
    from utils.conf import derive_seed
    from utils.token_store import TokenStore

    load_weights(model, Path(args.loadcheck))
    for i, part in enumerate(part for part in model.modules() if isinstance(part, Buffer | TokenStore)):
        part.generator.manual_seed(derive_seed(args.seed, "loaded buffer", i))


def optional_callbacks(args: Namespace, run: Run) -> list[Callback]:
    """What the flags ask for beside training itself."""
    from utils.callbacks import EvaluateEpochs, KeepWeights, Progress
    from utils.tracking import Tracking

    callbacks: list[Callback] = [Progress(args.non_verbose)]
    if args.eval_epochs:
        callbacks.append(EvaluateEpochs(args.eval_epochs))
    if args.savecheck:
        callbacks.append(KeepWeights(args, run))
    if args.wandb_project or args.tensorboard:
        callbacks.append(Tracking(args))
    return callbacks


def report(loop: Loop, began: float) -> None:
    """Write summary.json and print the tables."""
    from backbone import count_parameters
    from utils.buffer import Buffer
    from utils.embedding_tree import EmbeddingTree
    from utils.tables import summary_table, task_matrix
    from utils.token_store import TokenStore

    args, dataset, results = loop.args, loop.dataset, loop.results
    memories = (Buffer, TokenStore, EmbeddingTree)
    summary = {
        "dataset": dataset.NAME,
        "model": args.model,
        "setting": dataset.SETTING,
        "seed": args.seed,
        "evaluated_on": dataset.evaluated_on,
        **results.summary(),
        "skipped_samples": len(dataset.skipped),
        "skipped": dataset.skipped,
        "seconds": loop.seconds,
        "total_seconds": loop.seconds_before + time.monotonic() - began,
        **loop.measure_memory(),
        "parameters": count_parameters(loop.model.net),
        "buffer_bytes": sum(part.n_bytes for part in loop.model.modules() if isinstance(part, memories)),
    }
    loop.run.write_summary(summary)
    print(f"\n{args.model} on {dataset.NAME} ({dataset.SETTING}), evaluated on {summary['evaluated_on']} samples\n")
    print(f"{task_matrix(results)}\n\n{summary_table(results)}\n")
    if dataset.skipped:
        print(
            f"{len(dataset.skipped)} samples could not be read and were left out, see {loop.run.path / 'summary.json'}"
        )


if __name__ == "__main__":
    sys.exit(main())
