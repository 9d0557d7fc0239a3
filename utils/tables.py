"""Tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.results import Results

if TYPE_CHECKING:
    from datasets.utils.continual_dataset import ContinualDataset

HEADLINES = {
    "class_il_mean": "class-IL accuracy, mean over tasks [%]",
    "task_il_mean": "task-IL accuracy, mean over tasks [%]",
    "acc_all": "class-IL accuracy, all samples [%]",
    "acc_incremental": "average incremental accuracy: of all samples, mean over sessions [%]",
    "acc_bal": "class-IL accuracy, mean over classes [%]",
    "acc_many": "class-IL accuracy, classes of more than 100 training samples [%]",
    "acc_med": "class-IL accuracy, classes of 20 to 100 training samples [%]",
    "acc_few": "class-IL accuracy, classes of fewer than 20 training samples [%]",
    "acc_gap": "class-IL accuracy, many- less few-shot classes [points]",
    "acc_worst": "class-IL accuracy, worst class [%]",
    "macro_f1": "macro-averaged F1 [%]",
    "class_il_forgetting": "class-IL forgetting [points]",
    "class_il_bwt": "class-IL backward transfer [points]",
    "task_il_forgetting": "task-IL forgetting [points]",
    "open_seen": "among all labels of a data set, samples of labels seen [%]",
    "open_unseen": "among all labels of a data set, samples of labels not seen [%]",
    "open_harmonic": "harmonic mean of these two [%]",
    "open_all": "among all labels of a data set, all samples [%]",
    "open_heldout": "among all labels of a data set, held-out data sets [%]",
    "open_union": "among the labels of all data sets [%]",
    "open_union_zero_shot": "among the labels of all data sets and held-out ones [%]",
    "open_mix": "among labels mixed from all data sets [%]",
    "open_mix_zero_shot": "among labels mixed from all data sets and held-out ones [%]",
    "open_transfer": "data sets before they are learnt, mean (Transfer) [%]",
    "open_average": "data sets over all sessions, mean (Avg.) [%]",
    "open_last": "data sets after the last session, mean (Last) [%]",
    "srcc_pooled": "SRCC, pooled over all tasks [%]",
    "srcc_mean": "SRCC, mean over tasks [%]",
    "srcc_forgetting": "forgetting (AFT) [points]",
    "srcc_aft_published": "AFT as MAGR's code computes it [points]",
    "srcc_bwt": "backward transfer [points]",
    "srcc_fwt": "forward transfer [points]",
    "relative_l2": "relative L2 x 100",
    "mae": "mean absolute error [score]",
}
LOWER_IS_BETTER = {
    "acc_gap",
    "class_il_forgetting",
    "task_il_forgetting",
    "srcc_forgetting",
    "srcc_aft_published",
    "relative_l2",
    "relative_l2_published",
    "mae",
}


def direction(figure: str) -> int:
    """1 where higher is better, -1 where lower is, 0 for what is no figure of merit (costs, counts)."""
    if figure in LOWER_IS_BETTER:
        return -1
    return 1 if figure in HEADLINES else 0


def number(value: float) -> str:
    """Two decimals; a dash where nothing is defined."""
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def split_table(dataset: ContinualDataset) -> str:
    """What each task holds."""
    rows = [
        [row["task"], str(row["train"]), str(row["test"]), f"{row['low']:.6g} - {row['high']:.6g}"]
        for row in dataset.describe()
    ]
    return text_table(["task", "train", "test", "targets"], rows)


def task_matrix(results: Results, name: str | None = None) -> str:
    """R: a row for each session, a column for each task."""
    titles = results.dataset.names
    rows = [[f"after {i + 1}", *map(number, row)] for i, row in enumerate(results.matrix(name).tolist())]
    if results.untrained:
        rows.insert(0, ["untrained", *map(number, results.untrained)])
    return text_table([f"{name or results.main} [%]", *titles], rows)


def summary_table(results: Results) -> str:
    """The headline figures, one a line."""
    figures = results.summary()
    # Where tasks share all classes there is only one accuracy.
    prefix = "" if "task_il" in results.per_task else "class-IL "
    rows = [[title.removeprefix(prefix), number(figures[key])] for key, title in HEADLINES.items() if key in figures]
    return text_table(["figure", "value"], rows)


def duration(seconds: float) -> str:
    """Two units at most: 45 s, 3 min 20 s, 2 h 05 min, 3 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
