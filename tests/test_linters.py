"""The linters of `./invoke check` hold, the direction of imports among them, also where only the tests are run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lockstep.development import LINTERS

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("command", LINTERS, ids=" ".join)
def test_a_linter_finds_nothing(command: tuple[str, ...]) -> None:
    """Each linter ends with 0."""
    program = Path(sys.prefix, "bin", command[0])

    done = subprocess.run(
        [program, *command[1:]],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
