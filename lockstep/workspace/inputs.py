"""Inputs: a run's data references to the default datastore, brought to where its containers can see them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lockstep.workspace.fault import Fault
from lockstep.workspace.folder import Folder, inside, one_name

MODES = ("mount", "download", "upload")
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

    Raises Fault in words when what a reference names isn't in the datastore.
    """
    inputs: list[Input] = []
    for name, reference in (definition.get("dataReferences") or {}).items():
        mode = str(reference.get("mode") or "mount").lower()
        source = _source(folder, reference)
        if mode == "upload":
            target = run_folder / "uploads" / one_name(name)
            target.mkdir(parents=True, exist_ok=True)
            inputs.append((name, target, False))
            continue
        if not source.exists():
            path = reference.get("pathOnDataStore") or "/"
            raise Fault(
                404,
                f"The data reference {name!r} names {path!r}, which isn't in the datastore.",
                "DataNotFound",
            )
        if mode == "download":
            copy = run_folder / "downloads" / one_name(name) / source.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, copy, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, copy)
            inputs.append((name, copy, False))
        else:
            inputs.append((name, source, True))
    return tuple(inputs)


def take_back(definition: dict[str, Any], folder: Folder, run_folder: Path) -> None:
    """Put what the run wrote for its `upload` references into the datastore."""
    for name, reference in (definition.get("dataReferences") or {}).items():
        written = run_folder / "uploads" / name
        if str(reference.get("mode")).lower() == "upload" and written.is_dir():
            shutil.copytree(written, _source(folder, reference), dirs_exist_ok=True)


def _source(folder: Folder, reference: dict[str, Any]) -> Path:
    root = folder.datastore(str(reference.get("dataStoreName")))
    path = str(reference.get("pathOnDataStore") or "").strip("/")
    return inside(root, path) if path else root
