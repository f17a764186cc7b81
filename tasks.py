"""The tasks that `./invoke --list` shows: each reads the settings, calls one function and prints."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

if TYPE_CHECKING:
    from lockstep.project import Project

ROOT = Path(__file__).resolve().parent

HELP = {
    "locked": "refuse a stale lock instead of making it anew",
    "no-install": "never install system packages (as LOCKSTEP_NO_INSTALL=1)",
    "json": "print JSON for scripts",
    "upgrade": "move all packages, or those named (numpy,torch), to the newest versions that fit",
}


def _help(*names: str, **own: str) -> dict[str, str]:
    return {**{name: HELP[name] for name in names}, **own}


def in_words(body: Callable[..., Any]) -> Callable[..., Any]:
    """Run a task's body so that what a user can cause ends in words and an exit code, not a traceback."""

    @functools.wraps(body)
    def run(c: Context, *args: Any, **flags: Any) -> Any:
        from lockstep.errors import LockstepError
        from lockstep.home import disk_full_in_words

        try:
            with disk_full_in_words(ROOT):
                return body(c, *args, **flags)
        except LockstepError as error:
            raise Exit(str(error), code=error.exit_code) from error
        except KeyboardInterrupt as error:
            raise Exit(
                "Interrupted. What was finished is kept; the same command goes on from there.", 130
            ) from error
        except BrokenPipeError:  # `./invoke image | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Exit(code=141) from None

    return run


def _project(c: Context, *, no_install: bool = False) -> Project:
    from lockstep.project import open_project

    install = not (no_install or os.environ.get("LOCKSTEP_NO_INSTALL"))
    return open_project(ROOT, dict(c.config.items()), install=install)


def _after_dashes() -> tuple[str, ...]:
    """Return the words after `--` on the command line, as the shell gave them."""
    return tuple(sys.argv[sys.argv.index("--") + 1 :]) if "--" in sys.argv else ()


@task(help=_help("upgrade", "locked", "no-install", "json"), optional=["upgrade"])
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


@task(help=_help("locked", "no-install", "json"))
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


@task(help=_help("json"))
@in_words
def image(c: Context, json: bool = False) -> None:
    """Show what is in the image: layers, sizes, packages, and what changed since the build before."""
    from lockstep import pipeline, report

    now, before = pipeline.last_images(_project(c))
    report.print_json(report.image_as_json(now, before)) if json else report.print_image(now, before)


@task(help=_help("no-install"))
@in_words
def shell(c: Context, no_install: bool = False) -> None:
    """Open a prompt in the image, with src/ and data/ as a run sees them.

    ./invoke shell                       bash
    ./invoke shell -- python -m pip list     one command instead
    """
    from lockstep import pipeline

    raise Exit(code=pipeline.shell(_project(c, no_install=no_install), _after_dashes()))


@task(
    name="train-local",
    help=_help("locked", "no-install", "json", processes="processes on this machine, through torchrun"),
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
    record = pipeline.train_local(project, _after_dashes(), processes=processes or None, locked=locked)
    folder = (project.settings.runs / record.id).relative_to(ROOT)
    report.print_json(record.as_json()) if json else report.print_run(record, folder)
    raise Exit(code=record.exit_code)


@task(
    help=_help(
        "json",
        from_="a folder or .tar.gz of images in class folders: train/<class>/…, test/<class>/…",
        name="what to call it under data/",
        digits="write scikit-learn's handwritten digits; needs only the package index",
    )
)
@in_words
def data(c: Context, from_: str = "", name: str = "", digits: bool = False, json: bool = False) -> None:
    """Get the images to train on: CIFAR-10, a folder of yours, or handwritten digits.

    ./invoke data                            CIFAR-10, verified and resumable
    ./invoke data --from photos.tar.gz       your own images
    ./invoke data --digits                   1,797 handwritten digits, 1 MB
    """
    from lockstep import pipeline, report

    found = pipeline.get_data(_project(c), source=from_, name=name, digits=digits)
    report.print_json(found.as_json()) if json else print(f"{found} in {found.folder.relative_to(ROOT)}")


@task(help=_help("json", compare="two runs, A,B: say per fact whether they are the same"))
@in_words
def runs(c: Context, compare: str = "", json: bool = False) -> None:
    """List the runs of this checkout, newest first, or compare two of them.

    ./invoke runs
    ./invoke runs --compare 20261123-101500-ab12,20261123-104200-cd34
    """
    from lockstep import compare as comparison
    from lockstep import report, run

    folder = _project(c).settings.runs
    if compare:
        report.print_comparison(comparison.compare_runs(*run.find_runs(folder, compare)), json=json)
    else:
        report.print_runs(run.list_runs(folder), json=json)


@task(help=_help("no-install", "json"))
@in_words
def engine(c: Context, no_install: bool = False, json: bool = False) -> None:
    """Find the container engine; install and start one where that is possible."""
    from lockstep import pipeline, report

    report.print_engine(pipeline.engine_info(_project(c, no_install=no_install)), json=json)


@task(help=_help("json"))
@in_words
def doctor(c: Context, json: bool = False) -> None:
    """Say what is reachable and what will be used: engine, registry, channels, index, disk, GPU."""
    from lockstep import doctor, report

    checks = doctor.examine(_project(c, no_install=True))
    report.print_checks(checks, json=json)
    raise Exit(code=0 if all(check.ok for check in checks) else 1)


@task(
    help={
        "everything": "also downloads, the base image and the channel made here, and all images",
        "dry-run": "only say what would go",
    }
)
@in_words
def clean(c: Context, everything: bool = False, dry_run: bool = False) -> None:
    """Remove what Lockstep can make again: layers and images that the last build doesn't use."""
    from lockstep import cleaning, report

    cleaned = cleaning.clean(_project(c), everything=everything, dry_run=dry_run)
    report.print_cleaned(cleaned, dry_run=dry_run)


@task(help={"quick": "leave out what takes over 20 s each"})
def test(c: Context, quick: bool = False) -> None:  # noqa: PT028 - a task, not a test
    """Set up what the tests need and run them: real engine, real channel, real packages.

    ./invoke test
    ./invoke test --quick
    ./invoke test -- -k lock -x     arguments after -- go to pytest
    """
    from lockstep import development

    raise Exit(code=development.test(ROOT, quick=quick, arguments=_after_dashes()))


@task
def check(c: Context) -> None:
    """Run the one gate: ruff, mypy --strict, the direction of imports, the tests."""
    from lockstep import development

    raise Exit(code=development.check(ROOT))


ns = Collection(lock, build, image, shell, train_local, data, runs, engine, doctor, clean, test, check)
