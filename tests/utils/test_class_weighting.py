"""Online class weighting: worked examples, and sample by sample against all at once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils.class_weighting import OnlineClassWeighting, seen_share
from utils.errors import UsageError


def counted(eta, samples):
    """After (label, tuned right, original right), one update for all."""
    weighting = OnlineClassWeighting(eta)
    labels, tuned, original = (torch.tensor(column) for column in zip(*samples, strict=True))
    weighting.update(labels, tuned, original)
    return weighting


def course(eta, right):
    """The accuracy after each sample of a single label."""
    weighting, values = OnlineClassWeighting(eta), []
    for s in right:
        weighting.update(torch.tensor([0]), torch.tensor([s]), torch.tensor([s]))
        values.append(float(weighting.right[0, 0]))
    return values


FIRST = [(0, 1, 1), (0, 1, 0), (1, 0, 1), (0, 0, 1), (0, 1, 1), (1, 1, 1)]


def test_worked_example_of_two_labels_within_and_after_the_warm_up():
    weighting = counted(0.75, FIRST)
    assert weighting.warm_up == 4
    assert weighting.right.tolist() == [pytest.approx([0.75, 0.5]), pytest.approx([0.75, 1.0])]
    assert weighting.alpha(torch.tensor([0, 1])).tolist() == pytest.approx([0.5, 1 / 3])
    weighting.update(torch.tensor([0]), torch.tensor([0]), torch.tensor([1]))
    assert weighting.right[:, 0].tolist() == pytest.approx([0.5625, 0.8125])
    assert float(weighting.alpha(torch.tensor([0]))) == pytest.approx(0.4090909)
    assert weighting.n.tolist() == [5, 2]


TUNED, ORIGINAL = [0, 1, 1, 0, 1], [1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("eta", "right", "expected"),
    [
        (0.5, TUNED, [0, 0.5, 0.75, 0.375, 0.6875]),
        (0.5, ORIGINAL, [1, 1, 0.5, 0.25, 0.125]),
        (0.75, TUNED, [0, 0.5, 0.666667, 0.5, 0.625]),
        (0.75, ORIGINAL, [1, 1, 0.666667, 0.5, 0.375]),
        (0.9, [1] * 10 + [0, 0, 1], [1] * 10 + [0.9, 0.81, 0.829]),
    ],
)
def test_worked_courses_of_one_label(eta, right, expected):
    assert course(eta, right) == pytest.approx(expected, abs=1e-6)


def test_worked_course_of_the_published_factor():
    found = course(0.99, [1] * 80 + [0] * 20 + [1, 0, 1])
    assert found[99:] == pytest.approx([0.8, 0.802, 0.79398, 0.79604])


def test_worked_weights_of_a_course():
    weighting, found = OnlineClassWeighting(0.5), []
    for tuned, original in zip(TUNED, ORIGINAL, strict=True):
        weighting.update(torch.tensor([0]), torch.tensor([tuned]), torch.tensor([original]))
        found.append(float(weighting.alpha(torch.tensor([0]))))
    assert found == pytest.approx([0, 0.333333, 0.6, 0.6, 0.846154], abs=1e-6)


@pytest.mark.parametrize(("eta", "expected"), [(0.99, 100), (0.95, 20), (0.9, 10), (0.75, 4), (0.5, 2), (0.0, 1)])
def test_warm_up_is_not_cut_short_by_rounding(eta, expected):
    assert OnlineClassWeighting(eta).warm_up == expected


def test_labels_never_counted_and_labels_nobody_names_have_no_weight():
    weighting = counted(0.99, [(2, 0, 0), (0, 1, 0)])
    assert weighting.alpha(torch.tensor([-1, 0, 1, 2, 3])).tolist() == pytest.approx([0, 1, 0, 0, 0], abs=1e-7)


SAMPLES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)


@given(SAMPLES, st.sampled_from([0.0, 0.5, 0.75, 0.9]), st.integers(1, 40))
def test_all_at_once_is_sample_by_sample(samples, eta, cut):
    at_once, one_by_one = OnlineClassWeighting(eta), OnlineClassWeighting(eta)
    for part in (samples[:cut], samples[cut:]):
        if part:
            at_once.update(*(torch.tensor(column) for column in zip(*part, strict=True)))
    for sample in samples:
        one_by_one.update(*(torch.tensor([value]) for value in sample))
    assert torch.equal(at_once.n, one_by_one.n)
    assert torch.equal(at_once.right, one_by_one.right)


@given(SAMPLES, st.randoms())
def test_order_of_different_labels_within_an_update_does_not_matter(samples, draw):
    by_label = {label: [sample for sample in samples if sample[0] == label] for label in range(5)}
    queue = [sample[0] for sample in samples]
    draw.shuffle(queue)
    shuffled = [by_label[label].pop(0) for label in queue]
    assert torch.equal(counted(0.75, samples).right, counted(0.75, shuffled).right)


def test_state_goes_from_one_to_another():
    weighting, other = counted(0.75, FIRST), OnlineClassWeighting(0.75)
    other.load_state_dict(weighting.state_dict())
    for part in (weighting, other):
        part.update(torch.tensor([1, 3]), torch.tensor([1, 0]), torch.tensor([0, 0]))
    assert torch.equal(weighting.right, other.right)
    assert torch.equal(weighting.n, other.n)


@pytest.mark.parametrize("eta", [-0.1, 1.0, 2.0])
def test_factors_out_of_range_are_refused(eta):
    with pytest.raises(UsageError, match="--eta"):
        OnlineClassWeighting(eta)


def test_worked_example_of_the_share_of_labels_learnt():
    probabilities = torch.tensor([[25.0, 24.0, 26.0]]).softmax(1)
    assert seen_share(probabilities, torch.tensor([True, True, False])).item() == pytest.approx(0.334759, abs=1e-6)
