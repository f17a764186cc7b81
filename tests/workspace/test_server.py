"""The server as a process: its start, ten clients at once, and what a kill leaves."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockstep.engine import Engine
from lockstep.engine.owner import LABEL
from lockstep.errors import WorkspaceError
from lockstep.workspace import daemon
from lockstep.workspace.daemon import Daemon
from tests.workspace.client import Client

CLONE_NEWNET, SIOCSIFFLAGS, IFF_UP = 0x40000000, 0x8914, 0x1  # sched.h, linux/sockios.h, net/if.h
SUBMIT = """
import sys
from azureml.core import Environment, Experiment, Run, ScriptRunConfig, Workspace
ws = Workspace.get("embedded", subscription_id="00000000-0000-4000-8000-000000000001", resource_group="lockstep")
env = Environment("image")
env.python.user_managed_dependencies = True
env.docker.base_image = image
config = ScriptRunConfig(source_directory=source, script="train.py", arguments=arguments, compute_target="cpu-cluster",
                         environment=env)
"""


@pytest.fixture
def own_folder(tmp_path: Path) -> Iterator[Path]:
    """A workspace of the test's own; whatever serves it in the end is stopped."""
    folder = tmp_path / ".lockstep" / "workspace"
    yield folder
    running = daemon.find(folder)
    if running is not None:
        running.stop()


def test_the_first_answer_comes_within_2_seconds(tmp_path: Path, own_folder: Path) -> None:
    """From the command to the first answer, the best of three: the first makes keys and certificates too."""
    took = []
    for _ in range(3):
        began = time.monotonic()
        running = daemon.start(own_folder)
        took.append(time.monotonic() - began)
        running.stop()
        assert daemon.find(own_folder) is None
    assert min(took) < 2, took


def test_it_starts_once_keeps_its_port_and_resets(own_folder: Path) -> None:
    """A second start finds the first; a restart keeps address and identity; a reset gives a new identity."""
    first = daemon.start(own_folder)
    assert daemon.start(own_folder) == first
    told = subprocess.run(
        [sys.executable, "-m", "lockstep.workspace", str(own_folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 2
    assert "being served already" in told.stderr
    identity = (own_folder / "identity.json").read_text()
    first.stop()
    again = daemon.start(own_folder)
    assert again.port == first.port
    assert (own_folder / "identity.json").read_text() == identity
    daemon.reset(own_folder)
    assert not own_folder.exists()
    daemon.start(own_folder)
    assert (own_folder / "identity.json").read_text() != identity


def test_a_start_that_fails_says_why(own_folder: Path) -> None:
    """The command's own words are in the error."""
    command = [sys.executable, "-c", "import sys; sys.exit('the reason')"]
    with pytest.raises(WorkspaceError, match="the reason"):
        daemon.start(own_folder, command)


@pytest.mark.engine
@pytest.mark.slow
def test_ten_runs_submitted_at_once(server: Daemon, sdk_image: str, tmp_path: Path, client: Client) -> None:
    """Ten processes submit, ten runs complete, each with its own metrics."""
    processes = []
    for number in range(10):
        source, home = tmp_path / f"src{number}", tmp_path / f"home{number}"
        source.mkdir()
        home.mkdir()
        (source / "train.py").write_text(
            "import sys\nfrom azureml.core import Run\nrun = Run.get_context()\n"
            "run.log('own', int(sys.argv[1]))\nrun.log('own', int(sys.argv[1]) * 100)\n"
        )
        values = {"image": sdk_image, "source": str(source), "arguments": [number]}
        code = "".join(f"{name} = {value!r}\n" for name, value in values.items()) + SUBMIT
        code += "print(Experiment(ws, 'ten').submit(config).id)\n"
        environment = {**os.environ, **server.environment(), "HOME": str(home)}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", code],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                cwd=home,
            )
        )
    ids = [process.communicate(timeout=200)[0].strip().splitlines()[-1] for process in processes]
    code = """
ws = Workspace.get("embedded", subscription_id="00000000-0000-4000-8000-000000000001", resource_group="lockstep")
import time
result = []
for run_id in ids:
    run = Run.get(ws, run_id)
    while run.get_status() not in ("Completed", "Failed", "Canceled"):
        time.sleep(0.2)
    result.append([run.get_status(), run.get_metrics()])
"""
    ended = client.run(code, ids=ids)
    assert [status for status, _ in ended] == ["Completed"] * 10
    assert [metrics["own"] for _, metrics in ended] == [[number, number * 100] for number in range(10)]


@pytest.mark.engine
def test_kill_9_loses_nothing_but_the_run_that_went(
    engine: Engine, own_folder: Path, python_image: str, tmp_path: Path
) -> None:
    """After a kill in mid-run: that run is Failed with the reason, its container is gone, all else is as it was."""
    source = tmp_path / "src"
    source.mkdir()
    (source / "train.py").write_text(
        "import sys, time\nprint('line', flush=True)\ntime.sleep(float(sys.argv[1]))\n"
    )
    running = daemon.start(own_folder)
    client = Client(running.environment(), tmp_path / "client")
    values = {"image": python_image, "source": str(source)}
    code = """
import time
done = Experiment(ws, "kill").submit(config)
done.wait_for_completion()
noted = Experiment(ws, "kill").start_logging(snapshot_directory=None)
for number in range(10):
    noted.log("count", number)
noted.complete()
config.arguments = [300]
going = [Experiment(ws, "kill").submit(config) for _ in range(5)]
while [run.get_status() for run in going].count("Running") < 4:
    time.sleep(0.1)
result = [done.id, noted.id, *[run.id for run in going]]
"""
    done, noted, *going = client.run(SUBMIT + code, arguments=[0], **values)
    client.close()
    os.kill(running.pid, signal.SIGKILL)
    while daemon.is_served(own_folder):
        time.sleep(0.01)
    again = daemon.start(own_folder)
    client = Client(again.environment(), tmp_path / "client2")
    code = """
ws = Workspace.get("embedded", subscription_id="00000000-0000-4000-8000-000000000001", resource_group="lockstep")
import time
def ends(run):
    details = run.get_details()
    return [details["status"], (details.get("error") or {}).get("error", {}).get("message")]
done, noted = Run.get(ws, done), Run.get(ws, noted)
runs = [Run.get(ws, one) for one in going]
time.sleep(3)
result = {"done": ends(done), "files": done.get_file_names(), "count": noted.get_metrics()["count"],
          "going": [ends(run) for run in runs], "env": Environment.get(ws, "image").version,
          "log": runs[0].get_details_with_logs()["logFiles"]["user_logs/std_log.txt"]}
for run in runs:
    run.cancel()
while not all(run.get_status() in ("Failed", "Canceled") for run in runs):
    time.sleep(0.1)
"""
    ran = client.run(code, done=done, noted=noted, going=going)
    client.close()
    assert ran["done"] == ["Completed", None]
    assert "user_logs/std_log.txt" in ran["files"]
    assert ran["count"] == list(range(10))
    assert ran["env"] == "1"
    assert ran["log"].strip() == "line"
    failed = [
        status
        for status in ran["going"]
        if status == ["Failed", "The workspace's server stopped while the run was going."]
    ]
    assert len(failed) == 4
    left = (own_folder / "artifacts").rglob("*")
    assert {path.stat().st_uid for path in left} == {own_folder.stat().st_uid}
    assert ["Running", None] in ran["going"]  # the fifth had waited for a node, and goes on
    containers = engine.api.containers(all=True, filters={"label": LABEL})
    owners = [x["Labels"][LABEL].split("/")[2] for x in containers]
    assert str(running.pid) not in owners


@pytest.mark.engine
def test_a_job_finds_its_run(client: Client, sdk_image: str, source: Path) -> None:
    """In the container `Run.get_context()` is the run: metrics, tags, children and uploads arrive."""
    (source / "train.py").write_text(
        textwrap.dedent("""
        from azureml.core import Run
        run = Run.get_context()
        print(type(run).__name__, run.id, run.experiment.name)
        for step in range(3):
            run.log("loss", 1 / (step + 1))
        run.tag("quality", "good")
        with open("note.txt", "w") as file:
            file.write("note")
        run.upload_file("outputs/note.txt", "note.txt")
        child = run.child_run("child")
        child.log("inner", 7)
        child.complete()
        run.complete()
        print("Finished Training")
        """)
    )
    code = """
run = Experiment(ws, "jobs").submit(config)
run.wait_for_completion()
result = {"metrics": run.get_metrics(), "tags": run.get_tags(), "files": run.get_file_names(), "id": run.id,
          "children": [child.get_metrics() for child in run.get_children()],
          "log": run.get_details_with_logs()["logFiles"]["user_logs/std_log.txt"]}
"""
    ran = client.run(SUBMIT + code, image=sdk_image, source=str(source), arguments=[])
    assert f"_SubmittedRun {ran['id']} jobs" in ran["log"]
    assert "Finished Training" in ran["log"]
    assert ran["metrics"]["loss"] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert ran["tags"]["quality"] == "good"
    assert "outputs/note.txt" in ran["files"]
    assert ran["children"] == [{"inner": 7}]


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """Give this thread, and what it starts, a network that has only loopback: the engine's is another one."""
    libc, before = ctypes.CDLL(None, use_errno=True), os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET):
        pytest.skip("making a network takes root")
    try:
        with socket.socket() as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))
        yield
    finally:
        assert libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)


@pytest.mark.engine
def test_a_job_finds_its_run_where_the_engine_has_another_network(
    own_folder: Path, tmp_path: Path, sdk_image: str, source: Path
) -> None:
    """As with a rootless engine: its gateway isn't this machine's, and jobs reach the workspace all the same."""
    (source / "train.py").write_text(
        textwrap.dedent("""
        import os
        from azureml.core import Run
        run = Run.get_context()
        run.log("rank" + os.environ.get("RANK", ""), 1)
        """)
    )
    code = """
def logged(**more):
    config = ScriptRunConfig(source, "train.py", compute_target="cpu-cluster", environment=env, **more)
    run = Experiment(ws, "elsewhere").submit(config)
    run.wait_for_completion()
    return run.get_metrics()
result = [logged(), logged(distributed_job_config=PyTorchConfiguration(process_count=2, node_count=2))]
"""
    with own_network():
        running = daemon.start(own_folder)
        client = Client(running.environment(), tmp_path / "client")
        try:
            ran = client.run(SUBMIT + code, image=sdk_image, source=str(source), arguments=[])
        finally:
            client.close()
            running.stop()
    assert ran == [{"rank": 1}, {"rank0": 1, "rank1": 1}]


def test_without_an_engine_a_run_is_failed_in_words(
    own_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workspace works; a run says what is missing."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    running = daemon.start(own_folder)
    monkeypatch.delenv("DOCKER_HOST")
    source = tmp_path / "src"
    source.mkdir()
    (source / "train.py").write_text("")
    client = Client(running.environment(), tmp_path / "client")
    code = """
import time
run = Experiment(ws, "engine").submit(config)
while run.get_status() not in ("Failed", "Completed"):
    time.sleep(0.1)
result = run.get_details()["error"]["error"]["message"]
"""
    told = client.run(SUBMIT + code, image="any", source=str(source), arguments=[])
    client.close()
    assert "nothing.sock" in told
    assert "DOCKER_HOST" in told


class Line:
    """A socket that leads to the machine's engine until it is cut; then nothing answers there."""

    def __init__(self, path: Path, engine: Path) -> None:
        self.path, self._engine = path, engine
        self._ends: list[socket.socket] = []
        self.mend()

    def mend(self) -> None:
        """Answer, again."""
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(self.path))
        self._door.listen()
        threading.Thread(target=self._welcome, args=(self._door,), daemon=True).start()

    def cut(self) -> None:
        """End every connection, and answer no more."""
        self.path.unlink()
        for one in (self._door, *self._ends):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._ends.clear()

    def _welcome(self, door: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = door.accept()[0], socket.socket(socket.AF_UNIX)
                far.connect(str(self._engine))
                self._ends += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


@pytest.mark.engine
def test_an_engine_that_goes_away_in_mid_run(
    engine: Engine, own_folder: Path, python_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is Failed in words, its log is kept; when the engine is back its container goes, and runs run."""
    if engine.endpoint.socket is None:
        pytest.skip("the engine isn't on this machine")
    line = Line(tmp_path / "line.sock", engine.endpoint.socket)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{line.path}")
    running = daemon.start(own_folder)
    monkeypatch.delenv("DOCKER_HOST")
    client = Client(running.environment(), tmp_path / "client")
    source = tmp_path / "src"
    source.mkdir()
    (source / "train.py").write_text(
        "import sys, time\nprint('line', flush=True)\ntime.sleep(float(sys.argv[1]))\n"
    )
    code = """
import time
run = Experiment(ws, "cut").submit(config)
while not (run.get_details_with_logs()["logFiles"].get("user_logs/std_log.txt") or "").strip():
    time.sleep(0.1)
result = run.id
"""
    run = client.run(SUBMIT + code, image=python_image, source=str(source), arguments=[600])
    mine = {"filters": {"label": LABEL, "ancestor": python_image}, "all": True}
    before = {x["Id"] for x in engine.api.containers(**mine)}
    line.cut()
    ended = """
import time
run = Run.get(Workspace.get("embedded", subscription_id="00000000-0000-4000-8000-000000000001",
                            resource_group="lockstep"), run)
while run.get_status() not in ("Completed", "Failed", "Canceled"):
    time.sleep(0.1)
details = run.get_details_with_logs()
result = [details["status"], details["error"]["error"]["message"], details["logFiles"]["user_logs/std_log.txt"]]
"""
    status, message, log = client.run(ended, run=run)
    assert (status, log.strip()) == ("Failed", "line")
    assert "The container engine went away" in message
    line.mend()
    deadline = time.monotonic() + 30
    while before & {x["Id"] for x in engine.api.containers(**mine)}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    code = (
        "run = Experiment(ws, 'cut').submit(config)\nrun.wait_for_completion()\nresult = run.get_status()\n"
    )
    values = {"image": python_image, "source": str(source), "arguments": [0]}
    assert client.run(SUBMIT + code, **values) == "Completed"
    client.close()
    running.stop()
    line.cut()


@pytest.mark.engine
def test_a_full_disk_is_said(tmp_path: Path, python_image: str) -> None:
    """The run is Failed with the disk's words, the server answers on, and works again once there is room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk takes root")
    try:
        source = tmp_path / "src"
        source.mkdir()
        (source / "train.py").write_text(
            "import sys\nopen('outputs/big', 'wb').write(b'x' * int(sys.argv[1]))\n"
        )
        folder = disk / "workspace"
        running = daemon.start(folder)
        client = Client(running.environment(), tmp_path / "client")
        code = """
import time
def ran(size):
    config.arguments = [size]
    run = Experiment(ws, "disk").submit(config)
    while run.get_status() not in ("Failed", "Completed"):
        time.sleep(0.1)
    return [run.get_status(), (run.get_details().get("error") or {}).get("error", {}).get("message", "")]
result = [ran(size) for size in sizes]
"""
        values = {"image": python_image, "source": str(source), "arguments": []}
        (failed,) = client.run(SUBMIT + code, sizes=[100_000_000], **values)
        assert failed[0] == "Failed"
        assert "No space left on device" in failed[1]
        for big in folder.rglob("big"):
            big.unlink()
        assert client.run(SUBMIT + code, sizes=[10], **values) == [["Completed", ""]]
        client.close()
        running.stop()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
