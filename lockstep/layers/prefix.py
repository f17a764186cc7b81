"""Prefix: a conda package as the items that it puts into the environment.

rattler links each package into a staging prefix of its own, for its final path in the image, so what a
package becomes doesn't depend on its neighbours. Nothing is downloaded and no script runs.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep.errors import PackageError
from lockstep.image.layer import PREFIX, REMEDY, executable
from lockstep.layers.bytecode import source_of
from lockstep.layers.conda_archive import Archive, check_extracted, lay, read_archive
from lockstep.layers.package import (
    Item,
    Python,
    Unpacked,
    check_hash,
    check_path,
    check_unique,
    hash_of,
)

if TYPE_CHECKING:
    from lockstep.lock import LockedPackage

READ = 1 << 18
SCRIPTS = ("post-link", "pre-link")  # pre-unlink runs at removal, which an image never sees
_PRETEND = "https://pretend.invalid"  # no server is asked: every record has a file of this machine as its URL


def python_of(packages: Iterable[LockedPackage]) -> Python | None:
    """Return the Python that a lock's conda packages hold, or None."""
    for package in packages:
        if package.manager == "conda" and package.name == "python":
            return Python(".".join(package.version.split(".")[:2]), package.sha256)
    return None


def link_package(package: LockedPackage, path: Path, python: Python | None, folder: Path) -> Unpacked:
    """Link the package at `path` into `folder` and return what it holds; `folder` stays until that is read.

    Raises PackageError, naming package and entry, for what escapes, needs a script, or can't be linked.
    """
    label = f"The conda package {package.filename}"
    prefix = folder / "prefix"
    record = asyncio.run(_link_one(label, package, path, python, folder))
    _check_scripts(label, package, record)
    if record.get("noarch") == "python" and python is None:
        raise PackageError(f"{label} needs Python, which the lock doesn't hold.", "Add python to the spec.")
    entries = {x["_path"]: x for x in record["paths_data"]["paths"]}
    there = set(entries)
    items = [_item(label, prefix, x, listed) for x, listed in entries.items() if source_of(x) not in there]
    if package.name == "python":
        # conda takes a folder for an environment only if it has a history; an empty one holds no clock.
        items.append(_of_bytes("conda-meta/history", b""))
    check_unique(label, items)
    paths = [_path_data(entries[x.path], x) for x in items if x.path in entries]

    def seal(compiled: Sequence[Item]) -> Item:
        return _of_bytes(f"conda-meta/{_stem(package)}.json", _meta(package, record, paths, compiled))

    return Unpacked(label, tuple(items), seal)


def interpreter_packages(packages: Iterable[LockedPackage]) -> tuple[LockedPackage, ...]:
    """Return Python's package and those that it needs, by name."""
    conda = {x.name: x for x in packages if x.manager == "conda"}
    wanted: dict[str, LockedPackage] = {}
    todo = ["python"]
    while todo:
        name = todo.pop()
        if name in conda and name not in wanted:
            wanted[name] = conda[name]
            todo += [x for x, _ in conda[name].dependencies]
    return tuple(wanted[x] for x in sorted(wanted))


def link_interpreter(packages: Sequence[LockedPackage], paths: Mapping[str, Path], folder: Path) -> Path:
    """Link Python and what it needs into `folder` and return the prefix, ready to run on this machine."""
    archives: dict[LockedPackage, Archive] = {}

    async def link() -> None:
        records = []
        for package in packages:
            label = f"The conda package {package.filename}"
            archives[package], record = await _look(label, package, paths[package.sha256], folder)
            records.append(record)
        await _install("The image's Python", records, folder)

    asyncio.run(link())
    for package, archive in archives.items():  # before anything of it runs
        _check_content(f"The conda package {package.filename}", archive, _extracted(package, folder))
    return folder / "prefix"


async def _link_one(
    label: str, package: LockedPackage, path: Path, python: Python | None, folder: Path
) -> dict[str, Any]:
    archive, own = await _look(label, package, path, folder)
    records = [own]
    meta = folder / "prefix" / "conda-meta"
    meta.mkdir(parents=True)
    if python is not None and package.name != "python":
        records.append(_pretend_installed(python, meta))
    await _install(label, records, folder)
    _check_content(label, archive, _extracted(package, folder))
    record: dict[str, Any] = json.loads((meta / f"{_stem(package)}.json").read_bytes())
    return record


async def _look(label: str, package: LockedPackage, path: Path, folder: Path) -> tuple[Archive, Any]:
    """Look at an archive; return what it holds and rattler's record of it, as a channel would tell it."""
    from rattler import PackageRecord, RepoDataRecord

    named = folder / "archives" / package.filename  # rattler goes by the name's suffix
    lay(label, path, named)
    archive = await read_archive(label, _stem(package), named)
    index = named.with_name(f"{package.filename}.index.json")
    index.write_bytes(archive.index)
    try:
        record = PackageRecord.from_index_json(index, package.size, package.sha256, package.md5)
    except Exception as error:  # rattler's errors share no base class
        raise PackageError(
            f"{label} holds an info/index.json that can't be read: {error}.", REMEDY
        ) from error
    return archive, RepoDataRecord(record, package.filename, named.as_uri(), _PRETEND)


def _extracted(package: LockedPackage, folder: Path) -> Path:
    """Return where rattler extracts a package before it links it."""
    return folder / "cache" / _stem(package)


def _check_content(label: str, archive: Archive, extracted: Path) -> None:
    """Raise PackageError unless what was extracted is what the look found and what paths.json states.

    Hashes are compared here for files that hold the prefix, which linking changes; those of others are
    compared with the bytes while their layer is written.
    """
    check_extracted(label, archive, extracted)
    for name, listed in archive.paths.items():
        path = extracted / name
        if listed["path_type"] != "hardlink" or archive.is_link[name]:
            continue
        stated, size = listed.get("size_in_bytes"), path.stat().st_size
        if stated is not None and stated != size:
            raise PackageError(f"{label} states {stated} bytes for {name!r}, which holds {size}.", REMEDY)
        if listed.get("prefix_placeholder") and listed.get("sha256"):
            check_hash(label, name, listed["sha256"], hash_of(_reader(path)()))


def _check_scripts(label: str, package: LockedPackage, record: Mapping[str, Any]) -> None:
    """Raise PackageError for a script that conda would run after linking, wherever the archive had it.

    Source: conda.core.link.run_script; `python-scripts/` of a noarch package becomes `bin/`.
    """
    paths = {x["_path"] for x in record["paths_data"]["paths"]}
    for kind in SCRIPTS:
        if (path := f"bin/.{package.name}-{kind}.sh") in paths:
            raise PackageError(
                f"{label} needs its {kind} script, and nothing runs while an image is built: {path!r}.",
                f"Leave {package.name} out of the spec, or do in docker/Dockerfile what its script does.",
            )


def _pretend_installed(python: Python, meta: Path) -> Any:
    """Tell rattler that Python is in the prefix, so that a noarch package learns where its files go."""
    from rattler import BuildString, PackageRecord, PrefixPaths, PrefixRecord, RepoDataRecord

    record = PackageRecord("python", f"{python.version}.0", BuildString("0"), 0, "linux-64")
    file = f"python-{python.version}.0-0.conda"
    record = RepoDataRecord(record, file, f"{_PRETEND}/{file}", _PRETEND)
    PrefixRecord(record, PrefixPaths()).write_to_path(meta / f"{file.removesuffix('.conda')}.json", False)
    return record


async def _install(label: str, records: list[Any], folder: Path) -> None:
    from rattler import install

    try:
        await install(
            records,
            folder / "prefix",
            cache_dir=folder / "cache",
            alternative_target_prefix=PREFIX,
            execute_link_scripts=False,
            show_progress=False,
        )
    except Exception as error:  # rattler's errors, and panics, share no base class
        if "os error 28" in str(error) or "os error 122" in str(error):
            raise OSError(errno.ENOSPC, str(error)) from error
        raise PackageError(f"{label} can't be linked: {error}", REMEDY) from error


def _item(label: str, prefix: Path, name: str, listed: Mapping[str, Any]) -> Item:
    check_path(label, name)
    path = prefix / name
    if not f"{os.path.realpath(path)}/".startswith(f"{os.path.realpath(prefix)}/"):
        raise PackageError(f"{label} holds a link out of the environment: {name!r}.", REMEDY)
    if path.is_symlink():
        return Item(name, link=os.readlink(path))
    if path.is_dir():
        return Item(name, folder=True)
    state = path.stat()
    sha256 = listed.get("sha256_in_prefix") or listed.get("sha256") or hash_of(_reader(path)())
    return Item(name, state.st_size, sha256, executable(state.st_mode), chunks=_reader(path))


def _path_data(listed: Mapping[str, Any], item: Item) -> dict[str, Any]:
    """Return a path's entry as conda writes it, and `conda doctor` checks it: only files have a hash.

    Source: conda.core.path_actions.LinkPathAction; rattler gives a symlink the hash of its target's name.
    """
    rest = {key: value for key, value in listed.items() if key != "sha256_in_prefix"}
    return {**rest, "sha256_in_prefix": item.sha256} if item.sha256 else rest


def _meta(
    package: LockedPackage,
    record: Mapping[str, Any],
    paths: Sequence[Mapping[str, Any]],
    compiled: Sequence[Item],
) -> bytes:
    """Return a conda-meta record that tells the lock's URL and nothing of the machine that built it."""
    host = ("extracted_package_dir", "package_tarball_full_path", "link")
    told = {key: value for key, value in record.items() if key not in host}
    base, _, _ = package.url.rpartition("/")
    channel = base.removesuffix(f"/{record['subdir']}").removesuffix(":/")  # a bootstrap URL has no host
    told |= {"url": package.url, "channel": channel, "fn": package.filename}
    every = [*paths, *({"_path": x.path, "path_type": "pyc_file"} for x in compiled)]
    every.sort(key=lambda x: str(x["_path"]))
    told["paths_data"] = {**record["paths_data"], "paths": every}
    told["files"] = [x["_path"] for x in every]
    return json.dumps(told, indent=2, sort_keys=True).encode()


def _stem(package: LockedPackage) -> str:
    return package.filename.removesuffix(".conda").removesuffix(".tar.bz2")


def _reader(path: Path) -> Callable[[], Iterable[bytes]]:
    def chunks() -> Iterator[bytes]:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(READ):
                yield chunk

    return chunks


def _of_bytes(path: str, data: bytes) -> Item:
    return Item(path, len(data), hashlib.sha256(data).hexdigest(), chunks=lambda: (data,))
