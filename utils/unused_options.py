"""Options that do nothing without another one: given on the command line they are refused, not ignored."""

from __future__ import annotations

from argparse import Namespace

from utils.errors import UsageError

# Option -> (the other option, the value that it needs there; None: any).
NEEDS: dict[str, tuple[str, str | None]] = {
    "n_iters": ("fitting_mode", "iters"),
    "fitting_time": ("fitting_mode", "time"),
    **dict.fromkeys(
        ("early_stopping_patience", "early_stopping_metric", "early_stopping_epsilon", "early_stopping_freq"),
        ("fitting_mode", "early_stopping"),
    ),
    **dict.fromkeys(("lr_milestones", "base_lr_milestones"), ("lr_scheduler", "multistep")),
    **dict.fromkeys(("imb_type", "imb_step_frac"), ("imb_factor", None)),
}


def check_unused(args: Namespace) -> None:
    """Refuse options that would have no effect. Those of files stay: they may be there for other runs.

    Raises:
        UsageError: what is missing.
    """
    for name, (other, needed) in NEEDS.items():
        if getattr(args, "sources", {}).get(name) != "command line":
            continue
        value = getattr(args, other, None)
        if value is None or (needed is not None and value != needed):
            wanted = f"--{other} {needed}" if needed else f"--{other}"
            raise UsageError(f"--{name} has no effect without {wanted}; add that, or leave --{name} out")
