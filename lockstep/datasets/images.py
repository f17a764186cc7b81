"""Images that people have: a folder or an archive of class folders becomes a dataset under data/."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lockstep.datasets.cifar10 import is_cifar10, make_cifar10, open_tar
from lockstep.datasets.dataset import (
    ANY_DATA,
    EXTENSIONS,
    SPLITS,
    Dataset,
    add_image,
    new_dataset,
    read_dataset,
)
from lockstep.errors import JobError
from lockstep.home import Home
from lockstep.progress import SILENT, Progress


def import_images(
    source: Path, data: Path, home: Home, progress: Progress = SILENT, *, name: str | None = None
) -> Dataset:
    """Copy images in class folders, from a folder or a tar (of any compression), to data/<name>.

    CIFAR-10's own file is understood as well. Only images in `[…/]train|test/<class>/` are taken, by
    their names alone: nothing is written elsewhere, links are passed over. Raises JobError.
    """
    if not source.exists():
        raise JobError(f"{source} doesn't exist.", ANY_DATA)
    is_folder = source.is_dir()
    if not is_folder and is_cifar10(source):
        return make_cifar10(data, home, progress, source=source)
    name = name or source.name.partition(".")[0]
    if not name or name != Path(name).name or name.startswith("."):
        raise JobError(f"{name!r} can't be a dataset's name.", "Give another one with --name.")
    passed_over = 0
    with new_dataset(data, name) as folder:
        if folder is None:
            raise JobError(
                f"{data / name} is there already.",
                f"Remove it, or choose another name with --name, than {name}.",
            )
        with progress.task(f"Taking images from {source.name}", unit="images") as task:
            for place, content in _walk_folder(source) if is_folder else _walk_tar(source):
                if place is None:
                    passed_over += 1
                    continue
                add_image(folder, *place, content)
                task.advance()
        if passed_over:
            progress.say(
                f"{passed_over:,} files weren't images in train/<class>/ or test/<class>/: passed over."
            )
    return read_dataset(data / name)


Place = tuple[str, str, str]  # split, class, file name


def _place(path: str) -> Place | None:
    """Return where an image goes, from the last three parts of its path; None if it is no such image."""
    parts = path.split("/")[-3:]
    if len(parts) != 3 or parts[0] not in SPLITS:
        return None
    split, kind, name = parts
    odd = any(part.startswith(".") or "\\" in part or "\0" in part or not part for part in (kind, name))
    return None if odd or not name.lower().endswith(EXTENSIONS) else (split, kind, name)


def _walk_folder(source: Path) -> Iterator[tuple[Place | None, bytes]]:
    for parent, folders, files in os.walk(source):
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            place = _place(f"{source.name}/{path.relative_to(source).as_posix()}")
            place = None if path.is_symlink() else place
            yield place, path.read_bytes() if place else b""


def _walk_tar(source: Path) -> Iterator[tuple[Place | None, bytes]]:
    with open_tar(source) as tar:
        for member in tar:
            if member.isdir():
                continue
            place = _place(member.name) if member.isreg() else None
            file = tar.extractfile(member) if place else None
            yield place, file.read() if file else b""
            tar.members = []  # type: ignore[attr-defined]  # else it keeps every header in memory
