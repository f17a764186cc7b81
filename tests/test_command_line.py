"""The command line: two values for one flag, words after the dashes, errors in words."""

from __future__ import annotations

import sys

import pytest
from invoke.collection import Collection
from invoke.context import Context
from invoke.program import Program
from invoke.tasks import task

from lockstep.command_line import ComparingTask, in_words, words_after_dashes
from lockstep.errors import JobError


@pytest.fixture(autouse=True)
def _no_rattler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rattler was used, an error ends the process at once: not this one, please."""
    monkeypatch.delitem(sys.modules, "rattler", raising=False)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a program with one comparing task; return what it printed, and the exit code if it isn't 0."""

    @task(klass=ComparingTask)
    def runs(c: Context, compare: tuple[str, ...] = (), json: bool = False) -> None:
        if "missing" in compare:
            raise JobError("There is no run 'missing'.", "See `./invoke runs`.")
        print(compare, json)

    runs.body = in_words(runs.body)
    program = Program(namespace=Collection(runs))
    code = ""
    try:
        program.run(["invoke", *words])
    except SystemExit as ended:
        code = str(ended.code)
    told = capsys.readouterr()
    return f"{told.out}{told.err}{code}"


@pytest.mark.parametrize(
    "words",
    [
        ("runs", "--compare", "a", "b", "--json"),
        ("runs", "--json", "--compare", "a", "b"),
        ("runs", "-c", "a", "b", "--json"),
    ],
)
def test_compare_takes_two(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Both names belong to the flag, wherever it stands."""
    assert said(capsys, *words) == "('a', 'b') True\n"


def test_without_compare_there_is_nothing_to_compare(capsys: pytest.CaptureFixture[str]) -> None:
    """The flag may be left out."""
    assert said(capsys, "runs") == "() False\n"


def test_one_name_is_too_few_and_three_are_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither does something else than was meant."""
    assert "--compare A B needed value" in said(capsys, "runs", "--compare", "a")
    assert "No idea what 'c' is" in said(capsys, "runs", "--compare", "a", "b", "c")


def test_an_error_is_words_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    """What a user can cause gives no traceback."""
    told = said(capsys, "runs", "--compare", "missing", "b")
    assert told.endswith("There is no run 'missing'.\nSee `./invoke runs`.\n2")


def test_words_after_dashes_are_as_the_shell_gave_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one with a space in it, and a second pair of dashes."""
    monkeypatch.setattr("sys.argv", ["invoke", "shell", "--", "sh", "-c", "echo a", "--"])
    assert words_after_dashes() == ("sh", "-c", "echo a", "--")
    monkeypatch.setattr("sys.argv", ["invoke", "shell"])
    assert words_after_dashes() == ()
