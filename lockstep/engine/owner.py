"""Whose container is it? A label that tells whether the Lockstep process that made it still lives.

A killed process can't remove its containers and networks, so the next one does. What belongs to a
process of another machine, or of another container on this machine, can't be judged and is left alone.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

LABEL = "io.lockstep.owner"
ENDED = ("Z", "X")  # states of a process that ended, and that its parent hasn't asked about yet


@cache
def this_process() -> str:
    """Return the label's value for what this process makes: `<boot>/<pid namespace>/<pid>/<start>`."""
    return "/".join((*_place(), str(os.getpid()), _stat(os.getpid())[1]))


def is_gone(owner: str) -> bool:
    """Tell whether the process that `owner` names has certainly ended."""
    try:
        boot, namespace, pid, start = owner.split("/")
        number = int(pid)
    except ValueError:
        return False
    if (boot, namespace) != _place():
        return False
    state, started = _stat(number)
    if started:
        return started != start or state in ENDED
    return not _exists(number)


@cache
def _place() -> tuple[str, str]:
    """Return this boot of this machine and the pid namespace, or the machine's name if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return boot, os.readlink("/proc/self/ns/pid")
    except OSError:
        return platform.node(), ""


def _stat(pid: int) -> tuple[str, str]:
    """Return a process's state and when it started, in clock ticks after boot; `""` for both if unknown.

    Source: proc(5), stat fields 3 and 22.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    fields = stat.rpartition(")")[2].split()
    return fields[0], fields[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
