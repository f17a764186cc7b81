"""Root: no name leads out of its folder, whatever whoever writes there puts in the way, and whenever."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from lockstep.removal import remove_tree
from lockstep.root import LONGEST, Root, UnsafeNameError
from tests.swapping import swapping

SECRET = "host's secret"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder of the host with a secret, beside the root."""
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "secret").write_text(SECRET)
    return tmp_path / "host"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A folder that a job can write."""
    (tmp_path / "root" / "outputs").mkdir(parents=True)
    (tmp_path / "root" / "outputs" / "real.txt").write_text("real")
    return Root(tmp_path / "root")


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    """A file that has been received."""
    path = tmp_path / "partial"
    path.write_text("sent")
    return path


def read(root: Root, name: str) -> bytes:
    """Return a file's bytes."""
    with root.open(name) as file:
        return file.read()


def link_to(host: Path, root: Root) -> None:
    """Plant links of every kind below the root."""
    outputs = root.path / "outputs"
    (outputs / "file").symlink_to(host / "secret")
    (outputs / "folder").symlink_to(host)
    (outputs / "up").symlink_to("../../host")
    (outputs / "chain0").symlink_to("folder")
    for number in range(1, 5):
        (outputs / f"chain{number}").symlink_to(f"chain{number - 1}")
    (outputs / "own").symlink_to("real.txt")
    (outputs / "loop").symlink_to("loop")
    (outputs / "gone").symlink_to("nowhere")


NAMES = ("outputs/file", "outputs/folder/secret", "outputs/up/secret", "outputs/chain4/secret", "outputs/own",
         "outputs/loop", "outputs/gone", "outputs/real.txt/x")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_read_written_or_removed_through_a_link(
    root: Root, host: Path, partial: Path, name: str
) -> None:
    """A link isn't there; put in its place, a file replaces the link and not what it leads to."""
    link_to(host, root)
    for use in (root.open, root.stat, root.remove):
        with pytest.raises((FileNotFoundError, NotADirectoryError)):
            use(name)
    assert not root.is_file(name)
    assert not root.is_folder(name)
    try:
        root.put(partial, name)
    except NotADirectoryError:
        assert partial.exists()
    else:
        assert read(root, name) == b"sent"
        assert not (root.path / name).is_symlink()
    assert [path.name for path in host.iterdir()] == ["secret"]
    assert (host / "secret").read_text() == SECRET
    assert (root.path / "outputs" / "real.txt").read_text() == "real"


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "..", "a/../../x", "x\0y", "a" * 256, "a/" * LONGEST + "a"]
)
def test_names_that_lead_out_or_can_not_be_are_refused(root: Root, partial: Path, name: str) -> None:
    """Whatever is to be done with it."""
    uses: list[Callable[[], object]] = [
        lambda: root.open(name),
        lambda: root.stat(name),
        lambda: root.remove(name),
        lambda: root.put(partial, name),
        lambda: root.create(name),
        lambda: root.link("outputs/real.txt", name),
        lambda: root.make_folder(name),
    ]
    for use in uses:
        with pytest.raises(UnsafeNameError):
            use()


def test_links_and_special_files_are_left_out_with_the_reason(root: Root, host: Path) -> None:
    """A listing shows regular files only, doesn't wait for a FIFO, and says what it left out."""
    link_to(host, root)
    outputs = root.path / "outputs"
    os.mkfifo(outputs / "pipe")
    with socket.socket(socket.AF_UNIX) as door:
        before = os.getcwd()
        os.chdir(outputs)  # a socket's path is short
        door.bind("door")
        os.chdir(before)
    (outputs / "line\nbreak").write_text("x")
    (outputs / "back\\slash").write_text("x")
    (outputs / os.fsdecode(b"\xff\xfe")).write_text("x")
    if os.geteuid() == 0:
        os.mknod(outputs / "null", 0o666 | 0o020000, os.makedev(1, 3))
    reasons = {entry.name: entry.reason for entry in root.entries("outputs")}
    assert {name for name, reason in reasons.items() if not reason} == {"outputs/real.txt"}
    assert reasons["outputs/file"] == reasons["outputs/folder"] == "a link"
    assert reasons["outputs/pipe"] == reasons["outputs/door"] == "neither a file nor a folder"
    assert "control characters" in reasons["outputs/line\nbreak"]
    assert [name for name, _ in root.files("outputs/folder")] == []
    assert [name for name, _ in root.children("outputs")] == ["outputs/real.txt"]
    for name in ("outputs/pipe", "outputs/door"):
        with pytest.raises(FileNotFoundError):
            root.open(name)


def test_a_folder_that_is_swapped_for_a_link_never_leads_out(root: Root, host: Path, tmp_path: Path) -> None:
    """While one thread swaps folder and link without pause, nothing arrives at, or comes from, the host's folder."""
    outputs = root.path / "outputs"
    (outputs / "d").mkdir()
    (outputs / "link").symlink_to(host)
    refused = 0
    with swapping(outputs / "d", outputs / "link"):
        for number in range(1500):
            partial = tmp_path / f"partial{number}"
            partial.write_text("sent")
            try:
                root.put(partial, f"outputs/d/planted{number % 7}")
            except (FileExistsError, NotADirectoryError, FileNotFoundError):
                refused += 1
            for use in (root.open, root.remove):
                try:
                    use("outputs/d/secret")
                except (NotADirectoryError, FileNotFoundError):
                    continue
                raise AssertionError("the host's file was reached")
    assert [path.name for path in host.iterdir()] == ["secret"]
    assert 0 < refused < 1500


def test_a_folder_with_a_thousand_levels_is_listed_and_removed(root: Root) -> None:
    """Depth is bounded in a listing, without an error, and unbounded when it is removed."""
    before = os.getcwd()
    os.chdir(root.path / "outputs")
    for _ in range(3000):
        os.mkdir("deep")
        os.chdir("deep")
    Path("bottom").write_text("x")
    os.chdir(before)
    reasons = [entry.reason for entry in root.entries("outputs") if entry.reason]
    assert reasons == [f"its path is longer than {LONGEST:,} bytes"]
    root.give(os.getuid(), os.getgid())
    remove_tree(root.path)
    assert not root.path.exists()


def test_a_tree_is_removed_without_what_its_links_lead_to(root: Root, host: Path) -> None:
    """Also when the folder itself is a link: that one stays."""
    link_to(host, root)
    (root.path / "outputs" / "a" / "b").mkdir(parents=True)
    top = root.path.parent / "top"
    top.symlink_to(host)
    remove_tree(top)
    remove_tree(root.path)
    assert not root.path.exists()
    assert (host / "secret").read_text() == SECRET


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_only_what_lies_below_is_given_away(root: Root, host: Path) -> None:
    """Folders and files change their owner; links, what they lead to, and hard-linked files of the host don't."""
    link_to(host, root)
    (host / "shadow").write_text("x")
    os.link(host / "shadow", root.path / "outputs" / "hard")
    (root.path / "outputs" / "sub").mkdir()
    root.give(1234, 1234)
    assert (root.path / "outputs" / "real.txt").stat().st_uid == 1234
    assert (root.path / "outputs" / "sub").stat().st_uid == 1234
    assert root.path.stat().st_uid == 1234
    assert {path.stat().st_uid for path in (host, host / "secret", host / "shadow")} == {0}


def test_a_program_that_a_job_left_is_an_ordinary_one(root: Root, host: Path) -> None:
    """Set-user-id and set-group-id are taken off files, whoever calls; a link to such a program outside stays."""
    left = root.path / "outputs" / "sh"
    for path in (host / "sh", left):
        path.write_bytes(b"")
        path.chmod(0o6755)
    (root.path / "outputs" / "link").symlink_to(host / "sh")
    root.give(os.getuid(), os.getgid())
    assert stat.S_IMODE(left.stat().st_mode) == 0o755
    assert stat.S_IMODE((host / "sh").stat().st_mode) == 0o6755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_closed_folder_and_a_fifo_are_no_hindrance(root: Root) -> None:
    """What follows them is given too."""
    closed = root.path / "outputs" / "closed"
    closed.mkdir()
    (closed / "file").write_text("")
    closed.chmod(0)
    os.mkfifo(root.path / "outputs" / "a fifo")
    root.give(1234, 1234)
    assert {path.stat().st_uid for path in (closed, closed / "file")} == {1234}


def test_a_file_is_created_anew_whatever_was_there(root: Root, host: Path) -> None:
    """A log's name that is a link to a file of the host, or a second name of it, is taken back."""
    outputs = root.path / "outputs"
    (outputs / "log").symlink_to(host / "secret")
    os.link(host / "secret", outputs / "hard")
    for name in ("log", "hard"):
        os.write(file := root.create(f"outputs/{name}"), b"line\n")
        os.close(file)
        assert (outputs / name).read_text() == "line\n"
    assert (host / "secret").read_text() == SECRET
    (outputs / "other").symlink_to(host / "secret")
    root.link("outputs/log", "outputs/other")
    assert os.path.samefile(outputs / "other", outputs / "log")


def test_what_exists_is_not_replaced_if_so_asked(root: Root, host: Path, partial: Path) -> None:
    """Not a file, nor a link, wherever it leads."""
    link_to(host, root)
    for name in ("outputs/real.txt", "outputs/gone", "outputs/file"):
        with pytest.raises(FileExistsError):
            root.put(partial, name, replace=False)
    root.put(partial, "outputs/new", replace=False)
    assert read(root, "outputs/new") == b"sent"
    assert not partial.exists()
