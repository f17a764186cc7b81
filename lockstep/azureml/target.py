"""Which workspace: a flag, then settings, then .azureml/config.json upward, else the embedded one."""

from __future__ import annotations

import json
from pathlib import Path

from lockstep.azureml.values import Target
from lockstep.errors import SettingsError
from lockstep.settings import AzureSettings

EMBEDDED = "embedded"
_CONFIG = ("config.json", "project.json")
_FOLDERS = (".azureml", "aml_config", "")
_CONFIG_REMEDY = "Download it again: studio, the workspace's name at the top right, Download config file."


def find_target(root: Path, settings: AzureSettings, flag: str = "") -> Target | None:
    """Return the workspace to use, or None for the embedded one.

    `flag` is `embedded`, a name in the settings' group, `SUBSCRIPTION/GROUP/NAME`, or the path
    of a config.json. Raises SettingsError for one that isn't complete.
    """
    if flag == EMBEDDED:
        return None
    if flag.endswith(".json"):
        return read_config(Path(flag))
    if flag.count("/") == 2:
        subscription, group, name = flag.split("/")
        return Target(name, subscription, group, "--workspace")
    configured = find_config(root)
    told = read_config(configured) if configured and not settings.subscription else None
    name = flag or settings.workspace
    if not name:
        return told
    if told and (flag or settings.workspace) == told.name:
        return told
    subscription = settings.subscription or (told.subscription if told else "")
    group = settings.resource_group or (told.resource_group if told else "")
    if not subscription or not group:
        raise SettingsError(
            f"The workspace {name!r} is named without its subscription and resource group.",
            "Set azure.subscription and azure.resource_group in invoke.yaml, or write "
            "--workspace SUBSCRIPTION/GROUP/NAME.",
        )
    return Target(name, subscription, group, "--workspace" if flag else "invoke.yaml")


def find_config(start: Path) -> Path | None:
    """Return the config.json that the SDK would find from `start`: upward, in .azureml first."""
    for folder in _FOLDERS:
        for name in _CONFIG:
            for parent in (start.resolve(), *start.resolve().parents):
                if (parent / folder / name).is_file() and _is_workspace(parent / folder / name):
                    return parent / folder / name
    return None


def read_config(path: Path) -> Target:
    """Read a workspace's config.json. Raises SettingsError if it isn't one."""
    try:
        told = json.loads(path.read_text(encoding="utf-8-sig"))
        if scope := told.get("Scope"):  # what the SDK of 2018 wrote, and still reads
            parts = scope.split("/")
            return Target(parts[8], parts[2], parts[4], str(path))
        return Target(told["workspace_name"], told["subscription_id"], told["resource_group"], str(path))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SettingsError(f"{path} isn't a workspace's config.json: {error!r}.", _CONFIG_REMEDY) from error


def _is_workspace(path: Path) -> bool:
    """Tell whether a config.json is meant for Azure ML: one beside other programs' files needn't be."""
    if path.parent.name in (".azureml", "aml_config"):
        return True
    try:
        told = json.loads(path.read_text(encoding="utf-8-sig"))
        return isinstance(told, dict) and ("subscription_id" in told or "Scope" in told)
    except (OSError, ValueError):
        return False
