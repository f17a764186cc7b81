"""The SDK's discovery file: what it writes, only this user reads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lockstep.azureml.discovery import keep_discovery_private


@pytest.mark.parametrize("before", ["nothing", "a file for all", "a link"])
def test_only_this_user_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    """The file is private before and after the SDK's own code has written to it, under any umask."""
    from azureml._base_sdk_common.service_discovery import CachedServiceDiscovery, ServiceDiscovery

    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".azureml" / ".discovery"
    if before == "a file for all":
        path.parent.mkdir()
        path.write_text("{}")
        path.chmod(0o644)
    if before == "a link":
        path.parent.mkdir()
        (tmp_path / "elsewhere").write_text("theirs")
        (tmp_path / "elsewhere").chmod(0o644)
        path.symlink_to(tmp_path / "elsewhere")
    found = {"experimentation": "https://127.0.0.1:1/x"}
    monkeypatch.setattr(ServiceDiscovery, "discover_services_uris_from_arm_scope", lambda *_: found)
    umask = os.umask(0)
    try:
        keep_discovery_private()
        if before == "a link":
            assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o644
            return
        asking = CachedServiceDiscovery(None, file_path=str(path))
        asking.get_cached_services_uris(
            "scope", "experimentation", discovery_url="https://127.0.0.1/discovery/secret"
        )
    finally:
        os.umask(umask)
    assert "secret" in str(json.loads(path.read_text()))
    assert path.stat().st_mode & 0o777 == 0o600
