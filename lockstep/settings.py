"""Settings: what invoke.yaml says, validated. A flag or an INVOKE_… variable has already won over it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lockstep.errors import SettingsError


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class JobSettings(_Section):
    """The training: a script of the folder `source`, its arguments and what it runs with."""

    source: str = "src"
    script: str = "train.py"
    arguments: tuple[str | int | float, ...] = ()
    environment_variables: dict[str, str] = Field(default_factory=dict)
    data: str = ""
    shm_size: str = "2g"
    processes: int = Field(default=1, ge=1)
    nodes: int = Field(default=1, ge=1)
    network: bool = False


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
    repository: str = ""
    data: Literal["download", "mount"] = "download"


class Settings(_Section):
    """All settings of a project; paths are relative to `root`, the folder of invoke.yaml."""

    root: Path
    image: str = "lockstep/pytorch-env"
    environment: Path = Path("environments/pytorch-env.yml")
    dockerfile: Path = Path("docker/Dockerfile")
    base: str = "debian:bookworm-slim"
    platform: str = "linux-64"
    virtual_packages: dict[str, str] = Field(default_factory=dict)
    exclude_newer: str = ""
    index_strategy: Literal["best-match", "first-index"] = "best-match"
    channel_mirrors: dict[str, str] = Field(default_factory=dict)
    job: JobSettings = JobSettings()
    azure: AzureSettings = AzureSettings()

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


def read_settings(root: Path, config: Mapping[str, Any]) -> Settings:
    """Validate what Invoke gathered from invoke.yaml and the environment.

    `config` is Invoke's configuration as a dict; its own sections are passed over. Raises
    SettingsError that names each wrong key.
    """
    own = {key: _plain(value) for key, value in config.items() if key not in _INVOKES_OWN}
    try:
        return Settings(root=root, **own)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise SettingsError(
            "\n".join([f"{root / 'invoke.yaml'} has settings that don't fit:", *lines]),
            "Mend them; docs/settings.md lists every setting.",
        ) from error


def _plain(value: Any) -> Any:
    """Return a dict for Invoke's DataProxy, which quacks like one but isn't a Mapping."""
    return {key: _plain(value[key]) for key in value} if hasattr(value, "keys") else value


_INVOKES_OWN = frozenset(
    {"tasks", "run", "runners", "sudo", "timeouts", "debug", "project", "user", "system"}
)
