"""Errors that a user can act on. `main.py` prints their message, without a traceback, and exits with `exit_code`.

| exit code | meaning |
|---|---|
| 0 | the run ended |
| 1 | a bug: a traceback is printed |
| 2 | wrong usage: flag, name, configuration |
| 3 | data: a file is missing, unreadable or does not hold what it should |
| 4 | training: the loss or the outputs are no longer finite |
| 5 | storage: a result or a checkpoint could not be written or read |
| 130, 143, 138 | stopped by Ctrl-C, SIGTERM, SIGUSR1 after writing a checkpoint; continue with --resume |
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

# A run that gets one of these writes a checkpoint and ends.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class RunError(Exception):
    """An error whose message tells what was wrong, where, and what to do about it."""

    exit_code = 1


class UsageError(RunError):
    """A flag, a name or a configuration key is wrong."""

    exit_code = 2


class DataError(RunError):
    """Data is missing, unreadable, or does not fit the protocol that was asked for."""

    exit_code = 3


class TrainingError(RunError):
    """Training cannot go on: a loss or an output is not finite."""

    exit_code = 4


class StorageError(RunError):
    """A run folder or a checkpoint cannot be written or read."""

    exit_code = 5


class Interrupted(RunError):
    """The run was asked to stop by a signal and has written a checkpoint."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def run_script(main: Callable[[], int]) -> int:
    """Call a script's entry point; a Ctrl-C, or a reader of its output that has left, ends it without a traceback."""
    try:
        code = main()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # What is still to be flushed at exit has nowhere to go either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
