"""Runs in a job's container where its network doesn't lead here: makes a port of its loopback lead to a socket.

    python forward.py PORT SOCKET COMMAND...

Listens on 127.0.0.1:PORT, leads each connection to the Unix socket SOCKET, and becomes COMMAND: what forwards is a
process of its own, which ends with the container. Standard library only, and nothing newer than Python 3.7, because
the image decides which Python it is.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

CHUNK = 1 << 16


def main() -> None:
    """Listen first, so that COMMAND finds the port open; then fork and become COMMAND."""
    port, path, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    door = socket.socket()
    door.bind(("127.0.0.1", port))
    door.listen(128)
    if os.fork():
        os.execvp(command[0], command)  # noqa: S606 - the job
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    while True:
        forward(door.accept()[0], path)


def forward(near: socket.socket, path: str) -> None:
    """Lead one connection to the socket, both ways."""
    far = socket.socket(socket.AF_UNIX)
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        far.connect(path)
    except OSError:  # the workspace is gone; the job sees its connection end
        near.close()
        return
    for one, other in ((near, far), (far, near)):
        threading.Thread(target=carry, args=(one, other), daemon=True).start()


def carry(one: socket.socket, other: socket.socket) -> None:
    """Copy what comes from one socket into the other until it ends."""
    with contextlib.suppress(OSError):
        while True:
            data = one.recv(CHUNK)
            if not data:
                break
            other.sendall(data)
    for end, how in ((other, socket.SHUT_WR), (one, socket.SHUT_RD)):
        with contextlib.suppress(OSError):
            end.shutdown(how)


if __name__ == "__main__":
    main()
