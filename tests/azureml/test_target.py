"""Which workspace is used: flag, settings, config.json upward, else the embedded one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lockstep.azureml import Target, find_target
from lockstep.errors import SettingsError
from lockstep.settings import AzureSettings

NOTHING = AzureSettings()


def config(folder: Path, name: str = "ws", file: str = "config.json") -> Path:
    """Write a workspace's config.json into a folder, as the studio's download has it."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"subscription_id": "sub", "resource_group": "group", "workspace_name": name}
    (folder / file).write_text(json.dumps(told))
    return folder / file


def test_nothing_means_the_embedded_one(tmp_path: Path) -> None:
    """Without a flag, settings or a config.json there is no target."""
    assert find_target(tmp_path, NOTHING) is None


def test_config_is_found_upward(tmp_path: Path) -> None:
    """.azureml/config.json of a parent folder counts, as it does for the SDK."""
    path = config(tmp_path / ".azureml")
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert find_target(deep, NOTHING) == Target("ws", "sub", "group", str(path))


def test_plain_config_of_another_program_is_passed_over(tmp_path: Path) -> None:
    """A config.json outside .azureml counts only if it is a workspace's."""
    (tmp_path / "config.json").write_text('{"compilerOptions": {}}')
    assert find_target(tmp_path, NOTHING) is None
    config(tmp_path)
    found = find_target(tmp_path, NOTHING)
    assert found
    assert found.name == "ws"


def test_flag_wins(tmp_path: Path) -> None:
    """`embedded`, SUBSCRIPTION/GROUP/NAME and a file each win over what is found."""
    config(tmp_path / ".azureml")
    other = config(tmp_path / "elsewhere", "other", "mine.json")
    assert find_target(tmp_path, NOTHING, "embedded") is None
    assert find_target(tmp_path, NOTHING, "s/g/n") == Target("n", "s", "g", "--workspace")
    found = find_target(tmp_path, NOTHING, str(other))
    assert found
    assert found.name == "other"


def test_name_takes_the_group_of_the_config(tmp_path: Path) -> None:
    """A name alone is a workspace beside the configured one."""
    config(tmp_path / ".azureml")
    assert find_target(tmp_path, NOTHING, "beside") == Target("beside", "sub", "group", "--workspace")


def test_settings_win_over_config(tmp_path: Path) -> None:
    """invoke.yaml's workspace is used even where a config.json lies about."""
    config(tmp_path / ".azureml")
    settings = AzureSettings(workspace="w", subscription="s", resource_group="g")
    assert find_target(tmp_path, settings) == Target("w", "s", "g", "invoke.yaml")


def test_name_alone_is_refused(tmp_path: Path) -> None:
    """A name without subscription and group says what is missing."""
    with pytest.raises(SettingsError, match=r"azure\.subscription"):
        find_target(tmp_path, NOTHING, "lonely")


@pytest.mark.parametrize("text", ["", "[]", '{"workspace_name": "x"}', '{"Scope": "/short"}', "\x00"])
def test_broken_config_is_said(tmp_path: Path, text: str) -> None:
    """A config.json that isn't one is named, with where to get a new one."""
    (tmp_path / ".azureml").mkdir()
    (tmp_path / ".azureml" / "config.json").write_text(text)
    with pytest.raises(SettingsError, match="Download config file"):
        find_target(tmp_path, NOTHING)
