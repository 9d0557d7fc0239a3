"""The command line: resolve the configuration, build stream, backbone and method, train."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch is imported: threads that spin while they wait make training ten times slower on a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from utils.args import as_dict, parse_args
from utils.errors import Interrupted, RunError

if TYPE_CHECKING:
    from utils.run import Run


def main(argv: Sequence[str] | None = None) -> int:
    """Run once; returns the exit code (utils/errors.py)."""
    try:
        args = parse_args(argv)
        execute(args)
    except RunError as error:
        print(f"{'stopped' if isinstance(error, Interrupted) else 'error'}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped at once, without a new checkpoint", file=sys.stderr)
        return 130
    return 0


def execute(args: Namespace) -> None:
    """Build the run's folder, then train in it, keeping its status."""
    from datasets import get_dataset_class
    from models import check_compatibility
    from utils.run import Run

    check_compatibility(args.model, get_dataset_class(args).resolve_setting(args), args.dataset)
    run = Run.reopen(args.resume) if args.resume else Run.create(args)
    with run.locked():
        run.set_status("running")
        try:
            state = train(args, run)
        except Interrupted as error:
            run.set_status("interrupted", str(error))
            raise
        except BaseException as error:
            run.set_status("failed", f"{type(error).__name__}: {error}")
            raise
        run.set_status(state)


def train(args: Namespace, run: Run) -> str:
    """Train and report; returns "finished", or "stopped" after --stop_after."""
    from backbone import count_parameters, get_backbone
    from datasets import get_dataset
    from models import get_model
    from utils.buffer import Buffer
    from utils.callbacks import Callback, Checkpoints, EvaluateEpochs, KeepWeights, Progress, WandB
    from utils.checkpoints import load_weights
    from utils.conf import derive_seed, set_deterministic, set_random_seed
    from utils.loggers import write_logs
    from utils.tables import split_table, summary_table, task_matrix
    from utils.training import Loop

    set_deterministic()
    set_random_seed(args.seed)
    dataset = get_dataset(args)
    model = get_model(args, get_backbone(args), dataset.get_loss(), dataset.get_transform(), dataset)
    if args.loadcheck and not args.resume:
        load_weights(model, Path(args.loadcheck))
        for i, part in enumerate(part for part in model.modules() if isinstance(part, Buffer)):
            # The file brings the content; the draws from it belong to this run's seed.
            part.generator.manual_seed(derive_seed(args.seed, "loaded buffer", i))
    print(f"run: {run.path}\n{getattr(dataset, 'NOTICE', '')}".rstrip())
    if len(args.gpus) > 1:
        print(f"one run uses one GPU: this one takes {model.device}, the others stay free for other runs")
    print(f"\n{split_table(dataset)}\n")

    checkpoints = Checkpoints(args.checkpoint_every)
    callbacks: list[Callback] = [Progress(args.non_verbose)]
    if args.eval_epochs:
        callbacks.append(EvaluateEpochs(args.eval_epochs))
    if args.savecheck:
        callbacks.append(KeepWeights(args, run))
    if args.wandb_project and not args.nowand:
        try:
            callbacks.append(WandB(args, run, as_dict(args)))
        except Exception as error:
            print(f"wandb is left out, it did not start: {error}", file=sys.stderr)
    # Last, so that what the others record is in the checkpoint.
    callbacks.append(checkpoints)
    loop = Loop(model, dataset, args, run, callbacks)
    try:
        if args.resume:
            loop.restore()
        if not loop.started:
            run.record(event="split", dataset=dataset.NAME, setting=dataset.SETTING, tasks=dataset.describe())
        results = loop.train()
    finally:
        checkpoints.close()

    summary = {
        "dataset": dataset.NAME,
        "model": args.model,
        "setting": dataset.SETTING,
        "seed": args.seed,
        "evaluated_on": "validation" if args.validation else "test",
        **results.summary(),
        "skipped_samples": len(dataset.skipped),
        "skipped": dataset.skipped,
        "seconds": loop.seconds,
        "parameters": count_parameters(model.net),
        "buffer_bytes": sum(part.n_bytes for part in model.modules() if isinstance(part, Buffer)),
    }
    run.write_summary(summary)
    print(f"\n{args.model} on {dataset.NAME} ({dataset.SETTING}), evaluated on {summary['evaluated_on']} samples\n")
    print(f"{task_matrix(results)}\n\n{summary_table(results)}\n")
    if dataset.skipped:
        print(f"{len(dataset.skipped)} samples could not be read and were left out, see {run.path / 'summary.json'}")
    if loop.task < dataset.N_TASKS:
        return "stopped"
    run.record(event="summary", **results.summary())
    write_logs(args, results)
    return "finished"


if __name__ == "__main__":
    sys.exit(main())
