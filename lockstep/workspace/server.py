"""The server: one process that puts the embedded workspace together, listens, and takes it apart at the end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import logging.handlers
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lockstep.engine import Engine
from lockstep.errors import EngineError, LockstepError, WorkspaceError
from lockstep.no_proxy import no_proxy
from lockstep.redaction import RedactedLines
from lockstep.workspace.app import Application
from lockstep.workspace.computes import DEFAULT_NODES, Computes
from lockstep.workspace.environments import Environments
from lockstep.workspace.execution import Surroundings
from lockstep.workspace.experiments import Experiments
from lockstep.workspace.folder import Folder
from lockstep.workspace.identity import Identity
from lockstep.workspace.images import BuildEnvironment, ImageOf, Images
from lockstep.workspace.launch import Way
from lockstep.workspace.listener import Listener
from lockstep.workspace.metrics import Metrics
from lockstep.workspace.mlflow_bridge import Bridge
from lockstep.workspace.mlflow_server import MLflowServer
from lockstep.workspace.runner import Runner
from lockstep.workspace.runs import Runs
from lockstep.workspace.site import Site
from lockstep.workspace.snapshots import Snapshots
from lockstep.workspace.state import State
from lockstep.workspace.studio import Studio
from lockstep.workspace.tls import Authority

log = logging.getLogger("lockstep.workspace")
LOOPBACK = "127.0.0.1"
NOTED, PORTS = "server.json", "ports.json"
LOCK_SECONDS = 2.0
OPEN_FILES = 4096


@dataclass(frozen=True)
class Parts:
    """What the workspace is given from outside. `mlflow_python` is a Python that has MLflow, if there is one."""

    engine: Callable[[], Engine]
    build_environment: BuildEnvironment | None = None
    image_of: ImageOf | None = None
    mlflow_python: Path | None = None
    nodes: int = DEFAULT_NODES


def find_engine() -> Engine:
    """Return the engine of this machine; EngineError where there is none: a run is Failed with its words."""
    from lockstep.engine import connect

    return connect(install=False)


def serve(path: Path, parts: Parts, *, port: int = 0, studio_port: int = 0) -> None:
    """Serve the workspace kept in `path` until SIGTERM or SIGINT.

    The ports are those of last time, if they are free, because clients remember addresses. Raises WorkspaceError when
    the folder's workspace is being served already.
    """
    folder = Folder(path)
    folder.prepare()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _raise_open_files()
    os.environ.update(no_proxy(os.environ))  # for what this process asks and starts
    with _alone(folder), _logging(folder), running(folder, parts, port, studio_port):
        stop.wait()
        log.info("stopping")


def _raise_open_files() -> None:
    """Let this process have enough open files, where it may: each connection is one."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


@contextlib.contextmanager
def running(folder: Folder, parts: Parts, port: int, studio_port: int) -> Iterator[Site]:
    """Put the workspace together and serve it until the block ends."""
    (folder.path / NOTED).unlink(missing_ok=True)  # a killed server's: its process isn't this one
    noted = _ports(folder)
    listener = Listener(Authority(folder.tls))
    site, serving = _site(folder, parts), threading.Event()

    def way(gateway: str) -> Way:
        """Listen on the gateway's address too; where that isn't this machine's (a rootless engine), on a socket."""
        serving.wait()
        with contextlib.suppress(OSError):
            number = listener.serve_secure(app, gateway, port)
            site.hosts.add(f"{gateway}:{number}")
            return Way(f"{gateway}:{number}")
        listener.serve_secure_socket(app, folder.socket)
        return Way(f"{LOOPBACK}:{port}", folder.socket)

    site.runner.surroundings.way = way
    site.runner.recover()  # before anybody is answered: what is submitted from now on isn't a leftover
    app = Application(site)
    port = listener.serve_secure(app, LOOPBACK, port or noted.get("port", 0))
    studio_port = listener.serve_clear(Studio(site), studio_port or noted.get("studio_port", 0))
    site.hosts.update(f"{name}:{port}" for name in (LOOPBACK, "localhost", "host.docker.internal"))
    site.portal = f"http://{LOOPBACK}:{studio_port}"
    site.studio = f"{site.portal}/studio/{site.identity.secret('studio')}"
    serving.set()
    ports = {"port": port, "studio_port": studio_port}
    _note(folder, PORTS, ports)
    _note(folder, NOTED, {**ports, "pid": os.getpid()})
    site.mlflow.start()
    site.bridge.start()
    threading.Thread(target=_begin, args=(site,), daemon=True).start()
    try:
        yield site
    finally:
        (folder.path / NOTED).unlink(missing_ok=True)
        site.runner.shut_down()
        listener.stop()
        site.bridge.stop()
        site.mlflow.stop()
        site.state.close()


def _site(folder: Folder, parts: Parts) -> Site:
    """Open the workspace's stores."""
    identity = Identity.of(folder.path / "identity.json")
    state = State(folder.path / "state.sqlite")
    mlflow = MLflowServer(folder.mlflow, parts.mlflow_python)
    metrics = Metrics(state)
    bridge = Bridge(state, metrics, mlflow)
    metrics.changed = bridge.wake
    runs = Runs(state, bridge.wake)
    snapshots = Snapshots(state, folder)
    computes = Computes(state, parts.nodes)
    engine = _once(parts.engine)
    images = Images(state, parts.build_environment, parts.image_of)
    experiments = Experiments(state)
    surroundings = Surroundings(folder, identity, experiments, snapshots, images, Way)
    runner = Runner(surroundings, runs, computes, engine)
    return Site(
        folder, identity, state, experiments, runs, metrics, snapshots, Environments(state), computes,
        mlflow, bridge, runner,
    )  # fmt: skip


def _begin(site: Site) -> None:
    """What need not be done before the first answer: the engine, and what a killed server's runs left.

    Their containers go first: a job that still runs could write on while its folders are taken back.
    """
    try:
        engine = site.runner.engine()
        engine.sweep()
        site.runner.surroundings.way(engine.gateway("bridge"))
    except EngineError as error:
        log.warning("no container engine yet: %s", error.message)
    except LockstepError as error:
        log.warning("%s", error.message)
    except Exception:
        log.exception("the start is incomplete")
    site.runner.reclaim()


def _once(connect: Callable[[], Engine]) -> Callable[[], Engine]:
    """Return a function that connects to the engine at its first call that succeeds, and keeps the connection."""
    lock, kept = threading.Lock(), list[Engine]()

    def engine() -> Engine:
        with lock:
            if not kept:
                kept.append(connect())
            return kept[0]

    return engine


@contextlib.contextmanager
def _alone(folder: Folder) -> Iterator[None]:
    """Hold the folder's lock, so that one process at a time serves it."""
    with (folder.path / "server.lock").open("w") as held:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _locked(held):
            if time.monotonic() > deadline:  # whoever only looks whether it is held, holds it for a moment
                raise WorkspaceError(
                    f"The workspace in {folder.path} is being served already.",
                    "`./invoke workspace --stop` stops it.",
                )
            time.sleep(0.01)
        yield


def _locked(held: IO[str]) -> bool:
    """Take the lock of an open file if nobody has it."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _logging(folder: Folder) -> Iterator[None]:
    """Write what happens to server.log, which never holds a token."""
    handler = logging.handlers.RotatingFileHandler(
        folder.path / "server.log", maxBytes=10_000_000, backupCount=1
    )
    handler.setFormatter(RedactedLines("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("lockstep.workspace")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def _ports(folder: Folder) -> dict[str, int]:
    """Return the ports of the last server."""
    try:
        noted: dict[str, int] = json.loads((folder.path / PORTS).read_text())
    except (OSError, ValueError):
        return {}
    return noted


def _note(folder: Folder, name: str, facts: dict[str, int]) -> None:
    partial = folder.path / f"{name}.partial"
    partial.write_text(json.dumps(facts))
    partial.replace(folder.path / name)
