"""A real `mlflow server`, from a virtual environment of its own, on a socket that only this user can open."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("lockstep.workspace")
START_SECONDS = 120


class MLflowServer:
    """`mlflow server` with SQLite and files in `folder`. Without a Python that has MLflow it just isn't there.

    It listens on a Unix socket in a private temporary folder (the project's path may be longer than a socket's
    name can be), so nobody passes by the workspace's own door.
    """

    def __init__(self, folder: Path, python: Path | None) -> None:
        self._folder = folder
        self._python = python if python and python.exists() else None
        self._process: subprocess.Popen[bytes] | None = None
        self._run_folder = Path()
        self._ready = threading.Event()
        self._closed = threading.Event()

    @property
    def socket(self) -> Path:
        return self._run_folder / "socket"

    @property
    def database(self) -> Path:
        return self._folder / "mlflow.sqlite"

    @property
    def is_installed(self) -> bool:
        """Whether there is a Python to run it with."""
        return self._python is not None

    @property
    def is_ready(self) -> bool:
        """Whether it answers."""
        return self._ready.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait until it answers; False if it didn't in time, or can't."""
        return self.is_installed and self._ready.wait(seconds)

    def client(self) -> httpx.Client:
        """Return a client for it; its base address is only a name."""
        import httpx  # takes a third of a second: not before the first answer

        return httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://localhost", timeout=60
        )

    def start(self) -> None:
        """Start it in the background, gently: the first run's container matters more."""
        if self._python is None:
            return
        self._stop_leftover()
        self._run_folder = Path(tempfile.mkdtemp(prefix="lockstep-mlflow-"))
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("MLFLOW_", "AZUREML_", "PYTHONPATH"))
        }
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        environment["MLFLOW_DISABLE_TELEMETRY"] = "true"  # nothing about people's runs leaves the machine
        command = [
            str(self._python), "-m", "mlflow", "server", "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.database}",
            "--default-artifact-root", str(self._folder / "artifacts"),
            "--uvicorn-opts", f"--uds {self.socket}",
        ]  # fmt: skip
        with (self._folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                ["nice", "-n", "5", *command] if shutil.which("nice") else command,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True,
                cwd=self._folder,
            )  # fmt: skip
        (self._folder / "server.pid").write_text(f"{self._process.pid} {self._run_folder}")
        threading.Thread(target=self._watch, daemon=True, name="mlflow").start()

    def stop(self) -> None:
        """Stop it and everything that it started."""
        self._closed.set()
        if self._process is not None:
            _end_group(self._process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            (self._folder / "server.pid").unlink(missing_ok=True)
            shutil.rmtree(self._run_folder, ignore_errors=True)

    def _watch(self) -> None:
        """Find out when it answers."""
        import httpx

        deadline = time.monotonic() + START_SECONDS
        assert self._process is not None
        while time.monotonic() < deadline and self._process.poll() is None and not self._closed.is_set():
            if self.socket.exists():
                with contextlib.suppress(httpx.HTTPError), self.client() as client:
                    if client.get("/health").is_success:
                        self._ready.set()
                        log.info("MLflow answers")
                        return
            time.sleep(0.2)
        if not self._closed.is_set():
            log.error("MLflow didn't start; %s says why", self._folder / "server.log")

    def _stop_leftover(self) -> None:
        """Stop the one that a killed workspace left behind: its process group, if it is still that one."""
        noted = self._folder / "server.pid"
        if not noted.exists():
            return
        with contextlib.suppress(OSError, ValueError):
            number, _, run_folder = noted.read_text().partition(" ")
            pid = int(number)
            if Path(run_folder).name.startswith("lockstep-mlflow-"):
                shutil.rmtree(run_folder, ignore_errors=True)
            if str(self.database).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                _end_group(pid)
        noted.unlink(missing_ok=True)


def _end_group(pid: int) -> None:
    """End a process group: politely, then for good."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGTERM)
        for _ in range(30):
            time.sleep(0.1)
            os.killpg(pid, 0)
        os.killpg(pid, signal.SIGKILL)
