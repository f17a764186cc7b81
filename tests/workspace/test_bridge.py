"""The bridge to MLflow when MLflow fails for one run, refuses one item, or is gone: nothing is lost, nobody waits."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest

from lockstep.workspace.experiments import Experiments
from lockstep.workspace.folder import Folder
from lockstep.workspace.metrics import Metrics
from lockstep.workspace.mlflow_bridge import Bridge
from lockstep.workspace.mlflow_server import MLflowServer
from lockstep.workspace.runs import Runs
from lockstep.workspace.state import State


class Behind:
    """A server on MLflow's socket: `fails` says how often it fails for a run, `refused` which keys it doesn't take."""

    def __init__(self, folder: Path) -> None:
        self.fails: dict[str, int] = {}
        self.refused: set[str] = set()
        self.values: dict[str, list[tuple[str, float]]] = defaultdict(list)
        behind = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status = behind.answer(body)
                self.send_response(status)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def address_string(self) -> str:
                return "socket"

            def log_message(self, *_: Any) -> None:
                pass

        self.server = socketserver.ThreadingUnixStreamServer(str(folder / "socket"), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, body: dict[str, Any]) -> int:
        """Take a batch of metrics, or say what is wrong with it."""
        run, metrics = body["run_id"], body.get("metrics", [])
        if metrics and self.fails.get(run, 0) > 0:
            self.fails[run] -= 1
            return 500
        if any(one["key"] in self.refused for one in metrics):
            return 400
        if metrics:
            self.values[run] += [(one["key"], one["value"]) for one in metrics]
        return 200


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[tuple[Bridge, Metrics, Behind]]:
    """A bridge with two runs that MLflow knows, `bad` and `good`, and what is behind it."""
    folder = Folder(tmp_path / "w")
    folder.prepare()
    state = State(folder.path / "state.sqlite")
    experiment = int(Experiments(state).create("e")["id"])
    for name in ("bad", "good"):
        Runs(state).create(name, experiment, {}, status="Running")
    with state.change() as change:
        change.execute("UPDATE runs SET mirrored = 1")
        change.execute("UPDATE experiments SET mirrored = 1")
    server = MLflowServer(folder.mlflow, None)
    server._run_folder = tmp_path
    metrics, behind = Metrics(state), Behind(tmp_path)
    yield Bridge(state, metrics, server), metrics, behind
    behind.server.shutdown()
    behind.server.server_close()
    state.close()


def log(metrics: Metrics, key: str, value: float) -> None:
    """Log a number with both runs."""
    for run in ("bad", "good"):
        metrics.add_numbers(run, [(key, value, 1_700_000_000_000, int(value))])


def test_a_run_for_which_it_fails_is_brought_later(parts: tuple[Bridge, Metrics, Behind]) -> None:
    """The other's metrics come at once; its own all come in the end, each once and in order."""
    bridge, metrics, behind = parts
    behind.fails["bad"] = 2
    log(metrics, "loss", 1)
    bridge.bring_all()
    log(metrics, "loss", 2)
    bridge.bring_all()
    assert behind.values == {"good": [("loss", 1), ("loss", 2)]}
    deadline = time.monotonic() + 20
    while not behind.values["bad"] and time.monotonic() < deadline:
        time.sleep(0.2)
        bridge.bring_all()
    log(metrics, "loss", 3)
    bridge.bring_all()
    assert behind.values["bad"] == behind.values["good"] == [("loss", 1), ("loss", 2), ("loss", 3)]


def test_one_refused_number_is_lost_alone(parts: tuple[Bridge, Metrics, Behind]) -> None:
    """The rest of its batch arrives."""
    bridge, metrics, behind = parts
    behind.refused = {"odd"}
    for number in range(20):
        log(metrics, "odd" if number == 13 else "loss", number)
    bridge.bring_all()
    assert [value for _, value in behind.values["bad"]] == [value for value in range(20) if value != 13]


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # httpcore leaves a socket unclosed
def test_nothing_is_set_aside_while_it_is_gone(parts: tuple[Bridge, Metrics, Behind]) -> None:
    """No run is at fault: the round ends, and the next one brings everything at once."""
    bridge, metrics, behind = parts
    path = Path(str(behind.server.server_address))
    path.rename(path.with_name("away"))
    log(metrics, "loss", 1)
    with pytest.raises(httpx.ConnectError):
        bridge.bring_all()
    path.with_name("away").rename(path)
    bridge.bring_all()
    assert behind.values == {"bad": [("loss", 1)], "good": [("loss", 1)]}
