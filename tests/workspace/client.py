"""The SDK in a process of its own, as its users have it: it is imported once and then does what tests ask.

The SDK reads its addresses when it is imported, keeps caches in the home folder and warns a lot; in a
process of its own none of that reaches the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOOP = """
import json, os, sys, traceback
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
from azureml.core import Datastore, Environment, Experiment, Model, Run, ScriptRunConfig, Workspace
from azureml.core.runconfig import PyTorchConfiguration
known = dict(globals())
for line in sys.stdin:
    names = dict(known)
    try:
        exec(json.loads(line), names)
        answer = {"result": names.get("result")}
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    print(json.dumps(answer, default=str), file=answers, flush=True)
"""


class SdkError(Exception):
    """What the SDK raised, in its words."""


class Client:
    """A Python with the SDK that runs pieces of code; what they call `result` comes back as JSON."""

    def __init__(self, environment: Mapping[str, str], home: Path, python: Path | None = None) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.environment = {**os.environ, **environment, "HOME": str(home), "PYTHONWARNINGS": "ignore"}
        self.python = str(python or sys.executable)
        self._errors = (home / "stderr").open("wb")
        self._process = subprocess.Popen(
            [self.python, "-c", LOOP],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env=self.environment, cwd=home, text=True,
        )  # fmt: skip

    def run(self, code: str, **values: Any) -> Any:
        """Run code in which each of `values` is a variable, and return its `result`."""
        assert self._process.stdin
        assert self._process.stdout
        named = "".join(f"{name} = {value!r}\n" for name, value in values.items())
        self._process.stdin.write(json.dumps(named + textwrap.dedent(code)) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"error": "the client died"}')
        if "error" in answer:
            raise SdkError(answer["error"] + "\n" + answer.get("traceback", ""))
        return answer["result"]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()
        self._errors.close()
