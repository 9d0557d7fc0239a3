"""Torchvision imports beside a CPU build of torch, whose compiled operators it cannot load."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(code: str) -> str:
    """What a fresh interpreter prints; torchvision imported here before would hide a failure."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_transforms_import_in_a_fresh_interpreter() -> None:
    code = "from utils.torchvision_import import import_torchvision; import_torchvision('transforms'); print('done')"
    assert run(code) == "done"


def test_transforms_networks_and_data_sets_work() -> None:
    code = """
import torch
from utils.torchvision_import import import_torchvision
transforms, models, datasets = (import_torchvision(name) for name in ('transforms', 'models', 'datasets'))
image = torch.arange(64.).view(1, 8, 8)
assert torch.equal(transforms.CenterCrop(4)(image), image[:, 2:6, 2:6])
assert models.resnet18(num_classes=3).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
assert import_torchvision('transforms') is import_torchvision().transforms is transforms
assert len(datasets.FakeData(size=3)) == 3
print('done')
"""
    assert run(code) == "done"
