"""Checking a workspace: every point of docs/azure.md that couldn't be tried without one, tried now.

`submit --check-azure` runs it against the workspace that `submit` would use. It pushes the image, uploads a
few bytes, runs four short jobs and removes the data again. The points are in docs/azure.md's order.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lockstep.azureml import EnvironmentVersion, OwnImage, RemoteData, RunState, Workspace, environment_name
from lockstep.azureml.follow import follow
from lockstep.errors import LockstepError
from lockstep.project import Project
from lockstep.runs.job import Job
from lockstep.submission.data import ROOT
from lockstep.submission.image import push_image
from lockstep.submission.workspaces import open_workspace

if TYPE_CHECKING:
    from lockstep.pipeline import Built

T = TypeVar("T")
PROBE = Path(__file__).parents[1] / "azureml" / "probe.py"
_EXPERIMENT = "lockstep-check"
_DATA = f"{ROOT}/check"
_SHM = "256m"


@dataclass(frozen=True)
class Checked:
    """One point: whether it holds, and what was seen."""

    point: str
    ok: bool
    told: str


@dataclass
class Check:
    """The check under way. Each point's method returns what was seen, or raises LockstepError."""

    project: Project
    folder: Path
    service: Workspace
    built: Built
    own: OwnImage | None = None
    version: EnvironmentVersion | None = None
    data: RemoteData | None = None
    lines: list[str] = field(default_factory=list)

    def push(self) -> str:
        """The image can be pushed to where the workspace pulls, and its ID is read back from there."""
        image, lock = self.built.image, self.built.lock.hash
        if self.service.kind == "embedded":
            self.own = OwnImage(self.built.delivery.image_id, image.id, lock)
            return "the embedded workspace uses the engine's own copy"
        self.own = OwnImage(push_image(self.project, self.service, image).reference, image.id, lock)
        return self.own.reference

    def register(self) -> str:
        """An image by digest is accepted under our version, and registering it again makes no new one."""
        own = _needed(self.own)
        name = environment_name(self.project.settings.image)
        self.version, again = self.service.register(name, own), self.service.register(name, own)
        _expect(self.version == again, f"a second version {again.version} came of the same image")
        _expect(self.version.image == own.reference, f"the service noted the image as {again.image}")
        return f"{name}, version {again.version}"

    def upload(self) -> str:
        """Data goes into the default datastore, and isn't sent twice."""
        source = self.folder / "data"
        source.mkdir()
        (source / "seen.txt").write_text("seen")
        self.data = self.service.upload(source, _DATA)
        again = self.service.upload(source, _DATA)
        _expect(again.bytes_sent == 0, "the same data was sent again")
        return f"{self.data.datastore}/{self.data.path}"

    def run(self) -> str:
        """The image runs as it is: nothing is built on it, outputs are collected, shm_size and variables hold."""
        state, facts = self._probe(Job(**_PROBE, inputs=(("data", ""),)), "download")
        told = facts[0]
        _expect("probe" in "".join(self.lines), "the script's output wasn't shown")
        _expect(
            not any("image_build_log" in name for name, _ in state.logs),
            "the service built another image on it",
        )
        _expect(told["variables"].get("PROBE") == "yes", "the environment variable didn't arrive")
        _expect(told["shm_bytes"] == Job(**_PROBE).shm_bytes, f"shared memory is {told['shm_bytes']:,} bytes")
        _expect(told["home_is_writable"], f"HOME {told['home']} isn't writable for {told['user']}")
        _expect("seen.txt" in told["data"], f"downloaded data holds {told['data']}")
        user = ":".join(map(str, told["user"]))
        return f"{told['python']} {told['version']} as {user}, logs {', '.join(sorted(dict(state.logs)))}"

    def mount(self) -> str:
        """Data can be mounted instead of downloaded."""
        _, facts = self._probe(Job(**_PROBE, inputs=(("data", ""),)), "mount")
        _expect("seen.txt" in facts[0]["data"], f"mounted data holds {facts[0]['data']}")
        return f"at {facts[0]['arguments'][1]}"

    def processes(self) -> str:
        """Two processes on a node get the variables of torch.distributed."""
        _, facts = self._probe(Job(**_PROBE, processes=2), "download")
        ranks = [(each["variables"].get("RANK"), each["variables"].get("WORLD_SIZE")) for each in facts]
        _expect(ranks == [("0", "2"), ("1", "2")], f"RANK and WORLD_SIZE are {ranks}")
        return f"MASTER_ADDR {facts[0]['variables'].get('MASTER_ADDR')}"

    def cancel(self) -> str:
        """A run can be cancelled."""
        job = Job(**_PROBE).with_arguments(("--sleep", 600))
        run = self._submit(job, "download")
        self.service.cancel(run)
        state = follow(lambda: self.service.state(run), self.lines.append, lambda _: None)
        _expect(state.status == "Canceled", f"it ended as {state.status}")
        return run

    def clean(self) -> str:
        """What was uploaded can be removed."""
        self.service.remove_uploads(tuple(path for path, _ in self.service.uploads(_DATA)))
        _expect(self.service.find_data(_DATA) is None, "it is still there")
        return _DATA

    def _submit(self, job: Job, mode: str) -> str:
        version = _needed(self.version)
        source = self.folder / "source"
        source.mkdir(exist_ok=True)
        shutil.copyfile(PROBE, source / "probe.py")
        inputs = {name: _needed(self.data) for name, _ in job.inputs}
        azure = self.project.settings.azure
        run = self.service.submit(
            job, version, source,
            experiment=_EXPERIMENT, compute=azure.compute, inputs=inputs, data_mode=mode, tags={},
        )  # fmt: skip
        return run.id

    def _probe(self, job: Job, mode: str) -> tuple[RunState, list[dict[str, Any]]]:
        """Run the probe and return how it ended and what each process saw."""
        run = self._submit(job, mode)
        state = follow(lambda: self.service.state(run), self.lines.append, lambda _: None)
        _expect(state.status == "Completed", f"the run {run} ended as {state.status}: {state.error}")
        got = sorted(self.service.download(run, self.folder / run, prefix="outputs/"))
        return state, [json.loads(path.read_text()) for path in got if path.name.startswith("probe-")]


_PROBE: dict[str, Any] = {
    "source": "",
    "script": "probe.py",
    "environment_variables": (("PROBE", "yes"),),
    "shm_size": _SHM,
}
_POINTS = ("push", "register", "upload", "run", "mount", "processes", "cancel", "clean")


class _NotAsExpectedError(LockstepError):
    """A point doesn't hold."""


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _NotAsExpectedError(otherwise)


def _needed(value: T | None) -> T:
    if value is None:
        raise _NotAsExpectedError("not tried: a point before it failed")
    return value


def check_azure(
    project: Project, *, workspace: str = "", tenant: str = "", locked: bool = False
) -> Iterator[Checked]:
    """Try every point, yielding each as it is known; a point that fails doesn't keep the others from being tried.

    Raises what signing in and building raise: without them there is nothing to try.
    """
    from lockstep import pipeline

    service = open_workspace(project, workspace, tenant)
    yield Checked("Signing in, and finding the workspace.", True, service.name)
    built = pipeline.build(project, locked=locked)
    with project.home.workspace("check") as folder:
        yield from check_points(Check(project, folder, service, built))


def check_points(check: Check) -> Iterator[Checked]:
    """Try the points of an opened workspace."""
    for name in _POINTS:
        point = getattr(check, name)
        what = (point.__doc__ or name).strip()
        try:
            yield Checked(what, True, point())
        except LockstepError as error:
            yield Checked(what, False, error.message)
