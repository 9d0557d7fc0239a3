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


def test_schemas_are_not_declared_beside_a_torchvision_that_declares_them_itself(tmp_path: Path) -> None:
    folder = tmp_path / "torchvision"
    folder.mkdir()
    (folder / "version.py").write_text("__version__ = '0.28.0+cpu'\n")
    # Stands for the compiled library: a second declaration is an error.
    schema = "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    (folder / "__init__.py").write_text(
        f"import torch\nlibrary = torch.library.Library('torchvision', 'DEF')\nlibrary.define({schema!r})\n"
    )
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from utils.torchvision_import import import_torchvision
assert import_torchvision().__file__.startswith({str(tmp_path)!r})
print('done')
"""
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
