"""Data in the workspace's default datastore: folders by their content, uploaded once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lockstep.azureml.values import RemoteData
from lockstep.errors import JobError, WorkspaceError
from lockstep.progress import Progress

COMPLETE = ".complete.json"
"""The end of a note's name, written last, beside the folder: an upload that was broken off doesn't count."""
WORKERS = 16


def upload(store: Any, folder: Path, path: str, progress: Progress) -> RemoteData:
    """Put the files of `folder` below `path`. Broken off, it goes on where it was."""
    from concurrent.futures import ThreadPoolExecutor

    there = find(store, path)
    if there is not None:
        return there
    files = files_of(folder)
    container = _container(store)
    have = dict(listing(store, f"{path}/"))
    missing = [(name, file) for name, file in files if have.get(f"{path}/{name}") != file.stat().st_size]
    total = sum(file.stat().st_size for _, file in missing)

    def send(name: str, file: Path) -> int:
        with file.open("rb") as body:
            container.get_blob_client(f"{path}/{name}").upload_blob(body, overwrite=True)
        return file.stat().st_size

    with (
        progress.task(f"Data to the datastore {store.name}", total) as task,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        for sent in pool.map(lambda each: send(*each), missing):
            task.advance(sent)
    note = json.dumps({"files": len(files), "bytes": sum(file.stat().st_size for _, file in files)})
    container.get_blob_client(f"{path}{COMPLETE}").upload_blob(note.encode(), overwrite=True)
    return RemoteData(store.name, path, len(files), total)


def files_of(folder: Path) -> list[tuple[str, Path]]:
    """Return name and place of each file that is data. Raises JobError when there is none."""
    if not folder.is_dir():
        raise JobError(
            f"The data folder {folder} isn't there.", "Mend job.data in invoke.yaml, or `./invoke data`."
        )
    found = [
        (file.relative_to(folder).as_posix(), file) for file in sorted(folder.rglob("*")) if file.is_file()
    ]
    if not found:
        raise JobError(
            f"The data folder {folder} holds no files.", "Mend job.data in invoke.yaml, or `./invoke data`."
        )
    return found


def find(store: Any, path: str) -> RemoteData | None:
    """Return the folder at `path` if it was uploaded whole."""
    client = _container(store).get_blob_client(f"{path}{COMPLETE}")
    if not client.exists():
        return None
    noted = json.loads(client.download_blob().readall())
    return RemoteData(store.name, path, int(noted["files"]))


def listing(store: Any, prefix: str) -> tuple[tuple[str, int], ...]:
    """Return name and size of every blob below `prefix`."""
    return tuple(
        (blob.name, int(blob.size)) for blob in _container(store).list_blobs(name_starts_with=prefix)
    )


def remove(store: Any, names: tuple[str, ...]) -> None:
    """Remove blobs, the notes that uploads are complete first."""
    container = _container(store)
    for name in sorted(names, key=lambda each: not each.endswith(COMPLETE)):
        container.get_blob_client(name).delete_blob()


def _container(store: Any) -> Any:
    """Return the SDK's storage client of a datastore: `Datastore.upload` is slow and can't go on."""
    if not hasattr(store, "blob_service"):
        raise WorkspaceError(
            f"The workspace's default datastore {store.name} isn't blob storage.",
            "Make a blob datastore the default one.",
        )
    return store.blob_service.get_container_client(store.container_name)
