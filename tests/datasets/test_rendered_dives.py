"""The rendered stand-in for the diving videos: known scores, and judged quantities that are visible."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from datasets.utils.rendered_dives import (
    ROTATIONS,
    SCORE_RANGE,
    Dives,
    execution,
    judge,
    quality,
    render,
    sample_dives,
)

N_LOOKS = 6  # clips per compared value, alike in everything but the quantity under test


def middling(n: int) -> Dives:
    """n equal dives in the middle of every range."""
    return Dives(np.full(n, 1.8), np.full(n, 2.5), np.full(n, 0.6), np.full(n, 15.0), np.full(n, 0.4))


def with_value(name: str, value: float, n: int = N_LOOKS) -> Dives:
    return replace(middling(n), **{name: np.full(n, value)})


def foam_pixels(clips: np.ndarray) -> np.ndarray:
    """White pixels per clip: the least of the three channels is close to the clip's brightest."""
    least = clips.min(axis=-1).astype(float)
    brightest = clips.reshape(len(clips), -1).max(axis=1)[:, None, None, None]
    return (least > 0.8 * brightest).sum(axis=(1, 2, 3))


def diver_pixels(clips: np.ndarray) -> np.ndarray:
    """Mask of skin and suit, (n, frames, rows, columns): nothing else in the scene is more red than blue."""
    return clips[..., 0].astype(int) > clips[..., 2].astype(int) + 20


def diver_rows(clips: np.ndarray) -> np.ndarray:
    """Mean row of the diver, (n, frames); 0 is the top of the picture."""
    mask = diver_pixels(clips)
    rows = np.arange(clips.shape[2])[:, None]
    return (mask * rows).sum(axis=(2, 3)) / np.maximum(mask.sum(axis=(2, 3)), 1)


def test_sampled_dives_lie_in_their_ranges() -> None:
    dives = sample_dives(500, seed=3)
    assert len(dives) == 500
    assert np.all((dives.take_off >= 1.3) & (dives.take_off <= 2.3))
    assert set(dives.rotations) == set(ROTATIONS)
    assert np.all((dives.body_line >= 0) & (dives.body_line <= 1))
    assert np.all((dives.entry_angle >= 0) & (dives.entry_angle <= 40))
    assert np.all((dives.splash >= 0) & (dives.splash <= 1))
    assert 0.5 < np.corrcoef(dives.splash, dives.entry_angle)[0, 1] < 0.97
    assert -0.7 < np.corrcoef(dives.splash, dives.body_line)[0, 1] < -0.1


def test_everything_is_determined_by_the_seed() -> None:
    dives, again, other = sample_dives(5, seed=1), sample_dives(5, seed=1), sample_dives(5, seed=2)
    assert np.array_equal(dives.take_off, again.take_off)
    assert np.array_equal(dives.splash, again.splash)
    assert not np.array_equal(dives.take_off, other.take_off)
    assert np.array_equal(judge(dives, seed=1), judge(again, seed=1))
    assert not np.array_equal(judge(dives, seed=1), judge(dives, seed=2))
    clips = render(dives, seed=1)
    assert np.array_equal(clips, render(again, seed=1))
    assert not np.array_equal(clips, render(dives, seed=2))


def test_a_larger_set_starts_with_the_smaller_one() -> None:
    few, many = sample_dives(3, seed=4), sample_dives(20, seed=4)  # 20 clips take more than one chunk
    assert np.array_equal(few.entry_angle, many.entry_angle[:3])
    assert np.array_equal(judge(few, seed=4), judge(many, seed=4)[:3])
    assert np.array_equal(render(few, seed=4), render(many, seed=4)[:3])


def test_one_seed_for_all_does_not_tie_the_picture_to_the_dive() -> None:
    """Were the random streams shared, the first numbers of both would be the same."""
    first = [sample_dives(1, seed) for seed in range(80)]
    brightness = [render(dives, n_frames=2, size=16, seed=seed)[0, 0].mean() for seed, dives in enumerate(first)]
    for name in ("take_off", "rotations", "body_line", "entry_angle", "splash"):
        quantity = [getattr(dives, name)[0] for dives in first]
        assert abs(np.corrcoef(brightness, quantity)[0, 1]) < 0.4


@pytest.mark.parametrize(("n_frames", "size"), [(16, 56), (8, 32), (2, 8)])
def test_clip_shape(n_frames: int, size: int) -> None:
    clips = render(middling(2), n_frames=n_frames, size=size, seed=0)
    assert clips.shape == (2, n_frames, size, size, 3)
    assert clips.dtype == np.uint8


def test_scores_spread_over_the_published_range() -> None:
    dives = sample_dives(1000, seed=6)
    scores = judge(dives, seed=6)
    assert scores.shape == (1000,)
    assert scores.dtype == np.float32
    low, high = np.float32(SCORE_RANGE[0]), np.float32(SCORE_RANGE[1])
    assert scores.min() >= low
    assert scores.max() <= high
    assert np.mean((scores == low) | (scores == high)) < 0.03
    assert len(np.unique(scores)) > 950
    assert scores.std() > 10


def test_scores_follow_the_quality() -> None:
    dives = sample_dives(1000, seed=7)
    scores, expected = judge(dives, seed=7), quality(dives)
    ranks, expected_ranks = (np.argsort(np.argsort(values)) for values in (scores, expected))
    assert 0.95 < np.corrcoef(ranks, expected_ranks)[0, 1] < 0.99
    assert abs(np.mean(scores - expected)) < 0.5  # as many high as low marks are struck out


def test_without_noise_only_the_half_marks_differ_from_the_quality() -> None:
    dives = with_value("take_off", 2.3)
    mark = np.round(2 * execution(dives)) / 2
    assert np.allclose(judge(dives, seed=0, noise=0.0), quality(dives) * mark / execution(dives), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "low", "high", "sign"),
    [
        ("take_off", 1.3, 2.3, 1),
        ("rotations", 1.5, 3.5, 1),
        ("body_line", 0.0, 1.0, 1),
        ("entry_angle", 0.0, 40.0, -1),
        ("splash", 0.0, 1.0, -1),
    ],
)
def test_quality_is_monotone_in_each_quantity(name: str, low: float, high: float, sign: int) -> None:
    dives = replace(middling(9), **{name: np.linspace(low, high, 9)})
    assert np.all(sign * np.diff(quality(dives)) > 0)


def test_a_larger_splash_is_larger_in_the_late_frames() -> None:
    small, middle, large = (foam_pixels(render(with_value("splash", s), seed=8)[:, -4:]) for s in (0.1, 0.5, 0.9))
    assert np.all(small < middle)
    assert np.all(middle < large)


def test_a_higher_take_off_shows_higher_in_the_picture() -> None:
    low, high = (diver_rows(render(with_value("take_off", t), seed=9)[:, 2:9]).min(axis=1) for t in (1.3, 2.3))
    assert np.all(low - high > 4)  # 1 m is 8 pixels


def test_rotations_change_the_middle_frames() -> None:
    clips = [render(with_value("rotations", r, n=1), seed=10)[0, 4:10].astype(float) for r in ROTATIONS]
    for first in range(len(clips)):
        for second in range(first):
            assert np.abs(clips[first] - clips[second]).max(axis=-1).mean(axis=(1, 2)).max() > 1.0


def test_whole_somersaults_start_from_an_armstand() -> None:
    def hair_row(rotations: float) -> int:
        first = render(with_value("rotations", rotations, n=1), seed=11)[0, 0].sum(axis=-1, dtype=int)
        return int(first.argmin() // first.shape[1])  # nothing in the scene is darker than the hair

    assert hair_row(2.5) < 16 < hair_row(2.0)


@pytest.mark.parametrize(
    ("name", "compact", "wide", "extent"),
    [
        ("body_line", 0.0, 1.0, lambda ys, xs: np.hypot(np.ptp(ys), np.ptp(xs))),
        ("entry_angle", 0.0, 40.0, lambda ys, xs: np.ptp(xs)),
    ],
)
def test_body_line_and_entry_angle_show_in_the_silhouette(
    name: str, compact: float, wide: float, extent: Callable[[np.ndarray, np.ndarray], float]
) -> None:
    frames = slice(4, 9) if name == "body_line" else slice(11, 12)  # mid-flight, hands at the water

    def mean_extent(value: float) -> float:
        dives = replace(with_value(name, value), **({} if name == "body_line" else {"body_line": np.ones(N_LOOKS)}))
        masks = diver_pixels(render(dives, seed=12)[:, frames]).reshape(-1, 56, 56)
        return float(np.mean([extent(*np.nonzero(mask)) for mask in masks]))

    assert mean_extent(wide) > 1.3 * mean_extent(compact)


def test_the_diver_has_left_the_picture_at_the_end() -> None:
    assert not diver_pixels(render(sample_dives(20, seed=13), seed=13)[:, -1]).any()


def test_the_water_hides_the_diver() -> None:
    for clip in render(sample_dives(20, seed=14), seed=14):
        margin = clip[0, :, -1].astype(int)  # the right edge of the first frame shows wall and water only
        surface = int(np.argmax(margin[:, 2] - margin[:, 0] > 60))
        mask = diver_pixels(clip[None])[0]
        assert mask[:, :surface].any()
        assert not mask[:, surface + 1 :].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_dives(0, seed=0), "n must be >= 1, got 0"),
        (lambda: sample_dives(3, seed=-1), "seed must be >= 0, got -1"),
        (lambda: judge(middling(1), seed=0, noise=-0.1), "noise must be >= 0"),
        (lambda: render(middling(1), n_frames=-4), "n_frames must be >= 2, got -4"),
        (lambda: render(middling(1), size=-56), "size must be >= 8, got -56"),
        (lambda: replace(middling(3), splash=np.zeros(2)), "one shape"),
        (lambda: middling(0), "n >= 1"),
    ],
)
def test_impossible_requests_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
