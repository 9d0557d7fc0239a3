"""Questions with candidates, against loops over samples."""

import json
import math
from argparse import Namespace
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from datasets.utils.augment import Transform
from datasets.utils.evaluation_sets import EvaluationSet
from datasets.utils.loader import StreamLoader, TaskData
from datasets.utils.sources import TensorSource
from models.utils.without_stream import open_vocabulary_model
from utils import candidate_sets
from utils.evaluate import Predictions, class_figures
from utils.open_evaluation import (
    Encodings,
    chosen_labels,
    encodings_of,
    flexible_figures,
    harmonic_mean,
    open_figures,
    transfer_figures,
)
from utils.stored_runs import StoredRun

SMALL = "--clip_image_size 8 --patch_size 4 --width 32 --depth 2"
TEXTS = [f"text {i}" for i in range(12)]


class Oracle(nn.Module):
    """Image k, whose pixel is k, likes texts as row k of a table says; its second answer turns that round."""

    def __init__(self, n):
        super().__init__()
        self.table = torch.rand(n, len(TEXTS), generator=torch.Generator().manual_seed(0))
        self.net = Namespace(tokens=lambda inputs: inputs)
        self.encoded = Counter()

    def encode(self, tokens):
        self.encoded.update(tokens.flatten().int().tolist())
        return tokens.flatten()[:, None, None]

    def answers(self, encoded, labels):
        assert len(set(labels)) == len(labels)
        found = self.table[encoded.flatten().long()][:, [TEXTS.index(label) for label in labels]]
        return {"": found, "other": -found}


@dataclass
class Stream:
    sets: list
    current_task: int
    N_TASKS: int = 2

    def evaluation_sets(self):
        return self.sets


SOURCE = TensorSource(torch.arange(60.0).reshape(60, 1, 1, 1))


def one_set(name, rows, labels, texts, tasks):
    data = TaskData(SOURCE, np.asarray(rows), torch.tensor(labels))
    loader = StreamLoader(data, 7, Transform([]), torch.device("cpu"), True, (0,), shuffled=False)
    return EvaluationSet(name, loader, texts, [("{}",)] * len(texts), None if tasks is None else np.array(tasks))


@pytest.fixture
def stream():
    """Two data sets of the stream, which share a text and one of which has it twice, and a held-out one."""
    draw = np.random.default_rng(0)
    first = one_set("first", range(25), draw.integers(0, 4, 25).tolist(), [*TEXTS[:3], TEXTS[0]], [0, 0, 1, 0])
    second = one_set("second", range(25, 45), draw.integers(0, 5, 20).tolist(), TEXTS[2:7], [1, 1, 1, 2, 1])
    third = one_set("third", range(45, 60), draw.integers(0, 5, 15).tolist(), TEXTS[6:11], None)
    return Stream([first, second, third], 0)


@pytest.fixture
def oracle():
    return Oracle(60)


def right(model, part, sign=1, candidates=None, rows=None):
    """Whether each sample is named right, one by one."""
    data, found = part.loader.dataset, []
    texts = list(dict.fromkeys(candidates or part.labels))
    for i in range(len(data)) if rows is None else rows:
        scores = [sign * model.table[data.indices[i], TEXTS.index(text)] for text in texts]
        found.append(texts[int(np.argmax(scores))] == part.labels[data.targets[i]])
    return np.array(found)


def percent(values):
    return 100 * float(np.mean(values)) if len(values) else math.nan


@pytest.mark.parametrize(("view", "sign"), [("", 1), ("_other", -1)])
@pytest.mark.parametrize("task", [0, 1])
def test_figures_of_sessions_are_those_of_loops_over_samples(stream, oracle, view, sign, task):
    stream.current_task = task
    figures = open_figures(oracle, stream, Encodings(oracle))
    seen, unseen, everything = [], [], []
    for part in stream.sets[:2]:
        is_right, is_seen = right(oracle, part, sign), part.tasks[part.loader.dataset.targets] <= task
        seen.append(percent(is_right[is_seen]))
        unseen.append(percent(is_right[~is_seen]))
        everything.append(percent(is_right))
    assert figures[f"open_seen{view}"] == pytest.approx(np.nanmean(seen))
    assert figures[f"open_unseen{view}"] == pytest.approx(np.nanmean(unseen))
    assert figures[f"open_all{view}"] == pytest.approx(np.mean(everything))
    assert figures[f"open_heldout{view}"] == pytest.approx(percent(right(oracle, stream.sets[2], sign)))
    expected = harmonic_mean(np.nanmean(seen), np.nanmean(unseen))
    assert figures[f"open_harmonic{view}"] == pytest.approx(expected)
    assert figures["open_sets"]["second"]["all"] == pytest.approx(percent(right(oracle, stream.sets[1])))
    assert figures["open_sets"]["third"].keys() == {"all"}


def test_every_image_is_encoded_once_however_often_it_is_asked_about(stream, oracle):
    encodings = Encodings(oracle)
    open_figures(oracle, stream, encodings)
    flexible_figures(oracle, stream, encodings, ["union", "mix_zero_shot"])
    # Another order, other batches.
    part = one_set("again", [3, 50, 7], [0, 0, 0], TEXTS[:1], [0])
    assert encodings.of_set(part)[0].flatten().tolist() == [3, 50, 7]
    assert oracle.encoded == Counter(range(60))


def test_of_a_batch_known_in_part_only_the_rest_is_encoded(oracle):
    encodings = Encodings(oracle)
    encodings.of_set(one_set("known", [3, 7], [0, 0], TEXTS[:1], [0]))
    part = one_set("more", [3, 30, 7, 31], [0] * 4, TEXTS[:1], [0])
    assert encodings.of_set(part)[0].flatten().tolist() == [3, 30, 7, 31]
    assert oracle.encoded == Counter([3, 7, 30, 31])


def test_of_equal_texts_the_first_is_chosen(oracle):
    encoded = oracle.encode(torch.tensor([5.0]))
    best = TEXTS[int(oracle.table[5, :3].argmax())]
    labels = [TEXTS[0], TEXTS[1], TEXTS[2], best]
    assert chosen_labels(oracle, encoded, labels)[""].tolist() == [labels.index(best)]


def test_union_is_the_mean_over_data_sets_among_all_their_labels(stream, oracle):
    figures = flexible_figures(oracle, stream, Encodings(oracle), ["union"])
    expected = [percent(right(oracle, part, 1, TEXTS[:7])) for part in stream.sets[:2]]
    assert figures["open_union"] == pytest.approx(np.mean(expected))
    expected = [percent(right(oracle, part, -1, TEXTS[:7])) for part in stream.sets[:2]]
    assert figures["open_union_other"] == pytest.approx(np.mean(expected))


def test_union_with_held_out_labels_weighs_both_sides_alike(stream, oracle):
    figures = flexible_figures(oracle, stream, Encodings(oracle), ["union_zero_shot"])
    # Text 6 of the held-out data set is a target's too.
    targets = np.mean([percent(right(oracle, part, 1, TEXTS[:11])) for part in stream.sets[:2]])
    third = stream.sets[2]
    rows = [i for i, label in enumerate(third.loader.dataset.targets.tolist()) if third.labels[label] != TEXTS[6]]
    assert figures["open_union_zero_shot"] == pytest.approx(
        (targets + percent(right(oracle, third, 1, TEXTS[:11], rows))) / 2
    )


def test_mix_is_the_mean_over_groups_of_all_their_images_together(stream, oracle):
    figures = flexible_figures(oracle, stream, Encodings(oracle), ["mix", "mix_zero_shot"])
    targets, held_out = [part.labels for part in stream.sets[:2]], [stream.sets[2].labels]
    for name, groups in {
        "mix": candidate_sets.mix(targets, n_groups=3),
        "mix_zero_shot": candidate_sets.mix_zero_shot(targets, held_out, n_groups=3),
    }.items():
        scores = []
        for group in groups:
            found = []
            for one in group.targets:
                part = stream.sets[one.position]
                rows = one.chosen(part.loader.dataset.targets)
                found.append(right(oracle, part, 1, group.texts, rows))
            scores.append(percent(np.concatenate(found)))
        assert figures[f"open_{name}"] == pytest.approx(np.nanmean(scores))


def test_without_held_out_data_questions_about_it_have_no_answer(stream, oracle):
    stream.sets = stream.sets[:2]
    assert not any("heldout" in name for name in open_figures(oracle, stream, Encodings(oracle)))
    figures = flexible_figures(oracle, stream, Encodings(oracle), ["union_zero_shot", "mix_zero_shot"])
    assert math.isnan(figures["open_union_zero_shot"])
    assert math.isnan(figures["open_mix_zero_shot"])


def test_a_stream_of_several_data_sets_is_always_asked_about_their_union(stream, oracle):
    assert flexible_figures(oracle, stream, Encodings(oracle), []).keys() == {"open_union", "open_union_other"}
    stream.sets = stream.sets[:1]
    assert flexible_figures(oracle, stream, Encodings(oracle), []) == {}


def test_no_group_of_a_stream_of_few_labels_has_a_single_one(stream, oracle):
    stream.sets = [one_set("three", range(9), [0, 1, 2] * 3, TEXTS[:3], [0, 0, 0])]
    figures = flexible_figures(oracle, stream, Encodings(oracle), ["union", "mix"])
    assert figures["open_mix"] == figures["open_union"] < 100


def test_harmonic_mean():
    assert harmonic_mean(50, 100) == pytest.approx(200 / 3)
    assert harmonic_mean(0, 0) == 0
    assert math.isnan(harmonic_mean(50, math.nan))


def test_transfer_needs_one_session_for_each_data_set_of_the_stream():
    def session(a, b):
        sets = {"a": {"seen": 0.0, "all": a}, "b": {"seen": 0.0, "all": b}, "held out": {"all": 5.0}}
        return {"open_sets": sets}

    stream = Namespace(increment="task", task_positions=[0, 1])
    sessions = [session(80.0, 30.0), session(70.0, 60.0)]
    expected = {"open_transfer": 30.0, "open_average": 60.0, "open_last": 65.0}
    assert transfer_figures(sessions, stream) == expected
    turned = Namespace(increment="task", task_positions=[1, 0])
    assert transfer_figures([session(30.0, 80.0), session(60.0, 70.0)], turned) == expected
    assert transfer_figures(sessions[:1], stream) == {}
    assert transfer_figures([{"class_il_mean": 3.0}], stream) == {}
    assert transfer_figures([], stream) == {}
    assert transfer_figures(sessions, Namespace(increment="data", task_positions=[0, 1])) == {}
    assert transfer_figures(sessions, Namespace()) == {}


# Class-IL and task-IL


def test_the_answer_among_few_is_not_the_answer_among_many_with_the_others_struck_out():
    model = open_vocabulary_model(clip_image_size=8, patch_size=4, width=32, depth=2, components=2)
    model.class_texts = ["a", "b", "c"]
    model.vocabulary.add(model.class_texts)
    model.weighting.update(torch.arange(3), torch.ones(3), torch.ones(3))
    logits = {"a": (2.0, 0.0), "b": (0.0, 1.5), "c": (5.0, 0.0)}
    model.softmax_among = lambda view, labels: torch.tensor([[logits[x][int(view[0, 0])] for x in labels]]).softmax(1)
    encoded = torch.tensor([[[0.0], [1.0]]])
    among_all = model.class_outputs(encoded).exp()
    torch.testing.assert_close(among_all, torch.tensor([[0.1007, 0.3489, 0.5504]]), atol=1e-4, rtol=0)
    assert among_all[0, :2].argmax() == 1
    assert model.choose_class(encoded, 0, 2).tolist() == [0]
    assert model.choose_class(encoded, 1, 3).tolist() == [2]


def test_classes_of_one_text_share_its_probability_and_the_first_is_chosen():
    model = open_vocabulary_model(clip_image_size=8, patch_size=4, width=32, depth=2, components=2)
    model.class_texts = ["a", "b", "a"]
    model.softmax_among = lambda view, labels: torch.tensor([[0.9, 0.1][: len(labels)]])
    encoded = torch.zeros(1, 2, 1)
    torch.testing.assert_close(model.class_outputs(encoded).exp(), torch.tensor([[0.9, 0.1, 0.9]]))
    assert model.choose_class(encoded, 0, 3).tolist() == [0]
    assert model.choose_class(encoded, 2, 3).tolist() == [2]


def test_figures_are_of_what_was_chosen_where_a_method_was_asked():
    outputs = np.eye(3, dtype=np.float32)[[2, 2]]
    truth = np.array([0, 1])
    asked = Predictions(0, outputs, truth, (0, 2), None, {"class_il": np.array([0, 0]), "task_il": np.array([0, 1])})
    found = class_figures([asked], 3)
    assert (found["class_il_mean"], found["task_il_mean"], found["acc_bal"]) == (50, 100, 50)
    assert class_figures([Predictions(0, outputs, truth, (0, 2))], 3)["class_il_mean"] == 0


def test_methods_with_a_fixed_head_are_not_asked():
    assert encodings_of(nn.Linear(2, 2)) is None


# Whole runs

LINE = f"--model anytimecl --dataset seq-digits --n_tasks 3 --max_samples_per_class 3 {SMALL} --lr 0.01"


def test_every_figure_follows_from_what_a_run_stores(launch):
    run = launch(f"{LINE} --open_sets union mix")
    assert run.code == 0
    stored = StoredRun(run.path).predictions()
    parts = [
        Predictions(
            task,
            *(stored[name][of] for name in ("outputs", "truth")),
            (0, 0),
            None,
            {name: stored[name][of] for name in ("class_il", "task_il")},
        )
        for task in range(3)
        for of in [stored["task"] == task]
    ]
    assert class_figures(parts, 10)["class_il"] == run.summary["class_il"]
    assert class_figures(parts, 10)["task_il"] == run.summary["task_il"]
    # Of all classes seen, the candidates are all labels of the stream.
    np.testing.assert_array_equal(stored["class_il"], stored["outputs"].argmax(1))
    assert run.summary["open_all"] == pytest.approx(run.summary["open_union"])
    assert run.summary["open_seen"] == pytest.approx(100 * np.mean(stored["class_il"] == stored["truth"]))
    assert run.summary["open_unseen"] is None
    assert run.summary["open_mix_tuned"] is not None
    sessions = [json.loads(line) for line in run.metrics.splitlines() if '"session"' in line]
    sessions = [record for record in sessions if record["event"] == "session"]
    assert all(record["open_unseen"] is not None for record in sessions[:2])
    assert all({"open_union", "open_mix_original"} <= record.keys() for record in sessions)
    assert all(record["open_unseen"] == record["open_unseen_original"] or record["open_seen"] for record in sessions)


def test_open_evaluation_can_be_switched_off(launch):
    run = launch(f"{LINE} --open_evaluation False --stop_after 1")
    assert run.code == 0
    assert not any(name.startswith("open_") for name in run.summary)
    assert launch(f"{LINE} --open_evaluation False --open_sets union").code == 2
    assert Namespace(**run.summary).class_il_mean >= 0
