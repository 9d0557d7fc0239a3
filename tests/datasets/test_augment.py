"""Batch augmentation and normalisation, against the same operations on one sample at a time."""

import pytest
import torch
from torch import Tensor

from datasets.utils.augment import (
    CenterCrop,
    CenterFrames,
    Denormalize,
    Normalize,
    RandomCrop,
    RandomFrames,
    RandomHorizontalFlip,
    ReverseChannels,
    Scale,
    ToFloat,
    Transform,
)

SHAPES = {"image": (3, 9, 11), "clip": (3, 4, 9, 11)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(n: int, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> Tensor:
    values = torch.randint(1, 256, (n, *shape), generator=generator(5))
    return values.to(dtype)


def crops(sample: Tensor, size: int, padding: int) -> dict[tuple[int, int], Tensor]:
    """All crops of one padded sample, by their (top, left)."""
    height, width = sample.shape[-2:]
    padded = sample.new_zeros(*sample.shape[:-2], height + 2 * padding, width + 2 * padding)
    padded[..., padding : padding + height, padding : padding + width] = sample
    return {
        (top, left): padded[..., top : top + size, left : left + size]
        for top in range(height + 2 * padding - size + 1)
        for left in range(width + 2 * padding - size + 1)
    }


# Random crop


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("padding", [0, 2])
def test_random_crop_cuts_each_sample_at_a_place_of_its_own_shared_by_channels_and_frames(shape, dtype, padding):
    batch = noise(40, shape, dtype)
    cut = RandomCrop(7, padding)(batch, generator())
    assert cut.dtype == dtype
    assert cut.shape == (40, *shape[:-2], 7, 7)
    places = []
    for sample, result in zip(batch, cut, strict=True):
        found = [place for place, crop in crops(sample, 7, padding).items() if torch.equal(crop, result)]
        assert len(found) == 1
        places += found
    assert len(set(places)) > 5


def test_random_crop_reaches_every_place_equally_often():
    batch = torch.arange(25).view(1, 1, 5, 5).expand(1800, 1, 5, 5)
    corner = RandomCrop(3)(batch, generator())[:, 0, 0, 0]
    counts = torch.bincount(corner, minlength=25).view(5, 5)
    assert counts[3:].sum() == counts[:, 3:].sum() == 0
    # 200 expected at each of 9 places, standard deviation 13.3.
    assert (counts[:3, :3] - 200).abs().max() < 70


def test_random_crop_of_the_whole_is_the_whole():
    batch = noise(4, (3, 8, 8))
    assert torch.equal(RandomCrop(8)(batch, generator()), batch)


def test_random_crop_pads_with_zeros():
    batch = torch.ones(200, 1, 4, 4)
    cut = RandomCrop(4, padding=1)(batch, generator())
    inside = cut.sum((1, 2, 3)).unique().tolist()
    assert inside == [9, 12, 16]  # shifted in both directions, in one, in none


def test_random_crop_of_one_sample_and_of_none():
    assert RandomCrop(4, 1)(noise(1, (3, 4, 4)), generator()).shape == (1, 3, 4, 4)
    assert RandomCrop(4, 1)(noise(0, (3, 4, 4)), generator()).shape == (0, 3, 4, 4)


# Flip, centre crop


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_flip_mirrors_whole_samples_about_half_of_them(shape, dtype):
    batch = noise(200, shape, dtype)
    result = RandomHorizontalFlip()(batch, generator())
    assert result.dtype == dtype
    n_mirrored = 0
    for sample, flipped in zip(batch, result, strict=True):
        mirrored = torch.equal(flipped, sample.flip(-1))
        assert mirrored or torch.equal(flipped, sample)
        n_mirrored += mirrored
    assert 65 < n_mirrored < 135  # standard deviation 7.1


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_center_crop_cuts_the_middle_and_draws_nothing(shape):
    batch, chance = noise(3, shape), generator()
    before = chance.get_state()
    assert torch.equal(CenterCrop(5)(batch, chance), batch[..., 2:7, 3:8])
    assert torch.equal(chance.get_state(), before)


# Values


def test_to_float_scales_bytes_to_one_and_leaves_floats():
    batch = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    assert torch.allclose(ToFloat()(batch), torch.tensor([[0, 0.2, 1]]))
    floats = torch.tensor([[-3.0, 700.0]])
    assert torch.equal(ToFloat()(floats), floats)


@pytest.mark.parametrize("shape", [(3, 5, 5), (3, 2, 5, 5), (3, 6), (3,)], ids=["image", "clip", "sequence", "vector"])
def test_normalize_works_channel_by_channel_and_denormalize_inverts_it(shape):
    mean, std = (0.1, 0.5, -2.0), (0.5, 2.0, 4.0)
    batch = torch.rand(4, *shape, generator=generator())
    normalized = Normalize(mean, std)(batch)
    for channel in range(3):
        assert torch.allclose(normalized[:, channel], (batch[:, channel] - mean[channel]) / std[channel])
    assert torch.allclose(Denormalize(mean, std)(normalized), batch, atol=1e-6)


def test_normalize_accepts_tensors_and_leaves_its_input_alone():
    batch = torch.ones(2, 3, 4, 4)
    result = Normalize(torch.ones(3), torch.full((3,), 2.0))(batch)
    assert result.count_nonzero() == 0
    assert batch.eq(1).all()


# Generators


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_transform_draws_from_its_own_generator_only(shape):
    batch = noise(8, shape)
    before = torch.get_rng_state()
    transform = Transform([RandomHorizontalFlip(), RandomCrop(7, 2)], seed=1)
    first, second = transform(batch), transform(batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, second)
    torch.manual_seed(1234)
    again = Transform([RandomHorizontalFlip(), RandomCrop(7, 2)], seed=1)
    assert torch.equal(again(batch), first)
    assert torch.equal(again(batch), second)


def test_the_state_of_a_transforms_generator_restores_its_draws():
    batch, transform = noise(8, (3, 9, 9)), Transform([RandomCrop(7, 2)], seed=1)
    transform(batch)
    state = transform.generator.get_state()
    expected = transform(batch)
    transform.generator.set_state(state)
    assert torch.equal(transform(batch), expected)


def test_a_transform_applies_its_operations_in_turn_and_leaves_its_input_alone():
    batch = noise(2, (3, 9, 9))
    before = batch.clone()
    transform = Transform([RandomCrop(7, 1), RandomHorizontalFlip(), ToFloat(), Normalize((0, 0, 0), (1, 1, 1))])
    assert transform(batch).max() <= 1
    assert torch.equal(batch, before)
    assert torch.equal(Transform([])(batch), batch)


def test_crops_keep_the_memory_layout_that_networks_expect():
    batch = torch.zeros(5, 3, 12, 12)
    assert RandomCrop(8)(batch, torch.Generator()).is_contiguous()


# Time and colour


def test_random_frames_cut_neighbouring_frames_of_each_clip_at_a_place_of_its_own():
    batch = noise(60, (3, 7, 4, 5))
    cut = RandomFrames(5)(batch, generator())
    assert cut.shape == (60, 3, 5, 4, 5)
    assert cut.dtype == torch.uint8
    assert cut.is_contiguous()
    starts = []
    for clip, result in zip(batch, cut, strict=True):
        found = [start for start in range(3) if torch.equal(clip[:, start : start + 5], result)]
        assert len(found) == 1
        starts += found
    assert set(starts) == {0, 1, 2}
    assert max(starts.count(start) for start in range(3)) < 35


def test_random_frames_of_a_whole_clip_are_the_clip():
    batch = noise(3, (3, 4, 2, 2))
    assert torch.equal(RandomFrames(4)(batch, generator()), batch)


@pytest.mark.parametrize(("n", "first"), [(3, 2), (5, 1), (7, 0)])
def test_center_frames_are_the_middle_ones_and_draw_nothing(n, first):
    batch = noise(2, (3, 7, 2, 2))
    draws = generator()
    before = draws.get_state()
    assert torch.equal(CenterFrames(n)(batch, draws), batch[:, :, first : first + n])
    assert torch.equal(draws.get_state(), before)


def test_scale_and_reversed_channels():
    batch = noise(2, (3, 2, 2), torch.float32)
    assert torch.equal(Scale(3)(batch), 3 * batch)
    assert torch.equal(ReverseChannels()(batch), batch[:, [2, 1, 0]])
    assert torch.equal(ReverseChannels()(ReverseChannels()(batch)), batch)
