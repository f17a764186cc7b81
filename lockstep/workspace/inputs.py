"""Inputs: a run's data references to the default datastore, brought to where its containers can see them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lockstep.copies import copy_bytes, copy_files
from lockstep.root import Root
from lockstep.workspace.fault import Fault
from lockstep.workspace.folder import Folder, inside, one_name

MODES = ("mount", "download", "upload")
UPLOADS = "uploads"
Input = tuple[str, Path, bool]


def check_references(definition: dict[str, Any], datastore: str) -> None:
    """Refuse (400) a reference in a mode or to a datastore that isn't here."""
    for name, reference in (definition.get("dataReferences") or {}).items():
        one_name(name)
        mode, store = str(reference.get("mode") or "mount").lower(), reference.get("dataStoreName")
        if mode not in MODES or store != datastore:
            raise Fault(400, f"The data reference {name!r} ({mode} of {store!r}) isn't one to {datastore!r}.")


def bring(definition: dict[str, Any], folder: Folder, run_folder: Path) -> tuple[Input, ...]:
    """Return name, source and whether it is read-only for each reference; what is downloaded is copied.

    Raises Fault in words when what a reference names isn't in the datastore, or there is no room for it.
    """
    inputs: list[Input] = []
    for name, reference in (definition.get("dataReferences") or {}).items():
        mode = str(reference.get("mode") or "mount").lower()
        store, path = _place(folder, reference)
        if mode == "upload":
            target = run_folder / UPLOADS / one_name(name)
            target.mkdir(parents=True, exist_ok=True)
            inputs.append((name, target, False))
            continue
        if path and not store.is_file(path) and not store.is_folder(path):
            raise Fault(
                404,
                f"The data reference {name!r} names {path!r}, which isn't in the datastore.",
                "DataNotFound",
            )
        source = store.path / path
        if mode == "download":
            source = _downloaded(store, path, run_folder / "downloads" / one_name(name), folder.tmp)
        inputs.append((name, source, mode == "mount"))
    return tuple(inputs)


def take_back(definition: dict[str, Any], folder: Folder, run_folder: Path) -> list[str]:
    """Put what the run wrote for its `upload` references into the datastore; return a line for what stays behind."""
    lines: list[str] = []
    for name, reference in (definition.get("dataReferences") or {}).items():
        if str(reference.get("mode")).lower() == "upload":
            store, path = _place(folder, reference)
            left_out = copy_files(Root(run_folder), f"{UPLOADS}/{name}", store, path, folder.tmp)
            lines += left_out.lines(f"the upload {name!r}")
    return lines


def _downloaded(store: Root, path: str, target: Path, work: Path) -> Path:
    """Copy a file or a folder of the datastore, and return where the copy is."""
    place = target / (path.rpartition("/")[2] or store.path.name)
    if path and store.is_file(path):
        with store.open(path) as source, os.fdopen(Root(target).create(place.name), "wb") as copy:
            copy_bytes(source, copy, os.fstat(source.fileno()).st_size)
        return place
    place.mkdir(parents=True, exist_ok=True)
    left_out = copy_files(store, path, Root(place), "", work)
    for line in left_out.lines(f"the download of {path or '/'!r}"):
        raise Fault(400, line, "DataNotBrought")
    return place


def _place(folder: Folder, reference: dict[str, Any]) -> tuple[Root, str]:
    """Return the datastore that a reference names, and the path in it ("" is all of it)."""
    store = folder.datastore(str(reference.get("dataStoreName")))
    path = str(reference.get("pathOnDataStore") or "").strip("/")
    return store, inside(path) if path else ""
