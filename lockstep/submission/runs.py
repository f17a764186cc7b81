"""Remote runs: following, cancelling, reading and fetching what was submitted, by the run's id.

A run is named as everywhere: by its record's id or the service's, by the start or end of one, or `last`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from lockstep.azureml import Metrics, RunState, Workspace, follow
from lockstep.errors import JobError
from lockstep.project import Project
from lockstep.root import Root
from lockstep.runs.job import OUTPUTS
from lockstep.runs.run import LOG, RunRecord, find_run, list_runs, with_outputs, write_record
from lockstep.runs.run_log import RunLog
from lockstep.submission.workspaces import open_workspace

STATUS = {"Completed": "completed", "Failed": "failed", "Canceled": "canceled"}


def logs(
    project: Project,
    run: str,
    *,
    workspace: str = "",
    tenant: str = "",
    on_line: Callable[[str], None] = print,
) -> RunState:
    """Show what a run printed, and follow it if it goes on. Completes its record when it has ended."""
    service, identifier, record = _find(project, run, workspace, tenant)
    folder = project.settings.runs / record.id if record else None
    state = follow_run(project, service, identifier, folder, on_line)
    if record and folder and record.status == "running":
        finish(service, record, state, folder, on_line)
    return state


def cancel(project: Project, run: str, *, workspace: str = "", tenant: str = "") -> str:
    """Stop a run; return the service's id of it. Raises WorkspaceError if it has ended."""
    service, identifier, _ = _find(project, run, workspace, tenant)
    service.cancel(identifier)
    return identifier


def metrics(project: Project, run: str, *, workspace: str = "", tenant: str = "") -> Metrics:
    """Return what a run has logged with the service so far."""
    service, identifier, _ = _find(project, run, workspace, tenant)
    return service.metrics(identifier)


def download(
    project: Project, run: str, *, to: Path | None = None, workspace: str = "", tenant: str = ""
) -> tuple[Path, ...]:
    """Fetch everything that a run left, logs too; into runs/<id>/remote unless `to` says where."""
    service, identifier, record = _find(project, run, workspace, tenant)
    folder = to or project.settings.runs / (record.id if record else identifier) / "remote"
    return service.download(identifier, folder, prefix="", say=project.progress.say)


def remote_runs(project: Project, *, workspace: str = "", tenant: str = "") -> tuple[RunState, ...]:
    """Return the runs of the project's experiment as the workspace has them, the newest first."""
    return open_workspace(project, workspace, tenant).runs(project.settings.azure.experiment)


def follow_run(
    project: Project, service: Workspace, identifier: str, folder: Path | None, on_line: Callable[[str], None]
) -> RunState:
    """Show a run until it ends; `folder`/log.txt gets what it printed. Ctrl-C passes: the run goes on."""
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(contextlib.closing(RunLog(Root(folder), LOG))) if folder else None

        def line(text: str) -> None:
            if log:
                log.say(text)
            on_line(text)

        def status(state: RunState) -> None:
            project.progress.say(f"{state.status}.")

        state = follow(lambda: service.state(identifier), line, status)
    for warning in state.warnings:
        project.progress.say(f"Warning: {warning}")
    return state


def finish(
    service: Workspace, record: RunRecord, state: RunState, folder: Path, on_line: Callable[[str], None]
) -> RunRecord:
    """Fetch metrics and outputs of a run that ended, and complete its record; its log says what is left out."""
    left_out: list[str] = []
    service.download(state.id, folder / OUTPUTS, prefix=f"{OUTPUTS}/", say=left_out.append)
    record, unread = with_outputs(record, folder)
    left_out += unread.lines("the record")
    with (folder / LOG).open("a", encoding="utf-8") as log:
        for line in left_out:
            log.write(f"{line}\n")
            on_line(line)
    logged = {
        name: value[-1] if isinstance(value, list) else value
        for name, value in service.metrics(state.id).items()
    }
    numbers = {name: value for name, value in logged.items() if isinstance(value, int | float)}
    record = record.changed(
        status=STATUS.get(state.status, state.status.lower()),
        started=state.started or record.started,
        ended=state.ended,
        exit_code={"Completed": 0}.get(state.status, 1),
        reason=state.error or None,
        metrics={**numbers, **record.metrics},
    )
    write_record(record, folder)
    return record


def _find(project: Project, run: str, workspace: str, tenant: str) -> tuple[Workspace, str, RunRecord | None]:
    """Return the workspace, the service's id and our record, if there is one, of the run called `run`."""
    record = _record(project, run)
    if record and not record.remote_id:
        raise JobError(
            f"The run {record.id} ran here; the workspace knows nothing of it.", f"See runs/{record.id}/."
        )
    if record and record.kind == "embedded" and not workspace:
        workspace = "embedded"
    service = open_workspace(project, workspace, tenant)
    return service, (record.remote_id if record and record.remote_id else run), record


def _record(project: Project, run: str) -> RunRecord | None:
    """Return the record of a run; None where the name can only be the service's (submitted elsewhere)."""
    if run == "last":
        remote = [each for each in list_runs(project.settings.runs) if each.remote_id]
        if not remote:
            raise JobError("No run was submitted from this checkout.", "`./invoke submit` submits one.")
        return remote[-1]
    try:
        return find_run(project.settings.runs, run)
    except JobError:
        if "_" not in run:  # the service's ids are <experiment>_<time>_<hex>
            raise
        return None
