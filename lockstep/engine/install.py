"""Getting an engine onto a machine that has none: `docker.io` from Debian or Ubuntu, and a running `dockerd`.

Only root on Debian or Ubuntu gets one; everyone else is told exactly what to do. Nothing here ever
stops an engine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from lockstep.errors import EngineError
from lockstep.home import Home
from lockstep.progress import Progress
from lockstep.servers import read_servers

PACKAGES = ("docker.io", "iptables", "apparmor", "ca-certificates")
"""The engine and what it needs but does not bring: on a kernel with AppArmor no container runs without that package."""
BY_HAND = f"apt-get install {' '.join(PACKAGES)}"
START_SECONDS = 60
REMEDIES = (
    ("iptables", "The kernel lets dockerd set no firewall rules: is this a container that isn't privileged?"),
    ("operation not permitted", "dockerd lacks privileges: inside a container it needs `--privileged`."),
    ("permission denied", "dockerd lacks privileges: inside a container it needs `--privileged`."),
    (
        "cgroup",
        "The control groups aren't mounted: install cgroupfs-mount, or run on a machine with systemd.",
    ),
    (
        "waiting for containerd",
        "An engine that was killed left its mark: remove /var/run/docker/containerd/containerd.pid.",
    ),
    ("no space left", "The disk is full: free some space."),
    ("overlay", 'The disk can\'t hold overlays: set "storage-driver": "vfs" in /etc/docker/daemon.json.'),
)


def provide_engine(home: Home, answers: Callable[[], bool], *, install: bool, progress: Progress) -> None:
    """Make `answers()` true: install an engine if there is none, start it if it doesn't run.

    Of two processes at once, one does it and the other waits. Raises EngineError with what to do where
    Lockstep can't or may not.
    """
    with home.exclusive("engine"):
        if answers():  # another process was quicker
            return
        dockerd = _find("dockerd")
        if os.geteuid() != 0 or (dockerd is None and not _is_debian()):
            raise EngineError("No container engine answers on this machine.", _what_to_do(dockerd))
        if dockerd is None:
            if not install:
                raise EngineError(
                    "No container engine is installed, and installing is switched off "
                    "(`--no-install` or LOCKSTEP_NO_INSTALL).",
                    f"Run `{BY_HAND}`, or let Lockstep install it.",
                )
            _install(progress)
            dockerd = _find("dockerd")
            if dockerd is None:
                raise EngineError(
                    "The package docker.io has no dockerd.", "Install Docker Engine, then run this again."
                )
        _start(dockerd, home, answers, progress)


def _find(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/usr/local/bin")


def _is_debian() -> bool:
    """Tell whether this is Debian or one of its children, such as Ubuntu (os-release(5), ID_LIKE)."""
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return False
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    names = f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".replace('"', "").split()
    return bool({"debian", "ubuntu"} & set(names))


def _what_to_do(dockerd: str | None) -> str:
    if dockerd is not None:
        return "Docker is installed but doesn't run: `sudo systemctl start docker`, then run this again."
    if _is_debian():
        return f"Run `sudo {BY_HAND}` and `sudo adduser $USER docker`, log in again, then run this again."
    return (
        "Install Docker Engine, Docker Desktop or Podman and start it, then run this again "
        "(DOCKER_HOST names an engine elsewhere)."
    )


def _install(progress: Progress) -> None:
    """Install the engine with apt; its lists are fetched first when there are none or they are stale."""
    progress.say(f"No container engine here: installing {PACKAGES[0]} with apt-get.")
    command = ["install", "--yes", "--no-install-recommends", *PACKAGES]
    with progress.task(f"apt-get install {PACKAGES[0]}", unit="packages") as task:

        def on_line(line: str) -> None:
            if line.startswith("Setting up "):
                progress.say(f"  {line}")
                task.advance()

        code, tail = _apt(command, on_line)
        if code != 0:
            progress.say("  Fetching the lists of packages first.")
            code, tail = _apt(["update"], on_line)
            if code == 0:
                code, tail = _apt(command, on_line)
    if code != 0:
        raise EngineError(
            f"apt-get could not install {PACKAGES[0]}:\n{tail}",
            f"Mend what apt-get says, then run `{BY_HAND}` or this again.",
        )


def _apt(arguments: list[str], on_line: Callable[[str], None]) -> tuple[int, str]:
    """Run apt-get without questions; return its exit code and its last ten lines."""
    environment = {
        **read_servers().proxies.environment(),
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C.UTF-8",
    }
    lines: list[str] = []
    with subprocess.Popen(
        ["apt-get", "-o", "DPkg::Lock::Timeout=300", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines = [*lines[-9:], line.rstrip()]
            on_line(line.rstrip())
    return process.returncode, "\n".join(lines)


def _start(dockerd: str, home: Home, answers: Callable[[], bool], progress: Progress) -> None:
    """Start the machine's engine: with systemd where it runs, else `dockerd` in a session of its own."""
    if Path("/run/systemd/system").is_dir():
        progress.say("Starting the container engine (systemctl start docker).")
        done = subprocess.run(["systemctl", "start", "docker"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and _wait(answers, lambda: False):
            return
        raise EngineError(
            f"systemctl could not start docker: {done.stderr.strip()}",
            "See `systemctl status docker` and `journalctl -u docker`.",
        )
    log = home.path / "logs" / "dockerd.log"
    start_dockerd([dockerd], log, answers, progress)


def start_dockerd(command: list[str], log: Path, answers: Callable[[], bool], progress: Progress) -> int:
    """Start `dockerd` detached from this terminal, logging to `log`; return its pid once `answers()`.

    It lives on when Lockstep ends. Raises EngineError with the last lines of the log when it dies or
    says nothing for a minute.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    progress.say(f"Starting the container engine (dockerd); its log is {log}.")
    with log.open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env={
                **read_servers().proxies.environment(),
                "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin",
            },
        )
    if _wait(answers, lambda: process.poll() is not None):
        process.returncode = 0  # it is meant to outlive this process: no warning about that
        return process.pid
    with log.open("rb") as text:
        text.seek(begin)
        lines = text.read().decode("utf-8", "replace").splitlines()
    died = process.poll() is not None
    if died and any("pid file found" in line for line in lines) and _wait(answers, lambda: False):
        return process.pid  # another process had started one that wasn't ready yet
    if not died:
        process.terminate()  # ours, started a minute ago and of no use
        process.wait()
    tail = "\n".join(lines[-12:])
    remedy = next((words for sign, words in REMEDIES if sign in tail.lower()), "Mend what its log says.")
    what = f"ended with code {process.returncode}" if died else f"didn't answer within {START_SECONDS} s"
    raise EngineError(f"dockerd {what}. The end of {log}:\n{tail}", f"{remedy} Then run this again.")


def _wait(answers: Callable[[], bool], is_over: Callable[[], bool]) -> bool:
    """Wait until the engine answers; False when `is_over()` says it never will, or after a minute."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if answers():
            return True
        if is_over():
            time.sleep(0.5)  # it may have ended because another engine was quicker
            return answers()
        time.sleep(0.1)
    return False
