"""Locks that outlive nothing but their process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from utils.errors import StorageError
from utils.files import exclusive_lock, write_atomically
from utils.registry import ROOT

HOLDER = """
import os, sys, time
from utils.files import exclusive_lock, write_atomically
with exclusive_lock(sys.argv[1], "busy"):
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    print(child, flush=True)
    sys.stdin.readline()
    os._exit(0)
"""


def test_lock_is_free_as_soon_as_its_process_is_dead_although_a_loading_process_lives_on(tmp_path):
    path = tmp_path / "lock"
    words = [sys.executable, "-c", HOLDER, str(path)]
    holder = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    with pytest.raises(StorageError, match="busy"), exclusive_lock(path, "busy"):
        pass
    holder.kill()
    holder.wait()
    with exclusive_lock(path, "busy"):
        pass
    subprocess.run(["kill", str(child)], check=True)


def test_a_lock_can_be_waited_for(tmp_path):
    code = (
        "import sys, time; from utils.files import exclusive_lock\n"
        "with exclusive_lock(sys.argv[1], ''): print('held', flush=True); time.sleep(0.5); print('over', flush=True)"
    )
    command = [sys.executable, "-c", code, tmp_path / "lock"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with exclusive_lock(tmp_path / "lock", None):
            assert holder.stdout.readline() == b"over\n"


@pytest.mark.parametrize("place", [".", "..", "there"])
def test_a_folder_is_not_written_over(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(StorageError, match="is a folder; name a file"):
        write_atomically(place, lambda file: file.write(b"x"))
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
