"""scripts/wandb_sync.py with the real `wandb sync`, against a server on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scripts.wandb_sync import main
from tests.wandb_server import Server, environment
from utils.registry import ROOT
from utils.wandb_offline import Part, Uploads, find_parts, waiting

wandb = pytest.importorskip("wandb")

# Logs `loss` for some batches to the offline run "abc", as one part of it.
LOG = """
import sys, wandb
settings = wandb.Settings(silent=True, console="off")
folder, first, last, code = sys.argv[1], *map(int, sys.argv[2:])
run = wandb.init(project="p", mode="offline", id="abc", resume="allow", dir=folder, settings=settings)
for batch in range(first, last):
    run.log({"loss": batch / 10, "batch": batch})
run.finish(exit_code=code)
"""
SYNC = [sys.executable, "scripts/wandb_sync.py"]


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = Server()
    for name, value in environment(tmp_path / "wandb-places", server.url).items():
        monkeypatch.setenv(name, value)
    wandb.teardown()
    yield server
    wandb.teardown()
    server.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A run of two parts: batches 0 to 4, stopped by SIGTERM, then 3 to 7 after a resumption."""
    folder = tmp_path_factory.mktemp("template")
    quiet = {**os.environ, **environment(folder / "places"), "WANDB_API_KEY": ""}
    for words in (["0", "5", "143"], ["3", "8", "0"]):
        subprocess.run([sys.executable, "-c", LOG, str(folder), *words], env=quiet, check=True)
        time.sleep(1.05)
    return folder / "wandb"


@pytest.fixture
def offline(template, tmp_path):
    """A folder with a run folder in it, whose wandb parts are `template`'s."""
    for part in template.glob("offline-run-*"):
        folder = tmp_path / "runs" / "run" / "wandb" / part.name
        folder.mkdir(parents=True)
        (folder / "run-abc.wandb").write_bytes((part / "run-abc.wandb").read_bytes())
    return tmp_path / "runs"


def two_parts(folder: Path) -> list[Part]:
    return find_parts([folder])["abc"]


def test_parts_of_a_resumed_run_become_one_run_and_are_uploaded_once(server, offline, capfd):
    assert main([str(offline)]) == 0
    history = server.runs["abc"]["history"]
    rows = [history[i] for i in range(len(history))]
    assert [row["batch"] for row in rows] == [0, 1, 2, 3, 4, 3, 4, 5, 6, 7]
    assert [row["_step"] for row in rows] == list(range(10))
    assert server.runs["abc"]["ends"] == [143, 0]
    assert "uploaded: 1, failed: 0" in capfd.readouterr().out

    asked = len(server.operations)
    assert main([str(offline)]) == 0
    assert len(server.operations) == asked
    assert "to upload: 0, uploaded already: 1" in capfd.readouterr().out


def test_part_uploaded_later_is_written_behind_the_first(server, offline):
    _, second = two_parts(offline)
    content = second.path.read_bytes()
    second.path.unlink()
    assert main([str(offline)]) == 0
    assert len(server.runs["abc"]["history"]) == 5
    second.path.write_bytes(content)
    todo, _, _ = waiting(find_parts([offline]))
    assert todo == {"abc": [second]}
    assert main([str(offline)]) == 0
    assert [server.runs["abc"]["history"][i]["batch"] for i in range(5, 10)] == [3, 4, 5, 6, 7]


def test_file_that_has_grown_since_its_upload_is_uploaded_again(offline):
    first, second = two_parts(offline)
    for part in (first, second):
        part.mark.touch()
    assert waiting(find_parts([offline])) == ({}, [], 1)
    late = second.mark.stat().st_mtime + 5
    os.utime(second.path, (late, late))
    assert waiting(find_parts([offline]))[0] == {"abc": [second]}


def test_what_a_killed_process_left_is_uploaded_as_far_as_it_goes(server, offline, capfd):
    first, second = two_parts(offline)
    whole = first.path.read_bytes()
    first.path.write_bytes(whole[: len(whole) - 400])
    second.path.write_bytes(second.path.read_bytes()[:7])
    assert main([str(offline), "--retry", "0"]) == 0
    assert 0 < len(server.runs["abc"]["history"]) <= 5
    assert waiting(find_parts([offline])) == ({}, [], 1)


def test_dry_run_names_the_folders_and_sends_nothing(server, offline, capfd):
    assert main([str(offline), "--dry_run"]) == 0
    output = capfd.readouterr().out
    assert [str(part.path.parent) in output for part in two_parts(offline)] == [True, True]
    assert not server.operations


def test_run_in_progress_is_named_and_left_for_later(server, offline, capfd):
    run = offline / "run"
    (run / "config.yaml").write_text("model: er\ndataset: uiprmd\n")
    code = "import sys; from utils.files import exclusive_lock\n"
    code += "with exclusive_lock(sys.argv[1], ''): print('held', flush=True); sys.stdin.readline()"
    words = [sys.executable, "-c", code, str(run / ".lock")]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert main([str(offline)]) == 0
        assert f"left for later, in progress: {run}" in capfd.readouterr().out
        assert not server.operations
        holder.communicate("\n")
    assert waiting(find_parts([offline]))[0].keys() == {"abc"}


def test_without_a_key_it_ends_at_once_and_says_how_to_give_one(server, offline, capfd, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    assert main([str(offline)]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: nothing was uploaded: no key for http://127.0.0.1")
    assert "WANDB_API_KEY" in error


def test_without_a_server_it_ends_at_once(server, offline, capfd, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert main([str(offline)]) == 5
    assert "no answer from http://127.0.0.1:9" in capfd.readouterr().err


def test_absent_folder_is_an_error(tmp_path, capfd):
    assert main([str(tmp_path / "absent")]) == 3
    assert "no folder" in capfd.readouterr().err


def test_refused_upload_is_reported_with_its_reason_and_later_parts_wait(server, offline, capfd):
    server.refuse = 403
    assert main([str(offline), "--retry", "0"]) == 5
    captured = capfd.readouterr()
    assert "uploaded: 0, failed: 1" in captured.out
    assert "1 of 1 runs were not uploaded" in captured.err
    assert "403" in captured.err
    first, second = two_parts(offline)
    assert str(first.path.parent) in captured.err
    assert str(second.path.parent) not in captured.err
    assert not first.mark.exists()
    assert not second.mark.exists()


def test_attempts_are_repeated_within_their_time_limit_until_the_server_is_back(server, offline):
    server.silent.set()
    first, _ = two_parts(offline)
    began = time.monotonic()
    assert "not done within 2 s" in Uploads(retry=1, timeout=2, pause=0.1).sync([first])
    assert 4 < time.monotonic() - began < 9
    server.silent.clear()
    server.refuse = 403
    threading.Timer(3, setattr, (server, "refuse", 0)).start()
    assert Uploads(retry=9, timeout=20, pause=0.5).sync([first]) == ""
    assert [server.runs["abc"]["history"][i]["batch"] for i in range(5)] == [0, 1, 2, 3, 4]


def test_pauses_grow():
    assert list(Uploads(retry=3, timeout=1, pause=5)._pauses()) == [0, 5, 10, 20]


def test_ctrl_c_ends_all_uploads(server, offline):
    server.silent.set()
    process = subprocess.Popen(
        [*SYNC, str(offline)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not server.waiting:
        time.sleep(0.05)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - began < 5
    assert errors.strip().splitlines()[-1].startswith("stopped; what was not uploaded yet")
    assert "Traceback" not in errors
    still = subprocess.run(["pgrep", "-f", f"wandb sync.*{offline}"], capture_output=True, text=True, check=False)
    assert not still.stdout
