"""Lock: exactly which bytes make an image, and the file that holds it."""

from lockstep.lock.lock import (
    Bootstrap,
    Change,
    Lock,
    LockedBase,
    LockedDeb,
    LockedPackage,
    compare_locks,
    dump_lock,
    read_lock,
    write_lock,
)

__all__ = [
    "Bootstrap",
    "Change",
    "Lock",
    "LockedBase",
    "LockedDeb",
    "LockedPackage",
    "compare_locks",
    "dump_lock",
    "read_lock",
    "write_lock",
]
