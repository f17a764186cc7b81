"""The runner: takes submitted runs from their queue to their end, in containers of the local engine."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

from lockstep.engine import Engine
from lockstep.errors import LockstepError
from lockstep.home import disk_full_in_words
from lockstep.workspace.computes import Computes
from lockstep.workspace.execution import Execution, Surroundings
from lockstep.workspace.fault import Fault, fault_of, is_disk_full
from lockstep.workspace.going import AGAIN_SECONDS, Going
from lockstep.workspace.launch import nodes_of
from lockstep.workspace.nodes import Nodes
from lockstep.workspace.runs import ENDED, Runs

log = logging.getLogger("lockstep.workspace")
SEEN_SECONDS = 3.0
"""The SDK shows no log of a run that ended before it first asked: so long after its submission a run may be held."""
STOPPED = "The workspace's server stopped while the run was going."


class Runner:
    """Runs what was submitted: a thread per run, which waits for its image, then for its nodes, then for its end.

    `engine` gives a connected engine or raises EngineError.
    """

    def __init__(
        self, surroundings: Surroundings, runs: Runs, computes: Computes, engine: Callable[[], Engine]
    ) -> None:
        self.surroundings, self.runs, self.engine = surroundings, runs, engine
        self._nodes = Nodes(computes.nodes)
        self._going: dict[str, Going] = {}
        self._interrupted: list[sqlite3.Row] = []
        self._lock = threading.Lock()

    def recover(self) -> None:
        """After a start: runs that were going are Failed with the reason, those that waited wait again."""
        for row in self.runs.unfinished():
            try:
                self._recover(row)
            except Exception:  # one run's trouble isn't the others'
                log.exception("run %s could not be taken up again", row["id"])

    def _recover(self, row: sqlite3.Row) -> None:
        if row["status"] in ("Running", "Finalizing"):
            self.runs.enter(row["id"], "Failed", error=STOPPED, code="ServiceInterrupted")
        elif row["status"] == "CancelRequested":
            self.runs.enter(row["id"], "Canceled")
        else:
            self.enqueue(row["id"])
            return
        self._interrupted.append(row)

    def reclaim(self) -> None:
        """Make what `recover`'s ended runs left the person's, and remove their folders: their containers are gone."""
        while self._interrupted:
            row = self._interrupted.pop()
            try:
                Execution(self.surroundings, row, json.loads(row["details"])["definition"]).reclaim()
            except Exception:
                log.exception("what run %s left could not be taken back", row["id"])

    def enqueue(self, run_id: str) -> None:
        """Begin a submitted run."""
        going = Going()
        with self._lock:
            self._going[run_id] = going
        threading.Thread(target=self._drive, args=(run_id, going), name=f"run {run_id}", daemon=True).start()

    def cancel(self, run_id: str) -> None:
        """Stop a run; its end follows. One that is only told about by its client ends at once."""
        with self._lock:
            going = self._going.get(run_id)
        if going is None:
            self.runs.enter(run_id, "Canceled")
            return
        if self.runs.enter(run_id, "CancelRequested"):
            threading.Thread(target=self._stop, args=(run_id, going), daemon=True).start()

    def seen(self, run_id: str) -> None:
        """Say that a client has asked how a run goes."""
        with self._lock:
            going = self._going.get(run_id)
        if going is not None:
            going.seen.set()

    def look_again(self) -> None:
        """Let the runs that wait for nodes see that a compute target has changed or is gone."""
        self._nodes.look_again()

    def shut_down(self) -> None:
        """Stop every run that goes, with the reason; those that wait are left for the next start."""
        with self._lock:
            going = dict(self._going)
        for run_id, one in going.items():
            if self.runs.get(run_id)["status"] in ("Running", "Finalizing"):
                self.runs.enter(run_id, "Failed", error=STOPPED, code="ServiceInterrupted")
                one.end()

    def _stop(self, run_id: str, going: Going) -> None:
        going.end()
        self._nodes.look_again()
        with self._lock:
            waits_for_build = run_id in self._going and not going.containers
        if waits_for_build:
            self.runs.enter(run_id, "Canceled")

    def _drive(self, run_id: str, going: Going) -> None:
        """Take one run to its end; whatever happens, it ends in a state with a reason."""
        try:
            with disk_full_in_words(self.surroundings.folder.path):
                self._run(run_id, going)
        except Fault as fault:
            self._fail(run_id, fault.message, fault.code)
        except LockstepError as error:
            self._fail(run_id, self.surroundings.folder.hidden(str(error)), "UserError")
        except Exception as error:
            log.exception("run %s broke", run_id)
            answer = fault_of(error)
            what = error.strerror if isinstance(error, OSError) else type(error).__name__
            said = f"The workspace failed ({what}); its server.log says more."
            self._fail(run_id, answer.message if is_disk_full(error) else said, answer.code)
        finally:
            with self._lock:
                self._going.pop(run_id, None)
            going.remove_left()

    def _fail(self, run_id: str, error: str, code: str) -> None:
        """Let a run be Failed, as soon as the disk has room for that."""
        while True:
            try:
                self.runs.enter(run_id, "Failed", error=error, code=code)
                return
            except sqlite3.OperationalError as full:
                if not is_disk_full(full):
                    raise
                time.sleep(AGAIN_SECONDS)

    def _run(self, run_id: str, going: Going) -> None:
        row = self.runs.get(run_id)
        definition: dict[str, Any] = json.loads(row["details"])["definition"]
        execution = Execution(self.surroundings, row, definition)
        self.runs.enter(run_id, "Preparing")
        try:
            engine = self.engine()
            image = execution.prepare(engine)
            self.runs.enter(run_id, "Queued")
            with self._nodes.taken(definition["target"], nodes_of(definition), going.stop) as got:
                if not got or not self.runs.enter(run_id, "Running"):
                    self.runs.enter(run_id, "Canceled")
                    return
                seconds = definition.get("maxRunDurationSeconds")
                timer = threading.Timer(float(seconds), self._too_long, (run_id, going)) if seconds else None
                if timer:
                    timer.start()
                try:
                    failure = execution.run(engine, image, going)
                finally:
                    if timer:
                        timer.cancel()
            self._finish(run_id, going, failure)
        finally:
            execution.clean_up()

    def _too_long(self, run_id: str, going: Going) -> None:
        going.too_long = True
        going.end()

    def _finish(self, run_id: str, going: Going, failure: str) -> None:
        """Set the final state; the artifacts are there already, because Azure's client stops looking now."""
        if self.runs.get(run_id)["status"] in ENDED:
            return
        if not going.stop.is_set():
            going.seen.wait(going.submitted + SEEN_SECONDS - time.monotonic())
        if going.too_long:
            self.runs.enter(run_id, "Canceled", error="The run took longer than its maxRunDurationSeconds.")
        elif going.stop.is_set():
            self.runs.enter(run_id, "Canceled")
        elif failure:
            self.runs.enter(run_id, "Failed", error=failure)
        else:
            self.runs.enter(run_id, "Completed")
