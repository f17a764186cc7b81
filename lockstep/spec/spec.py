"""Spec: what a person wrote, normalised, as an immutable value.

Read from a conda `environment.yml`, from what `conda env export` writes, or from a pip requirements
file. Two files that mean the same give equal Specs: order, comments and spelling don't count.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from lockstep.environment_variable import variable_trouble
from lockstep.errors import SpecError
from lockstep.redaction import USERINFO
from lockstep.spec.match_spec import normalise
from lockstep.spec.requirements import Requirements, read_line, read_requirements
from lockstep.spec.yaml_source import YamlNode, read_yaml

DEFAULT_PYTHON = "python=3.11"
"""What a requirements file is installed with, as it can't say: the Python of Debian 12."""

DEFAULT_VIRTUAL_PACKAGES = {"__cuda": "13.0", "__glibc": "2.36", "__linux": "6.1", "__unix": "0"}
"""What the image may count on when nothing is set: a GPU driver of today, and Debian 12's C library."""

PLATFORMS = ("linux-64", "linux-aarch64")

BEST_MATCH = "best-match"
"""The index strategy that pip has: of all indexes' versions the highest wins. The other is `first-index`."""

VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))", re.ASCII)
"""A variable of the environment in a channel, `$NAME` or `${NAME}`."""

_KEYS = ("name", "channels", "dependencies", "variables", "prefix")


@dataclass(frozen=True)
class PipOptions:
    """Options of a `pip:` section or a requirements file; `find_links` folders are relative to the spec."""

    index_url: str | None = field(default=None, repr=False)
    extra_index_urls: tuple[str, ...] = field(default=(), repr=False)
    find_links: tuple[str, ...] = field(default=(), repr=False)
    constraints: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    no_index: bool = False
    prerelease: bool = False


@dataclass(frozen=True)
class Spec:
    """A normalised spec. `conda` are MatchSpecs and `pip` requirement lines, both sorted.

    `channels` are in order of priority. `name` labels the environment; `sources` are the files it was
    read from, relative to `folder`. These three aren't part of the identity. `index_strategy` is
    `best-match` or `first-index`.
    """

    name: str = field(compare=False)
    channels: tuple[str, ...]
    conda: tuple[str, ...]
    pip: tuple[str, ...]
    pip_options: PipOptions
    variables: tuple[tuple[str, str], ...]
    dockerfile: str
    base: str
    platform: str
    virtual_packages: tuple[tuple[str, str], ...]
    exclude_newer: str | None = None
    index_strategy: str = BEST_MATCH
    sources: tuple[str, ...] = field(default=(), compare=False)
    folder: Path = field(default=Path(), compare=False)

    @cached_property
    def hash(self) -> str:
        """The identity: hex sha256 of the normalised content, without credentials in the URLs of pip's options."""
        content = asdict(self)
        for key in ("name", "sources", "folder"):
            del content[key]
        if self.index_strategy == BEST_MATCH:
            del content["index_strategy"]  # as before there was a choice, so that older locks stay fresh
        options = json.dumps(content.pop("pip_options"), sort_keys=True)
        content["pip_options"] = json.loads(USERINFO.sub("", options))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_spec(
    path: Path,
    *,
    dockerfile: Path,
    base: str,
    platform: str = "linux-64",
    virtual_packages: Mapping[str, str] | None = None,
    exclude_newer: str | None = None,
) -> Spec:
    """Read a conda file (`.yml`, `.yaml`) or a requirements file (any other ending).

    `exclude_newer` is a day, which counts as a whole, or a moment (RFC 3339; UTC if it doesn't say).
    `virtual_packages` are put over the defaults; an empty version takes one away (`{"__cuda": ""}`
    locks for machines without a GPU). Raises SpecError with line and column.
    """
    reader = _read_conda_file if path.suffix in (".yml", ".yaml") else _read_requirements_file
    name, channels, conda, variables, pip = reader(path)
    if platform not in PLATFORMS:
        raise SpecError(f"No image can be made for {platform!r}.", f"Use {' or '.join(PLATFORMS)}.")
    if not conda:
        raise SpecError(f"{path} has no Python in it.", "Add `- python=3.11` to its dependencies.")
    virtual = {
        "__archspec": f"1={'aarch64' if platform == 'linux-aarch64' else 'x86_64'}",
        **DEFAULT_VIRTUAL_PACKAGES,
        **{key: str(value) for key, value in (virtual_packages or {}).items()},
    }
    _check_virtual(virtual)
    return Spec(
        name=name,
        channels=channels,
        conda=tuple(sorted(set(conda))),
        pip=tuple(sorted(set(pip.lines))),
        pip_options=PipOptions(
            index_url=pip.index_url,
            extra_index_urls=tuple(pip.extra_index_urls),
            find_links=tuple(pip.find_links),
            constraints=tuple(sorted(set(pip.constraints))),
            trusted_hosts=tuple(sorted(set(pip.trusted_hosts))),
            no_index=pip.no_index,
            prerelease=pip.prerelease,
        ),
        variables=tuple(sorted(variables.items())),
        dockerfile=_read_dockerfile(dockerfile),
        base=base,
        platform=platform,
        virtual_packages=tuple(sorted((key, value) for key, value in virtual.items() if value)),
        exclude_newer=_moment(exclude_newer) if exclude_newer else None,
        sources=tuple(sorted({_relative(file, path.parent) for file in (path, *pip.files)})),
        folder=path.parent,
    )


def _check_virtual(packages: Mapping[str, str]) -> None:
    """Refuse names that no package can depend on, and a C library that no wheel's tag can name (PEP 600)."""
    for name, value in packages.items():
        version = value.partition("=")[0].strip()
        if not re.fullmatch(r"__[a-z0-9][a-z0-9._-]*", name):
            raise SpecError(
                f"virtual_packages in invoke.yaml names {name!r}, which isn't a virtual package.",
                f"Their names begin with two underscores: `__{name.lstrip('_').lower()}`.",
            )
        if value and not re.fullmatch(r"\d[\w.]*", version):
            raise SpecError(
                f"virtual_packages in invoke.yaml: {name} is {value!r}, which isn't a version.",
                f'Write it in quotes, such as `{name}: "12.4"`; an empty one takes {name} away.',
            )
        if value and name == "__glibc" and not re.fullmatch(r"2\.\d{1,3}(\.\d+)?", version):
            raise SpecError(
                f"virtual_packages in invoke.yaml: __glibc is {value!r}; wheels are published for 2.<number>.",
                'Write both numbers in quotes, such as `__glibc: "2.36"` (Debian 12).',
            )


_Read = tuple[str, tuple[str, ...], list[str], dict[str, str], Requirements]


def _read_requirements_file(path: Path) -> _Read:
    pip = Requirements()
    read_requirements(path, pip, root=path.parent)
    return path.stem, (), [DEFAULT_PYTHON, "pip"], {}, pip


def _read_conda_file(path: Path) -> _Read:
    document = read_yaml(path)
    keys = document.mapping("The file")
    for key, node in keys.items():
        if key not in _KEYS:
            raise node.error(f"the key `{key}` isn't known", f"Known are {', '.join(_KEYS)}.")
    name = keys["name"].text("name") if "name" in keys else path.stem
    channels = (
        [_channel(node) for node in keys["channels"].sequence("channels")] if "channels" in keys else []
    )
    variables = keys["variables"].mapping("variables") if "variables" in keys else {}
    conda: list[str] = []
    pip = Requirements()
    for node in keys["dependencies"].sequence("dependencies") if "dependencies" in keys else []:
        if node.is_mapping:
            _read_pip_section(node, pip, path)
        else:
            conda.append(_match_spec(node))
    return (
        name,
        tuple(dict.fromkeys(channel for channel in channels if channel != "nodefaults")),
        conda,
        {key: _variable(key, node) for key, node in variables.items()},
        pip,
    )


def _variable(name: str, node: YamlNode) -> str:
    value = node.text(f"variables: {name}")
    if trouble := variable_trouble(name, value):
        raise node.error(f"variables: {trouble[0].removesuffix('.')}", trouble[1])
    return value


def _channel(node: YamlNode) -> str:
    """Return a channel as it is written. In a secret's place only a variable may stand, `${TOKEN}`."""
    channel = node.text("a channel").rstrip("/")
    userinfo = re.search(r"://([^/@\s]+)@", channel)
    login = userinfo[1].partition(":") if userinfo else ("", "", "")
    token = re.search(r"/t/([^/]+)(/|$)", channel)
    secrets = [login[2] if login[1] else login[0], token[1] if token else ""]
    if any(secret and not VARIABLE.fullmatch(secret) for secret in secrets):
        raise node.error(
            "a channel's URL holds credentials",
            "Keep them in .condarc or ~/.netrc, or write a variable in their place: ${TOKEN}.",
        )
    return channel


def _read_pip_section(node: YamlNode, pip: Requirements, path: Path) -> None:
    for key, lines in node.mapping("a dependency").items():
        if key != "pip":
            raise lines.error(f"the section `{key}:` isn't known", "Only `pip:` can be a section.")
        for line in lines.sequence("pip"):
            text = line.text("a requirement")
            read_line(text, pip, where=line.where, folder=path.parent, root=path.parent)


def _match_spec(node: YamlNode) -> str:
    text = node.text("a dependency")
    try:
        return normalise(text)
    except ValueError as error:
        raise node.error(
            f"{text!r} isn't a package: {error}", "Write it as `name=1.2` or `name>=1,<2`."
        ) from error


def _read_dockerfile(path: Path) -> str:
    """Return the Dockerfile without comments and blank lines, unless a here-document may need them."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"The Dockerfile {path} can't be read: {error}.", "Check `dockerfile` in invoke.yaml."
        ) from error
    if "<<" in text:
        return text
    lines = (line.rstrip() for line in text.splitlines())
    directive = re.compile(r"#\s*(syntax|escape|check)\s*=", re.IGNORECASE)
    kept = [line for line in lines if line and (not line.lstrip().startswith("#") or directive.match(line))]
    return "".join(f"{line}\n" for line in kept)


def _moment(text: str) -> str:
    """Return a day or moment as RFC 3339 in UTC, so that it means the same on every machine."""
    try:
        found = datetime.datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text.strip()))
    except ValueError as error:
        raise SpecError(
            f"exclude_newer is {text!r}, which isn't a day.", "Write it as 2026-10-31 in invoke.yaml."
        ) from error
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text.strip()):
        found += datetime.timedelta(days=1)
    if found.tzinfo is None:
        found = found.replace(tzinfo=datetime.timezone.utc)
    return found.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _relative(file: Path, folder: Path) -> str:
    return Path(os.path.relpath(file, folder)).as_posix()
