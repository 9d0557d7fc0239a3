"""Several devices for one run, which we do not offer: a run uses one device, a sweep uses many."""

from __future__ import annotations

from typing import Any, NoReturn

from utils.errors import UsageError

_WHY = "a run uses one device; start several runs at once with scripts/local_launcher.py instead"


def make_dp(net: Any) -> NoReturn:
    """Mammoth's DataParallel; always raises UsageError."""
    raise UsageError(f"make_dp: {_WHY}")


def make_ddp(net: Any) -> NoReturn:
    """Mammoth's DistributedDataParallel; always raises UsageError."""
    raise UsageError(f"make_ddp: {_WHY}")
