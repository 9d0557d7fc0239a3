"""Where the phases of a session begin."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.phases import phase_starts


@pytest.mark.parametrize("n_batches", [1, 3, 7, 192])
def test_of_fifty_epochs_they_begin_with_epochs_20_and_35(n_batches):
    assert phase_starts(50 * n_batches, 0.4, 0.7) == (20 * n_batches, 35 * n_batches)


@pytest.mark.parametrize(("n_steps", "starts"), [(3, (1, 2)), (4, (2, 3)), (5, (2, 4)), (10, (4, 7))])
def test_few_steps_are_shared_out(n_steps, starts):
    assert phase_starts(n_steps, 0.4, 0.7) == starts


@pytest.mark.parametrize(("n_steps", "starts"), [(0, (0, 0)), (1, (0, 0)), (2, (1, 1))])
def test_fewer_than_three_steps_have_no_second_phase(n_steps, starts):
    assert phase_starts(n_steps, 0.4, 0.7) == starts


shares = st.floats(0, 1)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(3, 200), shares, shares)
def test_every_phase_with_a_share_gets_a_step_and_one_without_gets_none(n_steps, one, other):
    second, third = sorted((one, other))
    b, bc = phase_starts(n_steps, second, third)
    for share, length in ((second, b), (third - second, bc - b), (1 - third, n_steps - bc)):
        assert (length > 0) == (share > 0)
        assert abs(length - share * n_steps) <= 2
