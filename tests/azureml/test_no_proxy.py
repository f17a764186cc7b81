"""A proxy that refuses is set and NO_PROXY isn't: what is on this machine is asked without it, from end to end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lockstep.no_proxy import no_proxy
from lockstep.workspace import daemon
from tests.azureml.conftest import PREPARE, ROOT, SCRIPT
from tests.refusing_proxy import refusing_proxy

EVERY = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
VARIANTS = (("HTTP_PROXY", "HTTPS_PROXY"), ("http_proxy", "https_proxy"), ("ALL_PROXY",), ("all_proxy",))


@pytest.mark.parametrize(
    ("environment", "entries"),
    [
        ({}, "127.0.0.1,localhost,::1,10.1.2.3"),
        ({"NO_PROXY": "a.example"}, "a.example,127.0.0.1,localhost,::1,10.1.2.3"),
        ({"no_proxy": "a.example, b.example"}, "a.example,b.example,127.0.0.1,localhost,::1,10.1.2.3"),
        ({"NO_PROXY": "a", "no_proxy": "b,localhost"}, "a,b,localhost,127.0.0.1,::1,10.1.2.3"),
        ({"no_proxy": "*"}, "*"),
        ({"NO_PROXY": "a,*"}, "*"),
    ],
)
def test_what_was_said_is_kept(environment: dict[str, str], entries: str) -> None:
    """Both variables say the same: what either said, this machine, and the host that is added."""
    assert no_proxy(environment, "10.1.2.3") == {"NO_PROXY": entries, "no_proxy": entries}


@pytest.mark.engine
@pytest.mark.parametrize("variables", VARIANTS, ids="+".join)
def test_a_submission_asks_no_proxy(
    variables: tuple[str, ...], python_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Server's start, SDK, snapshot, run, log, metrics and files: the proxy hears of none of them."""
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / "src" / "train.py").write_text(SCRIPT)
    (root / "data" / "d" / "train" / "class").mkdir(parents=True)
    (root / "data" / "d" / "train" / "class" / "one.png").write_bytes(b"one")
    for name in (*EVERY, *(name.lower() for name in EVERY)):
        monkeypatch.delenv(name, raising=False)
    code = (
        f"checkout, image = {str(root)!r}, {python_image!r}\n{PREPARE}"
        "out = submitted(job_of('--epochs', '1'))\n"
        "files = remote_runs.download(project, out.record.id)\n"
        "print([out.record.status, len(files) > 0, lines[-1]])\n"
    )
    with refusing_proxy() as proxy:
        environment = {**os.environ, **dict.fromkeys(variables, proxy.url), "HOME": str(tmp_path / "user")}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env={**environment, "PYTHONPATH": str(ROOT)}, cwd=root, capture_output=True, text=True, check=False,
        )  # fmt: skip
        running = daemon.find(root / ".lockstep" / "workspace")
        if running:
            running.stop()
    assert done.stdout.splitlines()[-1:] == ["['completed', True, 'Finished Training']"], done.stderr[-3000:]
    assert proxy.for_loopback() == []


def test_a_look_for_the_server_asks_no_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thing that every command does: is it there, is asked directly."""
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with refusing_proxy() as proxy:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        running = daemon.start(tmp_path / "workspace")
        running.stop()
        assert running.environment()["no_proxy"] == "127.0.0.1,localhost,::1"
    assert proxy.asked == []
