"""Remote report: what people read of submitted runs and workspaces. Each function prints one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from json import dumps
from shlex import quote
from typing import TYPE_CHECKING, Any

from lockstep.report import print_json, print_run
from lockstep.terminal import print_table

if TYPE_CHECKING:
    from pathlib import Path

    from lockstep.azureml import EnvironmentVersion, Metrics, RunState
    from lockstep.registry import PushResult
    from lockstep.submission.azure_check import Checked
    from lockstep.submission.data import Leftovers
    from lockstep.submission.submission import Plan, Submission
    from lockstep.workspace.daemon import Daemon

_SHOWN = 10
_SENT = (
    "script", "arguments", "environmentVariables", "dataReferences", "target", "nodeCount", "framework", "pytorch",
    "docker", "environment",
)  # fmt: skip
"""What of the SDK's document decides a run; `--json` has all of it."""


def print_submission(made: Submission, runs: Path, *, json: bool) -> None:
    """Print how a submitted run ended; the last line says what is the same as in the local run."""
    from lockstep.runs.compare import conclusion

    if json:
        print_json(submission_as_json(made))
        return
    if made.left:
        name = made.record.id
        print(f"The run {made.run.id} goes on: {made.run.portal}")
        print(f"`./invoke logs {name}` follows it, `./invoke cancel {name}` stops it.")
        return
    print_run(made.record, runs)
    print(f"page       {made.run.portal}")
    if made.local:
        print(f"against the local run {made.local.id}: {conclusion(made.differences)}")


def submission_as_json(made: Submission) -> dict[str, Any]:
    """Return a submission's facts for `--json`."""
    from lockstep.runs.compare import are_the_same

    return {
        "run": dataclasses.asdict(made.run),
        "record": made.record.as_json(),
        "going_on": made.left,
        "local": made.local.id if made.local else None,
        "same": are_the_same(made.differences) if made.local else None,
        "facts": {each.fact: each.verdict for each in made.differences},
    }


def print_plan(plan: Plan, *, json: bool) -> None:
    """Print what a submit would send."""
    if json:
        print_json(dataclasses.asdict(plan))
        return
    size = sum(bytes_ for _, bytes_ in plan.files)
    print(f"workspace   {plan.workspace}, experiment {plan.experiment}")
    print(f"environment {plan.environment}" + (f", image ID {plan.image}" if plan.image else ""))
    for name, path in plan.data.items():
        print(f"data        {name}: {path} of the default datastore")
    print(f"source      {len(plan.files)} files, {size / 1e6:,.3f} MB")
    for path, bytes_ in plan.files[:_SHOWN]:
        print(f"  {bytes_ / 1e6:10,.3f} MB  {path}")
    if len(plan.files) > _SHOWN:
        print(f"  … and {len(plan.files) - _SHOWN} more")
    print("the run, as it would be sent:")
    print_json({name: _without_nothing(plan.sends[name]) for name in _SENT if plan.sends.get(name)})


def _without_nothing(value: Any) -> Any:
    """Return a document without what is empty: most of what the SDK sends says nothing."""
    if isinstance(value, dict):
        kept = {name: _without_nothing(each) for name, each in value.items()}
        return {name: each for name, each in kept.items() if each not in (None, {}, [], "")}
    return value


def print_remote_runs(states: Sequence[RunState], *, json: bool) -> None:
    """Print the runs of the workspace's experiment, newest first."""
    if json:
        print_json([dataclasses.asdict(state) for state in states])
        return
    if not states:
        print("The workspace has no runs of this experiment yet.")
        return
    rows = (
        (each.id, each.status, (each.started or "")[:19], dict(each.tags).get("lockstep.run", ""))
        for each in states
    )
    print_table(("run", "status", "started (UTC)", "record here"), rows)


def print_metrics(metrics: Metrics, *, json: bool) -> None:
    """Print what a run logged: of a curve the last value, and how many there are."""
    if json:
        print_json(metrics)
        return
    if not metrics:
        print("The run has logged nothing.")
    for name, value in sorted(metrics.items()):
        points = value if isinstance(value, list) else [value]
        print(f"{name}  {points[-1]}" + (f"  (the last of {len(points)})" if len(points) > 1 else ""))


def print_environment(version: EnvironmentVersion, *, json: bool) -> None:
    """Print a registered environment."""
    if json:
        print_json(dataclasses.asdict(version))
        return
    print(f"environment {version.name}, version {version.version}")
    print(f"image       {version.image}")


def print_push(pushed: PushResult, *, json: bool) -> None:
    """Print what a push did."""
    if json:
        print_json(dataclasses.asdict(pushed))
        return
    print(f"pushed     {pushed.reference}")
    print(f"image ID   {pushed.image_id}, read back from the registry")
    print(
        f"sent       {pushed.sent / 1e6:,.1f} MB in {pushed.blobs_sent} blobs; {pushed.blobs_reused} were there"
    )


def print_files(paths: Sequence[Path]) -> None:
    """Print what was fetched, a path a line."""
    for path in paths:
        print(path)


def print_leftovers(found: Leftovers, *, removed: bool, json: bool) -> None:
    """Print what this project made in a workspace, and what became of it."""
    if json:
        folders = [{"folder": folder, "files": files, "size": size} for folder, files, size in found.folders]
        print_json({"removed": removed, "folders": folders, "stays": list(found.kept)})
        return
    for folder, files, size in found.folders:
        print(f"{'removed' if removed else 'there'}  {folder}: {files:,} files, {size / 1e6:,.1f} MB")
    if not found.folders:
        print("There is no data of this project in the workspace's datastore.")
    elif not removed:
        print("`./invoke clean --remote --yes` removes it.")
    for kept in found.kept:
        print(f"stays  {kept}: the service keeps runs and environments for ever")


def print_points(points: Iterable[Checked], *, json: bool) -> int:
    """Print each point of `submit --check-azure` as it is known; return 0 if all hold, else 1."""
    if json:
        checked = tuple(points)
        print_json([dataclasses.asdict(each) for each in checked])
        return 0 if all(each.ok for each in checked) else 1
    failed = 0
    for each in points:
        failed += not each.ok
        print(f"{'ok ' if each.ok else 'NOT'}  {each.point}", flush=True)
        print(f"     {each.told}", flush=True)
    return 1 if failed else 0


def print_ended(said: str, *, json: bool) -> None:
    """Print what became of the embedded workspace's server."""
    print_json({"workspace": said}) if json else print(said)


def print_workspace(daemon: Daemon, written: Path | None, *, json: bool) -> None:
    """Print what points azureml-core at the embedded workspace, as lines that a shell can `eval`.

    `written` is the config.json that was written for it, if there was none.
    """
    from lockstep.workspace.daemon import config

    if json:
        print_json({"url": daemon.url, "environment": daemon.environment(), "config": config()})
        return
    print(f"# The embedded workspace answers at {daemon.url}; its log is {daemon.log}.")
    if written:
        print(f"# Wrote {written} for Workspace.from_config().")
    else:
        print(f"# .azureml/config.json was there; for this workspace it holds {dumps(config())}.")
    for name, value in daemon.environment().items():
        print(f"export {name}={quote(value)}")
