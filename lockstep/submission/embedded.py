"""The embedded workspace of a checkout, with the pipeline behind it.

`start_embedded` is the client's side. `main` is the server's: it serves lockstep/workspace/, builds the
environments that come as conda specs, and finds images by digest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep.damage import repaired
from lockstep.errors import LockstepError
from lockstep.home import Home
from lockstep.image_name import parse_image_name
from lockstep.progress import Progress
from lockstep.project import Project
from lockstep.redaction import guard_output, redact
from lockstep.settings import Settings
from lockstep.virtualenv import provide

if TYPE_CHECKING:
    from lockstep.workspace.daemon import Daemon

_SETTINGS = "settings.json"
_CODE = "code"
"""In the workspace's folder: the settings that its server works with, and which code it runs."""
_HERE = Path(__file__).parents[2]  # lockstep isn't installed, and the server may run anywhere
_MLFLOW = _HERE / ".venv-workspace"
"""The virtual environment of MLflow's server, which needs other versions than the host tools do."""


def start_embedded(project: Project, environment: Mapping[str, str] = os.environ) -> Daemon:
    """Return the embedded workspace's server, started if need be; it works with this project's settings.

    One that runs code older than this checkout's is started anew, unless a run is going on it. `environment`
    is the server's.
    """
    from lockstep.azureml.discovery import keep_discovery_private
    from lockstep.workspace.daemon import find, start

    keep_discovery_private()  # whoever exports this server's variables uses the SDK without us
    folder = project.state / "workspace"
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        told = {"home": str(project.home.path), "settings": project.settings.model_dump(mode="json")}
        _write(folder / _SETTINGS, json.dumps(told))
        running = find(folder)
        if running and _read(folder / _CODE) != _code():
            if _runs_going(folder):
                project.progress.say(
                    "The embedded workspace runs older code; `./invoke workspace` restarts it."
                )
            else:
                running.stop()
        provide(_MLFLOW, _HERE / "requirements" / "workspace.lock", project.progress)
        path = f"sys.path.insert(0, {str(_HERE)!r})"
        code = f"import sys; {path}; from lockstep.submission.embedded import main; sys.exit(main())"
        return start(folder, (sys.executable, "-c", code, str(folder)), environment)


def write_config(project: Project) -> Path | None:
    """Write `.azureml/config.json` for `Workspace.from_config()`; None if the checkout has one already."""
    from lockstep.workspace.daemon import config

    path = project.settings.root / ".azureml" / "config.json"
    if path.exists():
        return None
    path.parent.mkdir(exist_ok=True)
    _write(path, json.dumps(config(), indent=4) + "\n")
    return path


def end_embedded(project: Project, *, reset: bool) -> str:
    """Stop the embedded workspace's server, and remove all that it keeps if `reset`; say what was done."""
    from lockstep.workspace.daemon import find
    from lockstep.workspace.daemon import reset as remove

    folder = project.state / "workspace"
    running = find(folder)
    if reset:
        remove(folder)
        return f"The embedded workspace in {folder} is gone; the next `./invoke submit` makes a new one."
    if running is None:
        return "The embedded workspace isn't running."
    running.stop()
    return "The embedded workspace is stopped; what it keeps stays."


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time start the server of a folder."""
    with (folder / "start.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _code() -> str:
    """Return what tells one state of Lockstep's code from another: names, sizes and times of its files."""
    here = Path(__file__).parents[1]
    files = sorted((str(path), path.stat()) for path in here.rglob("*.py"))
    facts = "".join(f"{path} {state.st_size} {state.st_mtime_ns}\n" for path, state in files)
    return hashlib.sha256(facts.encode()).hexdigest()


def _runs_going(folder: Path) -> int:
    """Return how many submitted runs haven't ended. The server keeps them in SQLite."""
    ended = "('Completed', 'Failed', 'Canceled')"
    query = f"SELECT count(*) FROM runs WHERE submitted IS NOT NULL AND status NOT IN {ended}"  # noqa: S608 - ours
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{folder / 'state.sqlite'}?mode=ro", uri=True)
        ) as state:
            return int(state.execute(query).fetchone()[0])
    except sqlite3.Error:
        return 0


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def main() -> int:
    """Serve the workspace of the folder that the command line names, until SIGTERM."""
    from lockstep.workspace.server import Parts, find_engine, serve

    guard_output()
    folder = Path(sys.argv[1])
    _write(folder / _CODE, _code())
    python = _MLFLOW / "bin" / "python"
    parts = Parts(
        find_engine,
        build_environment=lambda definition, on_line: build_environment(folder, definition, on_line),
        image_of=lambda reference: find_image(_project(folder, Progress()), reference),
        mlflow_python=python if python.exists() else None,
    )
    try:
        serve(folder, parts)
    except LockstepError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def build_environment(folder: Path, definition: dict[str, Any], on_line: Callable[[str], None]) -> str:
    """Build the image of an environment's conda section as `build` would; return the engine's ID of it.

    The definition's base image is Azure's own and isn't used: the project's base and Dockerfile are. The
    lock is kept under `environments/<hash>/`, so the same environment is the same image next time.
    """
    from lockstep import pipeline

    conda = json.dumps((definition.get("python") or {}).get("condaDependencies") or {}, sort_keys=True)
    key = hashlib.sha256(conda.encode()).hexdigest()[:16]
    project = _project(folder, _Told(on_line))
    root = folder / "environments" / key
    root.mkdir(parents=True, exist_ok=True)
    (root / "environment.yml").write_text(conda)  # JSON is YAML
    settings = project.settings.model_copy(
        update={
            "root": root,
            "environment": Path("environment.yml"),
            "dockerfile": project.settings.dockerfile_path,
            "image": f"lockstep/workspace-{key}",
        }
    )
    with project.home.exclusive(f"environment-{key}"):
        built = pipeline.build(Project(settings, project.home, project.progress, install=False))
    on_line(f"Image {built.image.id} of lock {built.lock.hash}.")
    return built.delivery.image_id


def find_image(project: Project, reference: str) -> str | None:
    """Return the engine's ID of an image that a registered environment names; one by digest is pulled."""
    from lockstep.engine import connect
    from lockstep.image.store import Store
    from lockstep.registry import pull_base

    with connect(install=False, home=project.home) as engine:
        found = engine.image_id(reference)
        if found or "@" not in reference:
            return found
        named, store = parse_image_name(reference), Store(project.home)
        name = f"{named.repository.rpartition('/')[2]}:{named.digest[7:23]}"

        def pulled() -> str:
            image = pull_base(named.place, named.digest, store, project.progress)
            return engine.deliver(image, store, name).image_id

        return repaired(pulled, project.progress)


def _project(folder: Path, progress: Progress) -> Project:
    """Return the project as its last command saw it."""
    told = json.loads((folder / _SETTINGS).read_text())
    return Project(Settings(**told["settings"]), Home(Path(told["home"])), progress, install=False)


class _Told(Progress):
    """A progress that tells its lines to a log."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line

    def say(self, text: str) -> None:
        self._on_line(redact(text))
