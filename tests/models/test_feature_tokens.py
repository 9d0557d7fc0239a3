"""`--replay features`: methods with a buffer on stored tokens, unchanged."""

from __future__ import annotations

import signal
from importlib.util import find_spec

import pytest
import torch

from models import get_model_class, get_model_names
from utils.args import add_rehearsal_args, framework_parser
from utils.compression import Compression, class_token_weights, compress, decompress

if find_spec("open_clip") is None:
    pytest.skip("open_clip is not installed", allow_module_level=True)

TINY = "--backbone clip-tiny --clip_image_size 8 --patch_size 4 --width 32 --depth 2"
DIGITS = f"--dataset seq-digits --max_samples_per_class 20 --n_epochs 2 --batch_size 8 --lr 0.01 {TINY}"
# 4 patches and the class token, of size 32.
SETTINGS = Compression(5, 32, 3)
FEATURES = "--replay features --components 3"


def driven_with(drive, model, *options):
    return drive(model, *f"{DIGITS} --n_tasks 2 {FEATURES} --buffer_size 12".split(), *options)


def offers_rehearsal(model):
    """Whether the method has the options of `add_rehearsal_args`."""
    parser, reference = framework_parser(), framework_parser()
    get_model_class(model).get_parser(parser)
    add_rehearsal_args(reference)
    return {action.dest for action in reference._actions} <= {action.dest for action in parser._actions}


REHEARSAL = [
    name for name in get_model_names() if offers_rehearsal(name) and "class-il" in get_model_class(name).COMPATIBILITY
]


def test_methods_with_the_option_are_known():
    assert {"er", "der", "derpp", "mer", "agem", "agem-r", "er-ace", "fdr", "gss", "hal", "xder"} <= set(REHEARSAL)


@pytest.mark.parametrize("model", REHEARSAL)
def test_every_method_with_the_option_learns_from_codes(drive, model):
    driven = driven_with(drive, model, "--n_epochs", "1")
    for _ in range(2):
        driven.session()
    examples = driven.model.buffer.examples
    assert examples.dtype == torch.uint8
    assert examples.shape == (12, SETTINGS.n_bytes)
    assert examples.any()


@pytest.mark.parametrize("model", ["er", "derpp"])
def test_run_stopped_and_resumed_is_identical_to_one_that_never_was(launch, identical, stop_after, model):
    line = f"--model {model} {DIGITS} --max_samples_per_class 10 --n_tasks 2 --buffer_size 12 {FEATURES}"
    expected = launch(line)
    stops = [1, 5, 20]
    stop_after(*stops)
    run, n_parts = launch(line), 1
    while run.code == 128 + signal.SIGTERM:
        run, n_parts = launch("", resume=run.path), n_parts + 1
    assert (run.code, n_parts) == (0, 1 + len(stops))
    assert identical(expected, run)


def test_bytes_of_the_buffer_are_those_of_the_codes_and_the_labels(launch):
    run = launch(f"--model er {DIGITS} --n_tasks 2 --n_epochs 1 --buffer_size 12 {FEATURES} --bits 16")
    assert run.summary["buffer_bytes"] == 12 * (Compression(5, 32, 3, 16).n_bytes + 8)


def test_method_gets_tokens_as_inputs_and_their_codes_as_raw_samples(drive, monkeypatch):
    driven, seen = driven_with(drive, "er"), []
    driven.begin()
    monkeypatch.setattr(driven.model, "observe", lambda *batch, **_: seen.extend(batch) or 0.0)
    inputs, labels, raw = driven.batch()
    driven.model.meta_observe(inputs, labels, raw, epoch=0)
    images = driven.dataset.get_normalization_transform()(raw)
    tokens, attention = driven.model.net.tokens_and_attention(images)
    assert torch.equal(seen[0], tokens)
    assert torch.equal(seen[1], labels)
    assert torch.equal(seen[2], compress(tokens, class_token_weights(attention), SETTINGS))
    for transform in (driven.model.transform, driven.model.normalization_transform):
        assert torch.equal(transform(seen[2]), decompress(seen[2], SETTINGS))
        assert torch.equal(transform(raw), tokens)


def test_uncompressed_features_without_augmentation_learn_what_images_learn(drive):
    def weights(*options):
        driven = drive("er", *DIGITS.split(), "--n_tasks", "2", "--buffer_size", "12", *options)
        for _ in range(2):
            losses = driven.session()
        return losses, driven.model

    features, with_tokens = weights("--replay", "features", "--components", "0")
    images, with_images = weights()
    # The digits are not augmented.
    assert features == pytest.approx(images, abs=1e-5)
    torch.testing.assert_close(with_tokens.net.state_dict(), with_images.net.state_dict(), atol=1e-5, rtol=1e-4)
    assert with_tokens.buffer.examples.shape == (12, 4 * 5 * 32)
    assert torch.equal(with_tokens.buffer.labels, with_images.buffer.labels)


def test_raw_samples_given_to_the_buffer_become_codes(drive):
    driven = driven_with(drive, "agem")
    driven.begin()
    _, labels, raw = driven.batch()
    model = driven.model
    model.buffer.add_data(raw, labels=labels)
    codes = model.token_replay.encode(raw)[1]
    assert torch.equal(model.buffer.get_all_data()[0], codes)
    model.buffer.empty()
    model.buffer.add_data(codes, labels)
    assert torch.equal(model.buffer.get_all_data()[0], codes)


def test_images_are_replayed_unless_features_are_asked_for(drive):
    driven = drive("er", *f"{DIGITS} --n_tasks 2 --buffer_size 12".split())
    assert driven.model.token_replay is None
    driven.begin()
    driven.model.meta_observe(*driven.batch(), epoch=0)
    assert driven.model.buffer.examples.shape[1:] == driven.dataset.input_shape


# Bad input


def test_a_network_without_tokens_is_refused_with_the_names_of_those_that_have_them(launch, capsys):
    assert launch("--model er --dataset seq-digits --buffer_size 10 --replay features").code == 2
    message = capsys.readouterr().err
    assert "--replay features" in message
    assert all(name in message for name in ("clip-tiny", "clip-vit-b32", "--backbone mlp"))
    assert "clip-features" not in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--replay features --components 6", "--components 6 --bits 8: 6 components: 5 tokens of size 32 have 1 to 5"),
        ("--replay features --components -1", "-1 is negative"),
        ("--replay features --bits 4", "--bits"),
        ("--replay tokens", "--replay"),
        ("--replay features --stage2 crt", "--stage2"),
    ],
)
def test_settings_that_cannot_be_are_refused(launch, capsys, options, message):
    assert launch(f"--model er {DIGITS} --buffer_size 10 {options}").code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("model", ["icarl", "replay", "gem"])
def test_methods_that_store_samples_by_their_own_look_at_the_task_have_no_such_option(launch, capsys, model):
    assert launch(f"--model {model} {DIGITS} --buffer_size 10 --replay features").code == 2
    assert "--replay" in capsys.readouterr().err
