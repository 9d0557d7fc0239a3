"""Making a report: from run folders to files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import StorageError, UsageError
from utils.figures import import_matplotlib
from utils.files import write_text
from utils.reports.comparisons import compare
from utils.reports.contents import build, figures_of
from utils.reports.csv_files import cells_csv, runs_csv
from utils.reports.document import Document
from utils.reports.groups import check_names, figure_of, group_runs
from utils.reports.latex import tex_tables
from utils.reports.markdown import ITALIC, UNDERLINED, markdown_table, markdown_text
from utils.reports.page import html_page
from utils.stored_runs import StoredRun


@dataclass(frozen=True)
class Options:
    """What the user chose.

    Attributes:
        by: settings that split a method into rows; "all" for whatever differs.
        where: NAME=VALUE conditions on runs.
        baseline: method that the others are tested against; empty for none.
        figures: names from summary.json to show; none for the usual ones.
    """

    by: Sequence[str] = ()
    where: Sequence[str] = ()
    baseline: str = ""
    figures: Sequence[str] = ()


def make_report(runs: Sequence[StoredRun], options: Options) -> tuple[Document, dict[str, str]]:
    """Compute the report.

    Returns:
        (document, content of every file by its path below the report's folder).

    Raises:
        UsageError: an unknown name, runs that may not be averaged, an ambiguous baseline, or no matplotlib.
        DataError: no run has finished.
    """
    import_matplotlib()
    groups = group_runs(runs, options.by, options.where)
    known = {name for run in groups.runs for name in run.summary if figure_of(run, name) is not None}
    check_names("--figures", options.figures, known - {"seed", "session"})
    figures = figures_of(groups, options.figures)
    comparisons = compare(groups, options.baseline, figures) if options.baseline else {}
    document = build(groups, figures, comparisons, options.baseline, options.where)
    files = {
        "index.html": html_page(document),
        "report.md": markdown_text(document),
        "tables.tex": tex_tables(document),
        "cells.csv": cells_csv(groups, figures, comparisons),
        "runs.csv": runs_csv(groups, figures),
        **{f"figures/{picture.slug}.svg": picture.svg for picture in document.pictures},
    }
    return document, files


def write_report(files: dict[str, str], folder: Path) -> None:
    """Write the files, each atomically; figures of an earlier report in the folder go.

    Raises:
        StorageError: one cannot be written.
    """
    for name, content in files.items():
        write_text(folder / name, content)
    for figure in (folder / "figures").glob("*.svg"):
        if f"figures/{figure.name}" not in files:
            figure.unlink()


def check_folder(folder: Path) -> None:
    """Refuse a folder that could not be written to, before anything is computed; makes nothing.

    Raises:
        UsageError: it, or a folder above it, is a file.
        StorageError: it may not be written to.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise UsageError(f"--out {folder}: {existing} is a file; name a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise StorageError(f"--out {folder}: {existing} may not be written to; name another folder")


def main_table_text(document: Document) -> str:
    """The table of methods and streams, for the terminal."""
    return f"{markdown_table(document.main)}\n\n{document.main.caption.replace(UNDERLINED, ITALIC)}"
