"""Classifiers of frozen embeddings: what they store and learn, and that CLIP answers for what they were not taught."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

CLIP = "--clip_image_size 8 --patch_size 4 --width 32 --depth 2 --dataset seq-digits --max_samples_per_class 12"
OPTIONS = [*CLIP.split(), "--batch_size", "8", "--n_epochs", "2"]
BOTH = pytest.mark.parametrize("name", ["linear-probe", "treeprobe"])


@pytest.fixture
def clip(drive):
    return lambda name, *options: drive(name, *OPTIONS, *options)


def accuracy(model, raw, labels, texts):
    answers = model.predict(raw, texts)
    return np.mean([answer == model.class_texts[label] for answer, label in zip(answers, labels.tolist(), strict=True)])


def n_stored(model):
    return len(model.store) if model.NAME == "linear-probe" else len(model.tree)


@BOTH
def test_labels_never_met_are_answered_as_clip_does_to_the_bit(clip, name):
    driven, untouched = clip(name), clip("zero-shot")
    for run in (driven, untouched):
        run.session()
    encoded = driven.model.encode(driven.model.net.tokens(driven.batch()[0]))
    for texts in (["a dive", "a vault"], driven.model.class_texts[4:]):
        expected = untouched.model.probabilities(encoded, texts)
        assert torch.equal(driven.model.probabilities(encoded, texts), expected)


@BOTH
def test_both_tasks_are_known_at_the_end_and_better_than_without_learning(clip, name):
    driven, untouched = clip(name), clip("zero-shot")
    raw, labels = [], []
    for _ in range(2):
        driven.session()
        untouched.session()
        for values, part in zip((raw, labels), driven.data(), strict=True):
            values.append(part)
    texts = driven.model.class_texts[:7]
    for part, targets in zip(raw, labels, strict=True):
        assert accuracy(driven.model, part, targets, texts) > 0.8
        assert accuracy(untouched.model, part, targets, texts) < 0.5


@BOTH
def test_every_sample_is_stored_once_and_clip_stays_as_it_is(clip, name):
    driven = clip(name)
    before = {key: value.clone() for key, value in driven.model.net.state_dict().items()}
    driven.session()
    assert n_stored(driven.model) == 48
    driven.session()
    assert n_stored(driven.model) == 84
    assert all(torch.equal(value, before[key]) for key, value in driven.model.net.state_dict().items())


@BOTH
def test_marginal_embedding_is_the_chosen_text_by_the_share_that_clip_gives_to_labels_met(clip, name):
    driven = clip(name)
    driven.session()
    model = driven.model
    texts = ["a dive", *model.class_texts[:3], "a vault"]
    encoded = model.encode(model.net.tokens(driven.batch()[0]))
    embedded, answers = encoded[:, 0], model.probabilities(encoded, texts)
    embeddings = model.net.embed_labels(texts, model.dataset.PROMPTS)
    original = (model.net.logit_scale * embedded @ embeddings.T).softmax(1)
    chosen = model.probabilities_met(embedded, model.vocabulary.positions(texts[1:4])).argmax(1)
    alpha = original[:, 1:4].sum(1, keepdim=True)
    marginal = F.normalize(alpha * embeddings[1:4][chosen] + (1 - alpha) * embedded, dim=1)
    torch.testing.assert_close(answers, (model.net.logit_scale * marginal @ embeddings.T).softmax(1))


@BOTH
def test_state_is_taken_back_by_a_new_model_which_goes_on_alike(clip, name):
    options = ["--leaf_capacity", "10"] if name == "treeprobe" else []
    driven, other = clip(name, *options), clip(name, *options)
    driven.session()
    other.begin()
    other.model.load_state_dict(driven.model.state_dict())
    for run in (driven, other):
        run.begin()
    assert driven.learn() == other.learn()
    images, *_ = driven.batch()
    assert torch.equal(driven.model(images), other.model(images))


def test_a_new_label_of_the_probe_begins_as_clip(clip):
    driven = clip("linear-probe", "--probe_ridge", "1e9")
    driven.session()
    model = driven.model
    torch.testing.assert_close(model.weights, model.net.logit_scale * model.vocabulary.embeddings)


def test_one_leaf_for_all_answers_as_the_solution_of_one_logistic_regression(clip):
    driven = clip("treeprobe", "--leaf_steps", "300", "--leaf_ridge", "0.5")
    driven.session()
    model, leaf = driven.model, driven.model.tree.leaves[0]
    assert len(model.tree.leaves) == 1
    weights = leaf.weights.clone().requires_grad_()
    loss = F.cross_entropy(leaf.embeddings @ weights.T, leaf.labels)
    pull = 0.5 * leaf.embeddings.var(0, correction=0).mean()
    (loss + pull / 2 * (weights - model.text_weights).square().sum()).backward()
    assert weights.grad.abs().max() < 1e-4
    embedded = leaf.embeddings[:5]
    expected = (embedded @ leaf.weights[[2, 0]].T).softmax(1)
    torch.testing.assert_close(model.probabilities_met(embedded, torch.tensor([2, 0])), expected)
