"""Settings: what invoke.yaml says, with the INVOKE_… variables over it, validated. A flag wins over both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

from lockstep.environment_variable import variable_trouble
from lockstep.errors import SettingsError
from lockstep.image_name import parse_image_name, parse_repository
from lockstep.size import parse_size
from lockstep.variables import INVOKES_OWN, PREFIX, Key, closest, read_variables, variables_of


def _read_by(parse: Callable[[str], object]) -> AfterValidator:
    """Return a check that `parse` can read a text; the text stays as it is written."""

    def check(text: str) -> str:
        try:
            parse(text)
        except SettingsError as error:
            raise ValueError(f"{error.message} {error.remedy}") from error
        return text

    return AfterValidator(check)


def _untagged(text: str) -> None:
    if parse_repository(text).tag:
        raise SettingsError(f"{text!r} has a tag.", "Leave it out: the image's tag is `latest`.")


def _checked_variables(variables: dict[str, str]) -> dict[str, str]:
    for name, value in variables.items():
        if trouble := variable_trouble(name, value):
            raise ValueError(" ".join(trouble))
    return variables


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class JobSettings(_Section):
    """The training: a script of the folder `source`, its arguments and what it runs with."""

    source: str = "src"
    script: str = "train.py"
    arguments: tuple[StrictStr | StrictInt | StrictFloat, ...] = ()
    environment_variables: Annotated[dict[str, str], AfterValidator(_checked_variables)] = Field(
        default_factory=dict
    )
    data: str = ""
    shm_size: Annotated[str, _read_by(parse_size)] = "2g"
    processes: StrictInt = Field(default=1, ge=1)
    nodes: StrictInt = Field(default=1, ge=1)
    network: StrictBool = False


class AzureSettings(_Section):
    """Where `submit` sends a Job. Without a workspace here or in .azureml/config.json: the embedded one.

    `repository` is where the image is pushed (`registry.example/team/env`); none: the workspace's own
    registry. `data` says how a run gets its inputs on Azure ML.
    """

    workspace: str = ""
    subscription: str = ""
    resource_group: str = ""
    tenant: str = ""
    compute: str = "cpu-cluster"
    experiment: str = "lockstep"
    repository: Annotated[str, _read_by(lambda text: text and parse_repository(text))] = ""
    data: Literal["download", "mount"] = "download"


class _Written(_Section):
    """What invoke.yaml may hold, and what variables may give."""

    image: Annotated[str, _read_by(_untagged)] = "lockstep/pytorch-env"
    environment: Path = Path("environments/pytorch-env.yml")
    dockerfile: Path = Path("docker/Dockerfile")
    base: Annotated[str, _read_by(parse_image_name)] = "debian:bookworm-slim"
    platform: str = "linux-64"
    virtual_packages: dict[str, str] = Field(default_factory=dict)
    exclude_newer: str = ""
    index_strategy: Literal["best-match", "first-index"] = "best-match"
    channel_mirrors: dict[str, str] = Field(default_factory=dict)
    job: JobSettings = JobSettings()
    azure: AzureSettings = AzureSettings()


class Settings(_Written):
    """All settings of a project; paths are relative to `root`, the folder of invoke.yaml."""

    root: Path

    @property
    def environment_path(self) -> Path:
        return self.root / self.environment

    @property
    def lock_path(self) -> Path:
        """Where the lock is: beside the conda file, `<name>.conda-lock.yml`."""
        return self.environment_path.with_name(f"{self.environment_path.stem}.conda-lock.yml")

    @property
    def dockerfile_path(self) -> Path:
        return self.root / self.dockerfile

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that the spec is read from."""
        return self.environment_path, self.dockerfile_path

    @property
    def reference(self) -> str:
        """What the image is called in the engine, tag and all."""
        return f"{self.image}:latest"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def data(self) -> Path:
        return self.root / "data"


def read_settings(
    root: Path, config: Mapping[str, Any], environment: Mapping[str, str] = MappingProxyType({})
) -> Settings:
    """Validate what the settings file and the environment say.

    `config` is Invoke's configuration as a dict, in which its own sections are passed over; of
    `environment` only the INVOKE_… variables are looked at (variables.py). Raises SettingsError that
    names each wrong key or variable, what was expected and what was found.
    """
    file = {key: _plain(value) for key, value in config.items() if key not in INVOKES_OWN}
    given = read_variables(_Written, environment)
    try:
        written = _Written.model_validate(_overlaid(file, given))
    except ValidationError as error:
        lines = list(dict.fromkeys(_wrong(dict(each), given) for each in error.errors()))
        place = "The environment" if all(PREFIX in line for line in lines) else root / "invoke.yaml"
        raise SettingsError(
            "\n".join([f"{place} has settings that don't fit:", *lines]),
            "Correct them; docs/settings.md lists every setting.",
        ) from error
    return Settings(root=root, **{name: getattr(written, name) for name in _Written.model_fields})


_EXPECTED = {
    dict: "a map of texts; numbers, yes, no, true and false need quotes",
    tuple: "a list of texts and numbers; yes, no, true and false need quotes",
}


def _overlaid(file: dict[str, Any], given: Mapping[Key, Any]) -> dict[str, Any]:
    """Return the file's settings with the given ones in their places; a broken section stays as it is."""
    for key, value in given.items():
        section: Any = file
        for name in key[:-1]:
            section = section.setdefault(name, {}) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section[key[-1]] = value
    return file


def _wrong(each: dict[str, Any], given: Mapping[Key, Any]) -> str:
    """Return one of pydantic's errors as a line: the variable or key, what was expected, what was found.

    What is in maps and lists isn't shown: it may be a secret of the script's.
    """
    place = tuple(map(str, each["loc"]))
    names = {key: (name, kind) for name, key, kind in variables_of(_Written)}
    setting = next((place[:end] for end in range(len(place), 0, -1) if place[:end] in names), place)
    name, kind = names.get(setting, ("", None))
    shown = name if setting in given else ".".join(place)
    if each["type"] == "extra_forbidden":
        return f"  {shown} is no setting{closest(shown, {'.'.join(key): None for key in names})}"
    if (expected := _EXPECTED.get(get_origin(kind))) and each["type"] != "value_error":
        return f"  {'.'.join(place[: len(setting) + 1])}: expected {expected}"
    is_shown = isinstance(each["input"], str | int | float) and get_origin(kind) not in _EXPECTED
    message = each["msg"].removeprefix("Value error, ")
    return f"  {shown}: {message}" + (f"; found {each['input']!r}" if is_shown else "")


def _plain(value: Any) -> Any:
    """Return a dict for Invoke's DataProxy, which quacks like one but isn't a Mapping."""
    return {key: _plain(value[key]) for key in value} if hasattr(value, "keys") else value
