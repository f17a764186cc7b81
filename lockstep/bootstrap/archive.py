"""The Debian archive, as this machine's own apt sources name it: which .debs are needed, by sha256.

apt itself resolves, in a state of ours under home.bootstrap: it knows the machine's proxies, keys and
passwords, verifies the archive's signature, and needs no root. The machine's own package state stays as
it is. Third-party sources, backports and pins are left out, so that two machines resolve alike.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lockstep.bootstrap.apt import apt_environment
from lockstep.bootstrap.sources import (
    ELSEWHERE,
    KEYRINGS,
    fingerprint_of_sources,
    release_of_machine,
    uris_behind,
    with_passwords,
)
from lockstep.damage import is_there
from lockstep.errors import FetchError, LockstepError
from lockstep.home import Home
from lockstep.lock.locked import LockedDeb
from lockstep.progress import Progress
from lockstep.seal import check_folder, is_sealed, read_record, seal_folder, sealed
from lockstep.servers import hide

FRESH = 600
"""Seconds for which the archive's package lists count as today's."""


@dataclass(frozen=True)
class Candidate:
    """A .deb that apt would install, with what its control file says about its dependencies."""

    deb: LockedDeb
    source: str
    architecture: str
    depends: str


@dataclass(frozen=True)
class Archive:
    """The archive's package lists on this machine.

    `sources` are one-line apt sources for use inside an image, without credentials. `mirrors` are the
    archive's roots as this machine reaches them: they may hold passwords, so they are never shown or kept.
    """

    folder: Path
    sources: tuple[str, ...]
    mirrors: tuple[str, ...]

    def resolve(self, wanted: Sequence[str], optional: Sequence[str] = ()) -> tuple[Candidate, ...]:
        """Return every .deb that installing `wanted` into an empty system takes, sorted by name.

        `wanted` are names or apt patterns; `optional` names count only where this release has them.
        Raises LockstepError if apt can't satisfy them.
        """
        question = [*wanted, *(f"?and(?exact-name({name}),?not(?virtual))" for name in optional)]
        answer = (
            self.folder / f"resolved-{hashlib.sha256(json.dumps(question).encode()).hexdigest()[:16]}.json"
        )
        if (known := read_record(answer)) is not None:
            return tuple(Candidate(LockedDeb(**x.pop("deb")), **x) for x in known["candidates"])
        found = self._resolve(question)
        partial = answer.with_suffix(f".{os.getpid()}")
        candidates = [{**vars(one), "deb": vars(one.deb)} for one in found]
        partial.write_bytes(sealed(answer, {"candidates": candidates}))
        partial.replace(answer)
        return found

    def _resolve(self, question: Sequence[str]) -> tuple[Candidate, ...]:
        from debian.deb822 import Packages

        only_ours = [
            f"-oDir::Etc::sourcelist={self.folder / 'sources.list'}",
            "-oDir::Etc::sourceparts=/dev/null",
        ]
        plan = _apt("apt-get", self.folder, *only_ours, "--simulate", "install", *question)
        if plan.returncode:
            raise LockstepError(
                f"The Debian archive can't provide what the base and Python need: {_complaint(plan.stderr)}",
                "Run `apt-get update` and look at the machine's apt sources: the release's main and security "
                "parts are needed.",
            )
        chosen = dict(re.findall(r"^Inst (\S+) (?:\[[^]]*\] )?\((\S+) ", plan.stdout, re.MULTILINE))
        shown = _apt("apt-cache", self.folder, *only_ours, "show", *(f"{n}={v}" for n, v in chosen.items()))
        found: dict[str, Candidate] = {}
        for stanza in Packages.iter_paragraphs(shown.stdout, use_apt_pkg=False):
            name, version = stanza["Package"], stanza["Version"]
            if chosen.get(name) != version or name in found:
                continue
            deb = LockedDeb(name, version, stanza["Filename"], stanza["SHA256"], int(stanza["Size"]))
            depends = ", ".join(stanza[key] for key in ("Pre-Depends", "Depends") if key in stanza)
            source = stanza.get("Source", name).split(" ")[0]
            found[name] = Candidate(deb, source, stanza["Architecture"], depends)
        return tuple(found[name] for name in sorted(found))


def open_archive(home: Home, progress: Progress) -> Archive:
    """Return the archive that this machine's apt sources name, its lists at most FRESH seconds old.

    Raises LockstepError where the machine isn't Debian or Ubuntu, FetchError if the archive can't be reached.
    """
    system, codename = release_of_machine()
    folder = home.bootstrap / "archive"
    with home.exclusive("bootstrap-archive"):
        stamp, today = folder / "stamp", fingerprint_of_sources().encode()
        if (
            is_there(stamp)
            and stamp.read_bytes() == today
            and time.time() - stamp.stat().st_mtime < FRESH
            and is_sealed(folder / "lists")
        ):
            check_folder(folder / "lists")  # apt verifies them when they come, and never again
        else:
            with progress.task("Reading the Debian archive's package lists"):
                _update(folder, system, codename)
            seal_folder(folder / "lists")
            stamp.write_bytes(today)
        sources, mirrors = _sources(folder, system, codename)
        if not sources:
            raise LockstepError(
                f"This machine's apt sources don't name the {system.capitalize()} archive of {codename}.",
                f"Add the release's own sources to /etc/apt and run the command again. {ELSEWHERE}",
            )
        return Archive(folder, sources, mirrors)


def host_mirrors(home: Home) -> tuple[str, ...]:
    """Return the archive's roots that this machine's apt sources name, or nothing where there is no apt.

    Nothing is asked over the network. They may hold passwords.
    """
    if not shutil.which("apt-get"):
        return ()
    folder = home.bootstrap / "archive"
    with home.exclusive("bootstrap-archive"):
        _prepare(folder)
        layout = "$(SITE)|$(SOURCESENTRY)"
        found = _apt(
            "apt-get", folder, "indextargets", "--no-release-info", "--format", layout, "Created-By: Packages"
        )
    lines = [line.split("|") for line in found.stdout.splitlines()]
    return with_passwords(
        [uri for site, _ in lines for uri in uris_behind(site)], [entry for _, entry in lines]
    )


def _prepare(folder: Path) -> None:
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()  # an empty system: everything that is needed is named


def _apt(program: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = {
        "Dir::State": folder,
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::State::extended_states": folder / "extended_states",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Architecture": "amd64",
        "APT::Architectures::": "amd64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",  # the lists are in a person's cache, where _apt can't write
        "APT::Update::Post-Invoke::": "true",
        "Debug::NoLocking": "true",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "20",
        "Acquire::https::Timeout": "20",
    }
    command = [program, *(f"-o{key}={value}" for key, value in options.items()), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=apt_environment()
    )


def _update(folder: Path, system: str, codename: str) -> None:
    _prepare(folder)
    for stale in (*folder.glob("resolved-*"), folder / "stamp"):
        stale.unlink(missing_ok=True)
    done = _apt("apt-get", folder, "update")
    _, mirrors = _sources(folder, system, codename)
    ours = {hide(uri) for uri in mirrors}
    failed = [
        line
        for line in done.stderr.splitlines()
        if line.startswith(("W:", "E:")) and any(uri in hide(line) for uri in ours)
    ]
    if failed or (not ours and done.stderr.strip()):
        raise FetchError(
            f"The Debian archive can't be reached: {_complaint(done.stderr)}",
            "Look at the network, the proxy and the machine's apt sources (`apt-get update` tells more), "
            "then run the same command again.",
        )


def _sources(folder: Path, system: str, codename: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the sources lines for an image and the archive's roots; writes the list that `resolve` reads.

    apt leaves passwords out of what it prints, so that list has none.
    """
    layout = "$(SITE)|$(RELEASE)|$(CODENAME)|$(COMPONENT)|$(ORIGIN)|$(SOURCESENTRY)"
    targets = _apt("apt-get", folder, "indextargets", "--format", layout, "Created-By: Packages")
    components: dict[tuple[str, str], list[str]] = {}
    entries: list[str] = []
    for line in targets.stdout.splitlines():
        site, release, found, component, origin, entry = line.split("|")
        pocket = release.rstrip("/").removeprefix(codename)
        if (
            origin.lower() == system
            and found in (codename, release)
            and pocket in ("", "-updates", "-security")
        ):
            known = components.setdefault((site, release), [])
            if component not in known:
                known.append(component)
            entries.append(entry)
    private, public, mirrors = [], [], []
    for (site, release), names in components.items():
        private.append(f"deb [arch=amd64] {site} {release} {' '.join(names)}\n")
        uris = uris_behind(site)
        mirrors += uris
        if uris:
            public.append(f"deb [signed-by={KEYRINGS[system]}] {hide(uris[0])} {release} {' '.join(names)}")
    ours = folder / "sources.list"
    ours.write_text("".join(private))
    return tuple(public), with_passwords(mirrors, entries)


def _complaint(stderr: str) -> str:
    """Return apt's own words, the last lines of them, without passwords."""
    lines = [line[2:].strip() for line in stderr.splitlines() if line.startswith(("E:", "W:"))]
    return hide(" ".join(lines[-3:]) or stderr.strip()[-300:] or "apt gave no reason")
