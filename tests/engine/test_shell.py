"""A prompt in a container, on a real terminal and without one."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time

import pytest

from lockstep.engine import Engine

pytestmark = pytest.mark.engine


def program(image: str, *command: str) -> list[str]:
    """Return the command line of a process that opens a shell."""
    script = (
        "import sys; from lockstep.engine import ContainerRun, connect\n"
        f"with connect(install=False) as engine: sys.exit(engine.shell(ContainerRun({image!r}, {command!r})))"
    )
    return [sys.executable, "-c", script]


def test_without_a_terminal_the_input_is_a_script(engine: Engine, delivered: str) -> None:
    """Piped input is run, both streams come out apart, and the exit code is the shell's."""
    done = subprocess.run(
        program(delivered, "sh"), input=b"echo out; echo err >&2; exit 3\n", capture_output=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 3)


def test_on_a_terminal_keys_go_in_and_its_size_is_known(engine: Engine, delivered: str) -> None:
    """On a terminal there is a prompt; typed lines are run, Ctrl-C interrupts in there, the size fits."""
    leader, follower = pty.openpty()
    os.set_blocking(leader, False)
    import fcntl
    import struct
    import termios

    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    before = termios.tcgetattr(follower)
    process = subprocess.Popen(
        program(delivered, "sh", "-i"),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
    )
    seen = b""

    def until(words: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + 20
        while words not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([leader], [], [], 0.2)[0]:
                seen += os.read(leader, 65536)

    until(b"# ")
    os.write(leader, b"stty size; echo $TERM\n")
    until(b"33 77")
    until(b"xterm")
    os.write(leader, b"sleep 60\n")
    time.sleep(0.3)
    os.write(leader, b"\x03")
    os.write(leader, b"echo $((6*7)); exit 5\n")
    until(b"42")
    assert process.wait(20) == 5
    assert termios.tcgetattr(follower) == before
    os.close(leader)
    os.close(follower)
