"""Nodes: who may use how many of a compute target's nodes, in the order of asking."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator

from lockstep.workspace.fault import Fault


class Nodes:
    """The nodes in use, per compute target. A run that asked first goes first, even if a smaller one would fit."""

    def __init__(self, limit: Callable[[str], int]) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._used: dict[str, int] = defaultdict(int)
        self._waiting: dict[str, deque[object]] = defaultdict(deque)

    @contextlib.contextmanager
    def taken(self, target: str, count: int, given_up: threading.Event) -> Iterator[bool]:
        """Wait until `count` nodes of `target` are free, and hold them in the block; False if given up before.

        Raises Fault when the target is removed meanwhile, or has become too small.
        """
        turn = object()
        with self._changed:
            self._waiting[target].append(turn)
            try:
                while not given_up.is_set() and not self._fits(target, count, turn):
                    self._changed.wait()
            finally:
                self._waiting[target].remove(turn)
                self._changed.notify_all()
            got = not given_up.is_set()
            self._used[target] += count if got else 0
        try:
            yield got
        finally:
            with self._changed:
                self._used[target] -= count if got else 0
                self._changed.notify_all()

    def look_again(self) -> None:
        """Wake those who wait: one may have given up, or a target may have changed."""
        with self._changed:
            self._changed.notify_all()

    def _fits(self, target: str, count: int, turn: object) -> bool:
        limit = self._limit(target)
        check_nodes(target, count, limit)
        return self._waiting[target][0] is turn and self._used[target] + count <= limit


def check_nodes(target: str, wanted: int, have: int) -> None:
    """Refuse (400) a run that asks for more nodes than its target has."""
    if wanted > have:
        raise Fault(400, f"The run asks for {wanted} nodes; the compute target {target!r} has {have}.")
