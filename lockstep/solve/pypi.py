"""The pip side: requirements become exact wheels, with uv's resolver. Nothing is built or installed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging import tags
from packaging.utils import parse_wheel_filename

from lockstep.errors import FetchError, LockstepError, SolveError
from lockstep.home import Home
from lockstep.lock.locked import LockedPackage
from lockstep.servers import Servers, hide
from lockstep.solve.measure import measure
from lockstep.solve.provided import write_stubs
from lockstep.solve.target import best_wheel, supported_tags, uv_platform
from lockstep.spec import Spec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LINES = 16
_HASH = re.compile(r" --hash=sha256:([0-9a-f]{64})")
_OURS = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX")
"""Variables that `pip_settings` has read; uv gets the outcome."""


def solve_pypi(
    spec: Spec,
    python: str,
    provided: Mapping[str, str],
    *,
    servers: Servers,
    home: Home,
    keep: Sequence[LockedPackage] = (),
) -> tuple[LockedPackage, ...]:
    """Return the wheels that satisfy `spec.pip` for Python `python` (`3.11.2`), sorted by name.

    `provided` are conda's distributions; `keep` are wheels whose version stays if it can. Raises
    SolveError with uv's explanation, FetchError if an index can't be reached.
    """
    if not spec.pip:
        return ()
    with home.workspace("solve") as folder:
        folder.chmod(0o700)  # index URLs may hold passwords
        write_stubs(dict(provided), folder / "conda")
        (folder / "requirements.in").write_text("\n".join(_HASH.sub("", line) for line in spec.pip) + "\n")
        pins = [f"{name}=={version}" for name, version in provided.items()]
        (folder / "constraints.txt").write_text("\n".join([*spec.pip_options.constraints, *pins]) + "\n")
        if keep:
            (folder / "pylock.toml").write_text(_preferences(keep))
        _run_uv(spec, python, servers, folder)
        entries = tomllib.loads((folder / "pylock.toml").read_text()).get("packages", [])
        dependencies = _dependencies(spec, python, servers, folder)
    supported = supported_tags(spec, python)
    found = [
        _locked(entry, supported, dependencies, servers) for entry in entries if entry["name"] not in provided
    ]
    _check_hashes(spec, found)
    return tuple(sorted(found, key=lambda package: package.name))


def index_trouble(servers: Servers, home: Home) -> str | None:
    """Return why the package index can't be used, None if it can: it is asked for pip's own page."""
    with home.workspace("index") as folder:
        (folder / "requirements.in").write_text("pip\n")
        options = ("--no-deps", "--no-cache", "--only-binary", ":all:", "--python", sys.executable)
        done = _compile(folder, {**_environment(servers, folder), "UV_HTTP_RETRIES": "0"}, *options)
    return None if done.returncode == 0 else _explain(2, done.stderr, servers).message


def _run_uv(spec: Spec, python: str, servers: Servers, folder: Path, *more: str) -> str:
    options = [
        *("--constraints", "constraints.txt", "--no-header"),
        *("--python", sys.executable, "--python-version", python, "--python-platform", uv_platform(spec)),
        *("--only-binary", ":all:", "--index-strategy", "unsafe-best-match"),
        *(("--exclude-newer", spec.exclude_newer) if spec.exclude_newer else ()),
        *(("--prerelease", "allow") if spec.pip_options.prerelease else ()),
        *(option for host in servers.pip.trusted_hosts for option in ("--allow-insecure-host", host)),
        *(("--no-index",) if servers.pip.no_index else ()),
        *(more or ("--format", "pylock.toml", "--output-file", "pylock.toml")),
    ]
    links = ",".join([str(folder / "conda"), *_find_links(spec, servers)])
    done = _compile(folder, {**_environment(servers, folder), "UV_FIND_LINKS": links}, *options)
    if done.returncode != 0:
        raise _explain(done.returncode, done.stderr, servers)
    return done.stdout


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


def _preferences(keep: Sequence[LockedPackage]) -> str:
    """Return a pylock of names and versions: uv keeps what its output file holds, where it can."""
    entries = [f'[[packages]]\nname = "{package.name}"\nversion = "{package.version}"\n' for package in keep]
    return 'lock-version = "1.0"\ncreated-by = "lockstep"\n' + "".join(entries)


def _dependencies(spec: Spec, python: str, servers: Servers, folder: Path) -> dict[str, set[str]]:
    """Return who needs whom, by name: from the comments (`# via`) of the same solution in pip's format."""
    (folder / "constraints.txt").write_text(
        (folder / "constraints.txt").read_text()
        + "".join(f"{name}=={version}\n" for name, version in _solution(folder / "pylock.toml"))
    )
    text = _run_uv(spec, python, servers, folder, "--annotation-style", "line", "--no-emit-index-url")
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        requirement, _, via = line.partition("# via ")
        name = re.split(r"[=\s@\[]", requirement.strip(), maxsplit=1)[0]
        for dependent in filter(None, (part.strip() for part in via.split(","))):
            if not dependent.startswith(("-r ", "-c ")):
                found.setdefault(dependent, set()).add(name)
    return found


def _solution(pylock: Path) -> Iterator[tuple[str, str]]:
    for entry in tomllib.loads(pylock.read_text()).get("packages", []):
        if "version" in entry and "archive" not in entry:
            yield entry["name"], entry["version"]


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
        package = by_name.get(re.split(r"[\[<>=!~;@\s]", line, maxsplit=1)[0])
        if hashes and package and package.sha256 not in hashes:
            raise SolveError(
                f"The spec allows {package.name} only with another sha256 than {package.filename} has.",
                "Correct the --hash in the spec, or find out who changed the file.",
            )


def _explain(code: int, stderr: str, servers: Servers) -> LockstepError:
    text = hide(stderr).replace("+conda", " (from conda)")
    lines = [
        re.sub(r"^\s*(error|cause|hint): ", "", line).strip() for line in text.splitlines() if line.strip()
    ]
    shown = "\n".join(f"  {line}" for line in lines[:_LINES])
    if code == 1:
        left_out = list(map(hide, servers.pip.left_out))
        hint = f"\n  Not looked in, as no other machine has them: {', '.join(left_out)}." if left_out else ""
        return SolveError(
            f"No set of wheels satisfies the pip section:\n{shown}{hint}",
            "Relax or correct a version in the spec; what conda provides must agree with it.",
        )
    return FetchError(
        f"The package index can't be used:\n{shown}",
        "Check the network and the index settings (pip.conf, UV_*, proxy and CA variables), then try again.",
    )
