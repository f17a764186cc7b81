"""Snapshots: the source files of runs, as uploaded; each file's bytes are kept once per upload."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import zipfile
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from lockstep.root import Root
from lockstep.workspace.fault import Fault, missing
from lockstep.workspace.folder import Folder, inside, one_name
from lockstep.workspace.names import checked
from lockstep.workspace.state import State, now, text

PIECE = 1024**2
EPOCH = "2020-01-01T00:00:00"
"""The time of a file for which none was sent."""
NONE = "00000000-0000-0000-0000-000000000000"


class Snapshots:
    """The snapshots of one workspace: a complete tree of names, each with the blob that holds its bytes."""

    def __init__(self, state: State, folder: Folder) -> None:
        self._state = state
        self._folder = folder

    def get(self, snapshot: str) -> sqlite3.Row:
        """Return the snapshot, or refuse with 404."""
        row = self._state.row("SELECT * FROM snapshots WHERE id = ?", snapshot)
        if row is None:
            raise missing(f"The snapshot {snapshot!r}")
        return row

    def files(self, snapshot: str) -> dict[str, str]:
        """Return path -> blob of each file."""
        found: dict[str, str] = json.loads(self.get(snapshot)["files"])
        return found

    def create(
        self, snapshot: str, parent: str | None, tree: dict[str, Any], uploaded: dict[str, str]
    ) -> None:
        """Keep a snapshot: every file of `tree` is in `uploaded` (path -> blob) or unchanged from `parent`.

        A file that is in neither, or whose upload never arrived, is refused with 400: the client sends all again.
        """
        inherited = self.files(parent) if parent and parent != NONE else {}
        files: dict[str, str] = {}
        for path in _paths(tree):
            inside(checked("new_path", path))
            blob = uploaded.get(path) or inherited.get(path)
            if blob is None or not self._folder.snapshots.is_file(one_name(blob)):
                raise Fault(400, f"The snapshot's file {path!r} was never uploaded.", "SnapshotIncomplete")
            files[path] = blob
        _check_folders(files)
        with self._state.change() as change:
            change.execute(
                "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)",
                (snapshot, now(), text(_complete(tree)), json.dumps(files)),
            )

    def latest(self) -> sqlite3.Row | None:
        """Return the newest snapshot, or None."""
        return self._state.row("SELECT * FROM snapshots ORDER BY created DESC LIMIT 1")

    def unpack(self, snapshot: str, target: Path) -> None:
        """Write the snapshot's files into the folder `target`; the run may change them."""
        target.mkdir(parents=True, exist_ok=True)
        root = Root(target)
        for path, blob in self.files(snapshot).items():
            with (
                self._folder.snapshots.open(blob) as source,
                os.fdopen(root.create(inside(path)), "wb") as copy,
            ):
                shutil.copyfileobj(source, copy, PIECE)

    def zip(self, snapshot: str, target: Path) -> None:
        """Write the snapshot as a zip file."""
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, blob in self.files(snapshot).items():
                with self._folder.snapshots.open(blob) as source:
                    is_large = os.fstat(source.fileno()).st_size >= zipfile.ZIP64_LIMIT // 2
                    with archive.open(path, "w", force_zip64=is_large) as packed:
                        shutil.copyfileobj(source, packed, PIECE)


def _check_folders(files: Collection[str]) -> None:
    """Refuse (400) a name that is a file and a folder at once, as `a` is beside `a/b`; a backslash is a slash."""
    names = {PurePosixPath(path.replace("\\", "/")) for path in files}
    if len(names) < len(files):
        raise Fault(400, "Two files of the snapshot have one name.", "BadArgument")
    for name in names:
        both = next((parent for parent in name.parents if parent in names), None)
        if both:
            raise Fault(400, f"{str(both)!r} is a file and a folder of the snapshot at once.", "BadArgument")


def _complete(node: dict[str, Any], name: str = "") -> dict[str, Any]:
    """Return a tree in which each node has every field that the SDK reads, whoever sent it: others compare with it."""
    children = {key: _complete(child, key) for key, child in (node.get("children") or {}).items()}
    absent = {"name": name, "type": "Directory", "hash": "", "timestamp": EPOCH}
    return {
        **absent,
        **{key: value for key, value in node.items() if value is not None},
        "children": children,
    }


def _paths(node: dict[str, Any], parent: str = "") -> list[str]:
    """Return the paths of the files in a tree of `{name, type, children}`, deepest folders too."""
    found: list[str] = []
    todo = [(node, parent)]
    while todo:
        here, prefix = todo.pop()
        for name, child in (here.get("children") or {}).items():
            path = f"{prefix}{name}"
            if child.get("type") == "File":
                found.append(path)
            else:
                todo.append((child, f"{path}/"))
    return sorted(found)
