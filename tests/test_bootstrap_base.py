"""The base image: its layer's form with trees made here, and the whole with mmdebstrap and the archive."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockstep.bootstrap import BootstrapBase, bootstrap_base
from lockstep.bootstrap.rootfs import write_layout
from lockstep.errors import IntegrityError, LockstepError, PackageError
from lockstep.home import Home
from lockstep.lock.locked import Bootstrap
from lockstep.progress import SILENT
from tests.debian import Made, stored

EPOCH = 1_600_000_000
RECORD = Bootstrap(("deb [signed-by=/k] http://example.com/debian bookworm main",), EPOCH)


def entry(name: str, kind: bytes = tarfile.REGTYPE, **facts: object) -> tarfile.TarInfo:
    """Return a tar entry as mmdebstrap writes it: `./` before the name."""
    member = tarfile.TarInfo(f"./{name}")
    member.type, member.mtime, member.mode = kind, EPOCH - 5, 0o644
    for key, value in facts.items():
        setattr(member, key, value)
    return member


def rootfs(path: Path, *members: tarfile.TarInfo) -> Path:
    """Write a tar of these entries; a file's bytes are its name, as many as its size says."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            data = member.name.encode()
            member.size = len(data) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return path


def layer_of(layout: Path) -> Path:
    """Return the one layer of a layout, after checking every digest and size on the way (OCI image-spec)."""

    def blob(descriptor: dict[str, object]) -> Path:
        digest = str(descriptor["digest"])
        path = layout / "blobs/sha256" / digest.removeprefix("sha256:")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        assert path.stat().st_size == descriptor["size"]
        return path

    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    manifest = json.loads(blob(json.loads((layout / "index.json").read_text())["manifests"][0]).read_text())
    config = json.loads(blob(manifest["config"]).read_text())
    (layer,) = manifest["layers"]
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    assert len(config["history"]) == 1
    return blob(layer)


class TestLayout:
    """`write_layout`."""

    @pytest.fixture
    def layer(self, tmp_path: Path) -> Iterator[tarfile.TarFile]:
        """A layer of a small tree with everything that matters in it."""
        tree = rootfs(
            tmp_path / "rootfs.tar",
            entry("", tarfile.DIRTYPE, mode=0o755),
            entry("usr/bin/su", mode=0o4755),
            entry("usr/bin/ping", pax_headers={"SCHILY.xattr.security.capability": "cap"}),
            entry("etc/shadow", mode=0o640, gid=42, gname="shadow"),
            entry("usr/bin/perl5", tarfile.LNKTYPE, linkname="./usr/bin/su"),
            entry("bin", tarfile.SYMTYPE, linkname="usr/bin"),
            entry("etc/hostname"),
            entry("etc/resolv.conf"),
            entry("etc/machine-id"),
            entry("etc/apt/sources.list"),
            entry("etc/apt/sources.list.d/more.list"),
            entry("dev/null", tarfile.CHRTYPE),
            entry("var/log", tarfile.DIRTYPE),
            entry("var/log/dpkg.log"),
            entry("var/cache/apt/archives/partial", tarfile.DIRTYPE, uid=42),
            entry("var/cache/debconf/config.dat"),
            entry("var/cache/debconf/config.dat-old"),
            entry("var/lib/dpkg/status"),
            entry("var/lib/dpkg/status-old"),
            entry("new", mtime=EPOCH + 9),
        )
        write_layout(tree, tmp_path / "layout", RECORD)
        with tarfile.open(layer_of(tmp_path / "layout")) as found:
            yield found

    def test_the_operating_systems_files_stay_as_they_are(self, layer: tarfile.TarFile) -> None:
        """Modes, owners, links and capabilities are kept; names of owners aren't."""
        assert layer.getmember("usr/bin/su").mode == 0o4755
        shadow = layer.getmember("etc/shadow")
        assert (shadow.mode, shadow.gid, shadow.gname) == (0o640, 42, "")
        assert layer.getmember("bin").linkname == "usr/bin"
        ping = layer.getmember("usr/bin/ping")
        assert ping.pax_headers["SCHILY.xattr.security.capability"] == "cap"

    def test_a_hard_link_comes_after_what_it_links_to(self, layer: tarfile.TarFile) -> None:
        """Sorted by path, the first of the names of a file holds it, with its mode, and the others link to it."""
        first, second = layer.getmember("usr/bin/perl5"), layer.getmember("usr/bin/su")
        assert (first.isreg(), first.mode, second.linkname) == (True, 0o4755, "usr/bin/perl5")
        assert layer.extractfile(first).read() == b"./usr/bin/su"

    @pytest.mark.parametrize("name", ["usr/bin/.wh.su", "etc/.wh..wh..opq", ".wh.etc/x"])
    def test_whiteouts_are_refused(self, name: str, tmp_path: Path) -> None:
        """A Debian package that would delete files of other layers is named."""
        lists = [entry(f"var/lib/dpkg/info/{x}.list") for x in ("good", "evil")]
        path = tmp_path / "rootfs.tar"
        with tarfile.open(path, "w") as tar:
            for member, data in zip(lists, (b"/usr/bin/su\n", f"/usr\n/{name}\n".encode()), strict=True):
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            tar.addfile(entry(name))
        with pytest.raises(PackageError, match=rf"The Debian package evil holds '{re.escape(name)}'"):
            write_layout(path, tmp_path / "layout", RECORD)

    def test_what_a_machine_leaves_behind_goes(self, layer: tarfile.TarFile) -> None:
        """Logs, caches, names of the machine, devices and backups aren't in it; folders are."""
        assert layer.getnames() == [
            "bin",
            "etc/apt/sources.list",
            "etc/shadow",
            "new",
            "usr/bin/perl5",
            "usr/bin/ping",
            "usr/bin/su",
            "var/cache/debconf/config.dat",
            "var/lib/dpkg/status",
            "var/log",
        ]

    def test_no_entry_is_newer_than_the_record(self, layer: tarfile.TarFile) -> None:
        """Times are the packages' own, and the record's at most."""
        times = {member.name: member.mtime for member in layer}
        assert times["new"] == EPOCH
        assert times["usr/bin/su"] == EPOCH - 5

    def test_apt_inside_has_the_records_sources(self, layer: tarfile.TarFile) -> None:
        """A `RUN apt-get install` finds the archive that the base came from."""
        file = layer.extractfile("etc/apt/sources.list")
        assert file
        assert file.read().decode() == RECORD.sources[0] + "\n"

    def test_the_order_of_the_input_doesnt_count(self, tmp_path: Path) -> None:
        """Another order of the same files gives the same digest."""
        names = ["usr/a", "usr/b", "etc/c"]
        one = rootfs(tmp_path / "1.tar", *(entry(name) for name in names))
        two = rootfs(tmp_path / "2.tar", *(entry(name) for name in reversed(names)))
        assert write_layout(one, tmp_path / "1", RECORD) == write_layout(two, tmp_path / "2", RECORD)


def test_without_leave_and_tools_the_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without mmdebstrap where nothing may be installed: the words hold the command."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    home = stored(Home(tmp_path / "home"), Made("a"))
    recorded = Bootstrap((), 1, base_debs=(Made("a").locked,))
    with pytest.raises(LockstepError, match="mmdebstrap") as caught:
        bootstrap_base(home, SILENT, install=False, recorded=recorded)
    assert "apt-get install --no-install-recommends" in caught.value.remedy


SCRIPT = """
import os, pickle, sys
from lockstep.bootstrap import bootstrap_base
from lockstep.progress import SILENT
os.umask(0o077)
home, record, digest = pickle.loads(bytes.fromhex(sys.argv[1]))
print(bootstrap_base(home, SILENT, install=False, recorded=record, digest=digest).layout)
"""


def elsewhere(home: Home, base: BootstrapBase) -> subprocess.Popen[str]:
    """Start making a base again from its record: other folder, umask, time zone and hash seed."""
    environment = {
        **os.environ,
        "TZ": "Pacific/Chatham",
        "PYTHONHASHSEED": "3",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    argument = pickle.dumps((home, base.record, base.digest)).hex()
    command = [sys.executable, "-c", SCRIPT, argument]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/", env=environment)


@pytest.mark.network
@pytest.mark.slow
class TestDebiansBase:
    """The real thing, from the archive that this machine's apt names."""

    def test_is_a_base_that_tools_accept(self, made: tuple[Home, BootstrapBase]) -> None:
        """The layout is whole and skopeo reads it; apt, bash and certificates are in the image."""
        _, base = made
        with tarfile.open(layer_of(base.layout)) as layer:
            names = set(layer.getnames())
            shadow = layer.extractfile("etc/shadow")
            assert shadow
            assert f":{int(time.time()) // 86400}:".encode() not in shadow.read()
            assert max(member.mtime for member in layer) == base.record.epoch
        assert {"usr/bin/apt-get", "usr/bin/bash", "etc/ssl/certs/ca-certificates.crt"} <= names
        assert "etc/hostname" not in names
        if shutil.which("skopeo"):
            command = ["skopeo", "inspect", f"oci:{base.layout}"]
            found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            assert found["Digest"] == base.digest

    def test_comes_from_the_cache(self, made: tuple[Home, BootstrapBase]) -> None:
        """The second call takes milliseconds."""
        home, base = made
        before = time.monotonic()
        assert bootstrap_base(home, SILENT, install=False, recorded=base.record, digest=base.digest) == base
        assert time.monotonic() - before < 0.5

    def test_another_digest_than_the_locks_is_refused(self, made: tuple[Home, BootstrapBase]) -> None:
        """The lock says another digest: IntegrityError with both."""
        home, base = made
        with pytest.raises(IntegrityError, match=base.digest):
            bootstrap_base(home, SILENT, install=False, recorded=base.record, digest="sha256:" + "0" * 64)

    def test_again_from_the_record_after_a_kill(
        self, made: tuple[Home, BootstrapBase], tmp_path: Path
    ) -> None:
        """Elsewhere, from the record alone: killed while mmdebstrap works, the next run gives the digest."""
        home, base = made
        other = Home(tmp_path / "an other" / "home")
        other.path.mkdir(parents=True)
        (other.path / "packages").symlink_to(home.path / "packages")
        process = elsewhere(other, base)
        while process.poll() is None and not list(other.path.glob("tmp/*-base-*/mmdebstrap.*/usr/bin/dpkg")):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not list(other.bootstrap.glob("base-*"))
        process = elsewhere(other, base)
        layout = Path(process.communicate()[0].strip())
        assert process.returncode == 0
        assert layer_of(layout).read_bytes() == layer_of(base.layout).read_bytes()
        with open("/proc/mounts") as mounts:
            assert str(other.path) not in mounts.read().replace("\\040", " ")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, BootstrapBase]:
    """A base of today's packages and the store that it is in."""
    home = Home(tmp_path_factory.mktemp("base"))
    return home, bootstrap_base(home, SILENT, install=os.geteuid() == 0)
