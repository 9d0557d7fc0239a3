"""What tests of wandb need: a server on this machine that speaks as much of W&B's HTTP as the real client and the real
`wandb sync` of wandb 0.31 ask for, a server that never answers, and a reader of .wandb files."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY = "0123456789" * 4
BLOCK = 32768


def environment(folder: Path, url: str = "http://127.0.0.1:9", key: str = KEY) -> dict[str, str]:
    """Everything of wandb's that is not in the run's folder, in a folder; no traffic but to `url`."""
    names = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")
    places = {name: str(folder / name.lower()) for name in names}
    for place in places.values():
        os.makedirs(place, exist_ok=True)
    quiet = {"WANDB_ERROR_REPORTING": "false", "NETRC": str(folder / "netrc"), "no_proxy": "127.0.0.1"}
    return {**places, **quiet, "WANDB_BASE_URL": url, "WANDB_API_KEY": key}


class Server:
    """Keeps what it is sent.

    Attributes:
        runs: name -> what upsertBucket was given, and "history": its lines by their offset.
        files: name -> content of uploaded files.
        operations: names of the GraphQL operations asked for, in order.
        refuse: HTTP status to answer every GraphQL request with, 0: none.
        silent: once set, nothing that is sent is answered any more.
        waiting: requests that were never answered.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.operations: list[str] = []
        self.refuse = 0
        self.silent = threading.Event()
        self.waiting = 0
        self.lock = threading.Lock()
        server = self

        class Requests(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.answer()

            def do_POST(self) -> None:
                self.answer()

            def do_PUT(self) -> None:
                self.answer()

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if server.silent.is_set() and self.command == "POST":
                    server.waiting += 1
                    threading.Event().wait()
                with server.lock:
                    status, content = server.answer(self.path, body)
                text = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *words: Any) -> None:
                """Clients may go away at any time."""

        self.http = Quiet(("127.0.0.1", 0), Requests)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/graphql":
            question = json.loads(body)
            name, values = question.get("operationName") or "", question.get("variables") or {}
            self.operations.append(name)
            if self.refuse:
                return self.refuse, {"errors": [{"message": "refused"}]}
            return 200, {"data": self.operation(name, values)}
        if path.endswith("/file_stream"):
            self.stream(path.split("/")[-2], json.loads(body))
        elif path.startswith("/upload/"):
            self.files[path.removeprefix("/upload/")] = body
        return 200, {}

    def operation(self, name: str, values: dict[str, Any]) -> Any:
        if name == "RunResumeStatus":
            return {"model": {**self.project(values), "bucket": self.resume_status(values["name"])}}
        if name == "UpsertBucket":
            run = self.runs.setdefault(values["name"], {"history": {}, "events": {}, "ends": []})
            run |= {key: value for key, value in values.items() if value is not None}
            bucket = {"id": "id-" + values["name"], "historyLineCount": len(run["history"])}
            shown = {key: run.get(key) for key in ("name", "displayName", "description", "config")}
            return {"upsertBucket": {"bucket": {**bucket, **shown, "project": self.project(run)}, "inserted": True}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/upload/{file}"} for file in values["files"]]
            return {"createRunFiles": {"runID": "id-" + values["run"], "uploadHeaders": [], "files": files}}
        if name == "Viewer":
            who = {"id": "e", "entity": "somebody", "username": "somebody", "name": "somebody", "email": "a@b.c"}
            return {"viewer": {**who, "admin": False, "flags": "{}", "deletedAt": None}}
        if name == "CreateArtifact":
            # Content is deduplicated by digest: what exists is not uploaded again.
            artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s", "latestArtifact": None}}
            return {"createArtifact": {"artifact": artifact}}
        return {}

    @staticmethod
    def project(values: dict[str, Any]) -> dict[str, Any]:
        return {"id": "p", "name": values["project"], "entity": {"id": "e", "name": values.get("entity") or "somebody"}}

    def resume_status(self, name: str) -> dict[str, Any] | None:
        run = self.runs.get(name)
        if run is None:
            return None
        last = run["history"][max(run["history"])] if run["history"] else {}
        tail = {"historyTail": json.dumps([json.dumps(last)]), "eventsTail": "[]"}
        counts = {"historyLineCount": len(run["history"]), "eventsLineCount": len(run["events"]), "logLineCount": 0}
        shown = {"displayName": run.get("displayName"), "config": run.get("config", "{}"), "tags": run.get("tags")}
        known = {"summaryMetrics": run.get("summaryMetrics", "{}"), "wandbConfig": json.dumps({"t": {}}), "notes": None}
        return {"id": "id-" + name, "name": name, **tail, **counts, **shown, **known}

    def stream(self, name: str, sent: dict[str, Any]) -> None:
        run = self.runs[name]
        for file, kind in (("wandb-history.jsonl", "history"), ("wandb-events.jsonl", "events")):
            part = sent.get("files", {}).get(file, {"offset": 0, "content": []})
            for i, line in enumerate(part["content"]):
                run[kind][part["offset"] + i] = json.loads(line)
        if sent.get("complete"):
            run["ends"].append(sent["exitcode"])
        run["preempting"] = run.get("preempting", False) or bool(sent.get("preempting"))


@contextmanager
def silent_server() -> Iterator[str]:
    """The address of a server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    kept.append(listener.accept()[0])
            except OSError:
                return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for connection in kept:
            connection.close()


def read_records(path: Path) -> list[Any]:
    """The protobuf records of a .wandb file: 7 bytes of header, then LevelDB's log format in blocks of 32 KiB.

    Raises:
        AssertionError: a checksum is wrong.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    records, parts, position = [], b"", 7
    while position + 7 <= len(data):
        if BLOCK - position % BLOCK < 7:
            position += BLOCK - position % BLOCK
            continue
        checksum, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if not kind:
            break
        content = data[position + 7 : position + 7 + length]
        assert checksum == zlib.crc32(bytes([kind]) + content), f"checksum at {position} of {path}"
        parts = content if kind in (1, 2) else parts + content
        if kind in (1, 4):
            records.append(Record.FromString(parts))
        position += 7 + length
    return records


def logged_values(records: list[Any]) -> list[dict[str, Any]]:
    """What each call of log was given, in order."""
    rows = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            rows.append({name: value for name, value in row.items() if not name.startswith("_")})
    return rows
