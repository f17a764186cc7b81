"""One conda package out of the Debian packages that belong to it: files, version, dependencies."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from lockstep.bootstrap.debs import Deb
from lockstep.bootstrap.names import conda_name, conda_version, depended_on
from lockstep.bootstrap.repackage import install_wheel, set_search_paths, settle_modes, unpack
from lockstep.home import Home
from lockstep.lock.locked import LockedDeb

FORMAT = "1"
"""Changes whenever the same .debs would give other packages; it is part of every build string."""

_WHEELS = ("pip", "setuptools", "wheel")
_ALWAYS = {"python": ("ca-certificates", "libgcc", "libstdcxx", "tzdata")}
"""Dependencies that Debian's packages don't name: wheels want the C++ library in the prefix. pip gets no
setuptools: Debian's is too old for torch (>= 77), and pip fetches what a source build needs by itself."""


@dataclass(frozen=True)
class Part:
    """One .deb on its way into a conda package."""

    deb: LockedDeb
    package: str
    depends: str
    epoch: int


def read_part(deb: LockedDeb, home: Home) -> Part:
    """Return what a fetched .deb's control file says that counts here."""
    with Deb(home.package(deb.sha256)) as opened:
        control, epoch = opened.control, opened.epoch
    depends = ", ".join(control[key] for key in ("Pre-Depends", "Depends") if key in control)
    source = control.get("Source", deb.name).split(" ")[0]
    return Part(deb, conda_name(deb.name, source), depends, epoch)


def make_package(
    name: str, parts: Sequence[Part], python: str, target: Path, folder: Path, home: Home
) -> None:
    """Make one conda package out of all the .debs that belong to it.

    `parts` are those of the whole channel, `python` is "3.11", `target` the channel's folder for it and
    `folder` a new one to work in.
    """
    from rattler_build import assemble_package

    own = [part for part in parts if part.package == name]
    extra: list[Part] = []
    folder.mkdir()
    for part in own:
        with Deb(home.package(part.deb.sha256)) as deb:
            unpack(deb, folder, python)
    if name == "python":
        extra = _finish_python(folder, parts, python, home)
    elif name in _WHEELS:
        _finish_wheel(folder, python)
    elif name == "ca-certificates":
        _finish_certificates(folder)
    set_search_paths(folder)
    settle_modes(folder)
    facts = [FORMAT, [(part.deb.name, part.deb.sha256) for part in [*own, *extra]]]
    build = f"h{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:7]}_0"
    assemble_package(
        name,
        _version(own, python),
        "linux-64",
        f"{build}_cpython" if name == "python" else build,
        target,
        files_dir=folder,
        summary="Debian's " + ", ".join(f"{part.deb.name} {part.deb.version}" for part in own),
        depends=_depends(name, own, parts, python),
        compression_level=9,
        compression_threads=1,  # the number of this machine's cores must not count
        timestamp=datetime.fromtimestamp(max(part.epoch for part in [*own, *extra]), timezone.utc),
        detect_prefix=False,
    )


def _version(own: Sequence[Part], python: str) -> str:
    """Return a package's version: Python's own, not that of distutils, which is packaged apart."""
    main = next((part for part in own if part.deb.name == f"python{python}"), own[0])
    return conda_version(main.deb.version)


def _depends(name: str, own: Sequence[Part], parts: Sequence[Part], python: str) -> list[str]:
    """Return a package's dependencies, sorted: what its .debs say, in terms of conda packages."""
    package_of = {part.deb.name: part.package for part in parts}
    needed = {package_of[deb] for part in own for deb in depended_on(part.depends) if deb in package_of}
    needed |= {other for other in _ALWAYS.get(name, ()) if other in package_of.values()}
    if name == "python":
        needed.difference_update(_WHEELS)  # `python -m venv` has them inside; pip depends on Python
    found = []
    for other in needed - {name}:
        theirs = [part for part in parts if part.package == other]
        found.append(f"{other} >={_version(theirs, python)}")
    if name in _WHEELS:
        found.append(f"python {python}.*")
    glibc = [re.findall(r"\blibc6 \(>= ([\d.]+)\)", part.depends) for part in own]
    if versions := [version for each in glibc for version in each]:
        newest_one = max(versions, key=lambda version: [int(number) for number in version.split(".")])
        found.append(f"__glibc >={newest_one}")
    return sorted(found)


def _finish_python(folder: Path, parts: Sequence[Part], python: str, home: Home) -> list[Part]:
    """Add the names that people call Python by, and the wheels that `python -m venv` installs."""
    for link, target in {
        "python": "python",
        "python3": "python",
        "pydoc": "pydoc",
        "pydoc3": "pydoc",
    }.items():
        (folder / "bin" / link).symlink_to(f"{target}{python}")
    wheels = [part for part in parts if part.package in ("pip", "setuptools")]
    for part in wheels:
        with Deb(home.package(part.deb.sha256)) as deb:
            unpack(deb, folder, python)
    return wheels


def _finish_wheel(folder: Path, python: str) -> None:
    wheels = folder / "share" / "python-wheels"
    for wheel in sorted(wheels.glob("*.whl")):
        install_wheel(wheel, folder, python)
    shutil.rmtree(wheels)


def _finish_certificates(folder: Path) -> None:
    """Join the certificates into the files that conda's users look for."""
    (folder / "ssl").mkdir()
    found = sorted((folder / "share" / "ca-certificates").rglob("*.crt"))
    (folder / "ssl" / "cacert.pem").write_bytes(b"".join(path.read_bytes() for path in found))
    (folder / "ssl" / "cert.pem").symlink_to("cacert.pem")
    shutil.rmtree(folder / "share" / "ca-certificates")
