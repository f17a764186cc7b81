"""The docker arguments that a run configuration may carry: the few that mean something here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lockstep.errors import SettingsError
from lockstep.size import parse_size
from lockstep.workspace.fault import Fault

TAKES_VALUE = ("--shm-size", "-e", "--env", "--gpus", "--ipc", "--runtime", "--network", "--ulimit")


@dataclass(frozen=True)
class DockerArguments:
    """What the arguments ask for; `shm_size` is bytes, 0 where they don't say."""

    shm_size: int = 0
    environment: tuple[tuple[str, str], ...] = ()


def bytes_of(text: str) -> int:
    """Return the bytes of a size as docker writes it; one that can't be read is a 400."""
    try:
        return parse_size(text)
    except SettingsError as error:
        raise Fault(400, f"The shared memory: {error.message[:200]} {error.remedy}") from error


def read_docker_arguments(arguments: Sequence[str] | None) -> DockerArguments:
    """Read `--shm-size` and `-e NAME=VALUE`; GPUs are given anyway; what else there is, is refused with 400."""
    words = [word for argument in arguments or () for word in _split(str(argument))]
    shm_size, environment = 0, []
    while words:
        name = words.pop(0)
        value = words.pop(0) if name in TAKES_VALUE and words else ""
        if name == "--shm-size":
            shm_size = bytes_of(value)
        elif name in ("-e", "--env") and "=" in value:
            variable, _, setting = value.partition("=")
            environment.append((variable, setting))
        elif (name, value) not in (("--gpus", "all"), ("--runtime", "nvidia"), ("--rm", ""), ("--init", "")):
            shown = f"{name} {value}".strip()
            raise Fault(400, f"The embedded workspace doesn't do the docker argument {shown!r}.")
    return DockerArguments(shm_size, tuple(environment))


def _split(argument: str) -> list[str]:
    """Return `--name=value` as two words; and what was written in one string, as its words."""
    first, equals, rest = argument.partition("=")
    if equals and first.startswith("--") and " " not in first:
        return [first, rest]
    return argument.split(None, 1) if argument.startswith("-") else [argument]
