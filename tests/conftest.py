"""Fixtures that several folders of tests use."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before torch is imported: see main.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("WANDB_MODE", "offline")

import pytest
import torch

from main import main
from utils.checkpoints import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Finished:
    """What a run left behind."""

    code: int
    path: Path

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.path / "summary.json").read_text())

    @property
    def metrics(self) -> str:
        return (self.path / "metrics.jsonl").read_text()

    @property
    def status(self) -> dict[str, Any]:
        return json.loads((self.path / "status.json").read_text())

    @property
    def checkpoint(self) -> dict[str, Any]:
        return load_checkpoint(self.path / "checkpoint.pt")


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., Finished]:
    """Run main.py's entry point in this process, in a folder of its own."""
    count = iter(range(1000))

    def run(line: str, *words: str, resume: Path | None = None) -> Finished:
        path = resume or tmp_path / f"run{next(count)}"
        place = ["--resume", str(path)] if resume else ["--run_dir", str(path), "--base_path", str(tmp_path / "data")]
        return Finished(main([*line.split(), *words, *place, "--non_verbose", "1"]), path)

    return run


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the repository; the test is skipped where it is absent."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no real data in {path}")
    return path


@pytest.fixture(scope="session")
def digits_clip(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """File of a clip-tiny that has learnt the digits from zero to six; made once for all test workers."""
    from scripts.pretrain_clip import main as pretrain

    root = tmp_path_factory.getbasetemp()
    root = root if worker_id == "master" else root.parent
    path = root / "digits-clip.pt"
    sizes = "--clip_image_size 8 --patch_size 2 --width 32 --depth 2"
    learning = "--epochs 12 --batch_size 64 --lr 2e-3 --seed 0"
    line = f"--dataset seq-digits --classes zero,one,two,three,four,five,six {sizes} {learning} --out {path}"
    with open(root / "digits-clip.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            assert pretrain(line.split()) == 0
    return path


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[None]:
    """Let another process hold the lock of a run folder."""
    code = (
        "import sys; from utils.files import exclusive_lock\n"
        "with exclusive_lock(sys.argv[1], ''): print('held', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, folder / ".lock"], cwd=ROOT, stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.stdin.close()


def same_state(a: Any, b: Any) -> bool:
    """Whether two checkpoints are equal to the bit; time and memory are not compared."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        names = a.keys() - {"cost"}
        return names == b.keys() - {"cost"} and all(same_state(a[name], b[name]) for name in names)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same_state(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (a != a and b != b)


@pytest.fixture(scope="session")
def identical() -> Callable[[Finished, Finished], bool]:
    """Whether two runs ended with the same weights, buffer, generators, R and records."""

    def compare(a: Finished, b: Finished) -> bool:
        return a.metrics == b.metrics and same_state(a.checkpoint, b.checkpoint)

    return compare


@pytest.fixture
def stop_after(monkeypatch):
    """Have this process told to stop (SIGTERM) after some batches, counted from 1 over all runs of a test; returns what
    tells how many there were."""

    def arrange(*batches):
        from models.utils.continual_model import ContinualModel

        observe, observed = ContinualModel.meta_observe, []

        def observe_then_signal(self, *args, **kwargs):
            loss = observe(self, *args, **kwargs)
            observed.append(None)
            if len(observed) in batches:
                os.kill(os.getpid(), signal.SIGTERM)
            return loss

        monkeypatch.setattr(ContinualModel, "meta_observe", observe_then_signal)
        return lambda: len(observed)

    return arrange
