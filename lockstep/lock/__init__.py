"""Lock: exactly which bytes make an image, and the file that holds it."""

from lockstep.lock.lock import Change, Lock, compare_locks, dump_lock, read_lock, write_lock
from lockstep.lock.locked import Bootstrap, LockedBase, LockedDeb, LockedPackage

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
