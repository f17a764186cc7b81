"""Job: the training as one value, the same for every runner: this machine, the embedded workspace, Azure ML.

A runner decides only where folders are; which script runs, with which arguments, variables and
processes, is said here, in no service's words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from lockstep.errors import JobError, SettingsError
from lockstep.settings import JobSettings
from lockstep.size import parse_size

Argument = str | int | float
OUTPUTS = "outputs"
"""The folder, relative to the working directory, in which the script leaves what is kept."""


@dataclass(frozen=True)
class Job:
    """What to run. `source` and the folders of `inputs` are as the settings write them.

    The script gets each input as `--<name> <folder>`, before `arguments`. `processes` are those of one
    node. `shm_size` is the shared memory as docker writes it (size.py).
    """

    source: str = "src"
    script: str = "train.py"
    arguments: tuple[Argument, ...] = ()
    environment_variables: tuple[tuple[str, str], ...] = ()
    inputs: tuple[tuple[str, str], ...] = ()
    nodes: int = 1
    processes: int = 1
    shm_size: str = "2g"
    network: bool = False

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.processes < 1:
            raise SettingsError("A job has at least one node and one process.", "Mend `job:` in invoke.yaml.")
        parse_size(self.shm_size)
        parts = Path(self.script).parts
        if not parts or self.script.startswith("/") or ".." in parts:
            raise SettingsError(
                f"The job's script is {self.script!r}; expected a path inside {self.source}/.",
                "Mend job.script in invoke.yaml.",
            )

    @cached_property
    def hash(self) -> str:
        """The identity: hex sha256. Two runs with equal hashes were asked to do the same."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def world_size(self) -> int:
        """The number of processes over all nodes."""
        return self.nodes * self.processes

    @property
    def shm_bytes(self) -> int:
        return parse_size(self.shm_size)

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that every runner sets.

        Several processes get one OpenMP thread each, as torchrun would give them: so that all runners,
        with and without torchrun, round alike.
        """
        variables = dict(self.environment_variables)
        if self.world_size > 1:
            variables.setdefault("OMP_NUM_THREADS", "1")
        return variables

    def arguments_with(self, folders: Mapping[str, str]) -> tuple[Argument, ...]:
        """Return the script's arguments, where each input's folder is what `folders` says."""
        inputs = (word for name, _ in self.inputs for word in (f"--{name}", folders[name]))
        return (*inputs, *self.arguments)

    @property
    def command(self) -> tuple[str, ...]:
        """Return script and arguments for people and comparison; an input's folder is `{name}`."""
        folders = {name: f"{{{name}}}" for name, _ in self.inputs}
        return (self.script, *map(str, self.arguments_with(folders)))

    def with_arguments(self, extra: Iterable[Argument]) -> Job:
        """Return this Job with `extra` after its arguments: for argparse, the last word wins."""
        return replace(self, arguments=(*self.arguments, *extra))

    def with_threads(self, threads: int) -> Job:
        """Return this Job with the number of threads that another run of it chose, unless it says one."""
        if any(name == "OMP_NUM_THREADS" for name, _ in self.environment_variables):
            return self
        variables = {**dict(self.environment_variables), "OMP_NUM_THREADS": str(threads)}
        return replace(self, environment_variables=tuple(sorted(variables.items())))


def make_job(
    settings: JobSettings, data: str | None, *, extra: Iterable[Argument] = (), processes: int | None = None
) -> Job:
    """Return the Job that the settings describe, with `data` as the folder of its input named data."""
    job = Job(
        source=settings.source,
        script=settings.script,
        arguments=(*settings.arguments, *extra),
        environment_variables=tuple(sorted(settings.environment_variables.items())),
        inputs=(("data", data),) if data else (),
        nodes=settings.nodes,
        processes=settings.processes,
        shm_size=settings.shm_size,
        network=settings.network,
    )
    return replace(job, processes=processes, nodes=1) if processes is not None else job


def check_source(job: Job, root: Path) -> Path:
    """Return the folder of the job's source. Raises JobError naming what is missing."""
    source = root / job.source
    if not source.is_dir():
        raise JobError(f"The job's source {source} isn't a folder.", "Mend job.source in invoke.yaml.")
    if not (source / job.script).is_file():
        scripts = sorted(path.name for path in source.glob("*.py"))
        raise JobError(
            f"The job's script {job.script} isn't in {source}, which has: {', '.join(scripts) or 'none'}.",
            "Mend job.script in invoke.yaml, or write the script.",
        )
    return source
