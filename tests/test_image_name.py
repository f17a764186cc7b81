"""Names of images: one reading, wherever one comes from, also where the registry has a port."""

from __future__ import annotations

from pathlib import Path

import pytest

from lockstep.azureml import environment_name
from lockstep.errors import SettingsError
from lockstep.image_name import ImageName, parse_image_name, parse_repository
from lockstep.settings import read_settings

DIGEST = "sha256:" + "a" * 64
NAMES = [
    ("debian", ImageName("", "debian")),
    ("debian:12-slim", ImageName("", "debian", "12-slim")),
    ("team/env", ImageName("", "team/env")),
    ("localhost/env", ImageName("localhost", "env")),
    ("localhost:5000/team/env", ImageName("localhost:5000", "team/env")),
    ("localhost:5000/team/env:v1", ImageName("localhost:5000", "team/env", "v1")),
    ("[::1]:5000/env", ImageName("[::1]:5000", "env")),
    (f"r.example:5000/a/b:x@{DIGEST}", ImageName("r.example:5000", "a/b", "x", DIGEST)),
]


@pytest.mark.parametrize(("text", "name"), NAMES)
def test_a_port_is_no_tag(text: str, name: ImageName) -> None:
    """Host, repository, tag and digest are distinguished by docker's rule."""
    assert parse_image_name(text) == name


@pytest.mark.parametrize(
    "text", ["", "Debian", "a b", "x:", "x:y:z", "x@", "x@sha256:1", "../x", "r.example/:tag", "-x", "h:x/y"]
)
def test_what_is_no_name_is_refused_wherever_it_is_written(text: str, tmp_path: Path) -> None:
    """Before anything is built or sent."""
    with pytest.raises(SettingsError, match="isn't an image's name"):
        parse_image_name(text)
    for key in ("image", "base"):
        with pytest.raises(SettingsError, match=rf"{key}: .*isn't an image's name"):
            read_settings(tmp_path, {key: text})
    if text:  # an empty one is the workspace's own registry
        with pytest.raises(SettingsError, match=r"azure\.repository: .*isn't an image's name"):
            read_settings(tmp_path, {"azure": {"repository": text}})


def test_what_an_image_is_called_has_no_tag_of_its_own_and_no_digest(tmp_path: Path) -> None:
    """Its tag is `latest`, its digest what comes out."""
    with pytest.raises(SettingsError, match="has a tag"):
        read_settings(tmp_path, {"image": "localhost:5000/team/env:v1"})
    for settings in ({"image": f"team/env@{DIGEST}"}, {"azure": {"repository": f"r.example/env@{DIGEST}"}}):
        with pytest.raises(SettingsError, match="by digest"):
            read_settings(tmp_path, settings)
    with pytest.raises(SettingsError, match=r"Write 'r\.example:5000/env'"):
        parse_repository(f"r.example:5000/env@{DIGEST}")


def test_an_image_with_a_registry_keeps_its_name_in_the_engine_and_the_workspace(tmp_path: Path) -> None:
    """The environment is named after the repository, not after the machine."""
    settings = read_settings(tmp_path, {"image": "localhost:5000/team/env"})
    assert parse_image_name(settings.reference) == ImageName("localhost:5000", "team/env", "latest")
    assert environment_name(settings.image) == "team-env"
    assert environment_name("lockstep/pytorch-env") == "lockstep-pytorch-env"
