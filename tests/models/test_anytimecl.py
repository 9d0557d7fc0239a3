"""AnytimeCL: by its definition, and taught and asked from Python."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits

from main import load_start
from models.utils import open_vocabulary
from models.utils.without_stream import open_vocabulary_model
from utils.checkpoints import save_checkpoint
from utils.errors import DataError, StorageError, TrainingError, UsageError
from utils.images import raw_batches

SIZES = {"clip_image_size": 8, "patch_size": 4, "width": 32, "depth": 2}
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def build(**options):
    return open_vocabulary_model(**{**SIZES, "lr": 0.01, "components": 2, **options})


def digits():
    """(1797, 8, 8) uint8 in random order, and their labels."""
    data, order = load_digits(), np.random.default_rng(0).permutation(1797)
    return np.rint(data.images[order] * (255 / 16)).astype(np.uint8), data.target[order]


@pytest.fixture
def images():
    return torch.randint(256, (12, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def views(model, images, labels):
    """The answers of every combination."""
    with torch.no_grad():
        encoded = torch.cat([model.encode(model.net.tokens(part)) for part in model._inputs(images)])
        return model.answers(encoded, labels)


NAMES = ["cat", "dog", "cat", "bird", "dog", "cat", "bird", "cat", "dog", "dog", "cat", "bird"]


# The two networks and how they are combined


def test_tuned_network_is_the_original_at_the_start(images):
    model = build()
    encoded = model.encode(model.net.tokens(model._inputs(images)[0]))
    assert torch.equal(encoded[:, 0], encoded[:, 1])
    found = views(model, images, ["cat", "dog", "bird"])
    assert all(torch.equal(found[""], other) for other in found.values())


def test_only_the_tuned_blocks_and_other_learn(images):
    model = build()
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.learn(images, NAMES)
    changed = {name for name, value in model.named_parameters() if not torch.equal(before[name], value)}
    assert "other" in changed
    assert changed == {"other"} | {name for name in before if name.startswith("tuned.") and before[name].requires_grad}


def test_labels_never_learnt_are_exactly_as_likely_as_before_whatever_was_learnt(images):
    model, others = build(), ["a violin", "rain", "a dive from 3 m"]
    before = views(model, images, others)[""]
    model.learn(images, NAMES)
    found = views(model, images, others)
    assert torch.equal(found[""], before)
    assert torch.equal(found["original"], before)
    assert not torch.equal(found["tuned"], before)


def test_combinations_by_hand(images):
    model, asked = build(), ["cat", "rain", "dog"]
    model.learn(images, ["cat"] * 6 + ["dog"] * 6)
    model.weighting.right = torch.tensor([[0.5, 0.75], [0.5, 0.25]], dtype=torch.float64)
    found = views(model, images, asked)
    tuned, original = found["tuned"], found["original"]
    alpha = torch.tensor([0.5, 0.0, 0.75])
    torch.testing.assert_close(found[""], alpha * tuned + (1 - alpha) * original)
    torch.testing.assert_close(found["fixed"], (tuned + original) / 2)
    seen = original[:, [0, 2]].sum(1, keepdim=True)
    torch.testing.assert_close(found["aim"], seen * tuned + (1 - seen) * original)
    torch.testing.assert_close(original.sum(1), torch.ones(12))


def test_worked_fusion():
    tuned, original = torch.tensor([0.2, 0.7, 0.1]), torch.tensor([0.5, 0.3, 0.2])
    alpha = torch.tensor([0.4, 0.6, 0.0])
    model = build()
    model.vocabulary.add(["a", "b"])
    model.softmax_among = lambda view, labels: view
    model.weighting.update(torch.tensor([0, 1]), torch.tensor([1, 1]), torch.tensor([1, 1]))
    model.weighting.right = torch.tensor([[0.4, 0.6], [0.6, 0.4]], dtype=torch.float64)
    found = model.answers(torch.stack([tuned, original])[None], ["a", "b", "c"])[""]
    torch.testing.assert_close(found, torch.tensor([[0.38, 0.54, 0.20]]))
    torch.testing.assert_close(found[0], alpha * tuned + (1 - alpha) * original)


def test_combine_chooses_which_answer_is_the_methods(images):
    for name in ("ocw", "fixed", "aim", "tuned", "original"):
        found = views(build(combine=name), images, ["cat", "dog"])
        assert found.keys() == {"", "ocw", "fixed", "aim", "tuned", "original"} - {name}


# Learning


def test_a_step_follows_the_loss_with_other_of_new_and_stored_samples(images):
    # Not Adam's: where a gradient is nearly 0, that makes of rounding a whole step.
    options = {"new_per_step": 6, "compression": "none", "optimizer": "sgd", "optim_wd": 0.0}
    model, by_hand = build(**options, step_batch=64, beta=0.1), build(**options)
    first, second = images[:6], images[6:]
    model.learn(first, NAMES[:6])
    by_hand.load_state_dict(model.state_dict())
    tokens = by_hand.net.tokens(by_hand._inputs(images)[0])
    labels = by_hand.vocabulary.positions(NAMES)
    z = by_hand.net.logit_scale * F.normalize(by_hand.tuned(tokens), dim=1) @ by_hand.vocabulary.embeddings.T
    everything = torch.cat([z, by_hand.other.expand(12, 1)], 1)
    loss = 0
    for i, label in enumerate(labels.tolist()):
        loss = loss + everything[i].logsumexp(0) - z[i, label]
        wrong = torch.cat([everything[i, :label], everything[i, label + 1 :]])
        loss = loss + 0.1 * (wrong.logsumexp(0) - by_hand.other)
    by_hand.opt.zero_grad()
    (loss / 12).backward()
    by_hand.opt.step()

    assert model.learn(second, NAMES[6:]) == pytest.approx(float(loss.detach()) / 12, rel=1e-5)
    for mine, theirs in zip(model.get_parameters(), by_hand.get_parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_default_optimiser_is_the_published_one_with_its_rate_scaled_to_a_step():
    opt = open_vocabulary_model(**SIZES).opt
    assert isinstance(opt, torch.optim.AdamW)
    assert opt.param_groups[0]["lr"] == pytest.approx(6e-4 * 32 / 2048)
    assert opt.param_groups[0]["weight_decay"] == 0.05


def test_samples_are_measured_before_they_are_learnt_among_the_labels_known_by_then(images):
    model = build(new_per_step=1)
    measured = []
    update = model.weighting.update

    def note(labels, tuned, original):
        measured.append((labels.tolist(), tuned.tolist(), original.tolist()))
        update(labels, tuned, original)

    model.weighting.update = note
    with torch.no_grad():
        tokens = model.net.tokens(model._inputs(images)[0])
        original = F.normalize(model.net.tail(tokens), dim=1)
    model.learn(images, NAMES)
    known = []
    for i, name in enumerate(NAMES):
        known += [name] * (name not in known)
        expected = known[(original[i] @ model.vocabulary.embeddings_of(known).T).argmax()] == name
        assert measured[i][0] == [known.index(name)]
        assert measured[i][2] == [bool(expected)]
    # The first sample has one candidate, and the networks are still the same.
    assert measured[0][1] == measured[0][2] == [True]


def test_one_batch_is_the_same_as_its_samples_one_by_one(images):
    whole, singly = build(), build()
    whole.learn(images, NAMES)
    for i, name in enumerate(NAMES):
        singly.learn(images[i : i + 1], [name])
    assert whole.vocabulary.names == singly.vocabulary.names
    assert torch.equal(whole.weighting.n, singly.weighting.n)
    torch.testing.assert_close(
        views(whole, images, NAMES[:4])[""], views(singly, images, NAMES[:4])[""], atol=1e-3, rtol=0
    )


def test_order_of_samples_within_an_update_does_not_matter_the_order_of_updates_does(images):
    def after(*updates):
        model = build(new_per_step=6)
        for rows in updates:
            model.learn(images[rows], [NAMES[i] for i in rows])
        return views(model, images, ["cat", "dog", "bird"])["tuned"]

    first, second = [0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]
    torch.testing.assert_close(after(first), after([4, 2, 5, 0, 3, 1]), atol=1e-3, rtol=0)
    assert (after(first, second) - after(second, first)).abs().max() > 0.01


def test_later_epochs_learn_but_neither_store_nor_count(images):
    model = build()
    tokens, attention = model.net.tokens_and_attention(model._inputs(images)[0])
    labels = model.vocabulary.add(NAMES)
    model.learn_tokens(tokens, attention, labels, epoch=0)
    before, n = views(model, images, ["cat", "dog"])["tuned"], model.weighting.n.clone()
    model.learn_tokens(tokens, attention, labels, epoch=1)
    assert len(model.store) == 12
    assert torch.equal(model.weighting.n, n)
    assert not torch.equal(views(model, images, ["cat", "dog"])["tuned"], before)


def test_offline_the_stream_trains_nothing_and_the_end_of_a_task_fits_the_memory(images):
    model = build(offline_epochs=3, offline_batch_size=5, offline_lr=0.01)
    loss = model.learn(images, NAMES)
    found = views(model, images, ["cat", "dog"])
    assert torch.equal(found["tuned"], found["original"])
    assert loss > 0
    assert len(model.store) == 12
    opt = model.opt
    model.end_task(model.dataset)
    assert model.opt is opt
    assert not torch.equal(views(model, images, ["cat", "dog"])["tuned"], found["tuned"])
    steps = []
    model.step = lambda loss: steps.append(model.opt.param_groups[0]["lr"])
    model.args.offline_lr = None
    model.end_task(model.dataset)
    assert steps == [pytest.approx(6e-4 * 5 / 2048)] * 9


@pytest.mark.parametrize("reset", [False, True])
def test_optimiser_outlives_tasks_with_the_rate_to_begin_with_unless_told_otherwise(drive, reset):
    sizes = ["--clip_image_size", "8", "--patch_size", "4", "--width", "32", "--depth", "2"]
    line = ["--dataset", "seq-digits", "--backbone", "clip-tiny", "--max_samples_per_class", "2", *sizes]
    driven = drive("anytimecl", *line, "--reset_optimizer", str(reset))
    driven.session()
    before = driven.model.opt
    rate, steps = before.param_groups[0]["lr"], before.state[driven.model.other]["step"].clone()
    before.param_groups[0]["lr"] = rate / 10
    driven.begin()
    after = driven.model.opt
    assert steps > 0
    assert after.param_groups[0]["lr"] == rate
    assert not after.state if reset else torch.equal(after.state[driven.model.other]["step"], steps)


def test_what_was_known_is_kept_while_other_digits_are_learnt(digits_clip):
    images, labels = digits()
    first, second = np.flatnonzero(labels < 5), np.flatnonzero(labels >= 7)

    def learnt(**options):
        model = open_vocabulary_model(
            backbone_weights=digits_clip, lr=3e-3, prompts=["the handwritten digit {}."], compression="none", **options
        )
        before = accuracy(model, first)
        for rows in (first[:100], second[:120]):
            model.learn(images[rows], [WORDS[label] for label in labels[rows]])
        return before, accuracy(model, first), accuracy(model, second)

    def accuracy(model, rows):
        rows = rows[300:500]
        right = {
            name: float((found.argmax(1).numpy() == labels[rows]).mean())
            for name, found in views(model, images[rows], WORDS).items()
        }
        return right

    before, kept, new = learnt()
    _, kept_without_replay, _ = learnt(step_batch=1)
    assert before[""] > 0.8
    assert kept[""] > before[""] - 0.15
    assert kept["tuned"] > kept_without_replay["tuned"] + 0.3
    assert new[""] > new["original"] + 0.1


# From Python


def test_any_texts_are_asked_about_at_any_moment(images):
    model = build()
    assert set(model.predict(images, ["a dive from 3 m", "a somersault"])) <= {"a dive from 3 m", "a somersault"}
    model.learn(images[0], "cat")
    assert model.predict(images, ["rain"]) == ["rain"] * 12
    assert model.vocabulary.names == ["cat"]


def test_images_come_in_every_form(images):
    model, labels = build(), ["cat", "dog", "a piano", "rain"]
    expected = model.predict(images, labels)
    arrays = images.permute(0, 2, 3, 1).numpy()
    forms = [images.numpy(), arrays, list(arrays), [Image.fromarray(array) for array in arrays], list(images)]
    assert all(model.predict(form, labels) == expected for form in forms)
    assert model.predict(images.float() / 255, labels) == expected
    assert model.predict(arrays[0], labels) == model.predict(images[0], labels) == expected[:1]


def test_images_of_different_sizes_keep_their_order(images):
    model, labels = build(), ["cat", "dog", "a piano", "rain"]
    large = [F.interpolate(image[None].float(), (20, 30)).to(torch.uint8)[0] for image in images]
    mixed = [large[i] if i % 3 else images[i] for i in range(12)]
    singly = [model.predict([image], labels)[0] for image in mixed]
    assert model.predict(mixed, labels) == singly
    model.learn(mixed, NAMES)
    assert model.store.labels.tolist() == model.vocabulary.positions(NAMES).tolist()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no images"),
        ("cat.png", "not str"),
        (None, "not NoneType"),
        (["cat.png"], "is a str"),
        (torch.zeros(2, 4, 8, 8, dtype=torch.uint8), "1 or 3 channels"),
        (torch.zeros(5, 3, 4, 8, 8), "shape"),
        (torch.zeros(8, dtype=torch.uint8), "shape"),
        (torch.zeros(3, 0, 8, dtype=torch.uint8), "shape"),
        (torch.full((3, 8, 8), 255.0), "between 0 and 1"),
        (torch.full((3, 8, 8), float("nan")), "between 0 and 1"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "int64"),
    ],
)
def test_what_is_no_image_is_refused(given, message):
    with pytest.raises(UsageError, match=message):
        raw_batches(given)


def test_many_images_go_through_the_network_in_parts(monkeypatch):
    model, images = build(), torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = model.predict(images, WORDS)
    monkeypatch.setattr(open_vocabulary, "AT_ONCE", 2)
    assert [len(part) for part in model._inputs(images)] == [2, 2, 1]
    assert model.predict(images, WORDS) == expected


def test_a_stack_of_grey_images_is_many_images():
    assert raw_batches(np.zeros((5, 8, 8), np.uint8))[0].shape == (5, 1, 8, 8)
    assert raw_batches(np.zeros((8, 9), np.uint8))[0].shape == (1, 1, 8, 9)


def test_bad_questions_and_bad_lessons_are_refused_and_change_nothing(images):
    model = build()
    model.learn(images, NAMES)
    before = {name: value.clone() for name, value in model.named_parameters()}
    for labels, message in [
        ([], "no labels"),
        (["cat", "cat"], "more than once"),
        (["cat", " "], "label 2"),
        ("cat", "list"),
    ]:
        with pytest.raises(UsageError, match=message):
            model.predict(images, labels)
    for names, message in [(NAMES[:3], "12 images need"), ([], "no labels"), ([*NAMES[:11], ""], "label 12")]:
        with pytest.raises(UsageError, match=message):
            model.learn(images, names)
    assert len(model.vocabulary) == 3
    assert len(model.store) == 12
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


def test_a_loss_that_is_not_finite_stores_nothing(images):
    model = build()
    with torch.no_grad():
        model.other.fill_(torch.inf)
    with pytest.raises(TrainingError):
        model.learn(images, NAMES)
    assert len(model.store) == 0
    assert len(model.weighting) == 0


def test_saved_and_restored_it_goes_on_bit_by_bit(images, tmp_path):
    model = build()
    model.learn(images, NAMES)
    model.save(tmp_path / "model.pt")
    other = build(seed=1)
    other.predict(images, ["cat", "rain"])
    other.restore(tmp_path / "model.pt")
    for part in (model, other):
        part.learn(images, NAMES[::-1])
    assert torch.equal(views(model, images, ["cat", "rain"])[""], views(other, images, ["cat", "rain"])[""])
    assert torch.equal(model.store.labels, other.store.labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 16}, "bits 8 there, 16 here"),
        ({"width": 64}, "token_dim"),
        ({"depth": 3}, "another network"),
        ({"optimizer": "sgd"}, "optimizer adamw there, sgd here"),
    ],
)
def test_files_of_other_settings_or_networks_are_refused_and_change_nothing(images, tmp_path, options, message):
    model = build()
    model.learn(images, NAMES)
    model.save(tmp_path / "model.pt")
    other = build(**options)
    other.learn(images[:2], ["cat", "rain"])
    before = views(other, images, ["cat", "rain"])[""]
    with pytest.raises(StorageError, match=message):
        other.restore(tmp_path / "model.pt")
    assert torch.equal(views(other, images, ["cat", "rain"])[""], before)
    assert other.vocabulary.names == ["cat", "rain"]


def test_a_file_of_other_weights_is_refused_for_their_logit_scale(images, tmp_path):
    model, other = build(), build()
    model.net.logit_scale = 50.0
    model.save(tmp_path / "model.pt")
    with pytest.raises(StorageError, match="logit scale of the weights 50"):
        other.restore(tmp_path / "model.pt")


def test_weights_to_start_from_bring_the_stored_samples_but_not_the_draws_from_them(drive, tmp_path):
    line = ["--dataset", "seq-digits", "--max_samples_per_class", "2"]
    line += ["--clip_image_size", "8", "--patch_size", "4", "--width", "32", "--depth", "2"]
    first = drive("anytimecl", *line).model
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    first.learn(images, NAMES[:4])
    save_checkpoint(tmp_path / "kept.pt", {"model": first.state_dict()})
    second, third = (drive("anytimecl", *line, "--seed", seed).model for seed in ("0", "1"))
    for model in (second, third):
        model.args.loadcheck = str(tmp_path / "kept.pt")
        load_start(model, model.args)
        assert len(model.store) == 4
    states = [model.store.generator.get_state() for model in (first, second, third)]
    assert not any(torch.equal(states[i], states[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_files_that_are_absent_or_damaged_are_refused(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"nothing of the kind")
    for name in ("model.pt", "absent.pt"):
        with pytest.raises(StorageError, match=name):
            build().restore(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "er"}, "fixed list"),
        ({"backbone": "resnet18"}, "knows texts"),
        ({"learning_speed": 3}, "learning_speed"),
        ({"combine": "best"}, "combine"),
        ({"eta": 1.0}, "--eta"),
        ({"components": 900}, "--components"),
        ({"trained_blocks": 0}, "--trained_blocks 0"),
        ({"prompts": ["a photo"]}, "{}"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    sizes = {} if "backbone" in options else SIZES
    with pytest.raises(UsageError, match=message):
        open_vocabulary_model(**{**sizes, **options})


def test_weights_that_are_absent_are_refused(tmp_path):
    with pytest.raises(DataError):
        open_vocabulary_model(backbone_weights=tmp_path / "absent.pt")


def test_building_takes_nothing_from_the_global_generators():
    state = torch.get_rng_state()
    one, other = build(), build()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.net.tail.proj, other.net.tail.proj)
