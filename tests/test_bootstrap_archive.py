"""The machine's apt sources, with real apt and archives on disk: what is needed, what stays out."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from lockstep.bootstrap.apt import need
from lockstep.bootstrap.archive import host_mirrors, open_archive
from lockstep.bootstrap.debs import Deb, fetch_debs, in_turn, newest, place, unpackers
from lockstep.bootstrap.passwords import with_password
from lockstep.errors import FetchError, IntegrityError, LockstepError, PackageError
from lockstep.home import Home
from lockstep.progress import SILENT
from tests.debian import Made, archive
from tests.loopback import Loopback

APP = Made("app", "1:2.0-3", {"usr/bin/app": "hello"}, depends="libapp1 (>= 1.0), libc6 (>= 2.36)")
LIBRARY = Made("libapp1", "1.5+dfsg-1", {"usr/lib/x86_64-linux-gnu/libapp.so.1": "x"}, source="app-src (1.5)")
LIBC = Made("libc6", "2.36-9", source="glibc")
DEBS = (APP, LIBRARY, LIBC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty store."""
    return Home(tmp_path / "home")


@pytest.fixture
def codename() -> str:
    """The release of this machine; the tests need apt to be there."""
    if not shutil.which("apt-get"):
        pytest.skip("apt isn't there")
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of sources that apt reads instead of the machine's."""
    sources = tmp_path / "sources.list"
    config = tmp_path / "apt.conf"
    config.write_text(
        f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "/dev/null";\n'
        'Acquire::Retries "0";\nAcquire::AllowInsecureRepositories "true";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(config))
    return sources


def make_archive(tmp_path: Path, codename: str, apt: Path, origin: str = "") -> Path:
    """Make an archive of DEBS, name it in the sources, and return its folder."""
    root = tmp_path / "debian"
    archive(root, codename, origin or platform.freedesktop_os_release()["ID"].capitalize(), *DEBS)
    apt.write_text(f"deb [trusted=yes] file:{root} {codename} main\n")
    return root


class TestOpen:
    """`open_archive` and `Archive.resolve`."""

    def test_resolves_with_exact_hashes(self, tmp_path: Path, codename: str, apt: Path, home: Home) -> None:
        """Every .deb that is needed is named with version, path, sha256 and size, sorted."""
        make_archive(tmp_path, codename, apt)
        found = open_archive(home, SILENT).resolve(["app"], ["not-in-this-release"])
        assert [one.deb for one in found] == [APP.locked, LIBRARY.locked, LIBC.locked]
        assert [one.source for one in found] == ["app", "app-src", "glibc"]

    def test_asks_again_only_after_a_while(
        self, tmp_path: Path, codename: str, apt: Path, home: Home
    ) -> None:
        """The second answer comes from the first one's lists, even if the archive is gone."""
        root = make_archive(tmp_path, codename, apt)
        first = open_archive(home, SILENT).resolve(["app"])
        shutil.rmtree(root)
        assert open_archive(home, SILENT).resolve(["app"]) == first

    def test_passwords_stay_on_the_machine(
        self, tmp_path: Path, codename: str, apt: Path, home: Home
    ) -> None:
        """A mirror with a password is used with it; what goes into the lock and the image is without."""
        root = make_archive(tmp_path, codename, apt)
        files = {
            f"/d/{path.relative_to(root)}": path.read_bytes() for path in root.rglob("*") if path.is_file()
        }
        with Loopback(files, login=("me", "secret")) as server:
            private = server.url.replace("//", "//me:secret@")
            apt.write_text(f"deb [trusted=yes] {private}/d {codename} main\n")
            found = open_archive(home, SILENT)
            assert found.mirrors == (f"{private}/d",)
            assert "secret" not in str(found.sources)
            assert found.sources[0].endswith(f"{server.url}/d {codename} main")
            fetch_debs([APP.locked], found.sources, home, SILENT, mirrors=found.mirrors)
        assert home.package(APP.locked.sha256).read_bytes() == APP.data

    @pytest.mark.usefixtures("codename")
    def test_a_mirror_list_is_followed(self, tmp_path: Path, apt: Path, home: Home) -> None:
        """Cloud images name a file of mirrors: they count, not that file of this machine."""
        (tmp_path / "mirrors").write_text("# two\nhttp://127.0.0.1:9/a/\nhttp://127.0.0.1:9/b priority:2\n")
        apt.write_text(f"deb mirror+file:{tmp_path}/mirrors bookworm main\n")
        assert host_mirrors(home) == ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b")

    def test_other_peoples_archives_stay_out(
        self, tmp_path: Path, codename: str, apt: Path, home: Home
    ) -> None:
        """An archive of another origin doesn't count, so two machines of one release resolve alike."""
        make_archive(tmp_path, codename, apt)
        other = tmp_path / "other"
        archive(other, codename, "Somebody", Made("app", "9:9.9-9"))
        with apt.open("a") as sources:
            sources.write(f"deb [trusted=yes] file:{other} {codename} main\n")
        found = open_archive(home, SILENT)
        assert [one.deb.version for one in found.resolve(["app"]) if one.deb.name == "app"] == ["1:2.0-3"]
        assert len(found.sources) == 1

    def test_an_archive_that_is_away_is_said(
        self, tmp_path: Path, codename: str, apt: Path, home: Home
    ) -> None:
        """Nothing answers: FetchError with apt's words, and not the password."""
        apt.write_text(f"deb [trusted=yes] http://me:secret@127.0.0.1:9/debian {codename} main\n")
        with pytest.raises(FetchError) as caught:
            open_archive(home, SILENT)
        assert "127.0.0.1" in caught.value.message
        assert "secret" not in str(caught.value)

    def test_sources_of_another_release_are_said(self, tmp_path: Path, apt: Path, home: Home) -> None:
        """The machine's sources name only another release: the words tell which one is looked for."""
        make_archive(tmp_path, "hamm", apt)
        with pytest.raises(LockstepError, match=platform.freedesktop_os_release()["VERSION_CODENAME"]):
            open_archive(home, SILENT)

    def test_what_cant_be_resolved_is_said(
        self, tmp_path: Path, codename: str, apt: Path, home: Home
    ) -> None:
        """A package that isn't there: LockstepError with apt's words and a remedy."""
        make_archive(tmp_path, codename, apt)
        with pytest.raises(LockstepError, match="Unable to locate package nothing") as caught:
            open_archive(home, SILENT).resolve(["nothing"])
        assert "apt-get update" in caught.value.remedy

    def test_other_systems_get_a_clear_word(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not Debian, not Ubuntu: what is missing and what to do instead."""
        facts = {"ID": "fedora", "PRETTY_NAME": "Fedora Linux 44"}
        monkeypatch.setattr(platform, "freedesktop_os_release", lambda: facts)
        with pytest.raises(LockstepError, match="Fedora Linux 44") as caught:
            open_archive(home, SILENT)
        assert "commit the lock" in caught.value.remedy


class TestDebs:
    """Fetching and reading .debs."""

    def test_comes_from_any_root_that_has_it(self, home: Home) -> None:
        """The first root doesn't have it, the second has."""
        with Loopback({f"/two/{APP.path}": APP.data}) as server:
            sources = [
                f"deb {server.url}/one bookworm main",
                f"deb [signed-by=/k] {server.url}/two bookworm main",
            ]
            fetch_debs([APP.locked], sources, home, SILENT, mirrors=())
        assert newest([APP.locked], home) == APP.epoch

    def test_the_locks_roots_come_first_with_this_machines_passwords(self) -> None:
        """The recorded mirror with the password that the machine has for it, then the machine's others."""
        roots = in_turn(["deb [signed-by=/k] http://a/d s main"], ["http://b/d", "http://u:p@a/d"])
        assert roots == ("http://u:p@a/d", "http://b/d")

    def test_a_deb_that_is_gone_is_said(self, home: Home) -> None:
        """Mirrors drop old versions: the words name the package and both ways out."""
        with Loopback() as server, pytest.raises(FetchError, match=r"app 1:2\.0-3") as caught:
            fetch_debs([APP.locked], [f"deb {server.url} bookworm main"], home, SILENT, mirrors=())
        assert "lock --upgrade" in caught.value.remedy
        assert "snapshot" in caught.value.remedy

    def test_other_bytes_are_refused(self, home: Home) -> None:
        """A .deb that isn't the lock's never gets into the store."""
        other = APP.data[:-10] + b"0123456789"
        with Loopback({f"/{APP.path}": other}) as server, pytest.raises(IntegrityError):
            fetch_debs([APP.locked], [f"deb {server.url} bookworm main"], home, SILENT, mirrors=())
        assert not home.package(APP.locked.sha256).exists()

    def test_reads_what_dpkg_reads(self, tmp_path: Path) -> None:
        """Control fields, the date and the files of a .deb."""
        path = tmp_path / "app.deb"
        path.write_bytes(Made("app", files={"usr/bin/app": "hello", "usr/bin/b": "-> app"}).data)
        with Deb(path) as deb:
            assert deb.control["Package"] == "app"
            assert deb.epoch == 1_600_000_000
            assert [(member.name, data) for member, data in deb.members()] == [
                ("usr/bin/app", b"hello"),
                ("usr/bin/b", b""),
            ]

    @pytest.mark.parametrize("compression", ["xz", "zst"])
    def test_what_takes_zstd_is_known(self, home: Home, compression: str) -> None:
        """Ubuntu's packages are compressed with zstd: then the program for it is needed."""
        data = APP.data.replace(b"data.tar.xz ", f"data.tar.{compression:<3}".encode())
        target = home.package(APP.locked.sha256)
        target.parent.mkdir(parents=True)
        target.write_bytes(data)
        assert unpackers([APP.locked], home) == ({"unzstd": "zstd"} if compression == "zst" else {})

    def test_what_isnt_a_deb_is_refused(self, tmp_path: Path) -> None:
        """Bytes that no dpkg would take: PackageError, no traceback."""
        (tmp_path / "no.deb").write_bytes(b"no")
        with pytest.raises(PackageError, match=r"no\.deb isn't a Debian package"):
            Deb(tmp_path / "no.deb")

    def test_a_deb_under_another_name_is_refused(self, tmp_path: Path, home: Home) -> None:
        """A record that calls a package something else is an edited lock."""
        target = home.package(APP.locked.sha256)
        target.parent.mkdir(parents=True)
        target.write_bytes(APP.data)
        renamed = type(APP.locked)(**{**vars(APP.locked), "name": "other"})
        with pytest.raises(PackageError, match="Expected other"):
            place([renamed], home, tmp_path)


class TestPasswords:
    """What apt knows."""

    @pytest.mark.parametrize(
        ("entry", "expected"),
        [
            ("machine example.com login u password p@s", "https://u:p%40s@example.com/debian"),
            ("machine example.com/debian login u password p", "https://u:p@example.com/debian"),
            ("machine example.com/ubuntu login u password p", "https://example.com/debian"),
            ("machine http://example.com login u password p", "https://example.com/debian"),
            ("# machine example.com login u password p", "https://example.com/debian"),
            ("machine other.example.com login u password p", "https://example.com/debian"),
        ],
    )
    def test_of_auth_conf(self, tmp_path: Path, entry: str, expected: str) -> None:
        """An entry counts for its host, its path and, unless it says otherwise, for https."""
        (tmp_path / "auth.conf.d").mkdir()
        (tmp_path / "auth.conf.d" / "mirror.conf").write_text(f"{entry}\n")
        assert with_password("https://example.com/debian", [], tmp_path) == expected


class TestNeed:
    """Tools that are missing."""

    def test_the_command_is_named(self) -> None:
        """Without leave to install, the words hold the command that does it."""
        with pytest.raises(LockstepError, match="apt-get install --no-install-recommends some-package"):
            need({"no-such-program": "some-package", "sh": "dash"}, SILENT, install=False)

    def test_nothing_is_installed_that_is_there(self) -> None:
        """What is there is used as it is, also without leave."""
        need({"sh": "dash"}, SILENT, install=False)
