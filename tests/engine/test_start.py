"""Finding an engine, starting one, and an engine that goes away, with a dockerd of the tests' own."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockstep.engine import ContainerRun, Engine, find_engine, install
from lockstep.engine.endpoint import Endpoint, endpoints, open_client
from lockstep.errors import EngineError
from lockstep.home import Home
from lockstep.image import Image
from lockstep.image.store import Store
from lockstep.progress import SILENT, Progress

DOCKERD = shutil.which("dockerd", path=os.environ["PATH"] + ":/usr/sbin")
own_engine = pytest.mark.skipif(
    DOCKERD is None or os.geteuid() != 0 or Path("/run/systemd/system").exists(),
    reason="needs dockerd, root and no systemd to start an engine beside the machine's",
)


class Own:
    """A dockerd beside the machine's: its socket, and a program that starts it with folders of its own."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "docker.sock"
        self.pidfile = folder / "docker.pid"
        self.starts = folder / "starts"
        self.program = folder / "bin" / "dockerd"
        self.program.parent.mkdir()
        self.program.write_text(
            # a network of its own: a second dockerd without a bridge removes the machine's docker0
            f"#!/bin/sh\necho start >> {self.starts}\nexport PATH={folder}/bin:$PATH\n"
            f"exec unshare --net {DOCKERD} --data-root {folder}/data "
            f"--exec-root {folder}/exec --pidfile {self.pidfile} -H unix://{self.socket} "
            "--iptables=false --ip6tables=false --bridge=none --storage-driver=vfs\n"
        )
        self.program.chmod(0o755)

    def client(self) -> Engine:
        """Return an Engine on it."""
        endpoint = Endpoint(f"unix://{self.socket}", "DOCKER_HOST")
        return Engine(open_client(endpoint), endpoint)

    def answers(self) -> bool:
        """Say whether it answers."""
        try:
            self.client().close()
        except Exception:
            return False
        return True

    def end(self) -> None:
        """Stop it by the pid in its own pidfile, and what a killed one left: its children and its mounts."""
        folder = self.socket.parent
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(self.pidfile.read_text()), signal.SIGTERM)
            deadline = time.monotonic() + 20
            while self.pidfile.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{folder}/exec/".encode() in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in mounts:
            if mount.startswith(f"{folder}/"):
                subprocess.run(["umount", "-l", mount], check=False)


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    """A dockerd of the test's own, not started; stopped in the end."""
    folder = Path("/tmp") / f"lockstep-{os.getpid()}-{time.monotonic_ns()}"  # sockets have short paths
    folder.mkdir()
    own = Own(folder)
    yield own
    own.end()
    shutil.rmtree(folder, ignore_errors=True)


class Listener(Progress):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        """Remember it."""
        self.said.append(text)


@own_engine
def test_start_says_where_the_log_is_and_outlives_nobody_asked(
    own: Own, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is started in a session of its own, and its log's path is told."""
    monkeypatch.setenv("PATH", f"{own.program.parent}:{os.environ['PATH']}")
    listener = Listener()
    install.provide_engine(home, own.answers, install=False, progress=listener)
    assert own.answers()
    log = home.path / "logs" / "dockerd.log"
    assert any(str(log) in line for line in listener.said)
    assert "API listen" in log.read_text()
    pid = int(own.pidfile.read_text())
    assert os.getsid(pid) == pid


@own_engine
def test_two_processes_start_one_engine(own: Own, home: Home) -> None:
    """Two processes that find no engine at once: one starts it, the other waits and uses it."""
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from tests.engine.test_start import Own
from lockstep.engine.install import provide_engine
from lockstep.home import Home
from lockstep.progress import SILENT
own = Own.__new__(Own)
own.socket = Path({str(own.socket)!r})
provide_engine(Home(Path({str(home.path)!r})), own.answers, install=False, progress=SILENT)
assert own.answers()
"""
    environment = {**os.environ, "PATH": f"{own.program.parent}:{os.environ['PATH']}"}
    processes = [subprocess.Popen([sys.executable, "-c", script], env=environment) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert own.starts.read_text().splitlines() == ["start"]


@own_engine
def test_engine_that_dies_shows_the_end_of_its_log(own: Own, home: Home) -> None:
    """A dockerd that can't start gives its last words and a remedy, at once."""
    own.program.write_text("#!/bin/sh\necho 'failed to mount overlay: operation not permitted' >&2\nexit 1\n")
    began = time.monotonic()
    with pytest.raises(
        EngineError, match=r"ended with code 1(.|\n)*operation not permitted(.|\n)*privileged"
    ):
        install.start_dockerd([str(own.program)], home.path / "log", own.answers, SILENT)
    assert time.monotonic() - began < 5


@own_engine
def test_engine_that_goes_away_is_said(own: Own, home: Home, image: Image, store: Store) -> None:
    """An engine that is killed in the middle of a run, and one that is gone before, are errors in words."""
    install.start_dockerd([str(own.program)], home.path / "log", own.answers, SILENT)
    with own.client() as engine:
        engine.deliver(image, store, "lockstep-test/gone:latest")
        pid = int(own.pidfile.read_text())
        lines: list[bytes] = []

        def on_line(line: bytes) -> None:
            lines.append(line)
            os.kill(pid, signal.SIGKILL)

        run = ContainerRun(image.id, ("sh", "-c", "echo up; sleep 20"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # the SDK leaves sockets that couldn't connect
            with pytest.raises(EngineError, match="went away"):
                engine.run(run, on_line)
            with pytest.raises(EngineError, match="went away"):
                engine.start(run)
            gc.collect()
        own.pidfile.unlink()
        assert lines == [b"up"]


@own_engine
def test_a_run_gets_the_gpus_that_the_engine_has(own: Own, home: Home, image: Image, store: Store) -> None:
    """An engine with NVIDIA's runtime gives all GPUs to a run that wants some, through NVIDIA's hook; else none.

    The hook here only notes that it was called: what it would do takes the hardware.
    """
    noted = own.socket.parent / "noted"
    hook = own.program.with_name("nvidia-container-runtime-hook")
    hook.write_text(f'#!/bin/sh\necho "$@" >> {noted}\n')
    hook.chmod(0o755)
    own.program.write_text(f"{own.program.read_text().rstrip()} --add-runtime nvidia=runc\n")
    install.start_dockerd([str(own.program)], home.path / "log", own.answers, SILENT)
    script = ("sh", "-c", "echo ${NVIDIA_VISIBLE_DEVICES:-none}")
    with own.client() as engine:
        engine.deliver(image, store, "lockstep-test/gpus:latest")
        assert engine.info().gpus
        lines: list[bytes] = []
        for gpus in (True, False):
            assert engine.run(ContainerRun(image.id, script, gpus=gpus), lines.append).code == 0
    assert lines == [b"all", b"none"]
    assert noted.read_text() == "prestart\n"


def test_installing_forbidden_names_the_command(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without an engine and without leave to install, the error says what to install."""
    monkeypatch.setattr(install, "_find", lambda program: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(install, "_is_debian", lambda: True)
    with pytest.raises(EngineError, match=r"no-install(.|\n)*apt-get install docker.io"):
        install.provide_engine(home, lambda: False, install=False, progress=SILENT)


@pytest.mark.parametrize(
    ("uid", "debian", "dockerd", "remedy"),
    [
        (1000, True, None, "sudo apt-get install docker.io"),
        (0, False, None, "Install Docker Engine, Docker Desktop or Podman"),
        (1000, True, "/usr/sbin/dockerd", "systemctl start docker"),
    ],
)
def test_who_gets_no_engine_is_told_what_to_do(
    home: Home, monkeypatch: pytest.MonkeyPatch, uid: int, debian: bool, dockerd: str | None, remedy: str
) -> None:
    """Not root, or not Debian: nothing is touched, and the error says exactly what to do."""
    monkeypatch.setattr(install, "_find", lambda program: dockerd)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(install, "_is_debian", lambda: debian)
    with pytest.raises(EngineError, match=remedy):
        install.provide_engine(home, lambda: False, install=True, progress=SILENT)


def test_named_engine_that_does_not_answer_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """DOCKER_HOST is taken at its word: no other engine is used, none is started."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineError, match=r"none\.sock, which DOCKER_HOST names, doesn't answer"):
        find_engine()


def test_current_context_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A context chosen by DOCKER_CONTEXT or in docker's config names the engine; an unknown one fails."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert "unix:///var/run/docker.sock" in [endpoint.url for endpoint in endpoints()]
    import hashlib

    meta = tmp_path / "contexts" / "meta" / hashlib.sha256(b"mine").hexdigest()
    meta.mkdir(parents=True)
    told = {"Name": "mine", "Metadata": {}, "Endpoints": {"docker": {"Host": "unix:///mine.sock"}}}
    (meta / "meta.json").write_text(json.dumps(told))
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "mine"}))
    (endpoint,) = endpoints()
    assert (endpoint.url, endpoint.named_by) == ("unix:///mine.sock", "`docker context use`")
    monkeypatch.setenv("DOCKER_CONTEXT", "other")
    with pytest.raises(EngineError, match="no docker context 'other'"):
        endpoints()
