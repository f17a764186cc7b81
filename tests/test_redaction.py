"""Secrets: whatever spelling they take, none is in an error, in what a task prints, or in a traceback."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from lockstep import redaction
from lockstep.errors import SettingsError
from lockstep.redaction import redact, remember, remember_url
from tests.conftest import Checkout

SECRET = "p/a:s@s wörd+%2f'\"\\"


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins without secrets, and leaves none for the others."""
    monkeypatch.setattr(redaction, "_known", set())
    monkeypatch.setattr(redaction, "_pattern", None)


SPELLINGS = {
    "as it is": SECRET,
    "percent-encoded": quote(SECRET, safe=""),
    "in small letters": quote(SECRET, safe="").replace("%2F", "%2f").replace("%3A", "%3a"),
    "in JSON": json.dumps(SECRET)[1:-1],
    "in a repr": repr(SECRET)[1:-1],
    "for HTTP": base64.b64encode(f"me:{SECRET}".encode()).decode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_known_secret_shows_in_no_spelling(spelling: str) -> None:
    """However a library spells a password in its own error, ours doesn't show it."""
    remember(SECRET, "me")
    text = SPELLINGS[spelling]
    assert text not in redact(f"before {text} after")
    error = SettingsError(f"before {text}", f"remedy {text}")
    assert text not in f"{error} {error!r} {error.args}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@h.example/simple", "https://h.example/simple"),
        ("https://me:se/cr#et@h.example/simple", "https://h.example/simple"),
        ("see me:secret@h.example/simple and", "see h.example/simple and"),
        ("me:secret@localhost:8080/x", "localhost:8080/x"),
        ("https://h.example/t/tk-123/stable/noarch", "https://h.example/t/****/stable/noarch"),
        ("https://token@h.example/", "https://h.example/"),
        ("git+https://h.example/org/repo@v1", "git+https://h.example/org/repo@v1"),
        ("http://127.0.0.1:8080/a@b", "http://127.0.0.1:8080/a@b"),
        ("h.example/team/env:v1@sha256:00", "h.example/team/env:v1@sha256:00"),
        ("/home/t/project/file and me@h.example", "/home/t/project/file and me@h.example"),
    ],
)
def test_urls_lose_their_userinfo_without_anybody_knowing_it(text: str, shown: str) -> None:
    """User, password and token go from any URL, one without a scheme too; what only looks like it stays."""
    assert redact(text) == shown


def test_a_url_is_remembered_in_its_parts() -> None:
    """A password that was read from a URL is known decoded as well; a short one is known with its user only."""
    remember_url("http://me:pass%2Fword@proxy.example:3128")
    assert redact("got pass/word, pass%2fword") == "got ****, ****"
    remember_url("me:tiny@h.example/simple")
    assert redact("tiny words stay") == "tiny words stay"
    assert redact(base64.b64encode(b"me:tiny").decode()) == "****"


@pytest.mark.parametrize(
    "settings",
    [
        {"UV_INDEX_CORP_USERNAME": "me", "UV_INDEX_CORP_PASSWORD": "hush/h:ush@x"},
        {"PIP_INDEX_URL": "me:hush/h:ush@127.0.0.1:9/simple"},
        {"PIP_INDEX_URL": "http://me:hush/h:ush@127.0.0.1:9/simple"},
        {"HTTP_PROXY": "http://me:hush/h:ush@127.0.0.1:9"},
        {"CONDA_CHANNEL_ALIAS": "http://me:hush/h:ush@127.0.0.1:9"},
    ],
    ids=["UV_INDEX_CORP_PASSWORD", "without a scheme", "pip", "proxy", "conda"],
)
def test_a_task_shows_no_part_of_a_password(
    checkout: Checkout, tmp_path: Path, settings: dict[str, str]
) -> None:
    """Special characters that were not encoded end in words or not at all, never in a traceback with a part."""
    spec = checkout.root / "environments" / "pytorch-env.yml"
    spec.write_text(spec.read_text().replace("conda-forge", "http://127.0.0.1:9/none"))
    if "UV_INDEX_CORP_PASSWORD" in settings:
        settings = {**settings, "UV_DEFAULT_INDEX": "corp=http://127.0.0.1:9/simple"}
    done = checkout.invoke(
        "doctor",
        "--json",
        environment={
            **settings,
            "HOME": str(tmp_path),
            "LOCKSTEP_HOME": str(tmp_path / "home"),
            "LOCKSTEP_NO_INSTALL": "1",
            "PIP_CONFIG_FILE": os.devnull,
            "INVOKE_BASE": "127.0.0.1:9/base",
            "PATH": "/nothing",
        },
    )
    shown = done.stdout + done.stderr
    assert "hush" not in shown
    assert "h:ush" not in shown
    assert "Traceback" not in shown, shown


def test_a_traceback_shows_no_secret(tmp_path: Path) -> None:
    """What nobody foresaw ends in Python's own words, and they pass the same place."""
    code = (
        "from lockstep.redaction import guard_output, remember\n"
        "guard_output(); remember('geheimnis', 'me')\n"
        "print('geheimnis'); raise ValueError('https://x: geheimnis')\n"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert "geheimnis" not in (done.stdout + done.stderr).replace("remember('geheimnis'", "")
    assert "ValueError: https://x: ****" in done.stderr
