"""Conda packages: what linking makes of them for the final prefix, what conda-meta says, what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from rattler import PrefixRecord

from lockstep.errors import PackageError
from lockstep.layers.package import Item, Python
from lockstep.layers.prefix import link_package, python_of
from lockstep.lock.locked import BOOTSTRAP_SCHEME
from tests.packages import PLACEHOLDER, Content, File, Made, conda, members, with_members, zstd_tar

PYTHON = Python("3.11", "0" * 64)
SITE = "lib/python3.11/site-packages"
Found = dict[str, tuple[Item, bytes]]


def linked(made: Made, folder: Path, python: Python | None = PYTHON, compiled: Sequence[Item] = ()) -> Found:
    """Return what a conda package puts into the environment, by path, with the content."""
    folder.mkdir(exist_ok=True)
    path = folder / made.locked.sha256
    path.write_bytes(made.data)
    work = folder / f"work-{made.locked.name}"
    work.mkdir()
    unpacked = link_package(made.locked, path, python, work)
    return {x.path: (x, x.read()) for x in [*unpacked.items, unpacked.seal(compiled)]}


def meta(found: Found, name: str = "p-1.0-0") -> dict[str, object]:
    """Return a package's conda-meta record."""
    record: dict[str, object] = json.loads(found[f"conda-meta/{name}.json"][1])
    return record


@pytest.mark.parametrize("suffix", [".conda", ".tar.bz2"])
def test_the_final_prefix_is_written_into_files(suffix: str, tmp_path: Path) -> None:
    """Text gets the image's prefix; a binary keeps its length, as conda's own replacement does."""
    binary = b"\x7fELF\0" + PLACEHOLDER.encode() + b"/lib\0\0more"
    files: dict[str, Content] = {
        "bin/sh": File(f"#!{PLACEHOLDER}/bin/python\n".encode(), executable=True),
        "etc/conf": f"root={PLACEHOLDER}\nlog={PLACEHOLDER}/var\n",
        "lib/lib.so": binary,
    }
    found = linked(conda("p", files=files, suffix=suffix), tmp_path)
    assert found["bin/sh"][1] == b"#!/opt/env/bin/python\n"
    assert found["etc/conf"][1] == b"root=/opt/env\nlog=/opt/env/var\n"
    assert found["lib/lib.so"][1].startswith(b"\x7fELF\0/opt/env/lib\0")
    assert len(found["lib/lib.so"][1]) == len(binary)
    assert found["lib/lib.so"][1].endswith(b"\0more")
    assert [found[x][0].executable for x in ("bin/sh", "etc/conf")] == [True, False]


def test_sizes_and_hashes_fit_the_content(tmp_path: Path) -> None:
    """What items and conda-meta say of a file is what it holds after linking."""
    files: dict[str, Content] = {
        "etc/conf": PLACEHOLDER,
        "share/text": "same",
        "link": File(link="share/text"),
    }
    found = linked(conda("p", files=files), tmp_path)
    for item, data in found.values():
        if not item.link:
            assert (item.size, item.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    paths = {x["_path"]: x for x in meta(found)["paths_data"]["paths"]}  # type: ignore[index]
    assert paths["etc/conf"]["sha256_in_prefix"] == hashlib.sha256(b"/opt/env").hexdigest()
    assert paths["share/text"]["sha256_in_prefix"] == hashlib.sha256(b"same").hexdigest()
    assert (
        "sha256_in_prefix" not in paths["link"]
    )  # conda gives a symlink none, and `conda doctor` follows it


def test_links_are_kept(tmp_path: Path) -> None:
    """Symlinks stay symlinks with their own target; hard links become files with the same content."""
    files: dict[str, Content] = {
        "lib/real.so.1": "code",
        "lib/real.so": File(link="real.so.1"),
        "lib64": File(link="lib"),
        "lib/hard": File(hardlink="lib/real.so.1"),
        "share/dangling": File(link="../nothing/there"),
    }
    found = linked(conda("p", files=files), tmp_path)
    assert {x: found[x][0].link for x in found if found[x][0].link} == {
        "lib/real.so": "real.so.1",
        "lib64": "lib",
        "share/dangling": "../nothing/there",
    }
    assert found["lib/hard"][1] == b"code"


def test_noarch_python_goes_where_the_python_is(tmp_path: Path) -> None:
    """site-packages, scripts and entry points of a noarch package land as conda lays them out."""
    files: dict[str, Content] = {
        "site-packages/p/__init__.py": "",
        "site-packages/p-1.0.dist-info/METADATA": "Name: p\nVersion: 1.0\n",
        "python-scripts/tool": File(f"#!{PLACEHOLDER}/bin/python\n".encode(), executable=True),
    }
    made = conda("p", files=files, noarch=True, entry_points=["run = p.cli:main"], depends=["python"])
    found = linked(made, tmp_path)
    assert sorted(found) == sorted(
        [
            "bin/run",
            "bin/tool",
            "conda-meta/p-1.0-0.json",
            f"{SITE}/p-1.0.dist-info/METADATA",
            f"{SITE}/p/__init__.py",
        ]
    )
    assert found["bin/run"][1].startswith(b"#!/opt/env/bin/python3.11\n")
    assert found["bin/run"][0].executable
    assert meta(found)["noarch"] == "python"


def test_conda_meta_tells_the_lock_and_not_this_machine(tmp_path: Path) -> None:
    """The record has the lock's URL and channel, everything conda lists, and no path of this machine."""
    made = conda("p", files={"a": "1"}, depends=["libc >=2"])
    found = linked(made, tmp_path)
    record = meta(found)
    assert record["url"] == made.locked.url
    assert record["channel"] == "https://channel.test/main"
    assert record["fn"] == "p-1.0-0.tar.bz2"
    assert record["sha256"] == made.locked.sha256
    assert (record["name"], record["version"], record["build"]) == ("p", "1.0", "0")
    assert record["depends"] == ["libc >=2"]
    text = found["conda-meta/p-1.0-0.json"][1].decode()
    assert str(tmp_path) not in text
    assert "file:" not in text


def test_a_bootstrap_package_has_a_channel_with_a_plain_name(tmp_path: Path) -> None:
    """`conda list` shows the channel as it is written, and takes a name with a colon for a server's."""
    made = conda("p", files={"a": "1"})
    locked = dataclasses.replace(made.locked, url=f"{BOOTSTRAP_SCHEME}://linux-64/{made.locked.filename}")
    record = meta(linked(dataclasses.replace(made, locked=locked), tmp_path))
    assert (record["url"], record["channel"]) == (locked.url, "lockstep-bootstrap")


def test_rattler_reads_the_record(tmp_path: Path) -> None:
    """The judge: rattler's own parser takes conda-meta for what it is."""
    made = conda("p", files={"a": "1"})
    found = linked(made, tmp_path, compiled=(Item("lib/x.pyc", 1),))
    path = tmp_path / "p-1.0-0.json"
    path.write_bytes(found["conda-meta/p-1.0-0.json"][1])
    record = PrefixRecord.from_path(path)
    assert (record.name.normalized, str(record.version), record.url) == ("p", "1.0", made.locked.url)
    assert [str(x) for x in record.files] == ["a", "lib/x.pyc"]
    assert record.extracted_package_dir is None


def test_bytecode_that_can_be_made_is_left_out(tmp_path: Path) -> None:
    """A .pyc beside its source is compiled anew; one without a source is all there is, and stays."""
    files: dict[str, Content] = {
        f"{SITE}/m.py": "x = 1\n",
        f"{SITE}/__pycache__/m.cpython-311.pyc": b"old",
        f"{SITE}/__pycache__/m.cpython-311.opt-1.pyc": b"old",
        f"{SITE}/__pycache__/only.cpython-311.pyc": b"only",
        f"{SITE}/legacy.pyc": b"legacy",
    }
    new = Item(f"{SITE}/__pycache__/m.cpython-311.pyc", 3)
    found = linked(conda("p", files=files), tmp_path, compiled=(new,))
    kept = {x for x in found if not x.startswith("conda-meta")}
    assert kept == {f"{SITE}/m.py", f"{SITE}/legacy.pyc", f"{SITE}/__pycache__/only.cpython-311.pyc"}
    paths = {x["_path"]: x["path_type"] for x in meta(found)["paths_data"]["paths"]}  # type: ignore[index]
    assert paths[new.path] == "pyc_file"
    assert set(paths) == kept | {new.path}


def test_python_brings_an_empty_history(tmp_path: Path) -> None:
    """`conda list -p` wants conda-meta/history; an empty one dates nothing."""
    made = conda("python", "3.11.4", {"bin/python": "x"})
    assert linked(made, tmp_path)["conda-meta/history"][1] == b""
    assert python_of([made.locked]) == Python("3.11", made.locked.sha256)


@pytest.mark.parametrize("noarch", [False, True])
@pytest.mark.parametrize("kind", ["post-link", "pre-link"])
def test_packages_that_need_a_script_are_named(kind: str, noarch: bool, tmp_path: Path) -> None:
    """A link script would be skipped in silence by the linker: it is named and refused, wherever it was."""
    folder = "python-scripts" if noarch else "bin"
    made = conda("p", files={f"{folder}/.p-{kind}.sh": "rm -rf /"}, noarch=noarch)
    with pytest.raises(PackageError, match=rf"p-1.0-0.tar.bz2 needs its {kind} script"):
        linked(made, tmp_path)


@pytest.mark.parametrize("path", ["Scripts/.p-post-link.bat", "bin/.q-post-link.sh", "bin/.p-pre-unlink.sh"])
def test_scripts_that_conda_would_not_run_are_no_matter(path: str, tmp_path: Path) -> None:
    """A script for Windows, for another package's name, or for the removal is laid in as any file."""
    assert path in linked(conda("p", files={path: "x"}), tmp_path)


def test_noarch_python_without_python_is_refused(tmp_path: Path) -> None:
    """A lock without Python can't hold a noarch Python package."""
    made = conda("p", files={"site-packages/p.py": ""}, noarch=True)
    with pytest.raises(PackageError):
        linked(made, tmp_path, python=None)


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("../out", File(b"x")),
        ("/etc/cron.d/out", File(b"x")),
        ("lib/../../out", File(b"x")),
        ("lib/passwd", File(link="/etc/passwd")),
        ("lib/up", File(link="../../etc")),
        ("lib/hard", File(hardlink="/etc/passwd")),
        ("lib/hard", File(hardlink="../../etc/passwd")),
        ("dev/null", File(kind=tarfile.CHRTYPE)),
        ("dev/disk", File(kind=tarfile.BLKTYPE)),
        ("pipe", File(kind=tarfile.FIFOTYPE)),
    ],
)
@pytest.mark.parametrize("suffix", [".conda", ".tar.bz2"])
def test_what_escapes_is_refused(path: str, file: File, suffix: str, tmp_path: Path) -> None:
    """Names, links and devices that don't belong are errors that name the package and the entry."""
    file = File(file.data, link=file.link, hardlink=file.hardlink, kind=file.kind, unlisted=True)
    (tmp_path / "work").mkdir()
    with pytest.raises(PackageError) as caught:
        linked(conda("p", files={"lib/good": "x", path: file}, suffix=suffix), tmp_path / "work")
    assert "p-1.0-0" in str(caught.value)
    assert path in str(caught.value)
    assert [x.name for x in tmp_path.iterdir()] == ["work"]


def listed(path: str, data: bytes = b"x", **facts: object) -> dict[str, object]:
    """Return an entry of paths.json."""
    told = {"_path": path, "path_type": "hardlink", "sha256": hashlib.sha256(data).hexdigest()}
    return {**told, "size_in_bytes": len(data), **facts}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (listed("../p-1.0-0/a"), "outside"),
        (listed("../../cache/p-1.0-0/a"), "outside"),
        (listed("/etc/passwd"), "outside"),
        (listed("site-packages/../../../evil"), "outside"),
        (listed("lib/nowhere"), "lists 'lib/nowhere', which it doesn't hold"),
        (listed("a"), "lists 'a' twice"),
        (listed("conda-meta/python-3.11.0-0.json"), "only the installer writes"),
        (listed("conda-meta/history"), "only the installer writes"),
        ({"path_type": "hardlink"}, "can't be unpacked"),
        ({"_path": 5, "path_type": "hardlink"}, "can't be unpacked"),
    ],
)
@pytest.mark.parametrize("suffix", [".conda", ".tar.bz2"])
def test_what_paths_json_says_is_looked_at_first(
    entry: dict[str, object], words: str, suffix: str, tmp_path: Path
) -> None:
    """The linker believes paths.json, so a lie in it is found before: nothing is written elsewhere."""
    files = {"a": "x", "conda-meta/python-3.11.0-0.json": File(b"x", unlisted=True)}
    files["conda-meta/history"] = File(b"x", unlisted=True)
    with pytest.raises(PackageError, match=words) as caught:
        linked(conda("p", files=files, listed=[entry], suffix=suffix), tmp_path)
    assert "p-1.0-0" in str(caught.value)
    assert sorted(x.name for x in (tmp_path / "work-p").iterdir()) == ["archives"]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (File(b"x", stated=b"xyz"), "states 3 bytes for 'a', which holds 1"),
        (File(PLACEHOLDER.encode(), stated=PLACEHOLDER.upper().encode()), r"states sha256 \w+ for 'a'"),
    ],
)
def test_paths_json_that_is_not_true_is_refused(file: File, words: str, tmp_path: Path) -> None:
    """Sizes are compared, and the hash of what holds the prefix before linking changes it."""
    with pytest.raises(PackageError, match=words):
        linked(conda("p", files={"a": file}), tmp_path)


@pytest.mark.parametrize(
    "index",
    [{"name": "q"}, {"version": "2"}, {"build": "../x"}, {"name": None}, {"subdir": None, "platform": None}],
)
def test_an_index_of_another_package_is_refused(index: dict[str, object], tmp_path: Path) -> None:
    """info/index.json names the package that the lock names, and can be read."""
    with pytest.raises(PackageError, match=r"p-1.0-0.*info/index.json"):
        linked(conda("p", files={"a": "x"}, index=index), tmp_path)


class TestTwoReaders:
    """Archives in which two readers find different things: what one looks at, the other doesn't link."""

    made = conda("p", files={"a": "x"}, listed=[listed("d/secret")], suffix=".conda")
    plain = conda("p", files={"a": "x"}, suffix=".conda")
    evil: ClassVar = {"d": File(link="/etc")}

    def test_a_member_that_only_one_reads(self, tmp_path: Path) -> None:
        """Rattler extracts every .tar.zst in the archive."""
        parts = {**members(self.plain), "more.tar.zst": zstd_tar(self.evil)}
        with pytest.raises(PackageError, match="holds 'd' for one reader"):
            linked(with_members(self.plain, parts), tmp_path)

    def test_an_entry_that_the_directory_does_not_name(self, tmp_path: Path) -> None:
        """Rattler reads from the beginning; the zip's directory is at the end."""
        hidden = with_members(self.plain, {"pkg-x.tar.zst": zstd_tar(self.evil)}).data
        before = hidden[: hidden.index(b"PK\1\2")]
        with pytest.raises(PackageError, match="holds 'd' for one reader"):
            linked(with_members(self.plain, members(self.plain), before=before), tmp_path)

    def test_a_second_frame(self, tmp_path: Path) -> None:
        """Zstd's format lets another frame follow."""
        parts = members(self.plain)
        parts["pkg-p-1.0-0.tar.zst"] = zstd_tar({"a": File(b"x")}, end=False) + zstd_tar(self.evil)
        with pytest.raises(PackageError, match="holds 'd' for one reader"):
            linked(with_members(self.plain, parts), tmp_path)

    def test_the_host_is_not_read_through_it(self, tmp_path: Path) -> None:
        """A folder that is hidden from the look and is a link to the host's, and a file that is listed in it."""
        secret = tmp_path / "host"
        secret.mkdir()
        (secret / "secret").write_text("x")
        parts = {**members(self.made), "more.tar.zst": zstd_tar({"d": File(link=str(secret))})}
        with pytest.raises(PackageError, match="lists 'd/secret', which it doesn't hold"):
            linked(with_members(self.made, parts), tmp_path)


@pytest.mark.parametrize("sizes", [(0, 0), (7, 7)])
def test_zip64_fields_that_nothing_refers_to_are_no_matter(sizes: tuple[int, int], tmp_path: Path) -> None:
    """rattler-build wrote such archives (conda/rattler#2305); conda, unzip and zipfile read them."""
    plain = conda("p", files={"a": PLACEHOLDER, "b": "x" * 5000}, suffix=".conda")
    made = with_members(plain, members(plain), extra=struct.pack("<HHQQ", 1, 16, *sizes))
    found = linked(made, tmp_path)
    assert found["a"][1] == b"/opt/env"
    assert meta(found)["sha256"] == made.locked.sha256
    damaged = made.data.replace(b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfe")
    with pytest.raises(PackageError, match=r"p-1.0-0.conda can't be unpacked"):
        linked(dataclasses.replace(made, data=damaged), tmp_path / "damaged")


def test_writing_through_a_link_is_refused(tmp_path: Path) -> None:
    """A folder that is a link first, and then holds files, is the classic way out."""
    files: dict[str, Content] = {"d": File(link="lib"), "d/x": "1"}
    with pytest.raises(PackageError, match=r"'d/x' below 'd'"):
        linked(conda("p", files=files), tmp_path)


def test_a_chain_of_links_that_leaves_is_refused(tmp_path: Path) -> None:
    """Two links that are harmless one by one, and together lead out of the prefix."""
    files: dict[str, Content] = {"a/b/c": File(link="../.."), "d": File(link="a/b/c/.."), "a/x": "1"}
    with pytest.raises(PackageError, match=r"link out of the environment: 'd'"):
        linked(conda("p", files=files), tmp_path)


@pytest.mark.parametrize("suffix", [".conda", ".tar.bz2"])
@pytest.mark.parametrize("cut", [1, 200])
def test_a_truncated_package_is_said_in_words(suffix: str, cut: int, tmp_path: Path) -> None:
    """A package that ends early is a PackageError that names it."""
    made = conda("p", files={"a": "x" * 1000}, suffix=suffix)
    with pytest.raises(PackageError, match=r"p-1\.0-0"):
        linked(Made(made.locked, made.data[:-cut]), tmp_path)
