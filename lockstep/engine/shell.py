"""A prompt in a container: this terminal's keys go in, what the container draws comes out.

Without a terminal (`echo 'python -V' | ./invoke shell`) standard input is the script, and there is no
drawing.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import sys
import uuid
from collections.abc import Iterator
from typing import Any

from lockstep.engine.container import ContainerRun, check_mounts, container_config, remove_container
from lockstep.engine.failures import engine_errors

BLOCK = 64 * 1024


def shell(api: Any, run: ContainerRun, *, has_gpus: bool) -> int:
    """Run a container on this process's standard streams to its end, remove it, and return its exit code."""
    check_mounts(api, run)
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    config = container_config(run, has_gpus=has_gpus)
    config |= {"Tty": on_terminal, "OpenStdin": True, "StdinOnce": True, "AttachStdin": True}
    config["HostConfig"]["Init"] = False  # a shell looks after signals and children itself
    del config["HostConfig"]["CapDrop"]  # whoever types here is the person: root may write what isn't root's
    if on_terminal:
        config["Env"].append(f"TERM={os.environ.get('TERM', 'xterm')}")
    name = f"lockstep-{uuid.uuid4().hex[:12]}"
    try:
        with engine_errors("running the shell"):
            api.create_container_from_config(config, name)
            streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            attached = api.attach_socket(name, streams)
            try:
                api.start(name)
                with _resized(api, name) if on_terminal else contextlib.nullcontext():
                    _copy(getattr(attached, "_sock", attached), on_terminal=on_terminal)
            finally:
                with contextlib.suppress(OSError, ValueError):
                    attached._response.close()
            return int(api.wait(name)["StatusCode"])
    finally:
        remove_container(api, name)


@contextlib.contextmanager
def _resized(api: Any, name: str) -> Iterator[None]:
    """Keep the container's terminal as big as this one."""
    import docker.errors

    def resize(*_: object) -> None:
        size = shutil.get_terminal_size()
        with contextlib.suppress(docker.errors.APIError):  # it may just have ended
            api.resize(name, height=size.lines, width=size.columns)

    before = signal.signal(signal.SIGWINCH, resize)
    resize()
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def _copy(attached: socket.socket, *, on_terminal: bool) -> None:
    """Copy both ways until the container's side ends."""
    inputs: list[Any] = [attached, sys.stdin.fileno()]
    with _raw() if on_terminal else contextlib.nullcontext():
        rest = b""
        while True:
            ready, _, _ = select.select(inputs, [], [])
            if sys.stdin.fileno() in ready:
                if keys := os.read(sys.stdin.fileno(), BLOCK):
                    attached.sendall(keys)
                else:
                    inputs.remove(sys.stdin.fileno())
                    attached.shutdown(socket.SHUT_WR)
            if attached in ready:
                block = attached.recv(BLOCK)
                if not block:
                    return
                if on_terminal:
                    _write(1, block)
                else:
                    rest = _write_frames(rest + block)


def _write_frames(data: bytes) -> bytes:
    """Write whole frames (engine API, "Attach": stream, size, content); return what is left."""
    while len(data) >= 8:
        end = 8 + int.from_bytes(data[4:8], "big")
        if len(data) < end:
            break
        _write(2 if data[0] == 2 else 1, data[8:end])
        data = data[end:]
    return data


def _write(number: int, data: bytes) -> None:
    while data:
        data = data[os.write(number, data) :]


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Hand every key through as it is, Ctrl-C too, and put the terminal back in the end."""
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setraw(number)
    try:
        yield
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
