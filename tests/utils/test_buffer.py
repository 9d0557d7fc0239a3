"""The replay memory."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from utils.buffer import Buffer
from utils.selection import STRATEGIES


def samples(ids: Tensor) -> dict[str, Tensor]:
    """A batch whose every attribute tells the id of its sample (0..255)."""
    return {
        "examples": ids.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 2, 3, 3).contiguous(),
        "labels": ids % 5,
        "logits": ids.view(-1, 1).double() * torch.tensor([1.0, 0.5], dtype=torch.float64),
        "task_labels": ids // 10,
        "weights": ids.float(),
    }


def offer(buffer: Buffer, *id_ranges: range) -> list[Tensor]:
    return [buffer.add_data(**samples(torch.tensor(list(ids), dtype=torch.long))) for ids in id_ranges]


def stored_ids(buffer: Buffer) -> list[int]:
    data = buffer.get_all_data()
    return data[-1].long().tolist() if data else []


def filled(strategy: str = "reservoir", capacity: int = 6, n: int = 20, seed: int = 0) -> Buffer:
    buffer = Buffer(capacity, sample_selection_strategy=strategy, seed=seed)
    offer(buffer, range(n))
    return buffer


def through_a_file(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# Every strategy


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(capacity=st.integers(0, 7), sizes=st.lists(st.integers(0, 12), max_size=6), seed=st.integers(0, 99))
def test_content_is_a_subset_of_what_was_offered_with_its_attributes_still_paired(strategy, capacity, sizes, seed):
    buffer = Buffer(capacity, sample_selection_strategy=strategy, seed=seed)
    total = 0
    for size in sizes:
        ids = torch.arange(total, total + size)
        before = stored_ids(buffer)
        slots = buffer.add_data(**samples(ids))
        total += size
        # What was stored where, and nothing else has changed.
        expected = before + [-1] * (min(capacity, total) - len(before))
        for sample, slot in zip(ids.tolist(), slots.tolist(), strict=True):
            assert -1 <= slot < capacity
            if slot >= 0:
                expected[slot] = sample
        assert stored_ids(buffer) == expected
        assert len([slot for slot in slots.tolist() if slot >= 0]) == len({s for s in slots.tolist() if s >= 0})
    assert len(buffer) == min(capacity, total)
    assert buffer.num_seen_examples == total
    assert buffer.is_empty() == (len(buffer) == 0)
    ids = stored_ids(buffer)
    assert len(set(ids)) == len(ids)
    if ids:
        for got, wanted in zip(buffer.get_all_data(), samples(torch.tensor(ids)).values(), strict=True):
            assert got.dtype == wanted.dtype
            assert torch.equal(got, wanted)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("capacity", [1, 5])
def test_samples_one_by_one_fill_the_memory_and_never_exceed_it(strategy, capacity):
    buffer = Buffer(capacity, sample_selection_strategy=strategy)
    for i in range(12):
        slots = offer(buffer, range(i, i + 1))[0]
        assert slots.shape == (1,)
        assert len(buffer) == min(capacity, i + 1)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_memory_of_capacity_0_keeps_nothing(strategy):
    buffer = Buffer(0, sample_selection_strategy=strategy)
    assert offer(buffer, range(4), range(4, 5))[0].tolist() == [-1] * 4
    assert buffer.is_empty()
    assert buffer.get_all_data() == ()
    assert buffer.n_bytes == 0
    with pytest.raises(ValueError, match="nothing is stored"):
        buffer.get_data(1)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_storage_is_allocated_once(strategy):
    buffer = Buffer(6, sample_selection_strategy=strategy)
    offer(buffer, range(3))
    places = {name: getattr(buffer, name).data_ptr() for name in buffer.attributes}
    for start in range(3, 200, 7):
        offer(buffer, range(start, start + 7))
        assert {name: getattr(buffer, name).data_ptr() for name in buffer.attributes} == places
    assert buffer.examples.shape == (6, 2, 3, 3)
    # Per slot: 18 bytes of image, two int64, two float64, one float32.
    assert buffer.n_bytes == 6 * (18 + 2 * 8 + 2 * 8 + 4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_keeps_and_draws_the_same(strategy):
    first, second = filled(strategy, n=50, seed=3), filled(strategy, n=50, seed=3)
    assert stored_ids(first) == stored_ids(second)
    assert torch.equal(first.get_data(4)[0], second.get_data(4)[0])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_global_generator_is_left_alone(strategy):
    before = torch.get_rng_state()
    filled(strategy).get_data(3)
    assert torch.equal(torch.get_rng_state(), before)


# Particular strategies


def test_a_ring_replaces_the_oldest_first():
    buffer = Buffer(3, sample_selection_strategy="ring")
    offer(buffer, range(2), range(2, 4))
    assert stored_ids(buffer) == [3, 1, 2]


def test_of_two_samples_of_a_batch_that_want_one_slot_the_later_stays():
    buffer = Buffer(3, sample_selection_strategy="ring")
    assert offer(buffer, range(8))[0].tolist() == [-1] * 5 + [2, 0, 1]
    assert stored_ids(buffer) == [6, 7, 5]


def test_class_balanced_counts_differ_by_at_most_one():
    labels = torch.tensor([0] * 40 + [1] * 40 + [2] * 40)
    buffer = Buffer(10, sample_selection_strategy="class-balanced")
    for part in torch.arange(120).split(8):
        buffer.add_data(part.float().view(-1, 1), labels=labels[part])
    assert sorted(buffer.get_all_data()[1].bincount().tolist()) == [3, 3, 4]


def test_strategies_can_be_spelt_with_underscores():
    assert Buffer(1, sample_selection_strategy="class_balanced").sample_selection_strategy == "class-balanced"


# What is refused


def test_a_negative_capacity_is_refused():
    with pytest.raises(ValueError, match="buffer_size must be 0 or more, not -1"):
        Buffer(-1)


def test_an_unknown_strategy_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="reservoir"):
        Buffer(1, sample_selection_strategy="resevoir")


def test_other_attributes_than_those_of_the_first_call_are_refused_by_name():
    buffer = Buffer(4)
    buffer.add_data(torch.zeros(2, 3), labels=torch.zeros(2))
    with pytest.raises(ValueError, match=r"stores examples, labels, but was given examples, logits"):
        buffer.add_data(torch.zeros(2, 3), logits=torch.zeros(2))
    with pytest.raises(ValueError, match=r"stores examples, labels, but was given examples;"):
        buffer.add_data(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("labels", torch.zeros(3, dtype=torch.long)),
        ("labels", torch.zeros(2)),
        ("labels", torch.zeros(2, 1, dtype=torch.long)),
        ("examples", torch.zeros(2, 4)),
        ("examples", torch.zeros(2, 3, dtype=torch.uint8)),
    ],
    ids=["length", "dtype", "shape", "example shape", "example dtype"],
)
def test_values_that_do_not_fit_are_refused_by_name_and_change_nothing(name, values):
    buffer = Buffer(4)
    fitting = {"examples": torch.ones(2, 3), "labels": torch.tensor([1, 2])}
    buffer.add_data(**fitting)
    with pytest.raises(ValueError, match=name):
        buffer.add_data(**{**fitting, name: values})
    assert len(buffer) == buffer.num_seen_examples == 2
    assert buffer.get_all_data()[1].tolist() == [1, 2]


# Drawing


def test_get_data_draws_without_replacement_in_random_order():
    buffer = filled("fill", capacity=10, n=10)
    draws = [buffer.get_data(4)[-1].long().tolist() for _ in range(200)]
    assert all(len(set(draw)) == 4 for draw in draws)
    assert {first for first, *_ in draws} == set(range(10))


def test_get_data_of_more_than_is_stored_gives_all_that_is_stored():
    assert sorted(filled("fill", capacity=5, n=3).get_data(100)[-1].long().tolist()) == [0, 1, 2]


@pytest.mark.parametrize("size", [0, -2])
def test_get_data_of_nothing_gives_empty_tensors(size):
    examples, labels, *_ = filled().get_data(size)
    assert examples.shape == (0, 2, 3, 3)
    assert labels.shape == (0,)


def test_get_data_gives_the_attributes_in_the_order_of_the_signature():
    buffer = Buffer(2, sample_selection_strategy="fill")
    buffer.add_data(
        torch.full((2, 1), 1.0),
        extra=torch.full((2,), 5.0),
        task_labels=torch.full((2,), 4.0),
        logits=torch.full((2,), 3.0),
        labels=torch.full((2,), 2.0),
    )
    assert [float(values.mean()) for values in buffer.get_data(2)] == [1, 2, 3, 4, 5]


def test_attributes_can_be_read_by_name():
    buffer = filled("fill", capacity=3)
    assert buffer.labels.tolist() == [0, 1, 2]
    assert buffer.examples.dtype == torch.uint8


def test_return_index_puts_the_slots_of_the_draw_first():
    buffer = filled("reservoir", capacity=8, n=100)
    indices, examples, *_, weights = buffer.get_data(5, return_index=True)
    assert [stored_ids(buffer)[i] for i in indices.tolist()] == weights.long().tolist()
    assert torch.equal(buffer.get_data_by_index(indices)[0], examples)


def test_transform_sees_the_drawn_examples_once_as_a_batch():
    batches = []

    def transform(batch: Tensor) -> Tensor:
        batches.append(batch)
        return batch.float() / 255

    examples, *_, weights = filled("fill", capacity=6).get_data(4, transform=transform)
    assert [tuple(batch.shape) for batch in batches] == [(4, 2, 3, 3)]
    assert batches[0].dtype == torch.uint8
    assert torch.allclose(examples[:, 0, 0, 0] * 255, weights)


def test_a_draw_is_a_copy():
    buffer = filled("fill", capacity=4)
    for examples in (buffer.get_data(4)[0], buffer.get_all_data()[0]):
        examples.fill_(255)
    assert stored_ids(buffer) == [0, 1, 2, 3]
    assert buffer.examples[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_what_is_stored_has_no_gradient():
    buffer = Buffer(2)
    buffer.add_data(torch.ones(2, 3, requires_grad=True) * 2)
    assert not buffer.get_data(2)[0].requires_grad


def test_drawing_from_an_empty_memory_says_what_to_ask_first():
    buffer = Buffer(3)
    with pytest.raises(ValueError, match="is_empty"):
        buffer.get_data(1)
    assert buffer.get_all_data() == ()


@pytest.mark.parametrize("slots", [[3], [-1], [0, 5]])
def test_asking_for_an_unused_slot_is_refused(slots):
    buffer = filled("fill", capacity=6, n=3)
    with pytest.raises(IndexError, match="first 3 are in use"):
        buffer.get_data_by_index(torch.tensor(slots))


# Emptying, replacing


@pytest.mark.parametrize("as_mask", [torch.tensor, list, np.array], ids=["tensor", "list", "array"])
@pytest.mark.parametrize("n_slots", [4, 6], ids=["in use", "all"])
def test_a_mask_gives_the_samples_in_the_slots_that_it_marks(as_mask, n_slots):
    buffer = filled(n=4)
    mask = as_mask([False, True, False, True, False, False][:n_slots])
    assert buffer.get_data_by_index(mask)[-1].tolist() == [1, 3]
    assert buffer.get_data(1, force_indexes=mask, return_index=True)[0].tolist() == [1, 3]


@pytest.mark.parametrize("mask", [[True], [True] * 7, [[True, False]] * 3, [False] * 5 + [True]])
def test_a_mask_of_another_length_or_of_an_unused_slot_is_refused(mask):
    with pytest.raises(IndexError, match="in use"):
        filled(n=4).get_data_by_index(torch.tensor(mask))


@pytest.mark.parametrize("slot", [2, torch.tensor(2), np.int64(2), [2]])
def test_one_slot_gives_a_batch_of_one(slot):
    examples, *_, weights = filled(n=4).get_data_by_index(slot)
    assert examples.shape == (1, 2, 3, 3)
    assert weights.tolist() == [2]


def test_forced_slots_come_in_their_order_and_leave_the_draws_as_they_are():
    buffer, plain = filled(n=6), filled(n=6)
    raw, augmented, *_, weights = buffer.get_data(
        2, transform=lambda x: x + 100, return_not_aug=True, force_indexes=torch.tensor([5, 0, 5])
    )
    assert weights.tolist() == raw[:, 0, 0, 0].tolist() == [5, 0, 5]
    assert torch.equal(augmented, raw + 100)
    assert torch.equal(buffer.get_data(6)[-1], plain.get_data(6)[-1])
    with pytest.raises(IndexError, match="in use"):
        filled(n=4).get_data(2, force_indexes=torch.tensor([4]))


def test_a_word_in_the_place_of_the_seed_is_the_strategy():
    older = Buffer(6, "cpu", 3, "ring")
    assert older.sample_selection_strategy == "ring"
    assert Buffer(6, "cpu", 3, "ring", mode="reservoir").sample_selection_strategy == "reservoir"
    newer = Buffer(6, "cpu", sample_selection_strategy="balancoir", dataset=object())
    assert newer.sample_selection_strategy == "class-balanced"
    with pytest.raises(ValueError, match="rings"):
        Buffer(6, "cpu", 3, "rings")


@pytest.mark.parametrize("name", ["generator", "n_stored", "get_data", "training"])
def test_an_attribute_with_a_name_that_buffers_use_is_refused_and_nothing_is_stored(name):
    buffer = Buffer(6, seed=0)
    with pytest.raises(ValueError, match=f"^{name}: .*choose another"):
        buffer.add_data(torch.zeros(2, 3), **{name: torch.zeros(2)})
    assert buffer.used_attributes == []
    assert (len(buffer), buffer.num_seen_examples) == (0, 0)
    buffer.add_data(torch.zeros(2, 3), seeds=torch.zeros(2))
    assert buffer.used_attributes == ["examples", "seeds"]


def test_empty_forgets_the_content_and_the_count_and_accepts_other_attributes():
    buffer = filled()
    buffer.empty()
    assert (len(buffer), buffer.num_seen_examples, buffer.n_bytes) == (0, 0, 0)
    buffer.add_data(torch.zeros(2, 7))
    assert buffer.get_all_data()[0].shape == (2, 7)


def test_replace_overwrites_one_attribute_of_what_is_stored_in_place():
    buffer = filled("fill", capacity=6, n=4)
    place = buffer.logits.data_ptr()
    values = torch.arange(8.0, dtype=torch.float64).view(4, 2).requires_grad_()
    buffer.replace("logits", values)
    assert torch.equal(buffer.get_all_data()[2], values)
    assert stored_ids(buffer) == [0, 1, 2, 3]
    assert buffer.logits.data_ptr() == place
    assert not buffer.logits.requires_grad
    assert buffer.logits[4:].count_nonzero() == 0


# Checkpoints


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_saved_memory_goes_on_as_if_it_had_never_stopped(strategy):
    original = filled(strategy, n=17)
    resumed = Buffer(6, sample_selection_strategy=strategy, seed=99)
    resumed.load_state_dict(through_a_file(original.state_dict()))
    for step in range(3):
        assert stored_ids(resumed) == stored_ids(original)
        assert resumed.num_seen_examples == original.num_seen_examples
        for one, other in zip(original.get_data(3), resumed.get_data(3), strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        ids = range(17 + 30 * step, 47 + 30 * step)
        assert torch.equal(*offer(original, ids), *offer(resumed, ids))


def test_the_content_is_in_the_state_of_the_method_that_owns_the_memory():
    class Method(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.buffer = Buffer(6)

    method, resumed = Method(), Method()
    offer(method.buffer, range(9))
    resumed.load_state_dict(through_a_file(method.state_dict()))
    assert stored_ids(resumed.buffer) == stored_ids(method.buffer)


def test_loading_replaces_what_was_stored_before():
    saved_full, saved_empty = filled("fill", n=4).state_dict(), Buffer(6).state_dict()
    buffer = Buffer(6)
    buffer.add_data(torch.zeros(3, 9))
    buffer.load_state_dict(saved_full)
    assert stored_ids(buffer) == [0, 1, 2, 3]
    buffer.load_state_dict(saved_empty)
    assert buffer.is_empty()
    assert buffer.get_all_data() == ()


def test_loading_another_capacity_is_refused_and_names_the_option():
    with pytest.raises(ValueError, match=r"6 slots, this one 5.*--buffer_size"):
        Buffer(5).load_state_dict(filled(capacity=6).state_dict())


def test_moving_keeps_the_content():
    buffer = filled("fill", capacity=4).to("cpu")
    assert stored_ids(buffer) == [0, 1, 2, 3]
    assert buffer.device == torch.device("cpu")
