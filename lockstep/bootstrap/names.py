"""What Debian's packages are called in a conda channel: conda-forge's names, upstream's versions."""

from __future__ import annotations

import re
from collections.abc import Iterator

_BY_NAME = {
    "libgcc-s1": "libgcc",
    "libstdc++6": "libstdcxx",
    "python3-pip-whl": "pip",
    "python3-setuptools-whl": "setuptools",
    "python3-wheel-whl": "wheel",
}

_BY_SOURCE = {
    "bzip2": "bzip2",
    "db5.3": "libdb",
    "e2fsprogs": "libcomerr",
    "expat": "libexpat",
    "keyutils": "keyutils",
    "krb5": "krb5",
    "libffi": "libffi",
    "libnsl": "libnsl",
    "libtirpc": "libtirpc",
    "libxcrypt": "libxcrypt",
    "mpdecimal": "mpdecimal",
    "ncurses": "ncurses",
    "openssl": "openssl",
    "readline": "readline",
    "sqlite3": "libsqlite",
    "util-linux": "libuuid",
    "xz-utils": "liblzma",
    "zlib": "libzlib",
}
"""By Debian's source packages: their names outlive those of the libraries (libssl3, libssl3t64)."""

_PYTHON = re.compile(r"(lib)?python3\.\d+(-minimal|-stdlib|-venv)?|python3-(distutils|lib2to3)")


def is_python(name: str) -> bool:
    """Say whether a .deb of this name holds a part of Python itself."""
    return _PYTHON.fullmatch(name) is not None


def conda_name(name: str, source: str) -> str:
    """Return the conda package that a .deb, by its name and its source package's, becomes part of."""
    if is_python(name):
        return "python"
    known = _BY_NAME.get(name) or _BY_SOURCE.get(source)
    return known or re.sub(r"[^a-z0-9_.-]", "-", name.removesuffix("t64").lower())


def is_library(name: str, source: str) -> bool:
    """Say whether a .deb that another depends on holds a library for the prefix; glibc stays the system's."""
    return (name.startswith("lib") or source in _BY_SOURCE) and source != "glibc"


def conda_version(version: str) -> str:
    """Return the upstream version out of a Debian version: `1:1.2.13.dfsg-1` is 1.2.13."""
    upstream = version.split(":", 1)[-1]
    upstream = upstream.rpartition("-")[0] or upstream
    upstream = re.split(r"[~+]|\.dfsg|\.ds", upstream)[0]
    if day := re.fullmatch(r"(20\d\d)(\d\d)(\d\d)", upstream):  # ca-certificates, as conda-forge has it
        return ".".join(str(int(part)) for part in day.groups())
    return re.sub(r"[^A-Za-z0-9_.]", "_", upstream)


def depended_on(field: str) -> Iterator[str]:
    """Yield the names in a Depends field (Debian policy, section 7.1); of alternatives, each."""
    for relation in re.split(r"[,|]", field):
        if name := relation.strip().split(" ")[0].split(":")[0]:
            yield name
