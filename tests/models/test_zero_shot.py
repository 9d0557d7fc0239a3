"""CLIP as it is: nothing that is learnt changes what it says."""

from __future__ import annotations

import pytest
import torch

from utils.errors import UsageError

CLIP = "--clip_image_size 8 --patch_size 4 --width 32 --depth 2 --dataset seq-digits --max_samples_per_class 12"


def test_answers_and_weights_never_change(drive):
    driven = drive("zero-shot", *CLIP.split())
    driven.begin()
    model, (images, *_) = driven.model, driven.batch()
    with torch.no_grad():
        answers = model(images)
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    driven.learn()
    model.meta_end_task(driven.dataset)
    driven.session()
    with torch.no_grad():
        assert torch.equal(model(images), answers)
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())
    assert model.opt is None


def test_answer_is_the_text_nearest_to_the_image(drive):
    driven = drive("zero-shot", *CLIP.split())
    driven.begin()
    model, (images, _, raw) = driven.model, driven.batch()
    texts = ["a dive", "a somersault", "three"]
    with torch.no_grad():
        embedded = model.net(images, returnt="features")
    # A text is not one of the stream's for having a prompt like theirs.
    cosines = embedded @ model.net.embed_labels(texts, model.dataset.PROMPTS).T
    assert model.predict(raw, texts) == [texts[i] for i in cosines.argmax(1)]


def test_loss_is_the_cross_entropy_among_the_labels_met(drive):
    driven = drive("zero-shot", *CLIP.split())
    driven.begin()
    model, (images, labels, raw) = driven.model, driven.batch()
    loss = model.meta_observe(images, labels, raw)
    names = model.vocabulary.names
    assert len(names) == len(labels.unique())
    probabilities = model.probabilities(model.encode(model.net.tokens(images)), names)
    right = probabilities[range(len(labels)), [names.index(model.class_texts[label]) for label in labels]]
    assert loss == pytest.approx(-right.log().mean().item(), rel=1e-4)


@pytest.mark.parametrize(
    "option", ["--cls_loss focal", "--cls_loss ldam", "--drw_epoch 1", "--cls_head cosine", "--stage2 tau-norm"]
)
def test_options_of_heads_with_an_output_for_every_class_are_refused(drive, option):
    with pytest.raises(UsageError, match=option.split()[0]):
        drive("zero-shot", *CLIP.split(), *option.split())


def test_only_methods_that_can_be_asked_about_any_labels_take_held_out_data_sets(drive, tmp_path):
    for name in ("one", "two"):
        (tmp_path / "test" / name).mkdir(parents=True)
    held_out = ["--held_out", f"folder:{tmp_path}=numbers"]
    assert [part.name for part in drive("zero-shot", *CLIP.split(), *held_out).dataset.held_out] == ["numbers"]
    with pytest.raises(UsageError, match="--held_out: er has outputs for the classes of the stream only"):
        drive("er", "--buffer_size", "5", "--dataset", "seq-digits", *held_out)
