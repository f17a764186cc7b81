"""Command line: what the tasks need beyond Invoke itself.

Errors in words, the words after `--`, one help text for a flag that many tasks have, and a flag that takes
two values.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import invoke.config
from invoke.context import Context
from invoke.env import Environment
from invoke.exceptions import AmbiguousEnvVar, Exit, UncastableEnvVar
from invoke.parser.argument import Argument
from invoke.tasks import Task

from lockstep.variables import INVOKES_OWN

if TYPE_CHECKING:
    from lockstep.errors import LockstepError

HELP = {
    "locked": "refuse a stale lock instead of making it anew",
    "no-install": "never install system packages (as LOCKSTEP_NO_INSTALL=1)",
    "json": "print JSON for scripts",
    "workspace": "embedded, a name, SUBSCRIPTION/GROUP/NAME or a config.json",
    "tenant": "the Azure tenant to sign in to",
    "upgrade": "move all packages, or those named (numpy,torch), to the newest versions that fit",
}


class _OwnVariables(Environment):
    """Invoke's reading of INVOKE_… variables, for its own settings alone.

    Ours it would cast by the value in invoke.yaml, where `false` is true; and two keys of a map that differ
    in case only, such as http_proxy and HTTP_PROXY, would end in a traceback.
    """

    def __init__(self, config: Any, prefix: str) -> None:
        super().__init__({name: config[name] for name in INVOKES_OWN if name in config}, prefix)  # type: ignore[arg-type]

    def load(self) -> dict[str, Any]:
        try:
            return super().load()
        except (AmbiguousEnvVar, UncastableEnvVar, TypeError, ValueError) as error:
            raise Exit(f"A variable of Invoke's own settings (INVOKE_RUN_… and so on): {error}", 2) from error


setattr(invoke.config, "Environment", _OwnVariables)  # noqa: B010 - Invoke has no setting for it


def check_settings_file(path: Path) -> None:
    """Raise Exit with the place in words where Invoke would end in a traceback over its settings file."""
    import yaml

    try:
        with contextlib.suppress(FileNotFoundError):
            found = yaml.safe_load(path.read_bytes())
            if found is not None and not (isinstance(found, dict) and all(isinstance(x, str) for x in found)):
                raise Exit(f"{path} isn't a map of settings: expected lines like `image: team/env`.", 2)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Exit(f"{path} can't be read as YAML: {error}\nCorrect it there.", 2) from error


def help_on(*names: str, **own: str) -> dict[str, str]:
    """Return the help texts of a task's flags: those that many tasks have by name, its own as they are."""
    return {**{name: HELP[name] for name in names}, **own}


def in_words(body: Callable[..., Any]) -> Callable[..., Any]:
    """Run a task's body so that what a user can cause ends in words and an exit code, not a traceback.

    With the flag `json`, standard output gets the JSON document alone.
    """

    @functools.wraps(body)
    def run(c: Context, *args: Any, **flags: Any) -> Any:
        from lockstep.errors import LockstepError
        from lockstep.home import disk_full_in_words
        from lockstep.no_proxy import no_proxy
        from lockstep.redaction import guard_output
        from lockstep.terminal import only_documents

        guard_output()
        os.environ.update(no_proxy(os.environ))  # for every client in this process and all that it starts
        output = only_documents() if flags.get("json") else contextlib.nullcontext()
        try:
            with output, disk_full_in_words(Path(__file__).parent):
                return body(c, *args, **flags)
        except LockstepError as error:
            _end_at_once(error)
            raise Exit(str(error), code=error.exit_code) from error
        except KeyboardInterrupt as error:
            raise Exit(
                "Interrupted. What was finished is kept; the same command goes on from there.", 130
            ) from error
        except BrokenPipeError:  # `./invoke image | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Exit(code=141) from None

    return run


def _end_at_once(error: LockstepError) -> None:
    """End the process without Python's own clean-up, if rattler was used.

    Now and then one of rattler's threads lets go of an object while the interpreter ends, which aborts it
    (exit code -6) with a page of words that help nobody.
    """
    if "rattler" in sys.modules:
        print(error, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.exit_code)


def words_after_dashes() -> tuple[str, ...]:
    """Return the words after `--` on the command line, as the shell gave them."""
    return tuple(sys.argv[sys.argv.index("--") + 1 :]) if "--" in sys.argv else ()


class ComparingTask(Task[Callable[..., Any]]):
    """A task whose flag `compare` takes two values: `--compare A B`."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        arguments: list[Argument] = super().get_arguments(ignore_unknown_help)
        for at, found in enumerate(arguments):
            if found.name == "compare":
                arguments[at] = _Pair(names=found.names, default=(), help=found.help)
        return arguments


class _Pair(Argument):
    """A flag that isn't content before it has two values. Invoke asks `raw_value` whether to wait for more."""

    def __repr__(self) -> str:  # what Invoke's error calls it
        return f"--{self.name} A B"

    def set_value(self, value: Any, cast: bool = True) -> None:
        self._value = (*(self._value or ()), value)
        self.raw_value = value if len(self._value) == 2 else None
