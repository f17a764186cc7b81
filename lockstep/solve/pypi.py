"""The pip side: requirements become exact wheels, with uv's resolver. Nothing is built or installed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging import tags
from packaging.utils import parse_wheel_filename

from lockstep.errors import FetchError, SolveError
from lockstep.home import Home
from lockstep.lock.locked import LockedPackage
from lockstep.servers import Servers, hide
from lockstep.solve.behind import catch_up
from lockstep.solve.indexes import say_who_else
from lockstep.solve.links import unreadable
from lockstep.solve.measure import measure
from lockstep.solve.provided import write_stubs
from lockstep.solve.pylock import packages, preferences, releases
from lockstep.solve.target import best_wheel, supported_tags, uv_platform
from lockstep.spec import Spec

_LINES = 16
_HASH = re.compile(r" --hash=sha256:([0-9a-f]{64})")
_STRATEGIES = {"best-match": "unsafe-best-match", "first-index": "first-index"}
_OURS = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX")
"""Variables that `pip_settings` has read; uv gets the outcome."""


@dataclass(frozen=True)
class Wheels:
    """The wheels that were chosen, sorted by name, and what is to be said of the choice."""

    packages: tuple[LockedPackage, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Question:
    """What uv is asked: a spec for a Python (`3.11.2`), with the servers to ask and the pages left out."""

    spec: Spec
    python: str
    servers: Servers
    folder: Path
    unreadable: Mapping[str, str]


def solve_pypi(
    spec: Spec,
    python: str,
    provided: Mapping[str, str],
    *,
    servers: Servers,
    home: Home,
    keep: Sequence[LockedPackage] = (),
) -> Wheels:
    """Return the wheels that satisfy `spec.pip` for Python `python` (`3.11.2`).

    `provided` are conda's distributions; `keep` are wheels whose version stays if it can. Raises
    SolveError with uv's explanation, FetchError if an index can't be reached.
    """
    if not spec.pip:
        return Wheels()
    kept = {package.name: package.version for package in keep}
    with home.workspace("solve") as folder:
        folder.chmod(0o700)  # index URLs may hold passwords
        question = _Question(spec, python, servers, folder, unreadable(servers.pip.find_links, servers))
        write_stubs(dict(provided), folder / "conda")
        (folder / "requirements.in").write_text("\n".join(_HASH.sub("", line) for line in spec.pip) + "\n")
        pins = [f"{name}=={version}" for name, version in provided.items()]
        (folder / "constraints.txt").write_text("\n".join([*spec.pip_options.constraints, *pins]) + "\n")
        (folder / "kept.toml").write_text(preferences(keep))
        (folder / "pylock.toml").write_text(preferences(keep))
        _run_uv(question, "--format", "pylock.toml", "--output-file", "pylock.toml")
        names = {_name(line) for line in spec.pip if not re.search("==|@", line.partition(";")[0])}
        remarks = catch_up(partial(_ask, question), folder, names - set(provided), kept) if names else []
        entries = packages((folder / "pylock.toml").read_text())
        emitted = _annotated(question)
    supported, dependencies = supported_tags(spec, python), _dependencies(emitted)
    found = [
        _locked(entry, supported, dependencies, servers) for entry in entries if entry["name"] not in provided
    ]
    _check_hashes(spec, found)
    remarks += say_who_else({package.name: package.version for package in found}, emitted, servers)
    pages = [
        f"{hide(page)} can't be read ({why}): not looked for wheels there."
        for page, why in question.unreadable.items()
    ]
    return Wheels(tuple(sorted(found, key=lambda package: package.name)), (*pages, *map(hide, remarks)))


def index_trouble(servers: Servers, home: Home) -> str | None:
    """Return why the package index can't be used, None if it can: it is asked for pip's own page."""
    with home.workspace("index") as folder:
        (folder / "requirements.in").write_text("pip\n")
        options = ("--no-deps", "--no-cache", "--only-binary", ":all:", "--python", sys.executable)
        done = _compile(folder, {**_environment(servers, folder), "UV_HTTP_RETRIES": "0"}, *options)
    return None if done.returncode == 0 else _index_fails(done.stderr).message


def _run_uv(question: _Question, *more: str) -> str:
    done = _ask(question, *more)
    if done.returncode != 0:
        raise _no_solution(done.stderr, question)
    return done.stdout


def _ask(question: _Question, *more: str) -> subprocess.CompletedProcess[str]:
    spec, servers = question.spec, question.servers
    options = [
        *("--constraints", "constraints.txt", "--no-header"),
        *("--python", sys.executable, "--python-version", question.python),
        *("--python-platform", uv_platform(spec), "--only-binary", ":all:"),
        *("--index-strategy", _STRATEGIES[spec.index_strategy]),
        *(("--exclude-newer", spec.exclude_newer) if spec.exclude_newer else ()),
        *(("--prerelease", "allow") if spec.pip_options.prerelease else ()),
        *(option for host in servers.pip.trusted_hosts for option in ("--allow-insecure-host", host)),
        *(("--no-index",) if servers.pip.no_index else ()),
        *more,
    ]
    pages = [page for page in _find_links(spec, servers) if page not in question.unreadable]
    links = ",".join([str(question.folder / "conda"), *pages])
    environment = {**_environment(servers, question.folder), "UV_FIND_LINKS": links}
    done = _compile(question.folder, environment, *options)
    if done.returncode not in (0, 1):
        raise _index_fails(done.stderr)
    return done


def _compile(folder: Path, environment: Mapping[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    import uv

    command = [uv.find_uv_bin(), "pip", "compile", "requirements.in", "--quiet", "--color", "never", *options]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def _environment(servers: Servers, folder: Path) -> dict[str, str]:
    """Return uv's environment, its certificates in `folder`; of the index settings it gets the outcome."""
    found = {key: value for key, value in servers.environment(folder).items() if key not in _OURS}
    if servers.pip.index_url:
        found["UV_DEFAULT_INDEX"] = servers.pip.index_url
    if servers.pip.extra_index_urls:
        found["UV_INDEX"] = " ".join(servers.pip.extra_index_urls)
    return found


def _find_links(spec: Spec, servers: Servers) -> Iterator[str]:
    """Yield the spec's and the settings' pages of links; folders are relative to the spec."""
    for url in servers.pip.find_links:
        yield url if "://" in url else str((spec.folder / url).absolute())


def _annotated(question: _Question) -> str:
    """Return the same solution in pip's format, with comments: who needs a package, which index has it."""
    constraints = question.folder / "constraints.txt"
    chosen = releases((question.folder / "pylock.toml").read_text())
    pins = [f"{name}=={release.version}\n" for name, release in chosen.items()]
    constraints.write_text(constraints.read_text() + "".join(pins))
    return _run_uv(question, "--annotation-style", "line", "--emit-index-annotation", "--emit-index-url")


def _dependencies(emitted: str) -> dict[str, set[str]]:
    """Return who needs whom, by name: from the comments (`# via`)."""
    found: dict[str, set[str]] = {}
    for line in emitted.splitlines():
        requirement, _, via = line.partition("# via ")
        for dependent in filter(None, (part.strip() for part in via.split(","))):
            if not dependent.startswith(("-r ", "-c ")):
                found.setdefault(dependent, set()).add(_name(requirement.strip()))
    return found


def _locked(
    entry: Mapping[str, Any],
    supported: Sequence[tags.Tag],
    dependencies: Mapping[str, set[str]],
    servers: Servers,
) -> LockedPackage:
    name = str(entry["name"])
    wheel = best_wheel(entry, supported)
    url = str(wheel.get("url") or wheel.get("path") or "")
    if not url.startswith(("https://", "http://")):
        raise SolveError(
            f"{name} {entry.get('version', '')} is only in a folder of this machine, so it can't be locked.",
            "Publish the wheel to an index, and name the index in the spec or in pip.conf.",
        )
    sha256, size = wheel.get("hashes", {}).get("sha256"), wheel.get("size")
    if not sha256 or not size:
        sha256, size = measure(url, sha256, servers)
    filename = unquote(url.partition("#")[0].rsplit("/", 1)[-1])
    return LockedPackage(
        name=name,
        version=str(entry.get("version") or parse_wheel_filename(filename)[1]),
        manager="pip",
        url=hide(url.partition("#")[0]),
        sha256=sha256,
        size=size,
        dependencies=tuple((needed, "") for needed in sorted(dependencies.get(name, ()))),
    )


def _check_hashes(spec: Spec, found: Sequence[LockedPackage]) -> None:
    by_name = {package.name: package for package in found}
    for line in spec.pip:
        hashes = _HASH.findall(line)
        package = by_name.get(_name(line))
        if hashes and package and package.sha256 not in hashes:
            raise SolveError(
                f"The spec allows {package.name} only with another sha256 than {package.filename} has.",
                "Correct the --hash in the spec, or find out who changed the file.",
            )


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=!~;@\s]", requirement, maxsplit=1)[0]


def _no_solution(stderr: str, question: _Question) -> SolveError:
    left_out = list(map(hide, question.servers.pip.left_out))
    hints = [f"Not looked in, as no other machine has them: {', '.join(left_out)}."] if left_out else []
    hints += [
        f"Not looked in, as it can't be read ({why}): {page}." for page, why in question.unreadable.items()
    ]
    shown = "\n".join(f"  {line}" for line in [*_words(stderr), *map(hide, hints)])
    return SolveError(
        f"No set of wheels satisfies the pip section:\n{shown}",
        "Relax or correct a version in the spec; what conda provides must agree with it.",
    )


def _index_fails(stderr: str) -> FetchError:
    shown = "\n".join(f"  {line}" for line in _words(stderr))
    return FetchError(
        f"The package index can't be used:\n{shown}",
        "Check the network and the index settings (pip.conf, UV_*, proxy and CA variables), then try again.",
    )


def _words(stderr: str) -> list[str]:
    text = hide(stderr).replace("+conda", " (from conda)")
    lines = [
        re.sub(r"^\s*(error|cause|hint): ", "", line).strip() for line in text.splitlines() if line.strip()
    ]
    return lines[:_LINES]
