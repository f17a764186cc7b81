"""Following a log: over real HTTP, from servers that know ranges and from servers that don't."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lockstep.azureml.follow import LogFollower, follow, main_log
from lockstep.azureml.values import RunState


class Logs(ThreadingHTTPServer):
    """A server of logs that grow; it counts the bytes that it sent."""

    def __init__(self, ranges: bool) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.ranges = ranges
        self.files: dict[str, bytes] = {}
        self.sent = 0

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Answer(BaseHTTPRequestHandler):
    """Answers as blob storage does."""

    server: Logs

    def do_GET(self) -> None:
        """Send a file, or the part of it that a Range asks for."""
        content = self.server.files.get(self.path.lstrip("/"))
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and self.server.ranges else 0
        if content is None or (start and start >= len(content)):
            self.send_response(404 if content is None else 416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if asked and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.server.sent += len(content) - start  # before the last byte goes: the client may look at once
        self.wfile.write(content[start:])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
def logs(request: pytest.FixtureRequest) -> Iterator[Logs]:
    """A server of logs."""
    with Logs(request.param) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_only_new_lines_are_told(logs: Logs) -> None:
    """Each line is told once, when it is whole; a last one without an end is told at the finish."""
    lines: list[str] = []
    follower = LogFollower(lines.append)
    where = {"user_logs/std_log.txt": logs.url("log")}
    assert not follower.look(where)  # not begun: 404
    logs.files["log"] = "one\ntwo\nthré".encode()
    assert follower.look(where)
    assert lines == ["one", "two"]
    assert not follower.look(where)
    logs.files["log"] += b"e\r\nend"
    follower.look(where)
    follower.finish()
    follower.close()
    assert lines == ["one", "two", "thrée", "end"]
    if logs.ranges:
        assert logs.sent == len(logs.files["log"])


def test_scripts_log_takes_over_from_the_build(logs: Logs) -> None:
    """While the service builds the image its log is shown, then the script's from its beginning."""
    lines: list[str] = []
    follower = LogFollower(lines.append)
    logs.files.update(build=b"building\n", driver=b"epoch\n")
    build = {"azureml-logs/20_image_build_log.txt": logs.url("build")}
    follower.look(build)
    follower.look({**build, "azureml-logs/70_driver_log.txt": logs.url("driver")})
    follower.close()
    assert lines == ["building", "epoch"]


def test_main_log_of_many() -> None:
    """Of many processes the first one's log is shown, under the new name before the old."""
    names = [
        "azureml-logs/70_driver_log.txt",
        "user_logs/std_log_process_1.txt",
        "user_logs/std_log_process_0.txt",
    ]
    assert main_log(dict.fromkeys(names, "")) == "user_logs/std_log_process_0.txt"
    assert main_log(dict.fromkeys(names[:2], "")) == "azureml-logs/70_driver_log.txt"
    assert main_log({"system_logs/x.txt": ""}) is None


def test_end_is_noticed_and_nothing_is_lost(logs: Logs) -> None:
    """Lines written just before the end are told, and each status once."""
    logs.files["log"] = b"first\n"
    told: list[str] = []
    states = iter(["Queued", "Queued", "Running", "Completed"])

    def state() -> RunState:
        status = next(states)
        if status == "Completed":
            logs.files["log"] += b"last\n"
        found = (("user_logs/std_log.txt", logs.url("log")),) if status in ("Running", "Completed") else ()
        return RunState("r", "e", status, logs=found)

    end = follow(state, told.append, lambda now: told.append(f"[{now.status}]"))
    assert end.status == "Completed"
    assert told == ["[Queued]", "[Running]", "first", "[Completed]", "last"]
