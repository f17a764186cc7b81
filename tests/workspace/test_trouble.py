"""One thing's trouble isn't the others': a full disk, a removed compute target, a bad row, a start after a kill."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lockstep.workspace import daemon
from lockstep.workspace.artifacts import RUN_ORIGIN
from lockstep.workspace.computes import Computes
from lockstep.workspace.daemon import Daemon
from lockstep.workspace.fault import Fault, is_disk_full
from lockstep.workspace.folder import Folder
from lockstep.workspace.identity import ARM_PATH, Identity
from lockstep.workspace.nodes import Nodes
from lockstep.workspace.runs import container_of
from lockstep.workspace.state import State, now, text
from tests.workspace.conftest import MLFLOW_PYTHON

HISTORY = f"/history/v1.0{ARM_PATH}"
INSERT = (
    "INSERT INTO runs (id, experiment, number, root, status, created, submitted, details)"
    " VALUES (?, 1, ?, ?, ?, ?, ?, ?)"
)


def asking(running: Daemon) -> httpx.Client:
    """Return a client with the workspace's token that waits at most 20 s."""
    context = ssl.create_default_context(cafile=str(running.folder / "tls" / "ca.pem"))
    bearer = {"Authorization": f"Bearer {Identity.of(running.folder / 'identity.json').token()}"}
    return httpx.Client(verify=context, trust_env=False, headers=bearer, base_url=running.url, timeout=20)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    """A workspace's database, in a folder that can be served afterwards."""
    folder = Folder(tmp_path / "workspace")
    folder.prepare()
    state = State(folder.path / "state.sqlite")
    yield state
    state.close()


def add_run(state: State, run_id: str, number: int, status: str, *, submitted: bool = True) -> None:
    """Put a run into the database as a server before this one left it."""
    with state.change() as change:
        change.execute("INSERT OR IGNORE INTO experiments (id, name, created) VALUES (1, 'old', ?)", (now(),))
        details = text({"properties": {}, "tags": {}, "definition": None})
        change.execute(INSERT, (run_id, number, run_id, status, now(), now() if submitted else None, details))


def test_what_was_left_is_settled_before_anybody_is_answered(tmp_path: Path, state: State) -> None:
    """2,000 runs were going when the server was killed: at its first answer, none is said to be going."""
    with state.change() as change:
        change.execute("INSERT INTO experiments (id, name, created) VALUES (1, 'old', ?)", (now(),))
        details = text({"properties": {}, "tags": {}, "definition": None})
        rows = [(f"r{n}", n, f"r{n}", "Running", now(), now(), details) for n in range(2000)]
        change.executemany(INSERT, rows)
    running = daemon.start(tmp_path / "workspace")
    try:
        with asking(running) as client:
            assert client.get(f"{HISTORY}/experiments/old/runs/r1999").json()["status"] == "Failed"
    finally:
        running.stop()


@pytest.mark.parametrize("status", ["Running", "Finalizing", "CancelRequested"])
def test_what_a_killed_server_s_run_left_is_taken_back(tmp_path: Path, state: State, status: str) -> None:
    """Its outputs become the person's, without a program that runs as its owner, and its folders go; in any state."""
    add_run(state, "r1", 1, status)
    folder = Folder(tmp_path / "workspace")
    work, outputs = folder.run("r1"), folder.artifacts(RUN_ORIGIN, container_of("r1")).path / "outputs"
    for path in (work / "node-0" / "train.py", outputs / "model.pt"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        path.chmod(0o4755)
        if os.geteuid() == 0:
            os.chown(path, 65_520, 65_520)
    running = daemon.start(tmp_path / "workspace")
    try:
        deadline = time.monotonic() + 20
        while work.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        facts = (outputs / "model.pt").stat()
        assert not work.exists()
        assert (facts.st_uid, facts.st_mode & 0o7777) == (os.getuid(), 0o755)
    finally:
        running.stop()


def test_a_removed_target_does_not_block_its_name(state: State) -> None:
    """A run waits for a target that is removed: it is refused in words, and a new target of that name works."""
    computes = Computes(state)
    computes.create("small", {"properties": {"properties": {"scaleSettings": {"maxNodeCount": 1}}}})
    nodes, said = Nodes(computes.nodes), list[str]()

    def wait(count: int = 1) -> None:
        try:
            with nodes.taken("small", count, threading.Event()) as got:
                said.append("got" if got else "gave up")
        except Fault as fault:
            said.append(fault.message)

    def waiting(count: int = 1) -> threading.Thread:
        thread = threading.Thread(target=wait, args=(count,), daemon=True)
        thread.start()
        deadline = time.monotonic() + 5
        while not nodes._waiting["small"] and time.monotonic() < deadline:
            time.sleep(0.01)
        return thread

    with nodes.taken("small", 1, threading.Event()):
        waits = waiting()
        computes.delete("small")
        nodes.look_again()
        waits.join(5)
        assert said == ["The compute target 'small' is not in this workspace; it has 'cpu-cluster'."]
        computes.create("small", {"properties": {"properties": {"scaleSettings": {"maxNodeCount": 1}}}})
        waits = waiting()
    waits.join(5)
    assert said[1:] == ["got"]
    wait(2)
    assert said[2] == "The run asks for 2 nodes; the compute target 'small' has 1."
    wait()
    assert said[3] == "got"


def test_a_change_that_the_disk_has_no_room_for(state: State) -> None:
    """It is undone, said to be a full disk, and what follows is kept for good: nothing hangs in a transaction."""
    state._connection.execute("PRAGMA max_page_count = 40")
    with pytest.raises(sqlite3.OperationalError) as failed:
        state.keep("big", "x" * 1_000_000)
    assert is_disk_full(failed.value)
    state._connection.execute("PRAGMA max_page_count = 100000")
    state.keep("small", "kept")
    (path,) = (row["file"] for row in state.rows("PRAGMA database_list"))
    other = sqlite3.connect(path)
    assert other.execute("SELECT value FROM meta WHERE name = 'small'").fetchall() == [("kept",)]
    other.close()


def test_a_full_disk_is_refused_in_words(tmp_path: Path) -> None:
    """State, blobs and artifacts: 400 and the disk's words, at once; with room again, all is as it was."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk takes root")
    running = None
    try:
        running = daemon.start(disk / "workspace")
        with asking(running) as client:
            client.post(f"{HISTORY}/experiments/full").raise_for_status()
            run = f"{HISTORY}/experiments/full/runs/r1"
            client.patch(run, json={"tags": {"a": "b"}}).raise_for_status()
            names = {"paths": [{"path": "outputs/big"}]}
            container = f"/artifact/v2.0{ARM_PATH}/artifacts/batch/metadata/ExperimentRun/dcid.r1"
            blob = client.post(container, json=names).json()["artifactContentInformation"]["outputs/big"]
            address = running.url + "/" + blob["contentUri"].split("/", 3)[3]
            filler = disk / "filler"
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 65536)
            began = time.monotonic()
            kept = client.patch(run, json={"tags": {"a": "x" * 900_000}})
            put = client.put(address, content=b"x" * 9_000_000, headers={"x-ms-blob-type": "BlockBlob"})
            assert time.monotonic() - began < 15
            assert (kept.status_code, kept.json()["error"]["code"]) == (400, "DiskFull")
            assert "free some space" in kept.json()["error"]["message"]
            assert (put.status_code, put.headers["x-ms-error-code"]) == (400, "DiskFull")
            filler.unlink()
            assert client.get(run).json()["tags"] == {"a": "b"}
            client.patch(run, json={"tags": {"a": "c"}}).raise_for_status()
            assert (
                client.put(address, content=b"x", headers={"x-ms-blob-type": "BlockBlob"}).status_code == 201
            )
    finally:
        if running:
            running.stop()
        subprocess.run(["umount", "-l", str(disk)], check=False)


def until(ask: Callable[[], Any], seconds: float = 60) -> Any:
    """Return what `ask` returns once that is something."""
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


@pytest.mark.slow
@pytest.mark.skipif(
    not MLFLOW_PYTHON.exists(), reason="`./invoke workspace` makes .venv-workspace, which has MLflow"
)
def test_one_run_that_mlflow_can_not_take_stops_no_other(tmp_path: Path, state: State) -> None:
    """Rows that no door of today lets in lie in the database: a NUL in a run's id, a time that is none."""
    bad = ("a\0b", "b" * 400)
    for number, run_id in enumerate((*bad, "good")):
        add_run(state, run_id, number, "Running", submitted=False)
    values = (
        "INSERT INTO metric_values (run, name, metric, created, step, data, kind, columns)"
        " VALUES (?, ?, ?, ?, 1, ?, 'k', '{}')"
    )
    with state.change() as change:
        for run_id in bad:
            change.execute(values, (run_id, "loss", "1", now(), '{"loss": 1.0}'))
        change.execute(values, ("good", "odd", "1", "no time", '{"odd": 1.0}'))
        change.execute(values, ("good", "loss", "2", now(), '{"loss": 2.5}'))
        change.execute("UPDATE runs SET created = 'never', started = 'never' WHERE id = ?", (bad[1],))
    folder = tmp_path / "workspace"
    command = [sys.executable, "-m", "lockstep.workspace", str(folder), "--mlflow-python", str(MLFLOW_PYTHON)]
    running = daemon.start(folder, command)
    try:
        with asking(running) as client:
            client.timeout = httpx.Timeout(90)
            interface = f"/mlflow/v1.0{ARM_PATH}/api/2.0/mlflow"

            def metrics() -> Any:
                answer = client.get(f"{interface}/runs/get", params={"run_id": "good"})
                return answer.json().get("run", {}).get("data", {}).get("metrics")

            assert [(one["key"], one["value"]) for one in until(metrics)] == [("loss", 2.5)]
            sent = {"run_id": "good", "key": "later", "value": 1, "timestamp": 1700000000000, "step": 0}
            client.post(f"{interface}/runs/log-metric", json=sent).raise_for_status()
            assert until(lambda: len(metrics()) == 2)
            said = (folder / "server.log").read_text()
            assert "failed 1 times" in said
            assert "Traceback" not in said
    finally:
        running.stop()
