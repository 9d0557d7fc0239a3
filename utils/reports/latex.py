"""The tables of a report for papers."""

from __future__ import annotations

import textwrap

from utils.reports.document import BEST, DASH, SECOND, Document, Number, Table

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # After a line break a bracket would be its argument.
    "[": "{[}",
    "]": "{]}",
    "±": r"$\pm$",
    "†": r"$^{\dagger}$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "\N{MINUS SIGN}": "$-$",
    DASH: "--",
}


def tex_tables(document: Document) -> str:
    """All tables with figures of merit, each a `table` with a label."""
    head = r"% In the preamble: \usepackage{booktabs}"
    return "\n\n".join([head, *(_table(table) for table in document.tables if table.in_tex)]) + "\n"


def escaped(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(SPECIAL.get(letter, letter) for letter in " ".join(text.split()))


def _table(table: Table) -> str:
    lines: list[str] = []
    bound_before = False
    for line in table.lines:
        if line.is_bound and not bound_before and lines:
            lines.append(r"\midrule")
        bound_before = line.is_bound
        lines.append(" & ".join([escaped(line.label), *map(_cell, line.cells)]) + r" \\")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(table.caption)}}}",
            rf"\label{{tab:{table.slug}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            r"\toprule",
            " & ".join(map(_head, table.header)) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _head(name: str) -> str:
    """The name of a column in as many lines as it takes to stay narrow."""
    lines = [escaped(line) for line in textwrap.wrap(name, 18, break_long_words=False, break_on_hyphens=False)]
    return r"\shortstack[r]{" + r" \\ ".join(lines) + "}" if len(lines) > 1 else escaped(name)


def _cell(cell: Number | str) -> str:
    if isinstance(cell, str):
        return escaped(cell)
    text = escaped(cell.plain)
    text = {BEST: rf"\textbf{{{text}}}", SECOND: rf"\underline{{{text}}}"}.get(cell.mark, text)
    return text + (r"$^{\dagger}$" if cell.is_significant else "")
