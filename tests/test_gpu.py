"""What only a CUDA device can show."""

from __future__ import annotations

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

RUNS = [
    "--model magr --dataset aqa7-mini --buffer_size 5 --n_tasks 2 --base_epochs 1 --n_epochs 1",
    "--model er --dataset seq-digits --buffer_size 20 --n_tasks 2 --n_epochs 2 --backbone resnet18 --width 8",
    "--model anytimecl --dataset seq-digits --n_tasks 2 --max_samples_per_class 20 --bits 16 --clip_image_size 8 "
    "--patch_size 4 --width 32 --depth 2",
]


@pytest.mark.parametrize("line", RUNS)
def test_run_on_a_gpu_is_repeatable_and_goes_on_to_the_same_bits(launch, identical, line):
    first, second = launch(f"{line} --gpus 0"), launch(f"{line} --device cuda")
    assert first.code == second.code == 0
    assert identical(first, second)
    stopped = launch(f"{line} --gpus 0 --stop_after 1")
    assert identical(first, launch("--stop_after 9", resume=stopped.path))


@pytest.mark.parametrize("line", RUNS)
def test_run_on_a_gpu_agrees_with_the_cpu(launch, line):
    cpu, gpu = launch(line), launch(f"{line} --gpus 0")
    name = "srcc_pooled" if "magr" in line else "task_il_mean"
    assert gpu.summary[name] == pytest.approx(cpu.summary[name], abs=10)
