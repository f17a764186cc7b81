"""The tasks that `./invoke --list` shows: each reads the settings, calls one function and prints."""

from __future__ import annotations

import functools
import os
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from lockstep.command_line import ComparingTask, check_settings_file, help_on, in_words, words_after_dashes

if TYPE_CHECKING:
    from lockstep.project import Project

ROOT = Path(__file__).resolve().parent
check_settings_file(ROOT / "invoke.yaml")  # Invoke reads it next


def _project(c: Context, *, no_install: bool = False) -> Project:
    from lockstep.project import open_project
    from lockstep.variables import is_on

    install = not (no_install or is_on("LOCKSTEP_NO_INSTALL", os.environ))
    return open_project(ROOT, dict(c.config.items()), install=install)


@task(help=help_on("upgrade", "locked", "no-install", "json"), optional=["upgrade"])
@in_words
def lock(
    c: Context,
    upgrade: str | bool | None = None,
    locked: bool = False,
    no_install: bool = False,
    json: bool = False,
) -> None:
    """Solve the conda file into a lock: exactly which bytes, by sha256.

    ./invoke lock                      make it if it is missing or stale, print what changed
    ./invoke lock --upgrade            move everything
    ./invoke lock --upgrade numpy      move numpy, and what it drags along
    ./invoke lock --locked             only check: exit code 2 if it is stale
    """
    from lockstep import pipeline, report

    project = _project(c, no_install=no_install)
    names = None if upgrade is None else frozenset(upgrade.split(",") if isinstance(upgrade, str) else ())
    made = pipeline.lock(project, locked=locked, upgrade=names)
    path = str(project.settings.lock_path.relative_to(ROOT))
    report.print_json(report.lock_as_json(made, path)) if json else report.print_lock(made, path)


@task(help=help_on("locked", "no-install", "json"))
@in_words
def build(c: Context, locked: bool = False, no_install: bool = False, json: bool = False) -> None:
    """Make the image from the conda file and put it into the container engine.

    ./invoke build             lock if need be, fetch, assemble, deliver; what is there isn't made again
    ./invoke build --locked    as in CI: refuse a lock that doesn't fit the conda file
    """
    from lockstep import pipeline, report

    project = _project(c, no_install=no_install)
    built = pipeline.build(project, locked=locked)
    report.print_json(report.build_as_json(built)) if json else report.print_build(
        built, project.settings.reference
    )


@task(help=help_on("json"))
@in_words
def image(c: Context, json: bool = False) -> None:
    """Show what is in the image: layers, sizes, packages, and what changed since the build before."""
    from lockstep import pipeline, report

    now, before = pipeline.last_images(_project(c))
    report.print_json(report.image_as_json(now, before)) if json else report.print_image(now, before)


@task(help=help_on("no-install"))
@in_words
def shell(c: Context, no_install: bool = False) -> None:
    """Open a prompt in the image, with the source and the job's data where a run has them.

    ./invoke shell                       bash
    ./invoke shell -- python -m pip list     one command instead
    """
    from lockstep import pipeline

    raise Exit(code=pipeline.shell(_project(c, no_install=no_install), words_after_dashes()))


@task(
    name="train-local",
    help=help_on("locked", "no-install", "json", processes="processes on this machine, through torchrun"),
)
@in_words
def train_local(
    c: Context, processes: int = 0, locked: bool = False, no_install: bool = False, json: bool = False
) -> None:
    """Build the image if need be and run the training in it, here.

    ./invoke train-local
    ./invoke train-local -- --epochs 1 --seed 7     arguments after -- go to the script
    ./invoke train-local --processes 2              two processes, through torchrun
    """
    from lockstep import pipeline, report

    project = _project(c, no_install=no_install)
    record = pipeline.train_local(project, words_after_dashes(), processes=processes or None, locked=locked)
    report.print_json(record.as_json()) if json else report.print_run(record, project.settings.runs)
    raise Exit(code=record.exit_code)


@task(
    help=help_on(
        "workspace",
        "tenant",
        "locked",
        "no-install",
        "json",
        environment="a curated environment of the service's, AzureML-…, in place of this image",
        remote_build="let the service build the conda file or the requirements",
        nodes="machines, for torch.distributed",
        processes="processes on each of them",
        wait="follow the run to its end; --no-wait returns at once",
        dry_run="print what would be sent, and send nothing",
        check_azure="try against a real workspace what docs/azure.md lists as unverified",
    )
)
@in_words
def submit(
    c: Context,
    workspace: str = "",
    tenant: str = "",
    environment: str = "",
    remote_build: bool = False,
    nodes: int = 0,
    processes: int = 0,
    wait: bool = True,
    dry_run: bool = False,
    check_azure: bool = False,
    locked: bool = False,
    no_install: bool = False,
    json: bool = False,
) -> None:
    """Run the same training in a workspace: Azure ML, or the embedded one until Azure is configured.

    ./invoke submit
    ./invoke submit -- --epochs 5             arguments after -- go to the script
    ./invoke submit --nodes 2 --processes 2   one model, trained by two machines of two processes
    ./invoke submit --dry-run                 what would be sent
    ./invoke submit --no-wait                 then ./invoke logs last
    """
    from lockstep import submission
    from lockstep.submission import azure_check
    from lockstep.submission import report as remote_report

    project = _project(c, no_install=no_install)
    where: dict[str, Any] = {"workspace": workspace, "tenant": tenant}
    what: dict[str, Any] = {"environment": environment, "remote_build": remote_build, "locked": locked}
    size: dict[str, Any] = {"nodes": nodes or None, "processes": processes or None}
    if check_azure:
        raise Exit(code=remote_report.print_points(azure_check.check_azure(project, **where), json=json))
    if dry_run:
        plan = submission.plan(project, words_after_dashes(), workspace=workspace, **what, **size)
        remote_report.print_plan(plan, json=json)
        return
    on_line = functools.partial(print, flush=True)
    made = submission.submit(
        project, words_after_dashes(), **where, **what, **size, wait=wait, on_line=on_line
    )
    remote_report.print_submission(made, project.settings.runs, json=json)
    raise Exit(code=made.record.exit_code or 0)


@task(
    help=help_on(
        "json",
        from_="a folder or .tar.gz of images in class folders: train/<class>/…, test/<class>/…",
        name="what to call it under data/",
        digits="write scikit-learn's handwritten digits; needs only the package index",
        upload="put the dataset into the workspace's default datastore as well",
    )
)
@in_words
def data(
    c: Context,
    from_: str = "",
    name: str = "",
    digits: bool = False,
    upload: bool = False,
    json: bool = False,
) -> None:
    """Get the images to train on: CIFAR-10, a folder of yours, or handwritten digits.

    ./invoke data                            CIFAR-10, verified and resumable
    ./invoke data --from photos.tar.gz       your own images
    ./invoke data --digits                   1,797 handwritten digits, 1 MB
    ./invoke data --digits --upload          and into the workspace's datastore
    """
    from lockstep import pipeline, report
    from lockstep.submission import data as remote_data

    project = _project(c)
    found = pipeline.get_data(project, source=from_, name=name, digits=digits)
    report.print_json(found.as_json()) if json else print(f"{found} in {found.folder.relative_to(ROOT)}")
    if upload:
        remote_data.upload(project, found.folder)


@task(
    help=help_on(
        "workspace",
        "tenant",
        "json",
        compare="two runs, A B: say per fact whether they are the same",
        remote="those that the workspace has of this project's experiment",
    ),
    klass=ComparingTask,
)
@in_words
def runs(
    c: Context,
    compare: tuple[str, ...] = (),
    remote: bool = False,
    workspace: str = "",
    tenant: str = "",
    json: bool = False,
) -> None:
    """List the runs of this checkout, newest first, or compare two of them.

    ./invoke runs
    ./invoke runs --compare 20261123-101500-ab12 last     ids, or the beginning or end of one
    ./invoke runs --remote                                what the workspace has
    """
    from lockstep import report
    from lockstep.runs import compare as comparison
    from lockstep.runs import run
    from lockstep.submission import report as remote_report
    from lockstep.submission import runs as remote_runs

    project = _project(c)
    folder = project.settings.runs
    if compare:
        one, two = (run.find_run(folder, name) for name in compare)
        report.print_comparison(comparison.compare_runs(one, two), json=json)
    elif remote:
        found = remote_runs.remote_runs(project, workspace=workspace, tenant=tenant)
        remote_report.print_remote_runs(found, json=json)
    else:
        report.print_runs(run.list_runs(folder), json=json)


@task(help=help_on("no-install", "json"))
@in_words
def engine(c: Context, no_install: bool = False, json: bool = False) -> None:
    """Find the container engine; install and start one where that is possible."""
    from lockstep import pipeline, report

    report.print_engine(pipeline.engine_info(_project(c, no_install=no_install)), json=json)


@task(
    help=help_on("json", store="read everything in the store and check it; exit code 1 if some was damaged")
)
@in_words
def doctor(c: Context, store: bool = False, json: bool = False) -> None:
    """Say what is reachable and what will be used: engine, registry, channels, index, disk, GPU.

    ./invoke doctor
    ./invoke doctor --store     is all that LOCKSTEP_HOME keeps as it was? What isn't is removed, to be made again
    """
    from lockstep import doctor, inspection, report

    if store:
        project = _project(c, no_install=True)
        found = inspection.inspect(project.home, project.progress)
        report.print_inspection(found, json=json)
        raise Exit(code=1 if found.damaged else 0)
    checks = doctor.examine(_project(c, no_install=True))
    report.print_checks(checks, json=json)
    raise Exit(code=0 if all(check.ok for check in checks) else 1)


@task(
    help=help_on(
        "json",
        everything="also downloads, the base image and the channel made here, and all images",
        dry_run="only say what would go",
        remote="in the workspace: show the data that this project put there",
        yes="with --remote: remove it",
    )
)
@in_words
def clean(
    c: Context,
    everything: bool = False,
    dry_run: bool = False,
    remote: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Remove what Lockstep can make again: layers and images that the last build doesn't use.

    ./invoke clean --dry-run
    ./invoke clean --everything      the whole store, for every checkout of this machine
    ./invoke clean --remote --yes    this project's data in the workspace
    """
    from lockstep import cleaning, report
    from lockstep.submission import data as remote_data
    from lockstep.submission import report as remote_report

    if remote:
        remote_report.print_leftovers(remote_data.clean_remote(_project(c), yes=yes), removed=yes, json=json)
        return
    cleaned = cleaning.clean(_project(c), everything=everything, dry_run=dry_run)
    report.print_cleaned(cleaned, dry_run=dry_run, json=json)


@task(help={"quick": "leave out what takes over 20 s each"})
@in_words
def test(c: Context, quick: bool = False) -> None:  # noqa: PT028 - a task, not a test
    """Set up what the tests need and run them: real engine, real channel, real packages.

    ./invoke test
    ./invoke test --quick
    ./invoke test -- -k lock -x     arguments after -- go to pytest
    """
    from lockstep import development

    raise Exit(code=development.test(ROOT, quick=quick, arguments=words_after_dashes()))


@task
def check(c: Context) -> None:
    """Run the one gate: ruff, mypy --strict, the direction of imports, the tests."""
    from lockstep import development

    raise Exit(code=development.check(ROOT))


@task(help=help_on("workspace", "tenant", "locked", "json"))
@in_words
def register(
    c: Context, workspace: str = "", tenant: str = "", locked: bool = False, json: bool = False
) -> None:
    """Register the image as an environment of the workspace, without a run."""
    from lockstep import submission
    from lockstep.submission import report as remote_report

    version = submission.register(_project(c), workspace=workspace, tenant=tenant, locked=locked)
    remote_report.print_environment(version, json=json)


@task(help=help_on("workspace", "tenant", "locked", "json", to="a repository: registry.example/team/name"))
@in_words
def push(
    c: Context, to: str = "", workspace: str = "", tenant: str = "", locked: bool = False, json: bool = False
) -> None:
    """Push the image to a registry, blob by blob; what is there isn't sent.

    ./invoke push                                          to the settings' repository or the workspace's own
    ./invoke push --to registry.example/team/pytorch-env   with the credentials that `docker login` left
    """
    from lockstep.submission import image as remote_image
    from lockstep.submission import report as remote_report

    pushed = remote_image.push(_project(c), to=to, workspace=workspace, tenant=tenant, locked=locked)
    remote_report.print_push(pushed, json=json)


@task(positional=["run"], help=help_on("workspace", "tenant", run="an id, its beginning or end, or last"))
@in_words
def logs(c: Context, run: str, workspace: str = "", tenant: str = "") -> None:
    """Show what a submitted run printed, and follow it if it goes on.

    ./invoke logs last
    """
    from lockstep.submission import runs as remote_runs

    state = remote_runs.logs(_project(c), run, workspace=workspace, tenant=tenant)
    print(f"{state.id}: {state.status}", file=sys.stderr)


@task(positional=["run"], help=help_on("workspace", "tenant", run="an id, its beginning or end, or last"))
@in_words
def cancel(c: Context, run: str, workspace: str = "", tenant: str = "") -> None:
    """Stop a submitted run."""
    from lockstep.submission import runs as remote_runs

    print(f"Canceled {remote_runs.cancel(_project(c), run, workspace=workspace, tenant=tenant)}.")


@task(
    positional=["run"],
    help=help_on("workspace", "tenant", "json", run="an id, its beginning or end, or last"),
)
@in_words
def metrics(c: Context, run: str, workspace: str = "", tenant: str = "", json: bool = False) -> None:
    """Show what a submitted run has logged so far."""
    from lockstep.submission import report as remote_report
    from lockstep.submission import runs as remote_runs

    found = remote_runs.metrics(_project(c), run, workspace=workspace, tenant=tenant)
    remote_report.print_metrics(found, json=json)


@task(
    positional=["run"],
    help=help_on(
        "workspace", "tenant", run="an id, its beginning or end, or last", to="the folder to fetch into"
    ),
)
@in_words
def download(c: Context, run: str, to: str = "", workspace: str = "", tenant: str = "") -> None:
    """Fetch everything that a submitted run left: outputs and logs."""
    from lockstep.submission import report as remote_report
    from lockstep.submission import runs as remote_runs

    target = Path(to) if to else None
    found = remote_runs.download(_project(c), run, to=target, workspace=workspace, tenant=tenant)
    remote_report.print_files(found)


@task(help=help_on("json", stop="end its server", reset="end it and remove everything that it keeps"))
@in_words
def workspace(c: Context, stop: bool = False, reset: bool = False, json: bool = False) -> None:
    """Start the embedded workspace and print what points the SDK at it.

    ./invoke workspace             eval the lines it prints, and any azureml-core script runs here
    ./invoke workspace --stop
    ./invoke workspace --reset     forget every run, environment and datastore in it
    """
    from lockstep.submission import embedded
    from lockstep.submission import report as remote_report

    project = _project(c)
    if stop or reset:
        remote_report.print_ended(embedded.end_embedded(project, reset=reset), json=json)
        return
    daemon = embedded.start_embedded(project)
    remote_report.print_workspace(daemon, embedded.write_config(project), json=json)


@task
@in_words
def ui(c: Context) -> None:
    """Open the embedded workspace's pages: runs, live curves, artifacts (MLflow's)."""
    from lockstep.submission import embedded

    page = embedded.start_embedded(_project(c)).studio
    print(page)
    webbrowser.open(page)


ns = Collection(lock, build, image, shell, train_local, data, runs, engine, doctor, clean, test, check)
for _task in (submit, register, push, logs, cancel, metrics, download, workspace, ui):
    ns.add_task(_task)  # type: ignore[arg-type]  # `task` is typed as if it gave back the function
