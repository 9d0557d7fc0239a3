"""Device, seeds and named random generators."""

from __future__ import annotations

import hashlib
import os
import random
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from utils.errors import UsageError
from utils.paths import base_path as base_path
from utils.paths import base_path_dataset as base_path_dataset
from utils.paths import set_base_path as set_base_path


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed that depends on the run's seed and on what the randomness is for, and on nothing else.

    Args:
        seed: the run's seed.
        names: e.g. ("order", task, epoch). Compared by their `repr`, so 1 and "1" differ.
    """
    digest = hashlib.sha256(repr((int(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def named_generator(seed: int, *names: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator of its own for one purpose, so that using more of one never shifts another."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


def set_random_seed(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices), for layers and methods that draw from the global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def set_deterministic() -> None:
    """Ask torch for deterministic algorithms; an operation that has none warns instead of failing."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def get_rng_state() -> dict:
    """State of every global generator, as plain values and tensors that a checkpoint can hold."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict) -> None:
    """Put back what `get_rng_state` returned."""
    torch.set_rng_state(state["torch"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def randomness_apart(seed: int) -> Iterator[None]:
    """Within the block the global generators run from a seed of its own; what draws outside of it does not notice."""
    state = get_rng_state()
    set_random_seed(seed)
    try:
        yield
    finally:
        set_rng_state(state)


def set_random_seed_worker(worker_id: int) -> None:
    """Seed Python and NumPy in a process of torch's DataLoader, from the seed that torch has given it."""
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)


def create_seeded_dataloader(args: Namespace, dataset: Any, non_verbose: bool = False, **options: Any) -> DataLoader:
    """torch's DataLoader over a data set, its order a function of the run's seed.

    Args:
        args: of the run.
        dataset: samples by index.
        non_verbose: without effect.
        options: of DataLoader; `num_workers` is the run's by default.
    """
    given = {"num_workers": getattr(args, "num_workers", None) or 0, "worker_init_fn": set_random_seed_worker}
    generator = named_generator(getattr(args, "seed", None) or 0, "data loader")
    return DataLoader(dataset, **{**given, "generator": generator, **options})


def warn_once(*message: object) -> None:
    """Print a warning the first time that it is given."""
    text = " ".join(map(str, message))
    if text not in _warned:
        _warned.add(text)
        print(f"warning: {text}", file=sys.stderr)


_warned: set[str] = set()
_device_of_run = torch.device("cpu")


def get_device(args: Namespace | None = None) -> torch.device:
    """The device a run uses: `--device` if given, else the first of `--gpus`, else the CPU.

    Without arguments, the device that this process was asked about last.

    Raises:
        UsageError: a GPU was asked for and torch sees none, or fewer.
    """
    global _device_of_run
    if args is None:
        return _device_of_run
    gpus = getattr(args, "gpus", None)
    name = getattr(args, "device", None) or (f"cuda:{gpus[0]}" if gpus else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: not a torch device; try cpu, cuda or cuda:0") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: runs take place on cpu or cuda")
    if device.type == "cuda":
        seen = torch.cuda.device_count()
        if (device.index or 0) >= seen:
            raise UsageError(
                f"{name} was asked for, but torch {torch.__version__} sees {seen} CUDA device(s); leave out "
                "--gpus and --device to run on the CPU, or check the driver and the torch build"
            )
    _device_of_run = device
    return device


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
