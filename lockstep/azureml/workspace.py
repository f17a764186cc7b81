"""The workspace: the seam between a Job and the service, in no SDK's words.

What a second implementation (SDK v2) would offer too: register, submit, state, cancel, metrics, download,
upload. Only this package imports azureml; nothing of it leaves: values come out, WorkspaceError otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lockstep.azureml import data, environments
from lockstep.azureml.download import fetch
from lockstep.azureml.failures import azureml_errors
from lockstep.azureml.job import configuration
from lockstep.azureml.values import Choice, EnvironmentVersion, Metrics, RemoteData, RunState, SubmittedRun
from lockstep.errors import WorkspaceError
from lockstep.progress import SILENT, Progress
from lockstep.runs.job import Job


class Workspace:
    """One workspace that answered. `kind` is `embedded` or `azureml`, as run records say it."""

    def __init__(self, sdk: Any, embedded: bool) -> None:
        self._sdk = sdk
        self._environments: dict[tuple[str, str], Any] = {}
        self._runs: dict[str, Any] = {}
        self.kind = "embedded" if embedded else "azureml"

    @property
    def name(self) -> str:
        return str(self._sdk.name)

    def own_registry(self) -> str | None:
        """Return the host of the workspace's own container registry, or None while it has none."""
        with azureml_errors("asking the workspace for its registry"):
            identifier = self._sdk.get_details().get("containerRegistry")
        return f"{identifier.rpartition('/')[2].lower()}.azurecr.io" if identifier else None

    def register(self, name: str, choice: Choice) -> EnvironmentVersion:
        """Make an environment known to the workspace, or find it there; the same one makes no new version."""
        made, version = environments.register(self._sdk, name, choice)
        self._environments[version.name, version.version] = made
        return version

    def submit(
        self,
        job: Job,
        environment: EnvironmentVersion,
        snapshot: Path,
        *,
        experiment: str,
        compute: str,
        inputs: Mapping[str, RemoteData],
        data_mode: str = "mount",
        tags: Mapping[str, str],
    ) -> SubmittedRun:
        """Upload the snapshot's folder and start the job. `tags` are kept with the run."""
        with azureml_errors("submitting the run"):
            from azureml.core import Experiment

            known = self._environments[environment.name, environment.version]
            made = configuration(job, snapshot, known, compute, inputs, data_mode)
            run = Experiment(self._sdk, experiment).submit(made, tags=dict(tags))
            self._runs[run.id] = run
            return SubmittedRun(run.id, experiment, run.get_portal_url())

    def run(self, identifier: str) -> Any:
        """Return the SDK's run, for this package's own use. Raises WorkspaceError if there is none."""
        if identifier not in self._runs:
            with azureml_errors(f"looking for the run {identifier}"):
                self._runs[identifier] = self._sdk.get_run(identifier)
        return self._runs[identifier]

    def state(self, identifier: str) -> RunState:
        """Return how a run is, with the addresses of its logs."""
        return state_of(self.run(identifier))

    def runs(self, experiment: str, limit: int = 50) -> tuple[RunState, ...]:
        """Return an experiment's runs, the newest first, without their logs."""
        with azureml_errors(f"listing the runs of {experiment}"):
            from azureml.core import Experiment

            found = []
            for run in Experiment(self._sdk, experiment).get_runs():
                found.append(_summary(run))
                if len(found) == limit:
                    break
        return tuple(found)

    def cancel(self, identifier: str) -> None:
        """Ask the service to stop a run; its end follows. Raises WorkspaceError if it has ended."""
        run = self.run(identifier)
        with azureml_errors(f"cancelling the run {identifier}"):
            status = run.get_status()
            if state_of(run).has_ended:
                raise WorkspaceError(
                    f"The run {identifier} has ended already: {status}.", "There is nothing to cancel."
                )
            run.cancel()

    def metrics(self, identifier: str) -> Metrics:
        """Return what the run logged."""
        run = self.run(identifier)
        with azureml_errors(f"reading the metrics of {identifier}"):
            return dict(run.get_metrics())

    def files(self, identifier: str) -> tuple[str, ...]:
        """Return the paths of what the run left: outputs/, logs/ and the service's logs."""
        run = self.run(identifier)
        with azureml_errors(f"listing the files of {identifier}"):
            return tuple(sorted(run.get_file_names()))

    def download(
        self, identifier: str, folder: Path, *, prefix: str = "outputs/", say: Callable[[str], None] = print
    ) -> tuple[Path, ...]:
        """Fetch what the run left below `prefix` ("" is everything) into `folder`, without the prefix.

        `say` gets a line for each file that is left out: its name leads out of the folder, or there is no room.
        """
        names = tuple(name for name in self.files(identifier) if name.startswith(prefix))
        return fetch(self.run(identifier), names, folder, prefix, say)

    def upload(self, folder: Path, path: str, progress: Progress = SILENT) -> RemoteData:
        """Put a folder into the default datastore at `path`; what is there whole already isn't sent again."""
        with azureml_errors("uploading data"):
            return data.upload(self._sdk.get_default_datastore(), folder, path, progress)

    def find_data(self, path: str) -> RemoteData | None:
        """Return the folder that an upload put at `path`, or None if none is there whole."""
        with azureml_errors("looking at the datastore"):
            return data.find(self._sdk.get_default_datastore(), path)

    def uploads(self, prefix: str) -> tuple[tuple[str, int], ...]:
        """Return path and size in bytes of each blob below `prefix` in the default datastore."""
        with azureml_errors("looking at the datastore"):
            return data.listing(self._sdk.get_default_datastore(), prefix)

    def remove_uploads(self, paths: tuple[str, ...]) -> None:
        """Remove blobs from the default datastore."""
        with azureml_errors("removing data"):
            data.remove(self._sdk.get_default_datastore(), paths)


def state_of(run: Any) -> RunState:
    """Return the state of the SDK's run."""
    with azureml_errors(f"looking at the run {run.id}"):
        told = run.get_details()
        return RunState(
            id=run.id,
            experiment=run.experiment.name,
            status=str(told["status"]),
            portal=run.get_portal_url(),
            script=str((told.get("runDefinition") or {}).get("script") or ""),
            started=told.get("startTimeUtc"),
            ended=told.get("endTimeUtc"),
            error=_error(told.get("error")),
            warnings=tuple(str(each.get("message")) for each in told.get("warnings") or ()),
            logs=tuple((told.get("logFiles") or {}).items()),
        )


def _summary(run: Any) -> RunState:
    dto = run._run_dto
    return RunState(
        id=run.id,
        experiment=run.experiment.name,
        status=str(run.status),
        portal=run.get_portal_url(),
        started=_text(dto.get("start_time_utc")),
        ended=_text(dto.get("end_time_utc")),
        tags=tuple(sorted((dto.get("tags") or {}).items())),
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _error(told: Any) -> str:
    """Return the message of a run's error, which Azure wraps in itself."""
    inner = (told or {}).get("error", told) if isinstance(told, dict) else None
    return str(inner.get("message") or inner.get("code") or "") if isinstance(inner, dict) else ""
