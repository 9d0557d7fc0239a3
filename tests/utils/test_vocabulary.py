"""Labels as texts and embeddings."""

import numpy as np
import pytest
import torch

from utils.conf import named_generator
from utils.errors import UsageError
from utils.vocabulary import Vocabulary, check_labels


class Embed:
    """Unit vectors that depend on name and prompts; counts what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, names, templates):
        self.asked.append((list(names), tuple(templates)))
        rows = [torch.randn(4, generator=named_generator(0, name, tuple(templates))) for name in names]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)


@pytest.fixture
def embed():
    return Embed()


@pytest.fixture
def vocabulary(embed):
    return Vocabulary(embed, ["a photo of a {}."], torch.device("cpu"))


def test_labels_are_numbered_in_the_order_of_their_first_appearance(vocabulary):
    assert vocabulary.add(["cat", "dog", "cat"]).tolist() == [0, 1, 0]
    assert vocabulary.add(["bird", "dog"]).tolist() == [2, 1]
    assert vocabulary.names == ["cat", "dog", "bird"]
    assert vocabulary.positions(["dog", "fish"]).tolist() == [1, -1]
    assert len(vocabulary) == 3
    assert "bird" in vocabulary
    assert "fish" not in vocabulary


def test_labels_are_embedded_one_at_a_time_and_once(vocabulary, embed):
    vocabulary.add(["cat", "dog"])
    vocabulary.add(["dog", "cat"])
    vocabulary.embeddings_of(["cat"])
    assert [names for names, _ in embed.asked] == [["cat"], ["dog"]]


def test_asking_takes_nothing_in(vocabulary):
    vocabulary.add(["cat"])
    found = vocabulary.embeddings_of(["dog", "cat"])
    assert found.shape == (2, 4)
    assert torch.equal(found[1], vocabulary.embeddings[0])
    assert vocabulary.names == ["cat"]


def test_a_label_keeps_the_prompts_that_it_appeared_with_first(vocabulary, embed):
    vocabulary.add(["cat"], [["a drawing of a {}."]])
    vocabulary.add(["cat", "dog"], [["a {}."], ["the {}."]])
    assert embed.asked == [(["cat"], ("a drawing of a {}.",)), (["dog"], ("the {}.",))]
    assert torch.equal(vocabulary.embeddings_of(["cat"])[0], vocabulary.embeddings[0])


def test_prompts_may_follow_from_the_label(embed):
    vocabulary = Vocabulary(embed, lambda name: [f"{name}: {{}}"], torch.device("cpu"))
    vocabulary.add(["cat"])
    vocabulary.embeddings_of(["dog"])
    assert [prompts for _, prompts in embed.asked] == [("cat: {}",), ("dog: {}",)]


def test_state_goes_from_one_to_another_without_embedding_again(vocabulary, embed):
    vocabulary.add(["cat", "dog"])
    other = Vocabulary(embed, ["a photo of a {}."], torch.device("cpu"))
    other.load_state_dict(vocabulary.state_dict())
    n_asked = len(embed.asked)
    assert other.add(["dog", "cat"]).tolist() == [1, 0]
    assert torch.equal(other.embeddings, vocabulary.embeddings)
    assert len(embed.asked) == n_asked
    other.add(["bird"])
    assert len(vocabulary) == 2


@pytest.mark.parametrize("names", [[], "cat", [""], ["cat", "  "], ["cat", None], [3], None])
def test_labels_that_no_question_can_be_asked_about_are_refused(vocabulary, names):
    for call in (check_labels, vocabulary.add, vocabulary.embeddings_of):
        with pytest.raises(UsageError, match="label"):
            call(names)
    assert len(vocabulary) == 0


def test_equal_labels_are_refused_where_they_must_differ():
    check_labels(["cat", "dog", "cat"])
    with pytest.raises(UsageError, match="more than once: cat"):
        check_labels(["cat", "dog", "cat"], different=True)
    check_labels(np.array(["cat", "dog"]), different=True)
