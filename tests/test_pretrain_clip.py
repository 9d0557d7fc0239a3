"""scripts/pretrain_clip.py: what it learns, what it leaves, what it refuses."""

import math
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from backbone import get_backbone
from backbone.clip import ClipBackbone
from backbone.utils import clip_text
from backbone.utils.clip_weights import read_tiny
from datasets import get_dataset
from scripts.pretrain_clip import chosen_classes, main, rate
from utils.args import parse_args
from utils.errors import UsageError, run_script

LINE = "--dataset seq-digits --clip_image_size 8 --patch_size 4 --width 8 --depth 1 --epochs 1 --seed 0"
WORDS = LINE.split()


def test_the_fixture_tells_the_digits_that_it_has_seen_apart(digits_clip: Path) -> None:
    args = parse_args(["--model", "sgd", "--dataset", "seq-digits", "--backbone", "clip-tiny", "--seed", "0"])
    dataset = get_dataset(args)
    network = get_backbone(
        Namespace(backbone="clip-tiny", num_classes=10, input_shape=(1, 8, 8), backbone_weights=str(digits_clip))
    )
    assert isinstance(network, ClipBackbone)
    file = read_tiny(digits_clip)
    assert file.labels == ["zero", "one", "two", "three", "four", "five", "six"]
    assert file.about["other_labels"] == ["seven", "eight", "nine"]
    targets = dataset.samples.test_targets
    indices = np.flatnonzero(targets < 7)
    x = dataset.get_normalization_transform()(dataset.samples.test.read(indices)[0])
    with torch.no_grad():
        answers = network(x, returnt="features") @ network.embed_labels(file.labels, dataset.PROMPTS).T
    accuracy = 100 * (answers.argmax(1).numpy() == targets[indices]).mean()
    assert accuracy > 70
    assert file.about["accuracy"] == pytest.approx(accuracy)


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.pt", "b.pt", "c.pt")]
    for path, seed in zip(paths, (0, 0, 1), strict=True):
        assert main([*WORDS, "--seed", str(seed), "--out", str(path)]) == 0
    first, again, other = (read_tiny(path).state for path in paths)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_a_locked_text_tower_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def encode(texts: list[str], **_: object) -> torch.Tensor:
        return torch.stack(
            [torch.randn(384, generator=torch.Generator().manual_seed(sum(text.encode()))) for text in texts]
        )

    monkeypatch.setattr(clip_text, "_minilm", lambda: Namespace(encode=encode))
    monkeypatch.setattr("scripts.pretrain_clip.minilm_version", lambda: "0.1.0")
    words = [*WORDS, "--text", "minilm", "--classes", "one, two", "--prompts", "{} here", "{} there"]
    assert main([*words, "--out", str(tmp_path / "w.pt")]) == 0
    file = read_tiny(tmp_path / "w.pt")
    assert (file.text_tower, file.labels, file.about["text_version"]) == ("minilm", ["one", "two"], "0.1.0")
    prompts = [prompt for noun in clip_text.NOUNS for prompt in (f"{noun} here", f"{noun} there")]
    torch.testing.assert_close(file.state["text.centre"], encode(prompts).mean(0))
    assert not any(key.startswith("text.") for key in file.state.keys() - {"text.centre"})
    printed = capsys.readouterr().out
    assert "test images of the 2 classes trained on" in printed
    assert "of the 8 others, among theirs (zero-shot)" in printed
    assert "by chance 12.50 %" in printed


def test_nothing_is_learnt_in_no_epochs_and_all_classes_leave_none_for_zero_shot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS, "--epochs", "0", "--out", str(tmp_path / "w.pt")]) == 0
    printed = capsys.readouterr().out
    assert "test images of the 10 classes trained on" in printed
    assert "zero-shot" not in printed
    file = read_tiny(tmp_path / "w.pt")
    assert file.state["logit_scale"].exp() == pytest.approx(1 / 0.07)
    assert math.isnan(file.about["zero_shot_accuracy"])


def test_classes_are_named_by_their_texts() -> None:
    texts = ["air plane", "cat", "dog"]
    assert chosen_classes(texts, None) == [0, 1, 2]
    assert chosen_classes(texts, "dog, air_plane") == chosen_classes(texts, "dog,air-plane") == [0, 2]
    with pytest.raises(UsageError, match="cow: no such class; there are air plane, cat, dog"):
        chosen_classes(texts, "dog,cow")
    with pytest.raises(UsageError, match="at least two"):
        chosen_classes(texts, "dog,dog")


def test_the_learning_rate_goes_up_and_then_down() -> None:
    rates = [rate(step, 100, 2.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.4)
    assert max(rates) == pytest.approx(2.0, abs=0.02)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.001


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--dataset", "uiprmd"], 2, "no stream of classes"),
        (["--dataset", "seq-digits", "--width", "100"], 2, "multiple of 32"),
        (["--dataset", "seq-digits", "--prompts", "no place"], 2, "'no place'"),
        (["--dataset", "seq-cifar10", "--data_root", "absent"], 3, "absent"),
    ],
)
def test_what_it_cannot_do_ends_with_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    assert main([*words, "--out", str(tmp_path / "w.pt")]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(step: int, n_steps: int, lr: float) -> float:
        if step == 2:
            raise KeyboardInterrupt
        return lr

    out = tmp_path / "w.pt"
    out.write_bytes(b"before")
    monkeypatch.setattr("scripts.pretrain_clip.rate", press)
    assert run_script(lambda: main([*WORDS, "--out", str(out)])) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped"
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]
    assert out.read_bytes() == b"before"
