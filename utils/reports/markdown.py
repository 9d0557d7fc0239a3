"""The report as Markdown; figures are links to SVG files beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from utils.reports.document import (
    BEST,
    SECOND,
    SIGNIFICANCE_SYMBOL,
    Document,
    Notes,
    Number,
    Picture,
    Section,
    Table,
)

# Markdown has no underline: the second best is in italics.
UNDERLINED, ITALIC = "underlined: second", "italic: second"
WRAPPED = {BEST: "**", SECOND: "*", "": ""}


def markdown_text(document: Document) -> str:
    """The whole report. Figures lie in `figures/<slug>.svg`."""
    facts = ", ".join(f"{value} {what}" for value, what in document.facts)
    blocks = [f"# {escaped(document.title)}", escaped(facts)]
    for section in document.sections:
        blocks += _section(section)
    return "\n\n".join(blocks) + "\n"


def markdown_table(table: Table) -> str:
    """A pipe table whose columns also align as plain text; best bold, second in italics."""
    head = [escaped(name) for name in table.header]
    rows = [[escaped(line.label), *map(_cell, line.cells)] for line in table.lines]
    widths = [max(3, *(len(row[i]) for row in [head, *rows])) for i in range(len(head))]
    to_right = [i > 0 and table.is_numeric for i in range(len(widths))]
    rule = ["-" * (width - right) + ":" * right for width, right in zip(widths, to_right, strict=True)]
    lines = [_aligned(row, widths, to_right) for row in [head, *rows]]
    return "\n".join([lines[0], f"| {' | '.join(rule)} |", *lines[1:]])


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    # Brackets and angles only mean something to Markdown before certain characters.
    text = re.sub(r"([\\`*|]|<(?=[\w/!?])|\](?=[(\[:]))", r"\\\1", " ".join(text.split()))
    # An underscore within a word is one to Markdown too.
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def _section(section: Section) -> list[str]:
    blocks = [f"{'#' * section.level} {escaped(section.title)}"]
    for part in section.parts:
        if isinstance(part, Table):
            blocks += [escaped(part.caption.replace(UNDERLINED, ITALIC)), markdown_table(part)]
        elif isinstance(part, Notes):
            blocks.append("\n".join(f"- {escaped(text)}" for text in part.texts))
        else:
            blocks.append(_picture(part))
    return blocks


def _picture(picture: Picture) -> str:
    return f"![{escaped(picture.alternative)}](figures/{picture.slug}.svg)\n\n{escaped(picture.caption)}"


def _cell(cell: Number | str) -> str:
    if isinstance(cell, str):
        return escaped(cell)
    wrap = WRAPPED[cell.mark]
    return f"{wrap}{cell.plain}{wrap}{' ' + SIGNIFICANCE_SYMBOL if cell.is_significant else ''}"


def _aligned(cells: Sequence[str], widths: Sequence[int], to_right: Sequence[bool]) -> str:
    padded = [
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, to_right, strict=True)
    ]
    return f"| {' | '.join(padded)} |"
