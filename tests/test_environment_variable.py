"""Variables of an image and of a job: those that would take away its Python are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lockstep.environment_variable import RESERVED, variable_trouble
from lockstep.errors import SettingsError, SpecError
from lockstep.settings import read_settings
from lockstep.spec import Spec, read_spec

BAD = [
    *((name, "/x") for name in RESERVED),
    ("A=B", "1"),
    ("", "1"),
    ("A B", "1"),
    ("A\nB", "1"),
    ("A", "\0"),
]
GOOD = [
    ("LD_LIBRARY_PATH", "/opt/lib"),
    ("PYTHONPATH", "/x"),
    ("PYTHONHASHSEED", "0"),
    ("Path", "x"),
    ("a.b-c", "=x y"),
    ("EMPTY", ""),
]


def conda_file(folder: Path, name: str, value: str) -> Spec:
    """Read a conda file with one variable."""
    import json

    (folder / "Dockerfile").write_text("FROM ${BASE_IMAGE}\n")
    file = folder / "env.yml"
    quoted = f"{json.dumps(name)}: {json.dumps(value)}"
    file.write_text(f"dependencies: [python=3.11]\nvariables:\n  {quoted}\n")
    return read_spec(file, dockerfile=folder / "Dockerfile", base="debian", platform="linux-64")


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_variable_that_breaks_the_image_is_refused_in_the_conda_file_and_the_job(
    name: str, value: str, tmp_path: Path
) -> None:
    """With its place, and before anything is solved or built."""
    assert variable_trouble(name, value)
    with pytest.raises(SpecError, match=r"env\.yml.*3.*[^.]\.\n"):
        conda_file(tmp_path, name, value)
    with pytest.raises(SettingsError, match=r"job\.environment_variables: "):
        read_settings(tmp_path, {"job": {"environment_variables": {name: value}}})


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_every_other_variable_is_taken_as_it_is_written(name: str, value: str, tmp_path: Path) -> None:
    """What they do is the person's own affair."""
    assert conda_file(tmp_path, name, value).variables == ((name, value),)
    settings = read_settings(tmp_path, {"job": {"environment_variables": {name: value}}})
    assert settings.job.environment_variables == {name: value}


def test_the_refusal_of_path_says_what_works_instead(tmp_path: Path) -> None:
    """`ENV PATH=…` in the Dockerfile, which comes behind the environment's programs (test_image.py)."""
    with pytest.raises(SpecError, match=r"`ENV PATH=…` in the Dockerfile"):
        conda_file(tmp_path, "PATH", "/x")
