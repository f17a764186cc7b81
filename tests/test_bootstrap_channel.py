"""The channel made of .debs: names, places, determinism, scripts; what goes wrong is said."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lockstep.bootstrap import bootstrap_channel, combine
from lockstep.bootstrap.debs import Deb
from lockstep.bootstrap.repackage import unpack
from lockstep.errors import FetchError, PackageError
from lockstep.home import Home
from lockstep.lock.locked import Bootstrap, LockedDeb
from lockstep.progress import SILENT
from tests.debian import Made, link, stored, wheel
from tests.loopback import Loopback

STDLIB = "usr/lib/python3.11"
CERTIFICATES = "usr/share/ca-certificates/mozilla"
DEBS = (
    Made(
        "python3.11",
        "3.11.2-6",
        {"usr/bin/pydoc3.11": "#!/usr/bin/python3.11\nprint('pydoc')\n"},
        "libssl3",
    ),
    Made("python3.11-minimal", "3.11.2-6", {"usr/bin/python3.11": "\x7fno elf"}),
    Made(
        "libpython3.11-stdlib",
        "3.11.2-6",
        {
            f"{STDLIB}/site.py": "def getsitepackages(prefixes=None):\n    return ['dist-packages']\n",
            f"{STDLIB}/os.py": "#! /usr/bin/python3.11\n",
            f"{STDLIB}/EXTERNALLY-MANAGED": "no",
            f"{STDLIB}/sitecustomize.py": "-> /etc/python3.11/sitecustomize.py",
            "usr/share/doc/libpython3.11-stdlib/copyright": "PSF",
            "usr/share/man/man1/python.1.gz": "manual",
        },
        "libssl3 (>= 3), libc6 (>= 2.36)",
    ),
    Made(
        "libssl3",
        "3.0.22-1~deb12u2",
        {"usr/lib/x86_64-linux-gnu/libssl.so.3": "-> libssl.so.3.0"},
        source="openssl",
    ),
    Made(
        "python3-pip-whl",
        "23.0+dfsg-1",
        {"usr/share/python-wheels/pip-23.0-py3-none-any.whl": wheel("pip")},
        architecture="all",
    ),
    Made(
        "ca-certificates",
        "20250419",
        {f"{CERTIFICATES}/b.crt": "B\n", f"{CERTIFICATES}/a.crt": "A\n"},
        architecture="all",
    ),
    Made(
        "tzdata",
        "2026f-0",
        {"usr/share/zoneinfo/UTC": "TZif", "usr/share/zoneinfo/right/UTC": "TZif"},
        architecture="all",
    ),
)


RECORD = Bootstrap(
    (), 1_600_000_000, channel_debs=tuple(sorted((deb.locked for deb in DEBS), key=lambda deb: deb.name))
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A store that has the .debs of RECORD."""
    return stored(Home(tmp_path / "h"), *DEBS)


def packages(channel: Path) -> dict[str, str]:
    """Return the sha256 of every package of a channel by file name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(channel.glob("*/*.conda"))
    }


class TestChannelOfMadeDebs:
    """The whole way, with .debs made here."""

    def test_solves_and_links(self, home: Home, tmp_path: Path) -> None:
        """The solver finds Python and pip by conda-forge's names; files lie where a prefix has them."""
        made = bootstrap_channel(home, SILENT, install=False, recorded=RECORD)
        prefix = tmp_path / "prefix"
        assert link(made.path, prefix, "python=3.11", "pip") == {
            "ca-certificates": "2025.4.19",
            "openssl": "3.0.22",
            "pip": "23.0",
            "python": "3.11.2",
            "tzdata": "2026f",
        }
        assert "site-packages" in (prefix / "lib/python3.11/site.py").read_text()
        assert (prefix / "lib/python3.11/os.py").read_text() == "#! /usr/bin/env python3\n"
        assert (prefix / "ssl/cert.pem").read_text() == "A\nB\n"
        assert os.readlink(prefix / "bin/python3") == "python3.11"
        assert (prefix / "share/zoneinfo/UTC").exists()
        left = {path.name for path in prefix.rglob("*")}
        assert not left & {"right", "EXTERNALLY-MANAGED", "sitecustomize.py", "man1", "dist-packages"}

    def test_scripts_start_the_python_beside_them(self, home: Home, tmp_path: Path) -> None:
        """Wherever the prefix is, also through a symbolic link and with a space in its path."""
        made = bootstrap_channel(home, SILENT, install=False, recorded=RECORD)
        prefix = tmp_path / "a prefix"
        link(made.path, prefix, "python", "pip")
        (prefix / "bin/python3.11").unlink()
        (prefix / "bin/python3.11").symlink_to(sys.executable)
        (tmp_path / "pip").symlink_to(prefix / "bin/pip")
        site = f"{prefix}/lib/python3.11/site-packages"
        for script in (prefix / "bin/pip", tmp_path / "pip"):
            done = subprocess.run(
                [script], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": site}
            )
            assert done.stdout == f"hello from {site}/pip/__init__.py\n", done.stderr

    def test_the_same_bytes_anywhere(self, home: Home, tmp_path: Path) -> None:
        """Another time zone, umask, folder, hash seed and moment: the same packages, to the last bit."""
        first = bootstrap_channel(home, SILENT, install=False, recorded=RECORD)
        other = stored(Home(tmp_path / "an other" / "home"), *DEBS)
        script = (
            "import os, pickle, sys, pathlib; os.umask(0o077)\n"
            "from lockstep.bootstrap import bootstrap_channel; from lockstep.home import Home\n"
            "from lockstep.progress import SILENT\n"
            "home, record = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
            "print(bootstrap_channel(home, SILENT, install=False, recorded=record).path)\n"
        )
        argument = pickle.dumps((other, RECORD)).hex()
        root = str(Path(__file__).parent.parent)
        environment = {**os.environ, "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "7", "PYTHONPATH": root}
        done = subprocess.run(
            [sys.executable, "-c", script, argument], capture_output=True, text=True, cwd="/", env=environment
        )
        assert done.returncode == 0, done.stderr
        assert packages(Path(done.stdout.strip())) == packages(first.path)
        assert len(packages(first.path)) == 5

    def test_the_second_call_makes_nothing(self, home: Home, tmp_path: Path) -> None:
        """What is there is returned at once, even if the .debs are gone."""
        first = bootstrap_channel(home, SILENT, install=False, recorded=RECORD)
        for deb in DEBS:
            home.package(deb.locked.sha256).unlink()
        before = time.monotonic()
        assert bootstrap_channel(home, SILENT, install=False, recorded=RECORD) == first
        assert time.monotonic() - before < 0.5

    def test_no_path_of_this_machine_is_in_a_package(self, home: Home, tmp_path: Path) -> None:
        """Nothing of the folder that the packages were made in is inside them."""
        made = bootstrap_channel(home, SILENT, install=False, recorded=RECORD)
        prefix = tmp_path / "prefix"
        link(made.path, prefix, "python", "pip")
        for path in prefix.rglob("*"):
            if path.is_file() and "conda-meta" not in path.parts:
                assert str(home.path).encode() not in path.read_bytes()

    def test_a_missing_deb_is_said(self, tmp_path: Path) -> None:
        """A record whose .debs nobody has any more: FetchError with both ways out."""
        with Loopback() as server:
            sources = (f"deb {server.url} bookworm main",)
            gone = Bootstrap(sources, RECORD.epoch, channel_debs=RECORD.channel_debs[:1])
            with pytest.raises(FetchError, match="isn't there") as caught:
                bootstrap_channel(Home(tmp_path), SILENT, install=False, recorded=gone)
        assert "lock --upgrade" in caught.value.remedy


def test_hostile_paths_stay_outside(tmp_path: Path) -> None:
    """A .deb can't write outside the prefix: only known folders count, and links that leave are dropped."""
    files: dict[str, str | bytes] = {
        "usr/lib/x86_64-linux-gnu/../../../escape": "x",
        "usr/lib/x86_64-linux-gnu/leak.so": "-> /etc/passwd",
        "../escape": "x",
        "etc/shadow": "x",
    }
    path = tmp_path / "bad.deb"
    path.write_bytes(Made("bad", files=files).data)
    target = tmp_path / "prefix"
    target.mkdir()
    with Deb(path) as deb, pytest.raises(PackageError, match="escape"):
        unpack(deb, target, "3.11")
    assert not list(tmp_path.glob("escape"))


def test_two_records_are_one() -> None:
    """The lock's record holds the base's .debs and date, and the channel's .debs."""
    one, two = LockedDeb("a", "1", "p", "0" * 64, 1), LockedDeb("b", "1", "p", "1" * 64, 1)
    base, channel = Bootstrap(("s",), 5, base_debs=(one,)), Bootstrap(("s",), 9, channel_debs=(two,))
    assert combine(base, channel) == Bootstrap(("s",), 5, (one,), (two,))
    assert combine(None, channel) == channel
    assert combine(base, None) == base


@pytest.mark.network
def test_a_kill_in_the_middle_leaves_nothing_half(tmp_path: Path) -> None:
    """Killed while the channel is being made: nothing is under its name, and the next run makes it."""
    home = Home(tmp_path / "home")
    script = (
        "import sys, pathlib\n"
        "from lockstep.bootstrap import bootstrap_channel\nfrom lockstep.home import Home\n"
        "from lockstep.progress import SILENT\n"
        "bootstrap_channel(Home(pathlib.Path(sys.argv[1])), SILENT, install=False)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", script, str(home.path)], env=environment)
    while process.poll() is None and not list(home.path.glob("tmp/*-channel-*/channel/linux-64/*.conda")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(home.bootstrap.glob("channel-*"))
    home.sweep()
    assert not list((home.path / "tmp").iterdir())
    assert len(packages(bootstrap_channel(home, SILENT, install=False).path)) > 20
