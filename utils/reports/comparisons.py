"""Methods against each other: which is best on a stream, and which differ from the baseline."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from utils.errors import UsageError
from utils.reports.document import BEST, SECOND
from utils.reports.groups import Cell, Column, Groups, Row, check_names
from utils.reports.statistics import SIGNIFICANT, estimate, holm, paired_t_test
from utils.tables import direction

Key = tuple[Column, Row, str]


@dataclass(frozen=True)
class Comparison:
    """A method against the baseline on one figure.

    Attributes:
        n: seeds that both have.
        p: of the two-sided paired t-test, NaN if it is undefined.
        corrected: the same after Holm's correction over all comparisons of this figure in the report.
    """

    baseline: Row
    n: int
    p: float
    corrected: float

    @property
    def is_significant(self) -> bool:
        return self.corrected < SIGNIFICANT


def compare(groups: Groups, baseline: str, figures: Mapping[Column, Sequence[str]]) -> dict[Key, Comparison]:
    """Test every method against the baseline of its stream.

    Args:
        baseline: a method's name or the label of its row.
        figures: names of the figures to compare, for every stream.

    Raises:
        UsageError: no such method, or several rows of it among which a method has no match.
    """
    check_names("--baseline", [baseline], {name for row in groups.rows for name in (row.model, row.label)})
    tests: dict[str, list[tuple[Key, Row, float, int]]] = defaultdict(list)
    for column in groups.columns:
        for row, reference in references(groups.in_column(column), baseline).items():
            for figure in figures[column]:
                cells = (groups.cells[column, one].by_seed(figure) for one in (row, reference))
                tests[figure].append(((column, row, figure), reference, *paired_t_test(*cells)))
    result = {}
    for mine in tests.values():
        corrected = holm([p for _, _, p, _ in mine])
        for (key, reference, p, n), after in zip(mine, corrected, strict=True):
            result[key] = Comparison(reference, n, p, after)
    return result


def references(cells: Sequence[Cell], baseline: str) -> dict[Row, Row]:
    """For every method of a stream the row it is compared with; rows of the baseline itself are left out.

    Raises:
        UsageError: the baseline has several rows and a method matches none of them by its buffer size.
    """
    named = [cell for cell in cells if cell.row.label == baseline]
    matching = named or [cell for cell in cells if cell.row.model == baseline]
    if not matching:
        return {}
    found = {}
    for cell in cells:
        if cell in matching:
            continue
        equal = [one for one in matching if len(matching) == 1 or _buffer_size(one) == _buffer_size(cell)]
        if len(equal) != 1:
            labels = ", ".join(f'"{one.row.label}"' for one in matching)
            raise UsageError(
                f"--baseline {baseline}: {cell.label} can be compared with several rows; name one of them: {labels}"
            )
        found[cell.row] = equal[0].row
    return found


def marks(cells: Sequence[Cell], figure: str) -> dict[Row, str]:
    """The best and the second-best mean among methods that are no upper bounds; equal means share a mark."""
    means = {cell.row: estimate(cell.values(figure)).mean for cell in cells if not cell.row.is_bound}
    ranked = sorted({direction(figure) * mean for mean in means.values() if not math.isnan(mean)}, reverse=True)
    if not direction(figure) or sum(not math.isnan(mean) for mean in means.values()) < 2:
        return {}
    places = dict(zip(ranked, (BEST, SECOND), strict=False))
    return {row: mark for row, mean in means.items() if (mark := places.get(direction(figure) * mean))}


def _buffer_size(cell: Cell) -> str:
    return str(cell.runs[0].settings.get("buffer_size", ""))
