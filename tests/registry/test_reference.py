"""Names of images mean what docker takes them to mean."""

from __future__ import annotations

import pytest
from docker.auth import INDEX_NAME

from lockstep.errors import SettingsError
from lockstep.registry.reference import parse_reference
from lockstep.servers import is_loopback

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("debian", f"{INDEX_NAME}/library/debian:latest"),
        ("debian:12-slim", f"{INDEX_NAME}/library/debian:12-slim"),
        ("team/env", f"{INDEX_NAME}/team/env:latest"),
        ("localhost/env", "localhost/env:latest"),
        ("127.0.0.1:5000/team/env:v1", "127.0.0.1:5000/team/env:v1"),
        ("registry.example/env", "registry.example/env:latest"),
        (f"registry.example/a/b/c:x@{DIGEST}", f"registry.example/a/b/c@{DIGEST}"),
    ],
)
def test_names(text: str, whole: str) -> None:
    """Registry, repository, tag and digest, with docker's defaults."""
    assert str(parse_reference(text)) == whole


@pytest.mark.parametrize("text", ["", "Debian", "a b", "x:y:z", "x@sha256:1", "../x", "r.example/:tag", "-x"])
def test_what_is_no_name(text: str) -> None:
    """What can't be a name is said, not sent."""
    with pytest.raises(SettingsError, match="isn't an image's name"):
        parse_reference(text)


def test_plain_http_is_for_loopback_only() -> None:
    """No other host is spoken to without TLS."""
    assert parse_reference("127.0.0.1:5000/x").url == "http://127.0.0.1:5000/v2/x"
    assert parse_reference("registry.example:5000/x").url.startswith("https://")
    assert [is_loopback(x) for x in ("localhost", "[::1]:5000", "127.9.9.9", "10.0.0.1", "a.b")] == [
        True,
        True,
        True,
        False,
        False,
    ]
