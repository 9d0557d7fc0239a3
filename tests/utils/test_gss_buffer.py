"""The memory of gradients that differ, in the form that methods of Mammoth import."""

from __future__ import annotations

import pytest
import torch

from utils.gss_buffer import FIRST_SCORE, Buffer, contested_place


class Model:
    """The gradient of a batch is the mean of its samples."""

    def get_grads(self, inputs, labels):
        return inputs.mean(0, keepdim=True)


def filled(n: int = 4, direction: tuple[float, float] = (1.0, 0.0)) -> Buffer:
    buffer = Buffer(n, "cpu", 8, Model())
    buffer.add_data(torch.tensor([direction] * n), labels=torch.arange(n))
    return buffer


def test_place_is_drawn_by_score_and_given_by_the_share_of_the_stored_one():
    stored, generator = torch.tensor([0.2, 0.6]), torch.Generator().manual_seed(0)
    places = torch.tensor([contested_place(stored, torch.tensor(0.2), generator) for _ in range(8000)])
    # 1/4 of the draws and 1/2 of these; 3/4 and 3/4.
    for place, expected in ((0, 0.125), (1, 0.5625), (-1, 0.3125)):
        assert (places == place).float().mean() == pytest.approx(expected, abs=0.02)


def test_first_batch_has_the_first_score_and_a_later_one_that_of_its_gradient():
    buffer = Buffer(6, "cpu", 8, Model())
    assert buffer.add_data(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), labels=torch.tensor([0, 1])).tolist() == [0, 1]
    assert buffer.add_data(torch.tensor([[0.0, 2.0], [0.0, 1.0]]), labels=torch.tensor([2, 3])).tolist() == [2, 3]
    assert buffer.scores[:4].tolist() == pytest.approx([FIRST_SCORE, FIRST_SCORE, 1, 1])
    assert (len(buffer), buffer.num_seen_examples) == (4, 4)
    assert buffer.labels[:4].tolist() == [0, 1, 2, 3]


def test_full_memory_is_closed_to_a_gradient_like_those_it_has():
    buffer = filled()
    kept = buffer.examples.clone()
    assert buffer.add_data(torch.tensor([[1.0, 0.1]] * 50), labels=torch.full((50,), 9)).tolist() == [-1] * 50
    assert torch.equal(buffer.examples, kept)
    assert buffer.num_seen_examples == 54


def test_samples_of_an_opposite_gradient_take_places_and_the_last_of_a_place_stays():
    buffer = filled()
    offered = torch.tensor([[-1.0, 0.01 * i] for i in range(30)])
    slots = buffer.add_data(offered, labels=torch.arange(100, 130))
    taken = slots[slots >= 0].tolist()
    assert len(taken) == len(set(taken)) > 0
    for i, slot in enumerate(slots.tolist()):
        if slot >= 0:
            assert torch.equal(buffer.examples[slot], offered[i])
            assert buffer.labels[slot] == 100 + i
            assert buffer.scores[slot] < 0.1


def test_pass_gives_every_sample_once_and_then_begins_anew():
    buffer = filled(5)
    seen = torch.cat([buffer.get_data(2)[1] for _ in range(3)])
    assert sorted(seen.tolist()) == [0, 1, 2, 3, 4]
    _, labels, slots = buffer.get_data(2, give_index=True)
    assert torch.equal(labels, slots)
    buffer.reset_fathom()
    assert len(buffer.get_data(9)[1]) == 5
    assert len(set(buffer.get_data(3, random=True)[1].tolist())) == 3


def test_state_goes_on_in_the_middle_of_a_pass():
    buffer, other = filled(6), Buffer(6, "cpu", 8, Model())
    buffer.get_data(2)
    other.load_state_dict(buffer.state_dict())
    assert torch.equal(other.scores, buffer.scores)
    for _ in range(4):
        assert torch.equal(buffer.get_data(2)[1], other.get_data(2)[1])
    batch = torch.randn(9, 2, generator=torch.Generator().manual_seed(1)), torch.arange(9)
    assert torch.equal(buffer.add_data(*batch), other.add_data(*batch))


def test_memory_without_places_and_what_it_cannot_store():
    none = Buffer(0, "cpu", 8, Model())
    assert none.add_data(torch.ones(3, 2), labels=torch.arange(3)).tolist() == [-1] * 3
    assert none.is_empty()
    assert none.num_seen_examples == 3
    with pytest.raises(ValueError, match="ask is_empty"):
        none.get_data(2)
    with pytest.raises(ValueError, match="no more and no less"):
        filled().add_data(torch.ones(1, 2), labels=torch.zeros(1), logits=torch.zeros(1, 3))
