"""Going: a run on its way, and how it is stopped."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from lockstep.engine import Container

AGAIN_SECONDS = 2.0  # between looks for an engine that went away


@dataclass
class Going:
    """A run on its way: whether it is to stop, and what is to be stopped."""

    stop: threading.Event = field(default_factory=threading.Event)
    containers: list[Container] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    too_long: bool = False
    seen: threading.Event = field(default_factory=threading.Event)
    submitted: float = field(default_factory=time.monotonic)

    def started(self, container: Container) -> None:
        """Take a container that was just started; one that comes too late is stopped at once."""
        with self.lock:
            self.containers.append(container)
        if self.stop.is_set():
            container.stop()

    def remove_left(self) -> None:
        """Remove the containers that an engine still has which went away in mid-run, once it answers again."""
        left = [x for x in self.containers if not x.removed]
        while left:
            time.sleep(AGAIN_SECONDS)
            left = [x for x in left if not x.remove()]

    def end(self) -> None:
        """Stop every container, now and to come."""
        self.stop.set()
        with self.lock:
            containers = list(self.containers)
        for container in containers:
            container.stop()
