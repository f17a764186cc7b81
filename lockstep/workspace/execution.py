"""Execution: one run's files, containers and logs, from its image to what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockstep.copies import LeftOut, copy_files
from lockstep.engine import Container, ContainerRun, Engine, ExitStatus, job_user, open_to_others, unreadable
from lockstep.errors import DiskFullError, LockstepError
from lockstep.removal import remove_tree
from lockstep.root import Root
from lockstep.runs.run_log import RunLog
from lockstep.workspace.artifacts import RUN_ORIGIN
from lockstep.workspace.experiments import Experiments
from lockstep.workspace.fault import Fault
from lockstep.workspace.folder import Folder
from lockstep.workspace.going import Going
from lockstep.workspace.identity import DISCOVERY_OF_JOBS, Identity
from lockstep.workspace.images import Images
from lockstep.workspace.inputs import bring, take_back
from lockstep.workspace.launch import (
    BUNDLE,
    COLLECTED,
    FORWARDER,
    LAUNCHER,
    Names,
    Place,
    Way,
    is_tagged,
    node_container,
    nodes_of,
    processes_per_node,
)
from lockstep.workspace.runs import container_of
from lockstep.workspace.snapshots import Snapshots

TOKEN_SECONDS = 30 * 86_400
"""A run's token ends with the run; this is for a run that never ends, as MLflow asks for no fresh one."""


@dataclass
class Surroundings:
    """What every run takes from its workspace.

    `way(gateway)` makes the server listen where containers reach it whose network has that address on the
    engine's side, and tells how.
    """

    folder: Folder
    identity: Identity
    experiments: Experiments
    snapshots: Snapshots
    images: Images
    way: Callable[[str], Way]


class Execution:
    """One run being run. `prepare`, then `run`, then `clean_up`; what it leaves is in its artifact folder."""

    def __init__(self, surroundings: Surroundings, row: sqlite3.Row, definition: dict[str, Any]) -> None:
        self._surroundings = surroundings
        self._row = row
        self._definition = definition
        self._folder = surroundings.folder.run(row["id"])
        self._left = surroundings.folder.artifacts(RUN_ORIGIN, container_of(row["id"]))
        self._logs: dict[int, RunLog] = {}
        self._image_variables: dict[str, str] = {}

    def prepare(self, engine: Engine) -> str:
        """Return the image's ID; a build is told in `20_image_build_log.txt`."""
        environment = self._definition["environment"]
        if not self._surroundings.images.needs_build(environment, engine):
            return self._surroundings.images.of(environment, engine, lambda _: None)
        log = RunLog(self._left, "azureml-logs/20_image_build_log.txt")
        try:
            return self._surroundings.images.of(environment, engine, log.say)
        except (Fault, LockstepError) as error:
            for line in self._surroundings.folder.hidden(str(error)).splitlines():
                log.say(line)
            raise
        finally:
            log.close()

    def run(self, engine: Engine, image: str, going: Going) -> str:
        """Run every node to its end and return why the run failed, or an empty string."""
        self._check_script()
        self._open_logs()
        self._image_variables = engine.image_variables(image)
        nodes = nodes_of(self._definition)
        try:
            with contextlib.ExitStack() as stack:
                network, way = self._network(engine, stack, nodes)
                inputs = bring(self._definition, self._surroundings.folder, self._folder)
                owner = owner_of(self._surroundings.folder)
                user = job_user(owner, rootless=engine.info().rootless)
                stack.callback(self._hand_over, owner)  # once the containers are gone
                places = [self._place(node, network, way, inputs, user) for node in range(nodes)]
                self._hand_over(user)
                for _, source, fixed in inputs:
                    if fixed and unreadable(source, user):  # put there under a umask such as 077
                        open_to_others(source)
                names = self._names()
                runs = [
                    node_container(self._definition, image, node, names, place)
                    for node, place in enumerate(places)
                ]
                failure = self._go(engine, runs, going, stack)
            self._collect()
        finally:
            for log in self._logs.values():
                log.close()
        broken = next((log.broken for log in self._logs.values() if log.broken), None)
        if broken:
            raise DiskFullError(
                f"The run's log could not be written: {broken}.", "Free some space and submit it again."
            )
        return failure

    def _hand_over(self, user: tuple[int, int]) -> None:
        """Make what the job may write that user's: the job's before it starts, the person's in the end."""
        if self._folder.is_dir():
            Root(self._folder).give(*user)
        for name in COLLECTED:
            if self._left.is_folder(name):
                self._left.give(*user, below=name)

    def reclaim(self) -> None:
        """After a server was killed in mid-run: make what the run left the person's, and remove its folders."""
        self._hand_over(owner_of(self._surroundings.folder))
        self.clean_up()

    def clean_up(self) -> None:
        """Remove the run's working folders; outputs and logs are with its artifacts."""
        remove_tree(self._folder)

    def _collect(self) -> None:
        """Bring what the run uploads, and say in its log what stays behind there and among its artifacts."""
        log = self._logs[0]
        for line in take_back(self._definition, self._surroundings.folder, self._folder):
            log.say(line)
        for name in COLLECTED:
            left_out = LeftOut()
            for entry in self._left.entries(name):
                if entry.reason:
                    left_out.add(entry.name, entry.reason)
            for line in left_out.lines("the artifacts"):
                log.say(line)

    def _check_script(self) -> None:
        """Say in words that the snapshot lacks the script."""
        snapshot = json.loads(self._row["details"])["properties"]["ContentSnapshotId"]
        script = self._definition.get("script")
        files = self._surroundings.snapshots.files(snapshot)
        if script and not self._definition.get("command") and script.replace("\\", "/") not in files:
            some = ", ".join(sorted(files)[:10]) or "nothing"
            raise Fault(
                404, f"The script {script!r} isn't in the snapshot, which holds {some}.", "ScriptNotFound"
            )

    def _open_logs(self) -> None:
        """Open a log per process (`std_log_process_0.txt`, …), or one; the first is `70_driver_log.txt` too."""
        count = nodes_of(self._definition) * processes_per_node(self._definition)
        if self._definition.get("command"):
            count = nodes_of(self._definition)
        for rank in range(count):
            name = "std_log.txt" if count == 1 else f"std_log_process_{rank}.txt"
            other = ["azureml-logs/70_driver_log.txt"] if rank == 0 else []
            self._logs[rank] = RunLog(self._left, f"user_logs/{name}", *other)

    def _network(self, engine: Engine, stack: contextlib.ExitStack, nodes: int) -> tuple[str, Way]:
        """Return the containers' network and their way to us; several nodes get a network of their own."""
        if nodes > 1:
            network = stack.enter_context(engine.private_network())
            return network.name, self._surroundings.way(network.gateway)
        return "bridge", self._surroundings.way(engine.gateway("bridge"))

    def _place(
        self,
        node: int,
        network: str,
        way: Way,
        inputs: tuple[tuple[str, Path, bool], ...],
        user: tuple[int, int],
    ) -> Place:
        """Make a node's folders: its own writable copy of the snapshot, and what all nodes share."""
        around, work = self._surroundings, self._folder / f"node-{node}"
        bundle = around.folder.tls / BUNDLE
        around.snapshots.unpack(json.loads(self._row["details"])["properties"]["ContentSnapshotId"], work)
        for name in COLLECTED:
            self._left.make_folder(name)
            copy_files(
                Root(work), name, self._left, name, around.folder.tmp
            )  # files of the source folder itself
            if Root(work).is_file(name):
                raise Fault(
                    400,
                    f"The snapshot has a file called {name!r}, where the run's folder of that name is to be.",
                )
            (work / name).mkdir(exist_ok=True)
        for program in (LAUNCHER, FORWARDER, bundle):
            shutil.copyfile(program, self._folder / program.name)
        home = self._folder / f"home-{node}"
        home.mkdir(parents=True, exist_ok=True)
        return Place(
            work=work,
            home=home,
            collected=self._left.path,
            programs=self._folder,
            inputs=inputs,
            user=f"{user[0]}:{user[1]}",
            network=network,
            way=way,
            token=around.identity.token(TOKEN_SECONDS, self._row["id"]),
            discovery=around.identity.secret(DISCOVERY_OF_JOBS),
            image_variables=self._image_variables,
        )

    def _names(self) -> Names:
        number = str(self._row["experiment"])
        name = str(self._surroundings.experiments.numbered(number)["name"])
        return Names(self._row["id"], name, number, self._surroundings.identity.workspace)

    def _go(self, engine: Engine, runs: list[ContainerRun], going: Going, stack: contextlib.ExitStack) -> str:
        """Start the nodes and follow them; when one fails, stop the others. Return the first failure in words."""
        ends: dict[int, ExitStatus | Exception] = {}
        first: list[int] = []
        threads = []

        def follow(node: int, container: Container) -> None:
            try:
                container.follow(self._writer(node))
                ends[node] = container.wait()
            except Exception as error:  # whatever it is, this node hasn't ended well
                ends[node] = error
            if ends[node] != ExitStatus(0) and not first:
                first.append(node)
                for other in list(going.containers):
                    if other is not container:
                        other.stop()

        for node, run in enumerate(runs):
            container = stack.enter_context(engine.start(run))
            going.started(container)
            threads.append(threading.Thread(target=follow, args=(node, container), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join()
        if not first:
            return ""
        end = ends[first[0]]
        if isinstance(end, Exception):
            raise end
        return self._why(first[0], end)

    def _writer(self, node: int) -> Any:
        """Return what takes a node's lines: by rank where they are marked, else all into the node's log."""
        tagged = is_tagged(self._definition)
        first_rank = node * processes_per_node(self._definition) if tagged else node
        marks = {b"%d" % rank: log for rank, log in self._logs.items()} if tagged else {}
        lock = threading.Lock()

        def write(line: bytes) -> None:
            log = self._logs[first_rank]
            if tagged and line.startswith(
                b"\x1e"
            ):  # a job can write such a line too, with anything as its rank
                mark, _, line = line[1:].partition(b" ")
                log = marks.get(mark, log)
            with lock:
                log.line(line)

        return write

    def _why(self, node: int, end: ExitStatus) -> str:
        """Return a failure in words, with the last lines that the script wrote."""
        ranks = processes_per_node(self._definition) if is_tagged(self._definition) else 1
        logs = [self._logs[rank] for rank in range(node * ranks, (node + 1) * ranks)]
        told = next((log for log in logs if any(b"Error" in line for line in log.last)), logs[0])
        last = b"\n".join(told.last).decode("utf-8", "replace")
        where = f" on node {node}" if len(self._logs) > 1 else ""
        return (
            f"The script ended with {end.words}{where}. Its last lines:\n{last}"
            if last
            else f"The script ended with {end.words}{where}."
        )


def owner_of(folder: Folder) -> tuple[int, int]:
    """Return uid and gid of the workspace's folder: the person whose jobs these are."""
    facts = os.stat(folder.path)
    return facts.st_uid, facts.st_gid
