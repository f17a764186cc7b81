"""Settings: the file and the variables, each by its type, and nothing that is passed over in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from lockstep.errors import SettingsError
from lockstep.settings import Settings, read_settings
from lockstep.variables import is_on, variables_of

ROOT = Path(__file__).parents[1]
KNOWN = {name: (key, kind) for name, key, kind in variables_of(Settings) if key != ("root",)}


def setting(settings: Settings, name: str) -> Any:
    """Return the setting that a variable gives."""
    value: Any = settings
    for part in KNOWN[name][0]:
        value = getattr(value, part)
    return value


def invoke(*words: str, **variables: str) -> tuple[int, str]:
    """Run a task as people do; return its exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "invoke", *words],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_every_setting_is_of_a_type_that_a_variable_can_give() -> None:
    """A new setting of another type must be given its own reading first."""
    types = {get_origin(kind) or kind for _, kind in KNOWN.values()}
    assert types <= {bool, int, str, Path, Literal, tuple, dict}


SAMPLES: dict[Any, tuple[str, Any]] = {
    bool: ("Yes", True),
    int: ("3", 3),
    str: ("some text", "some text"),
    Path: ("a/b.yml", Path("a/b.yml")),
    tuple: ("--secs 1 --name 'a b'", ("--secs", "1", "--name", "a b")),
    dict: ("A=1 B='two = 2' C=", {"A": "1", "B": "two = 2", "C": ""}),
}


@pytest.mark.parametrize("name", KNOWN)
def test_every_setting_can_be_given_by_its_variable_alone_and_over_the_file(
    name: str, tmp_path: Path
) -> None:
    """Also one that invoke.yaml doesn't mention, and whatever value it has there."""
    kind = KNOWN[name][1]
    text, value = SAMPLES.get(get_origin(kind) or kind) or (get_args(kind)[-1],) * 2
    if name in ("INVOKE_IMAGE", "INVOKE_BASE", "INVOKE_AZURE_REPOSITORY"):
        text = value = "registry.example/team/env"
    if name == "INVOKE_JOB_SHM_SIZE":
        text = value = "1.5g"
    file = {"job": {"network": False, "arguments": [], "processes": 2}, "virtual_packages": {"__cuda": "13"}}
    for config in ({}, file):
        assert setting(read_settings(tmp_path, config, {name: text}), name) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("YES", True),
        ("1", True),
        ("false", False),
        ("No", False),
        ("False", False),
        ("0", False),
    ],
)
def test_truth_is_read_in_any_case(text: str, value: bool, tmp_path: Path) -> None:
    """`false` and `no` shut the network off."""
    for file in ({}, {"job": {"network": True}}, {"job": {"network": False}}):
        assert read_settings(tmp_path, file, {"INVOKE_JOB_NETWORK": text}).job.network is value
    assert is_on("LOCKSTEP_NO_INSTALL", {"LOCKSTEP_NO_INSTALL": text}) is value


@pytest.mark.parametrize(
    ("text", "may"), [("", 0), ("0", 0), ("No", 0), ("FALSE", 0), ("1", 1), ("yes", 1), ("perhaps", 1)]
)
def test_the_wrapper_reads_truth_alike_and_installs_nothing_in_doubt(text: str, may: int) -> None:
    """The first use of `./invoke` comes before any Python."""
    lines = (ROOT / "invoke").read_text()
    function = lines[lines.index("may_install()") :].partition("\n}\n")[0] + "\n}\nmay_install"
    done = subprocess.run(["sh", "-c", function], env={"LOCKSTEP_NO_INSTALL": text}, check=False)
    assert done.returncode == may


@pytest.mark.parametrize(
    ("name", "text", "stated"),
    [
        ("INVOKE_JOB_NETWORK", "maybe", "found 'maybe'"),
        ("INVOKE_JOB_NETWORK", "", "found ''"),
        ("INVOKE_JOB_NETWORK", "on", "expected true, yes or 1"),
        ("INVOKE_JOB_PROCESSES", "abc", "found 'abc'"),
        ("INVOKE_JOB_PROCESSES", "0", "greater than or equal to 1; found 0"),
        ("INVOKE_JOB_NODES", "1.5", "found '1.5'"),
        ("INVOKE_AZURE_DATA", "copy", "'download' or 'mount'; found 'copy'"),
        ("INVOKE_JOB_ARGUMENTS", "--name 'a", "a quotation that isn't closed"),
        ("INVOKE_VIRTUAL_PACKAGES", "__cuda=13 x", "word 2 of 2"),
        ("INVOKE_CHANNEL_MIRRORS", "=x", "NAME=VALUE"),
        ("INVOKE_NONSENSE", "1", "docs/settings.md"),
        ("INVOKE_JOB_NETWROK", "0", "did you mean INVOKE_JOB_NETWORK?"),
        ("INVOKE_VIRTUAL_PACKAGES___CUDA", "12", "did you mean INVOKE_VIRTUAL_PACKAGES?"),
        ("INVOKE_ROOT", "/", "no setting"),
    ],
)
def test_a_variable_that_does_not_fit_is_named(name: str, text: str, stated: str, tmp_path: Path) -> None:
    """The message has the variable, what was expected and what was found."""
    with pytest.raises(SettingsError) as caught:
        read_settings(tmp_path, {"job": {"network": False}}, {name: text})
    assert f"{name}" in str(caught.value)
    assert stated in str(caught.value)


def test_what_a_map_or_a_list_holds_is_not_shown(tmp_path: Path) -> None:
    """A script's variables and arguments may be secret."""
    for name in ("INVOKE_JOB_ENVIRONMENT_VARIABLES", "INVOKE_JOB_ARGUMENTS"):
        with pytest.raises(SettingsError) as caught:
            read_settings(tmp_path, {}, {name: "TOKEN=hidden hidden 'hidden"})
        assert "hidden" not in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        read_settings(tmp_path, {"job": {"environment_variables": {"PIN": 4711}}})
    assert "4711" not in str(caught.value)


def test_invokes_own_variables_and_everybody_elses_are_left_alone(tmp_path: Path) -> None:
    """Invoke documents INVOKE_RUN_ECHO and the like; PATH is nobody's setting."""
    own = {
        "INVOKE_RUN_ECHO": "1",
        "INVOKE_TASKS_DEDUPE": "0",
        "INVOKE_DEBUG": "",
        "INVOKE_RUNTIME_CONFIG": "",
    }
    assert read_settings(tmp_path, {"tasks": {"x": 1}}, {**own, "PATH": "/bin"}) == read_settings(
        tmp_path, {}
    )


@pytest.mark.parametrize(
    ("job", "stated"),
    [
        ({"arguments": ["--flag", True]}, "job.arguments.1: expected a list of texts and numbers"),
        ({"arguments": "--secs 1"}, "job.arguments: expected a list"),
        ({"arguments": [None]}, "job.arguments.0: expected a list"),
        ({"environment_variables": {"A": True}}, "job.environment_variables.A: expected a map of texts"),
        ({"environment_variables": {1: "x"}}, "job.environment_variables.1: expected a map of texts"),
        ({"processes": True}, "job.processes: Input should be a valid integer; found True"),
        ({"network": 1}, "job.network: Input should be a valid boolean; found 1"),
        ({"network": "maybe"}, "job.network: Input should be a valid boolean; found 'maybe'"),
    ],
)
def test_a_value_of_another_type_in_the_file_is_refused_not_converted(
    job: dict[str, Any], stated: str, tmp_path: Path
) -> None:
    """An unquoted `no` among the arguments became 0."""
    with pytest.raises(SettingsError) as caught:
        read_settings(tmp_path, {"job": job})
    assert stated in str(caught.value)
    assert str(caught.value).count("job.") == 1


@pytest.mark.parametrize("key", ["root", "user", "nonsense"])
def test_an_unknown_key_of_the_file_is_refused(key: str, tmp_path: Path) -> None:
    """`root` is where the file is, and no setting."""
    with pytest.raises(SettingsError, match=f"{key} is no setting"):
        read_settings(tmp_path, {key: "x"})


@pytest.mark.parametrize(
    ("variables", "stated"),
    [
        ({"INVOKE_JOB_NETWORK": "maybe"}, "INVOKE_JOB_NETWORK: expected"),
        ({"INVOKE_JOB_PROCESSES": "abc"}, "INVOKE_JOB_PROCESSES"),
        ({"INVOKE_JOB_ARGUMENTS": "'"}, "INVOKE_JOB_ARGUMENTS: expected words"),
        ({"INVOKE_NONSENSE": "1"}, "INVOKE_NONSENSE is no setting"),
        ({"INVOKE_RUN_WATCHERS": "1"}, "Invoke's own"),
        ({"LOCKSTEP_NO_INSTALL": "perhaps"}, "LOCKSTEP_NO_INSTALL: expected"),
    ],
)
def test_a_task_names_the_wrong_variable(variables: dict[str, str], stated: str) -> None:
    """Invoke itself must not get there first, with a traceback or a guess of its own."""
    code, said = invoke("image", **variables)
    assert (code, "Traceback" in said) == (2, False), said
    assert stated in said


def test_a_task_takes_a_map_whose_keys_differ_in_case_only(tmp_path: Path) -> None:
    """http_proxy and HTTP_PROXY are what people set; Invoke alone finds them ambiguous."""
    file = tmp_path / "more.yaml"
    file.write_text("job:\n  environment_variables: {http_proxy: a, HTTP_PROXY: b}\n")
    _, said = invoke("-f", str(file), "runs", INVOKE_JOB_ARGUMENTS="--epochs 1", INVOKE_JOB_PROCESSES="2")
    assert "Traceback" not in said
    assert invoke("-f", str(file), "runs", INVOKE_JOB_NETWORK="no")[0] == 0


@pytest.mark.parametrize("text", ["job: {", "[1, 2]", "1: x\n", "\x00"])
def test_a_settings_file_that_is_no_yaml_map_is_named(text: str, tmp_path: Path) -> None:
    """A typing error is the most common of all."""
    from invoke.exceptions import Exit

    from lockstep.command_line import check_settings_file

    check_settings_file(tmp_path / "invoke.yaml")
    (tmp_path / "invoke.yaml").write_text(text)
    with pytest.raises(Exit, match=r"invoke\.yaml"):
        check_settings_file(tmp_path / "invoke.yaml")
