"""The report from end to end: real runs, the script, the page in a browser."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from main import main as run_once
from scripts.report import main as report_once

pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parent.parent
BOTH_SEEDS = [
    "--dataset uiprmd --model sgd",
    "--dataset uiprmd --model er --buffer_size 10",
    "--dataset uiprmd --model er --buffer_size 20",
    "--dataset seq-digits --model sgd",
    "--dataset seq-digits --model er --buffer_size 50",
]
ONE_SEED = [
    "--dataset uiprmd --model magr --buffer_size 10",
    "--dataset uiprmd --model joint",
    "--dataset uiprmd --model sgd --task_order descending",
    "--dataset uiprmd --model er --buffer_size 10 --task_order descending",
    "--dataset seq-digits --model joint",
]
BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
# Writes where every figure and table is into the page, for --dump-dom to show.
MEASURE = """<script>
for (const part of document.querySelectorAll("figure svg, table")) {
  const box = part.getBoundingClientRect();
  part.setAttribute("data-box", JSON.stringify([box.left, box.top + scrollY, box.width, box.height].map(Math.round)));
}
document.body.setAttribute("data-height", Math.ceil(document.documentElement.scrollHeight));
document.body.setAttribute("data-width", document.documentElement.scrollWidth);
</script></body>"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one epoch."""
    base = tmp_path_factory.mktemp("data")
    for seed, lines in ((0, [*BOTH_SEEDS, *ONE_SEED]), (1, BOTH_SEEDS)):
        for line in lines:
            words = f"{line} --seed {seed} --n_epochs 1 --non_verbose 1 --base_path {base}"
            assert run_once(words.split()) == 0
    return base / "runs"


@pytest.fixture(scope="module")
def out(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report over all of them."""
    folder = tmp_path_factory.mktemp("report") / "new" / "folder"
    assert report_once([str(runs), "--out", str(folder), "--baseline", "sgd"]) == 0
    return folder


def summaries(runs: Path) -> list[dict[str, Any]]:
    return [
        json.loads(path.read_text()) | {"config": (path.parent / "config.yaml").read_text()}
        for path in sorted(runs.rglob("summary.json"))
    ]


def test_means_are_those_of_the_summaries(runs: Path, out: Path) -> None:
    rows = list(csv.DictReader((out / "cells.csv").open()))
    (row,) = [
        one
        for one in rows
        if one["stream"] == "uiprmd, task_order=ascending"
        and (one["method"], one["figure"]) == ("er, buffer_size=20", "srcc_pooled")
    ]
    values = [one["srcc_pooled"] for one in summaries(runs) if "buffer_size: 20 " in one["config"]]
    assert len(values) == 2
    assert float(row["mean"]) == np.mean(values)
    assert float(row["deviation"]) == np.std(values, ddof=1)
    assert f"{np.mean(values):.2f}" in (out / "report.md").read_text().replace("\N{MINUS SIGN}", "-")


def test_every_stream_and_method_has_its_place(runs: Path, out: Path) -> None:
    rows = list(csv.DictReader((out / "cells.csv").open()))
    cells = {(row["stream"], row["method"], row["upper_bound"]) for row in rows}
    ascending, descending = "uiprmd, task_order=ascending", "uiprmd, task_order=descending"
    assert cells == {
        (ascending, "sgd", "False"),
        (ascending, "er, buffer_size=10", "False"),
        (ascending, "er, buffer_size=20", "False"),
        (ascending, "magr", "False"),
        (ascending, "joint", "True"),
        (descending, "sgd", "False"),
        (descending, "er, buffer_size=10", "False"),
        ("seq-digits", "sgd", "False"),
        ("seq-digits", "er", "False"),
        ("seq-digits", "joint", "True"),
    }
    assert len(list(csv.DictReader((out / "runs.csv").open()))) == 2 * len(BOTH_SEEDS) + len(ONE_SEED)


def test_every_kind_of_figure_is_drawn(out: Path) -> None:
    drawn = {path.stem for path in (out / "figures").iterdir()}
    score = {"sessions", "matrices", "forgetting", "scores", "cost"}
    assert drawn == {
        *(f"stream-uiprmd-task-order-ascending-{name}" for name in {*score, "buffer"}),
        *(f"stream-uiprmd-task-order-descending-{name}" for name in score),
        *(f"stream-seq-digits-{name}" for name in ("sessions", "matrices", "forgetting", "classes", "cost")),
        "task-orders-1",
    }


def test_the_main_table_is_printed_with_the_place_of_the_page(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_once([str(runs / "seq-digits"), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("| method")
    assert "joint (upper bound)" in printed
    assert f"report: {tmp_path / 'index.html'}" in printed
    assert printed.splitlines()[0] in (tmp_path / "report.md").read_text()


def test_a_refused_report_exits_with_its_code_and_writes_nothing(runs: Path, tmp_path: Path) -> None:
    for folder in runs.glob("uiprmd/er/*"):
        copy = tmp_path / "runs" / folder.name
        shutil.copytree(folder, copy)
        config = copy / "config.yaml"
        config.write_text(config.read_text().replace("seed: 1 ", "seed: 1\nadded: 2 "))
    command = [sys.executable, "scripts/report.py", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    mixed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert mixed.returncode == 2
    assert "error: runs that differ in more than the seed are not averaged" in mixed.stderr
    assert "added = 2 (1 run), absent (1 run)" in mixed.stderr
    assert "Traceback" not in mixed.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_without_runs_exits_with_the_code_of_missing_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_once([str(tmp_path), "--out", str(tmp_path / "out")]) == 3
    assert capsys.readouterr().err == "error: no finished run there\n"


def browse(page: Path, *words: str) -> str:
    """Open a page in the browser; returns what it prints."""
    profile = page.parent / "profile"
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", *words, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.browser
@pytest.mark.skipif(not BROWSER, reason="no chromium")
@pytest.mark.parametrize("width", [1300, 500])
def test_the_page_shows_all_tables_and_figures_in_a_browser(out: Path, tmp_path: Path, width: int) -> None:
    text = (out / "index.html").read_text()
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", MEASURE))
    shown = browse(page, "--dump-dom", f"--window-size={width},2000")
    height = int(re.search(r'data-height="(\d+)"', shown)[1])  # type: ignore[index]
    assert int(re.search(r'data-width="(\d+)"', shown)[1]) <= width, "the page itself never scrolls sideways"  # type: ignore[index]

    for row in csv.DictReader((out / "cells.csv").open()):
        if row["figure"] in ("srcc_pooled", "class_il_mean"):
            mean = f"{float(row['mean']):.2f}".replace("-", "\N{MINUS SIGN}")
            assert re.search(rf">{re.escape(mean)}</span>", shown), f"{row['method']} on {row['stream']}"
    tables = re.findall(r"<table[^>]*data-box=\"([^\"]+)\"", shown)
    assert len(tables) == text.count("<table") >= 10
    figures = [json.loads(html.unescape(box)) for box in re.findall(r"<svg[^>]*data-box=\"([^\"]+)\"", shown)]
    assert len(figures) == len(list((out / "figures").iterdir()))

    if width < 1000:
        return
    target = tmp_path / "page.png"
    browse(page, f"--screenshot={target}", f"--window-size={width},{height}")
    image = np.asarray(Image.open(target).convert("RGB"))
    for left, top, wide, high in figures:
        assert wide > 300
        assert high > 100
        area = image[top : top + high, max(left, 0) : left + wide].reshape(-1, 3)
        assert len(np.unique(area, axis=0)) > 50, "a figure is blank"


@pytest.mark.browser
@pytest.mark.skipif(not BROWSER, reason="no chromium")
def test_in_dark_mode_the_page_is_dark_and_figures_stay_on_white(out: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    shutil.copy(out / "index.html", page)
    share: Callable[[np.ndarray, int, int], float] = lambda image, low, high: float(  # noqa: E731
        ((image >= low) & (image <= high)).all(axis=2).mean()
    )
    images = {}
    for scheme, setting in (("light", "1"), ("dark", "0")):
        target = tmp_path / f"{scheme}.png"
        browse(
            page,
            f"--screenshot={target}",
            "--window-size=1300,3000",
            f"--blink-settings=preferredColorScheme={setting}",
        )
        images[scheme] = np.asarray(Image.open(target).convert("RGB"))
    assert share(images["light"], 250, 255) > 0.6
    assert share(images["dark"], 0, 60) > 0.3
    assert share(images["dark"], 250, 255) > 0.1, "the cards of the figures"
