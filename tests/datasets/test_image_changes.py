"""Rotations, orders of pixels, and the order in which pairs of classes are shown."""

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.utils.augment import RandomResizedCrop
from datasets.utils.image_changes import ChangedSource, PixelOrder, Rotation, TurnedSource, rotate, turning_pairs
from datasets.utils.sources import TensorSource
from utils.torchvision_import import import_torchvision


def pictures(n: int, *shape: int) -> Tensor:
    return torch.randint(0, 256, (n, *shape), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)


# Rotation


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 7)])
def test_quarter_turns_are_exact_and_counter_clockwise(mode: str, shape: tuple[int, ...]) -> None:
    images = pictures(4, *shape)
    turned = rotate(images, torch.tensor([0.0, 90.0, 180.0, 270.0]), mode)
    assert turned.dtype == torch.uint8
    for quarter, (before, after) in enumerate(zip(images, turned, strict=True)):
        assert torch.equal(after, torch.rot90(before, quarter, dims=(1, 2)))


def test_an_image_that_is_no_square_keeps_its_proportions() -> None:
    image = pictures(1, 1, 5, 9)
    half = rotate(image, torch.tensor([180.0]))
    assert torch.equal(half, image.flip(2, 3))
    quarter = rotate(image, torch.tensor([90.0]), "nearest")
    assert torch.equal(quarter[0, 0, :, 2:7], torch.rot90(image[0, 0, :, 2:7]))
    assert not quarter[0, 0, :, :2].any()


@pytest.mark.parametrize("degrees", [13.7, 61.2, 155.5])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_rotation_is_that_of_torchvision(degrees: float, mode: str) -> None:
    functional = import_torchvision("transforms.functional")
    modes = import_torchvision("transforms").InterpolationMode
    images = pictures(3, 1, 28, 28)
    expected = functional.rotate(images, degrees, getattr(modes, mode.upper()))
    difference = (rotate(images, torch.full((3,), degrees), mode).int() - expected.int()).abs()
    assert (difference > 1).float().mean() < 0.002


def test_each_image_turns_by_its_own_angle() -> None:
    images, degrees = pictures(6, 1, 8, 8), torch.linspace(0, 300, 6)
    alone = [rotate(image[None], angle[None]) for image, angle in zip(images, degrees, strict=True)]
    assert torch.equal(rotate(images, degrees), torch.cat(alone))
    assert torch.equal(Rotation(60.0, "bilinear")(images)[1], alone[1][0])


# Orders of pixels and sources


def test_pixels_of_all_channels_are_put_in_one_order() -> None:
    images, order = pictures(2, 3, 4, 5), torch.randperm(20)
    result = PixelOrder(order)(images)
    assert result.shape == images.shape
    for channel in range(3):
        assert torch.equal(result[1, channel].flatten(), images[1, channel].flatten()[order])


class Lossy(TensorSource):
    """Cannot read odd samples."""

    def read(self, indices: np.ndarray) -> tuple[Tensor, list[int], list[str]]:
        kept = [position for position, index in enumerate(indices) if index % 2 == 0]
        return self.data[indices[kept]], kept, [f"sample {index}" for index in indices if index % 2]


def test_a_changed_source_has_every_sample_once_for_every_change() -> None:
    data = pictures(4, 1, 3, 3)
    source = ChangedSource(TensorSource(data), [lambda x: x, lambda x: 255 - x, lambda x: x.flip(-1)])
    assert len(source) == 12
    raw, kept, problems = source.read(np.array([9, 1, 6, 11, 2]))
    assert torch.equal(raw, torch.stack([data[1].flip(-1), data[1], 255 - data[2], data[3].flip(-1), data[2]]))
    assert (kept, problems) == ([0, 1, 2, 3, 4], [])
    assert torch.equal(source.base.data, pictures(4, 1, 3, 3))
    assert source.fingerprint() == TensorSource(data).fingerprint()


def test_samples_that_cannot_be_read_shift_no_change_or_angle() -> None:
    base = Lossy(pictures(6, 1, 3, 3))
    changed = ChangedSource(base, [lambda x: x, lambda x: x.flip(-1)])
    raw, kept, problems = changed.read(np.array([1, 8, 2]))
    assert (kept, problems) == ([1, 2], ["sample 1"])
    assert torch.equal(raw, torch.stack([base.data[2].flip(-1), base.data[2]]))
    turned = TurnedSource(base, np.array([3, 4, 0]), np.array([90.0, 180.0, 270.0]), "nearest")
    raw, kept, _ = turned.read(np.array([0, 2, 1]))
    assert kept == [1, 2]
    assert torch.equal(raw, torch.stack([torch.rot90(base.data[0], 3, (1, 2)), base.data[4].flip(1, 2)]))


# Pairs of classes


def test_pairs_follow_one_another_and_every_sample_is_shown_once() -> None:
    labels = np.repeat(np.arange(5), 12)
    order, degrees = turning_pairs(labels, n_classes=4, n_rounds=2, seed=1)
    assert sorted(order) == list(range(48))  # class 4 is left out
    # 12 samples of a class are dealt to 4 pairs: 3 of each in a pair of 6, one after the other.
    shown = labels[order].reshape(8, 6)
    assert shown[:, ::2].tolist() == [[pair % 4] * 3 for pair in range(8)]
    assert shown[:, 1::2].tolist() == [[(pair + 1) % 4] * 3 for pair in range(8)]
    for label in range(4):
        assert degrees[labels[order] == label].tolist() == [30.0 * i for i in range(12)]


def test_samples_of_a_class_come_in_an_order_of_the_seed() -> None:
    labels = np.repeat(np.arange(3), 20)
    first, again, other = (turning_pairs(labels, 3, 3, seed)[0].tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert labels[first].tolist() == labels[other].tolist()


def test_classes_of_unequal_size_are_mixed_evenly_within_a_pair() -> None:
    labels = np.array([0] * 8 + [1] * 24)
    order, degrees = turning_pairs(labels, n_classes=2, n_rounds=1, seed=0)
    assert labels[order[:16]].reshape(4, 4).sum(1).tolist() == [3, 3, 3, 3]
    assert np.diff(degrees[labels[order] == 1]).tolist() == [15.0] * 23


def test_few_samples_leave_pairs_empty_and_lose_none() -> None:
    order, degrees = turning_pairs(np.array([0, 1, 1, 2]), n_classes=3, n_rounds=3, seed=0)
    assert sorted(order) == [0, 1, 2, 3]
    assert len(degrees) == 4


# Random resized crop


def gradient(size: int) -> Tensor:
    """Channel 0 is the column, channel 1 the row of every pixel."""
    return torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="xy")).float()


def test_a_resized_crop_is_a_rectangle_of_the_image_of_the_area_and_ratio_asked_for() -> None:
    n, size = 400, 64
    batch = gradient(size).expand(n, -1, -1, -1)
    crops = RandomResizedCrop(16, scale=(0.2, 0.8), ratio=(0.5, 2.0))(batch, torch.Generator().manual_seed(0))
    assert crops.shape == (n, 2, 16, 16)
    assert crops.min() >= 0
    assert crops.max() <= size - 1
    inner = crops[:, :, 2:14, 2:14]  # borders are repeated where a crop touches the side
    across, down = inner[:, 0].diff(dim=2), inner[:, 1].diff(dim=1)
    torch.testing.assert_close(across, across[:, :1, :1].expand_as(across), rtol=0, atol=2e-4)
    torch.testing.assert_close(down, down[:, :1, :1].expand_as(down), rtol=0, atol=2e-4)
    wide, tall = across[:, 0, 0] * 16 / size, down[:, 0, 0] * 16 / size
    inside = (wide < 0.999) & (tall < 0.999)
    area, ratio = (wide * tall)[inside], (wide / tall)[inside]
    assert 0.19 < area.min() < 0.25
    assert 0.7 < area.max() < 0.81
    assert 0.49 < ratio.min() < 0.6
    assert 1.7 < ratio.max() < 2.01
    assert wide.max() <= 1.0001
    assert tall.max() <= 1.0001


def test_a_resized_crop_of_everything_is_the_image_and_bytes_stay_bytes() -> None:
    batch = pictures(5, 3, 12, 12)
    crop = RandomResizedCrop(12, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert torch.equal(crop(batch, torch.Generator().manual_seed(0)), batch)
    assert RandomResizedCrop(8)(batch, torch.Generator().manual_seed(0)).dtype == torch.uint8
