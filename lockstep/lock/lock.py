"""Lock: exactly which bytes make an image, and the file that holds it.

The file is conda-lock's unified format, version 1, which conda-lock and micromamba install from. Its
models forbid unknown keys, so what they have no field for is in `metadata.custom_metadata`, one
string a key, under `lockstep.`: sizes, the base image, virtual packages, variables, the bootstrap.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lockstep.errors import LockError
from lockstep.lock.locked import Bootstrap, LockedBase, LockedDeb, LockedPackage

_FORMAT = "1"
_HEADER = """\
# Written by Lockstep; `./invoke lock` makes it anew. The format is conda-lock's: `conda-lock install`
# and micromamba read it. Edits by hand are refused.
"""
_WRITTEN_DIFFERENTLY = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\U00010000-\U0010ffff]")
"""What PyYAML's two emitters, with libyaml and without, write alike only when it is escaped."""

_VARIABLE = re.compile(r"\$\{?(\w+)", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOCK_AGAIN = "Run `./invoke lock` to make it anew, or take the committed file back with git."


@dataclass(frozen=True)
class Lock:
    """Everything that an image is made from. Packages are sorted by name, then by manager.

    `spec_hash` is `Spec.hash` of the spec that was solved; `sources` are its files, relative to the
    lock's folder; `source_revision` is the last git commit that touched them; nothing published after
    `exclude_newer` was looked at.
    """

    spec_hash: str
    base: LockedBase
    packages: tuple[LockedPackage, ...]
    platform: str = "linux-64"
    channels: tuple[str, ...] = ()
    virtual_packages: tuple[tuple[str, str], ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    exclude_newer: str | None = None
    source_revision: str | None = None
    bootstrap: Bootstrap | None = None
    sources: tuple[str, ...] = ()

    @cached_property
    def hash(self) -> str:
        """The identity: hex sha256 of the file that `dump_lock` makes."""
        return hashlib.sha256(dump_lock(self)).hexdigest()


@dataclass(frozen=True)
class Change:
    """One difference between two locks. `before` is None for what is new, `after` is None for what went."""

    what: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.what} {self.after}"
        if self.after is None:
            return f"- {self.what} {self.before}"
        return f"~ {self.what} {self.before} -> {self.after}"


def compare_locks(old: Lock | None, new: Lock) -> tuple[Change, ...]:
    """Return what differs, packages last and by name; `old` is None where there was no lock."""
    before = _facts(old) if old else {}
    after = _facts(new)
    keys = [*after, *(key for key in before if key not in after)]
    return tuple(
        Change(key, before.get(key), after.get(key))
        for key in sorted(keys, key=lambda key: ("/" in key, key))
        if before.get(key) != after.get(key)
    )


def _facts(lock: Lock) -> dict[str, str]:
    facts = {
        "base image": f"{lock.base.reference} {lock.base.digest[:19]} ({lock.base.origin})",
        "platform": lock.platform,
        "channels": ", ".join(lock.channels),
        **{f"virtual package {name}": version for name, version in lock.virtual_packages},
        **{f"variable {name}": value for name, value in lock.variables},
    }
    if lock.exclude_newer:
        facts["exclude-newer"] = lock.exclude_newer
    for package in lock.packages:
        build = f" {package.build}" if package.build else ""
        facts[package.key] = f"{package.version}{build} (sha256 {package.sha256[:8]})"
    return facts


def dump_lock(lock: Lock) -> bytes:
    """Return the file's bytes, the same for equal values on every machine, with libyaml and without.

    Raises LockError rather than write a secret.
    """
    import yaml

    for package in lock.packages:
        _refuse_secrets(package)
    custom = dict(_custom_metadata(lock))
    metadata: dict[str, Any] = {
        "content_hash": {lock.platform: lock.spec_hash},
        "channels": [
            {"url": channel, "used_env_vars": _VARIABLE.findall(channel)} for channel in lock.channels
        ],
        "platforms": [lock.platform],
        "sources": list(lock.sources),
    }
    if lock.source_revision:
        metadata["git_metadata"] = {"git_sha": lock.source_revision}
    document = {
        "version": 1,
        "metadata": {**metadata, "custom_metadata": custom},
        "package": [_package_entry(package, lock.platform) for package in lock.packages],
    }
    custom["lockstep.content"] = _content_hash(document)
    text: str = yaml.dump(
        document,
        Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper),
        sort_keys=False,
        allow_unicode=not _WRITTEN_DIFFERENTLY.search(json.dumps(document, ensure_ascii=False)),
        width=1_000_000,
        default_flow_style=False,
    )
    return (_HEADER + text).encode()


def write_lock(lock: Lock, path: Path) -> None:
    """Write the file in one step: readers, and the next run after a kill, see the old lock or the new."""
    content = dump_lock(lock)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_lock(path: Path) -> Lock:
    """Read a lock. Raises LockError for one that is missing, not a lock of Lockstep's, or edited by hand."""
    import yaml

    try:
        document = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except FileNotFoundError as error:
        raise LockError(f"There is no lock at {path}.", "Run `./invoke lock` to make it.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(f"The lock {path} can't be read: {error}.", _LOCK_AGAIN) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise LockError(f"The lock {path} isn't YAML{where}.", _LOCK_AGAIN) from error
    try:
        custom = document["metadata"]["custom_metadata"]
        if (found := custom["lockstep.format"]) != _FORMAT:
            raise LockError(
                f"The lock {path} has format {found}; this Lockstep reads {_FORMAT}.", _LOCK_AGAIN
            )
        written = custom.pop("lockstep.content")
        if written != _content_hash(document):
            raise LockError(f"The lock {path} was edited by hand: its content hash doesn't fit.", _LOCK_AGAIN)
        lock = _parse(document, custom)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise LockError(
            f"The file {path} isn't a lock that Lockstep wrote ({error!r}).", _LOCK_AGAIN
        ) from error
    for package in lock.packages:
        _refuse_secrets(package)
    return lock


def _content_hash(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _refuse_secrets(package: LockedPackage) -> None:
    parts = urlsplit(package.url)
    if "@" in parts.netloc or parts.query:
        raise LockError(
            f"The URL of {package.name} holds credentials, which a lock must never do.",
            "Keep them in pip.conf, .condarc or ~/.netrc, and run `./invoke lock`.",
        )


def _custom_metadata(lock: Lock) -> Iterator[tuple[str, str]]:
    yield "lockstep.format", _FORMAT
    yield "lockstep.base.reference", lock.base.reference
    yield "lockstep.base.digest", lock.base.digest
    yield "lockstep.base.origin", lock.base.origin
    if lock.exclude_newer:
        yield "lockstep.exclude-newer", lock.exclude_newer
    for name, version in lock.virtual_packages:
        yield f"lockstep.virtual.{name}", version
    for name, value in lock.variables:
        yield f"lockstep.variable.{name}", value
    for package in lock.packages:
        yield f"lockstep.size.{package.key}", str(package.size)
    if lock.bootstrap:
        yield "lockstep.bootstrap.epoch", str(lock.bootstrap.epoch)
        for number, source in enumerate(lock.bootstrap.sources, start=1):
            yield f"lockstep.bootstrap.source.{number}", source
        for group, debs in (("base", lock.bootstrap.base_debs), ("channel", lock.bootstrap.channel_debs)):
            for deb in debs:
                value = f"{deb.version} {deb.path} {deb.sha256} {deb.size}"
                yield f"lockstep.bootstrap.{group}.{deb.name}", value


def _package_entry(package: LockedPackage, platform: str) -> dict[str, Any]:
    md5 = {"md5": package.md5} if package.md5 else {}
    build = {"build": package.build} if package.build else {}
    return {
        "name": package.name,
        "version": package.version,
        "manager": package.manager,
        "platform": platform,
        "dependencies": dict(package.dependencies),
        "url": package.url,
        "hash": {**md5, "sha256": package.sha256},
        **build,
        "category": "main",
        "optional": False,
    }


def _parse(document: dict[str, Any], custom: dict[str, str]) -> Lock:
    metadata = document["metadata"]
    (platform,) = metadata["platforms"]
    packages = tuple(_parse_package(entry, custom) for entry in document["package"])
    if len({package.key for package in packages}) != len(packages):
        raise ValueError("a package is there twice")
    return Lock(
        spec_hash=metadata["content_hash"][platform],
        base=LockedBase(
            custom["lockstep.base.reference"],
            custom["lockstep.base.digest"],
            "bootstrap" if custom["lockstep.base.origin"] == "bootstrap" else "registry",
        ),
        packages=packages,
        platform=platform,
        channels=tuple(channel["url"] for channel in metadata["channels"]),
        virtual_packages=tuple(_group(custom, "virtual")),
        variables=tuple(_group(custom, "variable")),
        exclude_newer=custom.get("lockstep.exclude-newer"),
        source_revision=metadata.get("git_metadata", {}).get("git_sha"),
        bootstrap=_parse_bootstrap(custom),
        sources=tuple(metadata["sources"]),
    )


def _parse_package(entry: dict[str, Any], custom: dict[str, str]) -> LockedPackage:
    package = LockedPackage(
        name=entry["name"],
        version=entry["version"],
        manager=entry["manager"],
        url=entry["url"],
        sha256=entry["hash"]["sha256"],
        size=int(custom[f"lockstep.size.{entry['manager']}/{entry['name']}"]),
        md5=entry["hash"].get("md5"),
        build=entry.get("build"),
        dependencies=tuple(entry["dependencies"].items()),
    )
    if not _SHA256.fullmatch(package.sha256) or package.manager not in ("conda", "pip"):
        raise ValueError(f"the entry of {package.name}")
    return package


def _parse_bootstrap(custom: dict[str, str]) -> Bootstrap | None:
    if "lockstep.bootstrap.epoch" not in custom:
        return None
    return Bootstrap(
        sources=tuple(value for _, value in _group(custom, "bootstrap.source")),
        epoch=int(custom["lockstep.bootstrap.epoch"]),
        base_debs=_parse_debs(_group(custom, "bootstrap.base")),
        channel_debs=_parse_debs(_group(custom, "bootstrap.channel")),
    )


def _parse_debs(values: Iterable[tuple[str, str]]) -> tuple[LockedDeb, ...]:
    debs = []
    for name, value in values:
        version, path, sha256, size = value.split(" ")
        debs.append(LockedDeb(name, version, path, sha256, int(size)))
    return tuple(debs)


def _group(custom: dict[str, str], group: str) -> Iterator[tuple[str, str]]:
    prefix = f"lockstep.{group}."
    return ((key.removeprefix(prefix), value) for key, value in custom.items() if key.startswith(prefix))
