"""Packages made in code for the tests: wheels and conda packages, the same bytes every time, and odd ones."""

from __future__ import annotations

import base64
import bz2
import csv
import functools
import gzip
import hashlib
import io
import json
import re
import stat
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lockstep.bootstrap.repackage import set_search_paths
from lockstep.home import Home
from lockstep.image import LAYER, Image, ImageLayer, digest_of
from lockstep.image.layer import PREFIX, Layer
from lockstep.image.store import Store
from lockstep.lock import Lock, LockedBase, LockedPackage

PLACEHOLDER = "/placeholder_" + "placehold_" * 24
"""What stands for the prefix in conda packages that hold it, as conda-build writes it."""


@dataclass(frozen=True)
class Made:
    """A package as it would have been fetched: what the lock says of it, and its bytes."""

    locked: LockedPackage
    data: bytes


@dataclass(frozen=True)
class File:
    """A file to put in a package."""

    data: bytes = b""
    executable: bool = False
    link: str | None = None
    """A symlink's target."""
    hardlink: str | None = None
    """The path of an earlier file in the archive."""
    kind: bytes | None = None
    """A tar type, for what no package should hold."""
    unlisted: bool = False
    """Leave it out of RECORD or paths.json."""
    stated: bytes | None = None
    """What RECORD or paths.json says that it holds, where that is a lie."""


Content = bytes | str | File


def _file(content: Content) -> File:
    if isinstance(content, File):
        return content
    return File(content.encode() if isinstance(content, str) else content)


def wheel(
    name: str,
    version: str = "1.0",
    files: Mapping[str, Content] = {},
    *,
    entry_points: str = "",
    purelib: bool = True,
    requires: Sequence[str] = (),
    tag: str = "py3-none-any",
    compression: int = zipfile.ZIP_DEFLATED,
    twice: Sequence[str] = (),
    metadata: Mapping[str, str] = {},
) -> Made:
    """Make a wheel; `twice` names paths that are written a second time."""
    info = f"{name}-{version}.dist-info"
    content = {path: _file(data) for path, data in files.items()}
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    texts = {
        "METADATA": "\n".join([*lines, *(f"Requires-Dist: {x}" for x in requires)]) + "\n",
        "WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: {str(purelib).lower()}\nTag: {tag}\n",
        **({"entry_points.txt": entry_points} if entry_points else {}),
        **metadata,
    }
    content.update({f"{info}/{path}": _file(text) for path, text in texts.items()})
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    for path, file in content.items():
        if not file.unlisted:
            said = file.data if file.stated is None else file.stated
            digest = base64.urlsafe_b64encode(hashlib.sha256(said).digest()).rstrip(b"=").decode()
            writer.writerow((path, f"sha256={digest}", len(said)))
    writer.writerow((f"{info}/RECORD", "", ""))
    content.setdefault(f"{info}/RECORD", _file(rows.getvalue()))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for path in [*content, *twice]:
            file = content[path]
            item = zipfile.ZipInfo(path)
            item.compress_type = compression
            mode = stat.S_IFLNK | 0o777 if file.link else stat.S_IFREG | (0o755 if file.executable else 0o644)
            item.external_attr = mode << 16
            archive.writestr(item, file.link.encode() if file.link else file.data)
    data = out.getvalue()
    return Made(_locked(name, version, "pip", f"https://wheels.test/{name}-{version}-{tag}.whl", data), data)


def conda(
    name: str,
    version: str = "1.0",
    files: Mapping[str, Content] = {},
    *,
    noarch: bool = False,
    entry_points: Sequence[str] = (),
    depends: Sequence[str] = (),
    index: Mapping[str, object] = {},
    listed: Sequence[Mapping[str, object]] = (),
    suffix: str = ".tar.bz2",
) -> Made:
    """Make a conda package; files that hold PLACEHOLDER are listed as holding the prefix.

    `listed` are more entries of paths.json.
    """
    content = {path: _file(data) for path, data in files.items()}
    paths = [_path_entry(path, file, content) for path, file in sorted(content.items()) if not file.unlisted]
    subdir = "noarch" if noarch else "linux-64"
    info: dict[str, object] = {
        "index.json": {
            "name": name,
            "version": version,
            "build": "0",
            "build_number": 0,
            "depends": list(depends),
            "subdir": subdir,
            **({"noarch": "python"} if noarch else {"arch": "x86_64", "platform": "linux"}),
            **index,
        },
        "paths.json": {"paths_version": 1, "paths": [*paths, *listed]},
    }
    if noarch:
        info["link.json"] = {
            "noarch": {"type": "python", "entry_points": list(entry_points)},
            "package_metadata_version": 1,
        }
    texts = {f"info/{path}": _file(json.dumps(value, indent=2)) for path, value in info.items()}
    texts["info/files"] = _file("".join(f"{x['_path']}\n" for x in paths))
    data = (
        _tar_bz2({**texts, **content}) if suffix == ".tar.bz2" else _dot_conda(name, version, texts, content)
    )
    url = f"https://channel.test/main/{subdir}/{name}-{version}-0{suffix}"
    return Made(_locked(name, version, "conda", url, data, build="0"), data)


def _path_entry(path: str, file: File, content: Mapping[str, File]) -> dict[str, object]:
    if file.link is not None:
        return {
            "_path": path,
            "path_type": "softlink",
            "sha256": hashlib.sha256().hexdigest(),
            "size_in_bytes": 0,
        }
    data = content[file.hardlink].data if file.hardlink else file.data
    said = data if file.stated is None else file.stated
    entry: dict[str, object] = {
        "_path": path,
        "path_type": "hardlink",
        "sha256": hashlib.sha256(said).hexdigest(),
        "size_in_bytes": len(said),
    }
    if PLACEHOLDER.encode() in data:
        entry |= {"prefix_placeholder": PLACEHOLDER, "file_mode": "binary" if b"\0" in data else "text"}
    return entry


def _tar(content: Mapping[str, File]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, file in content.items():
            item = tarfile.TarInfo(path)
            item.mtime = 1_600_000_000
            item.mode = 0o755 if file.executable else 0o644
            if file.link is not None:
                item.type, item.linkname = tarfile.SYMTYPE, file.link
            elif file.hardlink is not None:
                item.type, item.linkname = tarfile.LNKTYPE, file.hardlink
            elif file.kind is not None:
                item.type = file.kind
            else:
                item.size = len(file.data)
            archive.addfile(item, io.BytesIO(file.data))
    return out.getvalue()


def _tar_bz2(content: Mapping[str, File]) -> bytes:
    return bz2.compress(_tar(content), 1)


def _dot_conda(name: str, version: str, info: Mapping[str, File], content: Mapping[str, File]) -> bytes:
    import zstandard

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        parts = {
            "metadata.json": b'{"conda_pkg_format_version": 2}',
            f"pkg-{name}-{version}-0.tar.zst": zstandard.compress(_tar(content), 1),
            f"info-{name}-{version}-0.tar.zst": zstandard.compress(_tar(info), 1),
        }
        for path, data in parts.items():
            archive.writestr(zipfile.ZipInfo(path), data)
    return out.getvalue()


def members(made: Made) -> dict[str, bytes]:
    """Return the members of a .conda archive."""
    with zipfile.ZipFile(io.BytesIO(made.data)) as archive:
        return {x.filename: archive.read(x) for x in archive.infolist()}


def with_members(made: Made, parts: Mapping[str, bytes], *, extra: bytes = b"", before: bytes = b"") -> Made:
    """Return a .conda package of other members.

    `extra` is an extra field of each in the zip's directory, `before` what the file begins with.
    """
    out = io.BytesIO(before)
    out.seek(0, io.SEEK_END)
    with zipfile.ZipFile(out, "a") as archive:
        for path, data in parts.items():
            archive.writestr(zipfile.ZipInfo(path), data)
        for item in archive.infolist():
            item.extra = extra
    data = out.getvalue()
    url = made.locked.url
    return Made(_locked(made.locked.name, made.locked.version, "conda", url, data, build="0"), data)


def zstd_tar(files: Mapping[str, File], *, end: bool = True) -> bytes:
    """Return a compressed tar; without its `end`, what another frame holds goes on with it."""
    import zstandard

    data = _tar(files)
    return zstandard.compress(
        data if end else data[: sum(512 + -(-len(x.data) // 512) * 512 for x in files.values())]
    )


def _locked(
    name: str, version: str, manager: str, url: str, data: bytes, build: str | None = None
) -> LockedPackage:
    return LockedPackage(
        name=name,
        version=version,
        manager=manager,  # type: ignore[arg-type]
        url=url,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        md5=hashlib.md5(data, usedforsecurity=False).hexdigest() if manager == "conda" else None,
        build=build,
    )


def put(home: Home, *made: Made) -> dict[str, Path]:
    """Lay packages into a home as `fetch` would, and return what `fetch` would."""
    found = {}
    for one in made:
        path = home.package(one.locked.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.data)
        found[one.locked.sha256] = path
    return found


def lock_of(*made: Made, variables: tuple[tuple[str, str], ...] = ()) -> Lock:
    """Return a lock of these packages on a base that only its digest names."""
    packages = sorted((x.locked for x in made), key=lambda x: (x.name, x.manager))
    base = LockedBase("debian:12-slim", "sha256:" + "0" * 64)
    return Lock(spec_hash="1" * 64, base=base, packages=tuple(packages), variables=variables)


PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
"""The minor version of the Python that `python_package` carries."""


_NEEDED = frozenset(
    re.findall(
        r"\w+",
        "__future__ _collections_abc _compat_pickle _compression _sitebuiltins _weakrefset abc ast base64 "
        "bisect bz2 calendar codecs collections configparser contextlib copy copyreg csv datetime dis email "
        "encodings enum fnmatch functools genericpath hashlib heapq importlib inspect io ipaddress json "
        "keyword linecache locale lzma marshal ntpath numbers opcode operator os pathlib pickle posixpath "
        "py_compile quopri random re reprlib runpy selectors shutil site socket sre_compile sre_constants "
        "sre_parse stat string struct sysconfig tempfile textwrap threading token tokenize traceback types "
        "typing urllib uu warnings weakref zipfile zipimport ",
    )
)
_LARGE = {"test", "tests", "idlelib", "tkinter", "lib2to3", "ensurepip", "turtledemo", "pydoc_data"}
_ELSEWHERE = {"site-packages", "dist-packages", "__pycache__"}


def _with_libraries_beside(base: Path, *names: str) -> Iterator[tuple[str, bytes]]:
    """Give files of a Python that look for their libraries in its own prefix, wherever that is, as conda's do."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            copy = Path(folder, name)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes((base / name).read_bytes())
        set_search_paths(Path(folder))
        for name in names:
            yield name, Path(folder, name).read_bytes()


@functools.cache
def python_package(*, whole: bool = False) -> Made:
    """Make a conda package of the Python that runs the tests: the program and a standard library.

    The small one starts, imports and reads metadata; the `whole` one runs pip.
    """
    base, folder = Path(sys.base_prefix), f"lib/python{PYTHON}"
    program = f"bin/python{PYTHON}"
    libraries = [f"lib/{x.name}" for x in base.glob(f"lib/libpython{PYTHON}.so*")]
    files: dict[str, Content] = {
        name: File(data, executable=True) for name, data in _with_libraries_beside(base, program, *libraries)
    }
    files["bin/python3"] = files["bin/python"] = File(link=f"python{PYTHON}")
    for path in sorted((base / folder).iterdir()):
        wanted = path.name.partition(".")[0] in _NEEDED or path.name == "lib-dynload" or whole
        if not wanted or path.name in _LARGE | _ELSEWHERE or path.name.startswith("config-"):
            continue
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file() and not (_LARGE | _ELSEWHERE) & set(file.relative_to(base / folder).parts):
                files[f"{folder}/{file.relative_to(base / folder)}"] = file.read_bytes()
    files[f"{folder}/site-packages/README.txt"] = "for packages\n"
    version = ".".join(map(str, sys.version_info[:3]))
    return conda("python", version, files, suffix=".conda")


def unpack(layers: Iterable[Layer], store: Store, folder: Path) -> Path:
    """Unpack layers as an engine would, in order, and return the environment's folder."""
    for layer in layers:
        with tarfile.open(store.blob(layer.diff_id)) as archive:
            archive.extractall(folder, filter="tar")
    return folder / PREFIX.lstrip("/")


def base_image(store: Store) -> Image:
    """Put a base image of one small compressed layer into a store, and return it."""
    plain = _tar({"etc/base": File(b"base\n")})
    layer = gzip.compress(plain, mtime=0)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2020-02-02T00:00:00Z",
        "config": {
            "Env": ["PATH=/usr/bin:/bin", "FROM_BASE=kept"],
            "Entrypoint": ["/from-base"],
            "Labels": {"from.base": "kept"},
        },
        "rootfs": {"type": "layers", "diff_ids": [digest_of(plain)]},
        "history": [
            {"created": "2020-02-02T00:00:00Z", "created_by": "ADD rootfs"},
            {"created": "2020-02-02T00:00:00Z", "created_by": "CMD bash", "empty_layer": True},
        ],
    }
    data = json.dumps(config).encode()
    told = ImageLayer(digest_of(plain), store.put(layer), f"{LAYER}+gzip", len(layer))
    store.put(data)
    return Image(data, (told,))
