"""`--json`: standard output is exactly one JSON document, whatever a task, a library or a child prints."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tasks

ROOT = Path(__file__).parents[1]
WITH_JSON = {
    name: task
    for name, task in tasks.ns.tasks.items()
    if "json" in inspect.signature(inspect.unwrap(task.body)).parameters
}

CHATTY = """
import os, subprocess, sys
from invoke.collection import Collection
from invoke.exceptions import Exit
from invoke.program import Program
from invoke.tasks import task
from lockstep.command_line import in_words
from lockstep.errors import JobError
from lockstep.pipeline import _print_line
from lockstep.report import print_json

@task
@in_words
def chatty(c, json=False, fails=False, code=0):
    print("printed")
    _print_line(b"a script's line")
    subprocess.run(["echo", "a child's line"])
    os.write(1, b"a library's line\\n")
    if fails:
        raise JobError("It failed.", "Do something.")
    print_json({"loss": float("nan"), "curve": [1.5, float("-inf")]})
    print("printed after")
    raise Exit(code=code)

Program(namespace=Collection(chatty)).run(["invoke", *sys.argv[1:]])
"""
LINES = ("printed", "a script's line", "a child's line", "a library's line", "printed after")


def run(*words: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python with the checkout importable."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def strict(text: str) -> object:
    """Return the one document that a text is, with nothing that other parsers of JSON refuse."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("code", [0, 3])
def test_nothing_but_the_document_is_on_standard_output(code: int) -> None:
    """Also a script's lines, those of child processes, and numbers that JSON has no words for."""
    done = run("-c", CHATTY, "chatty", "--json", "--code", str(code))
    assert done.returncode == code
    assert strict(done.stdout) == {"loss": None, "curve": [1.5, None]}
    assert all(line in done.stderr for line in LINES)


def test_without_the_flag_everything_is_where_it_was() -> None:
    """People see the script's lines on standard output, in order."""
    lines = run("-c", CHATTY, "chatty").stdout.splitlines()
    assert set(LINES) <= set(lines)


def test_an_error_leaves_standard_output_empty() -> None:
    """Its words are on standard error, and the exit code says it."""
    done = run("-c", CHATTY, "chatty", "--json", "--fails")
    assert (done.returncode, done.stdout) == (2, "")
    assert "It failed.\nDo something." in done.stderr


@pytest.mark.parametrize("name", WITH_JSON)
def test_every_task_with_the_flag_goes_through_it(name: str) -> None:
    """A task whose body isn't wrapped could print anything."""
    assert getattr(WITH_JSON[name].body, "__wrapped__", None), f"{name} lacks @in_words"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of its own, with a dataset to import."""
    for name in ("tasks.py", "invoke.yaml", "environments", "docker", "src"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    for part in ("train", "test"):
        for kind in ("cat", "dog"):
            (tmp_path / "photos" / part / kind).mkdir(parents=True)
            (tmp_path / "photos" / part / kind / "one.png").write_bytes(b"image")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ("runs", "--json"),
        ("clean", "--dry-run", "--json"),
        ("workspace", "--stop", "--json"),
        ("data", "--from", "photos", "--name", "mine", "--json"),
        pytest.param(("engine", "--json"), marks=pytest.mark.engine),
    ],
)
def test_tasks_print_one_document(words: tuple[str, ...], checkout: Path) -> None:
    """For real, as a script would call them."""
    done = run("-m", "invoke", *words, folder=checkout)
    assert done.returncode == 0, done.stderr
    strict(done.stdout)
