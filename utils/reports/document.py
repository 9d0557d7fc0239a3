"""What a report consists of, whatever it is written as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

BEST, SECOND = "best", "second"
SIGNIFICANCE_SYMBOL = "†"
DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class Number:
    """A figure in a table.

    Attributes:
        text: the mean.
        spread: the deviation; empty with one seed.
        n: seeds, to be shown where they are not the same all over the table; empty otherwise.
        mark: BEST, SECOND or empty.
        is_significant: whether it differs from the baseline.
        details: what is shown when pointing at it.
    """

    text: str
    spread: str = ""
    n: str = ""
    mark: str = ""
    is_significant: bool = False
    details: str = ""

    @property
    def plain(self) -> str:
        """Without mark and symbol."""
        return " ".join(part for part in (f"{self.text} ± {self.spread}" if self.spread else self.text, self.n) if part)


@dataclass(frozen=True)
class Line:
    """A row of a table: what it is about, and its cells. `is_bound`: an upper bound, set apart."""

    label: str
    cells: Sequence[Number | str]
    is_bound: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        slug: name of it in links.
        header: names of the columns, that of the labels first.
        in_tex: whether it is one for papers.
        is_folded: whether the page shows it only on demand.
    """

    slug: str
    title: str
    caption: str
    header: Sequence[str]
    lines: Sequence[Line]
    in_tex: bool = False
    is_folded: bool = False

    @property
    def is_numeric(self) -> bool:
        """Whether its cells are figures, not words."""
        return not any(isinstance(cell, str) for line in self.lines for cell in line.cells)


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        slug: name of its file and prefix of its ids.
        alternative: what it shows, for those who cannot see it.
        svg: an SVG file.
        is_wide: whether it takes a line of its own.
    """

    slug: str
    alternative: str
    caption: str
    svg: str
    is_wide: bool = False


@dataclass(frozen=True)
class Notes:
    """Remarks, one paragraph each."""

    texts: Sequence[str]


@dataclass
class Section:
    """A part of the report; `level` is that of its heading, 2 for the outermost."""

    slug: str
    title: str
    parts: list[Table | Picture | Notes] = field(default_factory=list)
    level: int = 2


@dataclass
class Document:
    """The whole report.

    Attributes:
        facts: (number or dates, what of) for the headline.
        main: the table of methods and streams.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    main: Table
    sections: list[Section]

    @property
    def tables(self) -> list[Table]:
        return [part for section in self.sections for part in section.parts if isinstance(part, Table)]

    @property
    def pictures(self) -> list[Picture]:
        return [part for section in self.sections for part in section.parts if isinstance(part, Picture)]
