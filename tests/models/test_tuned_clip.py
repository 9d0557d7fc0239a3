"""Methods that tune CLIP's last blocks: what each of them trains, holds on to and answers with."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from utils.errors import DataError, UsageError
from utils.nouns import NOUNS

CLIP = "--clip_image_size 8 --patch_size 4 --width 32 --depth 2 --dataset seq-digits --max_samples_per_class 12"
OPTIONS = [*CLIP.split(), "--batch_size", "8", "--lr", "0.001", "--n_epochs", "2"]


@pytest.fixture
def clip(drive):
    return lambda name, *options: drive(name, *OPTIONS, *options)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(model, monkeypatch):
    """Let steps record their loss instead of changing the network."""
    seen = []
    monkeypatch.setattr(model, "step", lambda loss: seen.append(loss) or loss.item())
    return seen


# Fine-tuning


def test_clip_ft_learns_the_task_and_moves_the_copied_blocks_alone(clip):
    driven = clip("clip-ft", "--n_epochs", "8", "--lr", "0.003")
    net, tuned = weights(driven.model.net), weights(driven.model.tuned)
    driven.session()
    assert same(weights(driven.model.net), net)
    changed = {
        name.split(".")[0] for name, value in driven.model.tuned.state_dict().items() if (value != tuned[name]).any()
    }
    assert changed == {name.split(".")[0] for name, p in driven.model.tuned.named_parameters() if p.requires_grad}
    raw, labels = driven.data()
    texts = driven.model.class_texts[:4]
    answers = driven.model.predict(raw, texts)
    assert np.mean([answer == texts[label] for answer, label in zip(answers, labels.tolist(), strict=True)]) > 0.8


def test_loss_goes_over_the_labels_met_so_far_and_no_others(clip, monkeypatch):
    driven = clip("clip-ft")
    driven.session()
    driven.begin()
    model, seen = driven.model, losses(driven.model, monkeypatch)
    inputs, labels, raw = driven.batch()
    model.meta_observe(inputs, labels, raw)
    names = model.vocabulary.names
    assert len(names) == 4 + len(labels.unique())
    texts = F.normalize(model.net.embed_labels(names, model.dataset.PROMPTS), dim=1)
    embedded = F.normalize(model.tuned(model.net.tokens(inputs)), dim=1)
    targets = torch.tensor([names.index(model.class_texts[label]) for label in labels])
    expected = F.cross_entropy(model.net.logit_scale * embedded @ texts.T, targets)
    assert seen[0].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("name", ["clip-ft", "wise-ft", "zscl", "clip-lwf"])
def test_before_the_first_step_all_answer_as_clip_does(clip, name):
    driven, untouched = clip(name), clip("zero-shot")
    driven.begin()
    images, *_ = driven.batch()
    with torch.no_grad():
        assert torch.equal(driven.model(images), untouched.model(images))


def test_nothing_to_tune_is_refused(clip):
    with pytest.raises(UsageError, match="trained_blocks 0"):
        clip("clip-ft", "--trained_blocks", "0")


# WiSE-FT


def test_alpha_0_is_the_original_model_alpha_1_the_tuned_one_exactly(clip):
    driven = clip("wise-ft")
    driven.session()
    model, (images, *_) = driven.model, driven.batch()
    tokens = model.net.tokens(images)
    with torch.no_grad():
        for alpha, network in ((0.0, model.net.tail), (1.0, model.tuned)):
            model.args.wise_alpha = alpha
            assert torch.equal(model.encode(tokens)[:, 0], F.normalize(network(tokens), dim=1))


def test_weights_between_are_a_share_of_each_and_training_goes_on_from_the_tuned_ones(clip):
    driven, plain = clip("wise-ft", "--wise_alpha", "0.25"), clip("clip-ft")
    for run in (driven, plain):
        run.session()
    model, (images, *_) = driven.model, driven.batch()
    assert same(weights(model.tuned), weights(plain.model.tuned))
    between = copy.deepcopy(model.tuned)
    original, tuned = weights(model.net.tail), weights(model.tuned)
    between.load_state_dict({name: 0.75 * original[name] + 0.25 * tuned[name] for name in tuned})
    tokens = model.net.tokens(images)
    with torch.no_grad():
        torch.testing.assert_close(model.encode(tokens)[:, 0], F.normalize(between(tokens), dim=1))


# LwF


def test_lwf_of_weight_0_is_fine_tuning_bit_for_bit(clip):
    driven, plain = clip("clip-lwf", "--lambda_o", "0"), clip("clip-ft")
    for _ in range(2):
        assert driven.session() == plain.session()
    assert same(weights(driven.model.tuned), weights(plain.model.tuned))


def test_lwf_holds_on_to_the_answers_among_earlier_labels_of_the_model_before_the_task(clip, monkeypatch):
    driven = clip("clip-lwf", "--lambda_o", "0.7", "--softmax_temp", "3")
    # Answers far from even.
    driven.model.net.logit_scale = 300.0
    driven.session()
    before = copy.deepcopy(driven.model.tuned)
    driven.begin()
    model = driven.model
    for _ in range(2):
        model.meta_observe(*driven.batch())
    seen = losses(model, monkeypatch)
    inputs, labels, raw = driven.batch()
    model.meta_observe(inputs, labels, raw)
    tokens, texts = model.net.tokens(inputs), model.vocabulary.embeddings
    new, old = (model.net.logit_scale * F.normalize(net(tokens), dim=1) @ texts.T for net in (model.tuned, before))
    targets = model.vocabulary.positions([model.class_texts[label] for label in labels])
    softened = -((old[:, :4] / 3).softmax(1) * (new[:, :4] / 3).log_softmax(1)).sum(1).mean()
    expected = F.cross_entropy(new, targets) + 0.7 * softened
    assert seen[0].item() == pytest.approx(expected.item(), rel=1e-4)


def test_lwf_has_nothing_to_hold_on_to_in_the_first_task(clip):
    driven, plain = clip("clip-lwf"), clip("clip-ft")
    assert driven.session() == plain.session()


# ZSCL


def test_zscl_without_distillation_and_average_is_fine_tuning_bit_for_bit(clip):
    driven, plain = clip("zscl", "--zscl_lambda", "0", "--average_every", "0"), clip("clip-ft")
    for _ in range(2):
        assert driven.session() == plain.session()
    assert same(weights(driven.model.tuned), weights(plain.model.tuned))
    images, *_ = driven.batch()
    with torch.no_grad():
        assert torch.equal(driven.model(images), plain.model(images))


def test_zscl_distils_similarities_over_texts_and_over_images_from_the_original_model(clip, monkeypatch, tmp_path):
    (tmp_path / "texts").write_text("a cat\n\na dog\na boat\n")
    driven = clip("zscl", "--zscl_lambda", "0.5", "--softmax_temp", "4", "--reference_texts", str(tmp_path / "texts"))
    driven.model.net.logit_scale = 300.0
    driven.session()
    driven.begin()
    model, seen = driven.model, losses(driven.model, monkeypatch)
    inputs, labels, raw = driven.batch()
    model.meta_observe(inputs, labels, raw)
    tokens = model.net.tokens(inputs)
    texts = model.net.embed_labels(["a cat", "a dog", "a boat"], model.dataset.PROMPTS)
    new, old = (F.normalize(net(tokens), dim=1) for net in (model.tuned, model.net.tail))
    z, z_old = (model.net.logit_scale * e @ texts.T / 4 for e in (new, old))
    distances = [-(z_old.softmax(d) * z.log_softmax(d)).sum(d).mean() for d in (0, 1)]
    targets = model.vocabulary.positions([model.class_texts[label] for label in labels])
    expected = F.cross_entropy(model.net.logit_scale * new @ model.vocabulary.embeddings.T, targets)
    expected = expected + 0.5 * 16 * sum(distances)
    assert seen[0].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("every", [1, 7])
def test_zscl_answers_with_the_mean_of_its_weights_and_the_next_task_begins_with_it(clip, every):
    driven = clip("zscl", "--average_every", str(every))
    model = driven.model
    for _ in range(2):
        driven.begin()
        trace = [weights(model.tuned)]
        driven.learn(lambda trace=trace: trace.append(weights(model.tuned)))
        model.meta_end_task(driven.dataset)
        n = len(trace) - 1
        counted = sorted({*range(0, n + 1, every), n})
        assert n % 7
        for name, value in model.tuned.state_dict().items():
            mean = torch.stack([trace[i][name] for i in counted]).mean(0)
            torch.testing.assert_close(value, mean, rtol=1e-4, atol=1e-6)
        images, *_ = driven.batch()
        tokens = model.net.tokens(images)
        with torch.no_grad():
            assert torch.equal(model.encode(tokens)[:, 0], F.normalize(model.tuned(tokens), dim=1))


def test_zscl_compares_on_images_of_a_folder_the_same_in_every_run_of_a_seed(clip, tmp_path):
    (tmp_path / "below").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "below" / f"{i}.png")
    (tmp_path / "texts.txt").write_text("a cat\na dog\n")
    common, folder = ["--reference_texts", str(tmp_path / "texts.txt")], ["--reference_images", str(tmp_path)]
    runs = [clip("zscl", *common, *options) for options in (folder, folder, [])]
    first, again, of_batch = (run.session() for run in runs)
    assert first == again != of_batch
    assert len(runs[0].model.images) == 3


def test_zscl_refuses_references_that_are_none(clip, tmp_path):
    with pytest.raises(DataError, match="no image"):
        clip("zscl", "--reference_images", str(tmp_path))
    with pytest.raises(UsageError, match="cannot be read"):
        clip("zscl", "--reference_texts", str(tmp_path / "absent"))
    (tmp_path / "one").write_text("alone\n\n")
    with pytest.raises(UsageError, match="at least two lines"):
        clip("zscl", "--reference_texts", str(tmp_path / "one"))


def test_reference_nouns_are_different_words():
    assert len(NOUNS) == len(set(NOUNS)) > 100
    assert all(noun.isalpha() for noun in NOUNS)
