"""Layers: tar headers, order, what fits a header and what doesn't."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from lockstep.errors import PackageError
from lockstep.image.layer import EPOCH, Entry, LayerWriter


def written(*entries: tuple[Entry, bytes]) -> tuple[bytes, str]:
    """Return a layer's bytes and its diff ID."""
    out = io.BytesIO()
    writer = LayerWriter(out, "A package")
    for entry, data in entries:
        writer.add(entry, (data,))
    return out.getvalue(), writer.close()


def members(data: bytes) -> list[tarfile.TarInfo]:
    """Return what Python's own tar reader finds."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getmembers()


def test_folders_come_before_what_they_hold_and_once() -> None:
    """Each folder above an entry is there, once, with the mode and the time that all folders have."""
    data, _ = written((Entry("a/b/x", 1), b"1"), (Entry("a/b/y"), b""), (Entry("a/c"), b""))
    assert [x.name for x in members(data)] == ["a", "a/b", "a/b/x", "a/b/y", "a/c"]
    folder = members(data)[0]
    assert (folder.isdir(), folder.mode, folder.mtime) == (True, 0o755, EPOCH)


def test_owner_mode_and_time_are_fixed() -> None:
    """A header tells nobody's name and no mode but 0644, 0755 and a link's 0777."""
    data, _ = written(
        (Entry("exe", 1, executable=True), b"x"), (Entry("link", link="exe"), b""), (Entry("text"), b"")
    )
    found = {x.name: x for x in members(data)}
    assert {(x.uid, x.gid, x.uname, x.gname, x.mtime) for x in found.values()} == {(0, 0, "", "", EPOCH)}
    assert [found[x].mode for x in ("exe", "link", "text")] == [0o755, 0o777, 0o644]
    assert found["link"].linkname == "exe"


def test_diff_id_is_the_hash_of_the_whole_tar() -> None:
    """The digest is that of the bytes, end blocks included, and the tar is a multiple of 512 bytes."""
    out = io.BytesIO()
    writer = LayerWriter(out, "A package")
    writer.add(Entry("a", 3), (b"1", b"23"))
    diff_id = writer.close()
    assert diff_id == "sha256:" + hashlib.sha256(out.getvalue()).hexdigest()
    assert len(out.getvalue()) == writer.size == 512 + 512 + 1024


@pytest.mark.parametrize(
    "name", ["n" * 90, "d/" * 60 + "n", "d/" * 100 + "n" * 200, "straße/ünï", "n/" * 150 + "n"]
)
def test_any_name_survives(name: str) -> None:
    """Long names and names beyond ASCII are read back as they are."""
    data, _ = written((Entry(name, 1), b"x"))
    assert members(data)[-1].name == name


def test_a_file_beyond_ustars_limit_is_told_whole() -> None:
    """A size of 9 GiB is more than eleven octal digits say; the header carries it all the same."""
    header = Entry("big", 9 << 30).header()
    assert tarfile.TarInfo.frombuf(header[-512:], "utf-8", "strict").name == "big"
    assert b"size=9663676416" in header


@pytest.mark.parametrize("data", [b"12", b"1234"])
def test_content_of_another_size_is_refused(data: bytes) -> None:
    """More or fewer bytes than announced would shift every later header: an error."""
    with pytest.raises(PackageError, match=r"A package holds .* than it says"):
        written((Entry("a", 3), data))


@pytest.mark.parametrize("path", [".wh.a", "d/.wh..wh..opq", "d/.wh.d/x", "a/.wh.", "d/.wh.\n"])
def test_whiteouts_are_refused(path: str) -> None:
    """A name that makes engines delete what lower layers hold is in no layer, whatever it comes from."""
    with pytest.raises(PackageError, match=r"The wheel w holds .*\.wh\..* delete"):
        LayerWriter(io.BytesIO(), "The wheel w").add(Entry(path))
    with pytest.raises(PackageError, match="delete"):
        LayerWriter(io.BytesIO(), "A package").copy(path, ())


@pytest.mark.parametrize("path", ["x" * 256, "é" * 128, "x" * 256 + "/y", "/".join(["d" * 200] * 21)])
def test_names_that_linux_cannot_hold_are_refused(path: str) -> None:
    """A name or a path that is too long would stop the engine, with no word on the package it is from."""
    with pytest.raises(PackageError, match=r"The wheel w holds a name that is too long"):
        LayerWriter(io.BytesIO(), "The wheel w").add(Entry(path))


@pytest.mark.parametrize("path", ["x" * 255, "é" * 127, "/".join(["d" * 200] * 20)])
def test_the_longest_names_are_kept(path: str) -> None:
    """255 bytes of a name and 4095 of a path are Linux's own limits."""
    LayerWriter(io.BytesIO(), "The wheel w").add(Entry(path))


def test_names_that_only_look_like_whiteouts_are_kept() -> None:
    """Only a name that begins so is one."""
    data, _ = written((Entry("a.wh.b"), b""), (Entry("b/wh.c"), b""))
    assert [x.name for x in members(data)] == ["a.wh.b", "b", "b/wh.c"]


def test_the_hash_of_what_was_written_is_returned() -> None:
    """A file's own hash comes from the bytes that are in the layer."""
    writer = LayerWriter(io.BytesIO(), "A package")
    assert writer.add(Entry("a", 3), (b"1", b"23")) == hashlib.sha256(b"123").hexdigest()


def test_entries_out_of_order_are_refused() -> None:
    """Order is part of a layer's identity, so it isn't left to the caller's luck."""
    writer = LayerWriter(io.BytesIO(), "A package")
    writer.add(Entry("b"))
    with pytest.raises(ValueError, match="out of order"):
        writer.add(Entry("a"))


def test_places_say_where_each_entry_is() -> None:
    """What is cut out at an entry's place and put into another layer is that entry."""
    out = io.BytesIO()
    writer = LayerWriter(out, "A package")
    for entry in (Entry("d/" * 80 + "a", 2), Entry("d/" * 80 + "b", 2)):
        writer.add(entry, (b"ab",))
    writer.close()
    start, end = writer.places["d/" * 80 + "b"]
    other = io.BytesIO()
    copy = LayerWriter(other, "A package")
    copy.copy("d/" * 80 + "b", (out.getvalue()[start:end],))
    copy.close()
    with tarfile.open(fileobj=io.BytesIO(other.getvalue())) as archive:
        last = archive.getmembers()[-1]
        content = archive.extractfile(last)
        assert last.name == "d/" * 80 + "b"
        assert content is not None
        assert content.read() == b"ab"
