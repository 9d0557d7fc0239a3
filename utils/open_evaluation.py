"""What open-vocabulary methods are measured by: whole data sets, each among its own labels, seen or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from utils import candidate_sets, metrics
from utils.checkpoints import evaluation_mode

if TYPE_CHECKING:
    from datasets.utils.continual_dataset import ContinualDataset
    from datasets.utils.evaluation_sets import EvaluationSet
    from datasets.utils.loader import StreamLoader
    from models.utils.continual_model import ContinualModel
    from models.utils.open_vocabulary import OpenVocabularyModel

# Questions about the labels of several data sets at once; see utils/candidate_sets.py.
OPEN_SETS = ("union", "union_zero_shot", "mix", "mix_zero_shot")
# Encoded images that are compared with all labels at once.
PART = 1024


class Encodings:
    """What a model makes of evaluation samples: made once for each sample, for as long as the model stays as it is."""

    def __init__(self, model: OpenVocabularyModel) -> None:
        self.model = model
        self._known: dict[tuple[int, int], Tensor] = {}
        # Held, so that no other source is ever known by the same number.
        self._sources: dict[int, Any] = {}

    def of_batch(self, loader: StreamLoader, inputs: Tensor) -> Tensor:
        """(B, V, E) for the batch that a loader has just given."""
        source, rows = loader.dataset.source, loader.dataset.indices[loader.positions.numpy()]
        self._sources[id(source)] = source
        keys = [(id(source), row) for row in rows.tolist()]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if new:
            encoded = self.model.encode(self.model.net.tokens(inputs[new]))
            self._known |= {keys[i]: row for i, row in zip(new, encoded, strict=True)}
        return torch.stack([self._known[key] for key in keys])

    @torch.no_grad()
    def of_set(self, part: EvaluationSet) -> tuple[Tensor, np.ndarray]:
        """(n, V, E) for all samples of a data set, and (n,) positions of their labels in `part.labels`."""
        encoded, truth = [], []
        with evaluation_mode(self.model):
            for inputs, labels, *_ in part.loader:
                encoded.append(self.of_batch(part.loader, inputs))
                truth.append(labels.cpu())
        return torch.cat(encoded), torch.cat(truth).numpy()


def encodings_of(model: ContinualModel) -> Encodings | None:
    """Nothing known yet of an open-vocabulary method; None for any other."""
    return Encodings(cast("OpenVocabularyModel", model)) if hasattr(model, "choose_class") else None


@torch.no_grad()
def chosen_labels(model: OpenVocabularyModel, encoded: Tensor, candidates: list[str]) -> dict[str, np.ndarray]:
    """(n,) position of the likeliest of the candidates, by every one of the model's answers; among equal texts the
    first."""
    texts = list(dict.fromkeys(candidates))
    first = np.array([candidates.index(text) for text in texts])
    parts = [model.answers(part, texts) for part in encoded.split(PART)]
    return {name: first[torch.cat([part[name].argmax(1) for part in parts]).cpu().numpy()] for name in parts[0]}


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b); 0 where both are, NaN where one is."""
    return 2 * a * b / (a + b) if a + b else 0.0


def open_figures(model: OpenVocabularyModel, dataset: ContinualDataset, encodings: Encodings) -> dict[str, Any]:
    """Top-1 accuracies in percent on every data set of the stream and on held-out ones, each among all its own labels.

    Returns:
        open_seen, open_unseen: on samples of labels that have and have not arrived yet; open_all: on all; means over
        the data sets of the stream. open_harmonic: harmonic mean of the first two. open_heldout: mean over held-out
        data sets, where there are some. With _<name> behind: by another answer of the model. open_sets: for every data
        set its own figures, where there are several; of held-out ones all.
    """
    sets = dataset.evaluation_sets()
    is_held_out = [part.tasks is None for part in sets]
    by_view: dict[str, list[dict[str, float]]] = {}
    for part in sets:
        encoded, truth = encodings.of_set(part)
        texts = np.array(part.labels, dtype=object)
        is_seen = None if part.tasks is None else part.tasks[truth] <= dataset.current_task
        for view, chosen in chosen_labels(model, encoded, part.labels).items():
            right = texts[chosen] == texts[truth]
            found = {} if is_seen is None else {"seen": _percent(right[is_seen]), "unseen": _percent(right[~is_seen])}
            by_view.setdefault(view, []).append({**found, "all": _percent(right)})
    figures: dict[str, Any] = {}
    for view, of_sets in by_view.items():
        means = {
            name: metrics.nan_mean([of_set[name] for of_set in of_sets if name in of_set])
            for name in ("seen", "unseen")
        }
        target, heldout = metrics.target_and_novel([of_set["all"] for of_set in of_sets], is_held_out)
        means |= {"all": target, "harmonic": harmonic_mean(means["seen"], means["unseen"])}
        means |= {"heldout": heldout} if any(is_held_out) else {}
        figures |= {f"open_{name}{f'_{view}' if view else ''}": value for name, value in means.items()}
    if len(sets) > 1:
        figures["open_sets"] = {part.name: of_set for part, of_set in zip(sets, by_view[""], strict=True)}
    return figures


def transfer_figures(sessions: Sequence[dict[str, Any]], dataset: ContinualDataset) -> dict[str, float]:
    """open_transfer, open_average and open_last (`metrics.mtil_figures`) of a stream whose tasks are its data sets;
    nothing for other streams, or before its end.

    Args:
        sessions: figures of all sessions so far.
    """
    if getattr(dataset, "increment", None) != "task":
        return {}
    tables = [session.get("open_sets", {}) for session in sessions]
    rows = [[of_set["all"] for of_set in table.values() if "seen" in of_set] for table in tables]
    if not rows or any(len(row) != len(rows) for row in rows):
        return {}
    # Data sets stand in the order of --sources, and --task_order may have brought them in another.
    in_order = np.take(rows, dataset.task_positions, axis=1)  # type: ignore[attr-defined]
    return {f"open_{name}": value for name, value in metrics.mtil_figures(in_order).items()}


def flexible_figures(
    model: OpenVocabularyModel, dataset: ContinualDataset, encodings: Encodings, names: Sequence[str]
) -> dict[str, float]:
    """Accuracies in percent among candidates from several data sets, defined in utils/candidate_sets.py.

    Args:
        names: some of `OPEN_SETS`; the union is asked about in any case where the stream has several data sets.

    Returns:
        open_<name> for each, with _<view> behind by another answer of the model; those with held-out labels are NaN
        where no data set is held out. Streams of few labels have fewer groups, so that each has two labels.
    """
    sets = dataset.evaluation_sets()
    targets, held_out = ([part.labels for part in sets if (part.tasks is None) == is_out] for is_out in (False, True))
    asked = list(dict.fromkeys([*(["union"] if len(targets) > 1 else []), *names]))
    # A group of one label would ask nothing.
    n_groups = max(1, min(candidate_sets.N_GROUPS, len(candidate_sets.distinct(targets)) // 2))
    groups = {
        "union": lambda: candidate_sets.union(targets),
        "union_zero_shot": lambda: candidate_sets.union_zero_shot(targets, held_out),
        "mix": lambda: candidate_sets.mix(targets, n_groups=n_groups),
        "mix_zero_shot": lambda: candidate_sets.mix_zero_shot(targets, held_out, n_groups=n_groups),
    }
    known = [(part.labels, *encodings.of_set(part)) for part in sets] if asked else []
    figures: dict[str, float] = {}
    for name in asked:
        if name.endswith("zero_shot") and not held_out:
            figures[f"open_{name}"] = math.nan
            continue
        by_view: dict[str, list[float]] = {}
        for group in groups[name]():
            found = [
                _right_by_view(model, known[one.position], one, group.texts) for one in group.targets + group.novel
            ]
            for view in found[0]:
                right = [part[view] for part in found]
                by_view.setdefault(view, []).append(
                    _score(name, right[: len(group.targets)], right[len(group.targets) :])
                )
        figures |= {
            f"open_{name}{f'_{view}' if view else ''}": metrics.nan_mean(each) for view, each in by_view.items()
        }
    return figures


def _right_by_view(
    model: OpenVocabularyModel,
    known: tuple[list[str], Tensor, np.ndarray],
    one: candidate_sets.Scored,
    texts: list[str],
) -> dict[str, np.ndarray]:
    labels, encoded, truth = known
    rows = one.chosen(truth)
    wanted = np.array(labels, dtype=object)[truth[rows]]
    chosen = chosen_labels(model, encoded[torch.from_numpy(rows).to(encoded.device)], texts)
    return {view: np.array(texts, dtype=object)[named] == wanted for view, named in chosen.items()}


def _score(name: str, targets: list[np.ndarray], novel: list[np.ndarray]) -> float:
    if name.startswith("mix"):
        return _percent(np.concatenate(targets))
    mean = metrics.nan_mean([_percent(right) for right in targets])
    return mean if name == "union" else (mean + _percent(np.concatenate([np.empty(0, bool), *novel]))) / 2


def _percent(right: np.ndarray) -> float:
    return metrics.accuracy(right, np.ones_like(right))
