"""How long a task is trained: `--fitting_mode`. Pure decisions.

| mode | a task ends |
|---|---|
| epochs | after --n_epochs |
| iters | after --n_iters batches, in the middle of an epoch if need be |
| time | after --fitting_time since it began, at the end of a batch; a resumed run counts what was spent before |
| early_stopping | after --early_stopping_patience evaluations without improvement, at the latest after --n_epochs |
"""

from __future__ import annotations

import math
from argparse import Namespace

from utils.errors import UsageError


def check_fitting(args: Namespace, is_score: bool) -> None:
    """Refuse options on the length of training that do not fit the stream or one another.

    Raises:
        UsageError: what does not fit, and what to do.
    """
    mode = getattr(args, "fitting_mode", "epochs")
    if mode == "iters" and getattr(args, "n_iters", None) is None:
        raise UsageError("--fitting_mode iters needs --n_iters, the number of batches of every task")
    if mode == "time" and getattr(args, "fitting_time", None) is None:
        raise UsageError("--fitting_mode time needs --fitting_time for every task, e.g. 90s or 15m")
    if mode == "time" and getattr(args, "lr_scheduler", None) == "cosine":
        raise UsageError("--lr_scheduler cosine needs a number of epochs, which --fitting_mode time does not know")
    if mode in ("iters", "time") and getattr(args, "online", False):
        raise UsageError(f"--online is one pass over each task; leave out --fitting_mode {mode}")
    if mode != "early_stopping":
        return
    metric = args.early_stopping_metric
    if not getattr(args, "validation", None):
        raise UsageError(
            "--fitting_mode early_stopping goes by training samples that are held out: say how many percent with "
            "--validation, e.g. --validation 10"
        )
    if metric == ("accuracy" if is_score else "srcc"):
        fitting = "loss or srcc" if is_score else "loss or accuracy"
        raise UsageError(f"--early_stopping_metric {metric} does not fit this stream; choose {fitting}")


def evaluated_on(args: Namespace) -> str:
    """Which samples the figures of a run are of: "validation" with `--validation`, else "test".

    Early stopping chooses on the validation samples, so its figures are of the test samples.
    """
    stops_early = getattr(args, "fitting_mode", "epochs") == "early_stopping"
    return "validation" if getattr(args, "validation", None) and not stops_early else "test"


def improves(value: float, best: float | None, epsilon: float, higher_is_better: bool) -> bool:
    """Whether a figure is better than the best so far by more than epsilon; the first is, NaN never is."""
    if math.isnan(value):
        return False
    return best is None or (value - best if higher_is_better else best - value) > epsilon
