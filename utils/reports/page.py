"""The report as one HTML page that needs nothing beside itself: no network, no fonts, no scripts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from utils.figures import inline_svg
from utils.reports.document import SIGNIFICANCE_SYMBOL, Document, Notes, Number, Picture, Section, Table

CSS = """
:root { color-scheme: light dark; --ink: #1c2127; --soft: #5b6570; --line: #dfe3e8; --paper: #ffffff;
  --tint: #f4f6f8; --accent: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #9aa4af; --line: #343b44; --paper: #15181c; --tint: #1d2227; --accent: #7db7f0; }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 1280px; padding: 3rem 2rem 5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; font-weight: 600; letter-spacing: -0.01em; line-height: 1.2; margin: 0 0 1.5rem; }
h2 { font-size: 1.4rem; font-weight: 600; margin: 4rem 0 1rem; padding-top: 1.5rem; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; }
h3 { font-size: 1.1rem; font-weight: 600; margin: 2.5rem 0 0.75rem; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
.facts { display: flex; flex-wrap: wrap; gap: 1.25rem 2.75rem; margin: 0 0 2rem; padding: 0; list-style: none; }
.facts b { display: block; font-size: 1.7rem; font-weight: 600; line-height: 1.2; font-variant-numeric: tabular-nums; }
.facts span { color: var(--soft); font-size: 0.9rem; }
nav { border-left: 3px solid var(--line); padding: 0.1rem 0 0.1rem 1.1rem; font-size: 0.95rem; }
nav ul { margin: 0; padding: 0; list-style: none; columns: 20rem; }
nav li { break-inside: avoid; padding: 0.1rem 0; overflow-wrap: anywhere; }
nav .sub { font-size: 0.88rem; margin-left: 0.6rem; }
.notes { max-width: 75ch; padding-left: 1.1rem; }
.notes li { margin: 0.4rem 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 1rem 0 1.5rem; }
table { border-collapse: collapse; min-width: min(36rem, 100%); font-size: 0.93rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: 0.88rem; line-height: 1.45; padding: 0 0 0.7rem; }
caption span { display: block; max-width: min(80ch, calc(100vw - 4rem)); position: sticky; left: 0; }
th, td { padding: 0.42rem 0.6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; font-weight: 600; white-space: normal; min-width: 6rem; max-width: 18rem;
  overflow-wrap: break-word; border-bottom: 1.5px solid var(--soft); }
th:first-child { text-align: left; padding-left: 0.2rem; position: sticky; left: 0; background: var(--paper); }
tbody th { font-weight: 500; }
tbody tr:hover td, tbody tr:hover th { background: var(--tint); }
tr.bound th, tr.bound td { color: var(--soft); }
tr.bound.first th, tr.bound.first td { border-top: 1.5px solid var(--soft); }
table.words th, table.words td { text-align: left; }
td.text { white-space: normal; overflow-wrap: anywhere; max-width: 40rem; }
.spread { display: inline-block; min-width: 3.9rem; text-align: left; color: var(--soft); padding-left: 0.3rem; }
.n { color: var(--soft); font-size: 0.8rem; padding-left: 0.2rem; }
.symbol { display: inline-block; width: 0.7rem; text-align: left; }
.best { font-weight: 700; }
.second { text-decoration: underline; text-underline-offset: 0.2em; text-decoration-thickness: 1.5px; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 33rem), 1fr)); gap: 1.5rem;
  margin: 1.5rem 0; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; background: #ffffff; color: #333333;
  padding: 1.1rem 1.2rem 0.9rem; min-width: 0; break-inside: avoid; }
figure.wide { grid-column: 1 / -1; }
figure div { overflow-x: auto; }
figure svg { display: block; max-width: 100%; height: auto; }
figure.wide svg { min-width: 38rem; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif
  !important; }
figcaption { margin-top: 0.8rem; font-size: 0.88rem; line-height: 1.45; color: #5b6570; max-width: 80ch; }
details { margin: 0.8rem 0; }
summary { cursor: pointer; color: var(--accent); }
@media (max-width: 700px) {
  body { padding: 1.5rem 1rem 3rem; }
  h2 { margin-top: 2.5rem; }
  th, td { padding: 0.4rem 0.6rem; }
  tbody th:first-child { white-space: normal; }
}
@media print {
  :root { --ink: #000000; --soft: #444444; --line: #bbbbbb; --paper: #ffffff; --tint: #ffffff; --accent: #000000; }
  body { max-width: none; padding: 0; font-size: 11px; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; }
  th:first-child, caption span { position: static; }
  tr { break-inside: avoid; }
}
"""


def html_page(document: Document) -> str:
    """The page; every text of a run is escaped."""
    facts = "".join(f"<li><b>{escape(value)}</b><span>{escape(what)}</span></li>" for value, what in document.facts)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(document.title)}</title>",
        f"<style>{CSS}</style>",
        "</head>",
        "<body>",
        f'<header><h1>{escape(document.title)}</h1><ul class="facts">{facts}</ul></header>',
        _contents(document.sections),
        "<main>",
        *map(_section, document.sections),
        "</main>",
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _contents(sections: Sequence[Section]) -> str:
    items: list[str] = []
    for section in sections:
        link = f'<a href="#{escape(section.slug)}">{escape(section.title)}</a>'
        if section.level > 2 and items:
            items[-1] += f' <span class="sub">{link}</span>'
        else:
            items.append(link)
    return f'<nav aria-label="Contents"><ul>{"".join(f"<li>{item}</li>" for item in items)}</ul></nav>'


def _section(section: Section) -> str:
    level = section.level
    parts = [f'<section id="{escape(section.slug)}">', f"<h{level}>{escape(section.title)}</h{level}>"]
    pictures: list[str] = []
    for part in section.parts:
        if isinstance(part, Picture):
            pictures.append(_picture(part))
        elif isinstance(part, Table):
            parts.append(_table(part))
        else:
            parts.append(_notes(part))
    if pictures:
        parts.append(f'<div class="figures">{"".join(pictures)}</div>')
    return "\n".join([*parts, "</section>"])


def _notes(notes: Notes) -> str:
    return f'<ul class="notes">{"".join(f"<li>{escape(text)}</li>" for text in notes.texts)}</ul>'


def _picture(picture: Picture) -> str:
    svg = inline_svg(picture.svg, picture.slug, escape(picture.alternative))
    kind = ' class="wide"' if picture.is_wide else ""
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>"
    return f'<figure id="{escape(picture.slug)}"{kind}><div>{svg}</div>{caption}</figure>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.header)
    lines = []
    bound_before = False
    for line in table.lines:
        kind = f' class="bound{"" if bound_before else " first"}"' if line.is_bound else ""
        bound_before = line.is_bound
        cells = "".join(map(_cell, line.cells))
        lines.append(f'<tr{kind}><th scope="row">{escape(line.label)}</th>{cells}</tr>')
    kind = "" if table.is_numeric else ' class="words"'
    text = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">'
        f'<table id="{escape(table.slug)}"{kind}><caption><span>{escape(table.caption)}</span></caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody></table></div>"
    )
    return f"<details><summary>{escape(table.title)}</summary>{text}</details>" if table.is_folded else text


def _cell(cell: Number | str) -> str:
    if isinstance(cell, str):
        return f'<td class="text">{escape(cell)}</td>'
    title = f' title="{escape(cell.details)}"' if cell.details else ""
    mark = f' class="{cell.mark}"' if cell.mark else ""
    spread = f'<span class="spread">± {escape(cell.spread)}</span>' if cell.spread else ""
    n = f'<span class="n">{escape(cell.n)}</span>' if cell.n else ""
    symbol = f'<span class="symbol">{SIGNIFICANCE_SYMBOL if cell.is_significant else ""}</span>' if title else ""
    return f"<td{title}><span{mark}>{escape(cell.text)}</span>{spread}{n}{symbol}</td>"
