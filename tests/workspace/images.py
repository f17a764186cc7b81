"""Images for jobs, made of this machine's own Python: nothing is downloaded."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

PROGRAMS = ("sh", "cat", "sleep", "ls", "id", "mkdir", "echo", "env")
NOT_NEEDED = re.compile(
    r"/(test|tests|idlelib|tkinter|ensurepip|__pycache__|lib2to3|mypy|mypyc|rattler|ruff|uv|pip|conda_lock)(/|$)"
    r"|/(config-3|ansible)|\.a$"
)


def python_tar(*, with_packages: bool) -> bytes:
    """Return a root file system of the interpreter, its library, a shell, and the packages of this virtual environment.

    Everything lies where it lies here, so that the interpreter finds it; `python` is on the default PATH.
    """
    python = Path(sys.executable).resolve()
    library = Path(
        sysconfig.get_path("stdlib", vars={"base": sys.base_prefix, "installed_base": sys.base_prefix})
    )
    files: dict[str, Path] = {str(python): python}
    for program in PROGRAMS:
        found = shutil.which(program)
        assert found, program
        files[f"/bin/{program}"] = Path(found).resolve()
    for folder in (library, *([Path(sysconfig.get_path("purelib"))] if with_packages else [])):
        for path in folder.rglob("*"):
            inner = path.relative_to(folder).as_posix()
            site = inner.startswith("site-packages/") and folder == library
            if path.is_file() and not site and not NOT_NEEDED.search(f"/{inner}"):
                files[str((library / "site-packages" if folder != library else library) / inner)] = path
    native = [path for path in files.values() if path.suffix == ".so" or path.parent.name in ("bin",)]
    files.update(_libraries([python, *native]))
    return _tar(files, links={"/usr/bin/python": str(python)})


def _libraries(programs: list[Path]) -> dict[str, Path]:
    """Return the shared libraries that programs need, by the path at which the loader looks for them."""
    found: dict[str, Path] = {}
    for start in range(0, len(programs), 50):
        names = [str(path) for path in programs[start : start + 50]]
        told = subprocess.run(["ldd", *names], capture_output=True, text=True).stdout
        for library in re.findall(r"(/\S+) \(0x", told):
            found[library] = Path(library).resolve()
    return found


def _tar(files: dict[str, Path], links: dict[str, str]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for folder in ("tmp", "proc", "sys", "dev", "etc", "usr/bin"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(info)
        made: set[str] = set()
        for target, source in sorted(files.items()):
            for parent in reversed(Path(target).parents):
                name = str(parent).strip("/")
                if name and name not in made:
                    made.add(name)
                    info = tarfile.TarInfo(name)
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(info)
            info = tarfile.TarInfo(target.lstrip("/"))
            info.size, info.mode = source.stat().st_size, 0o755
            with source.open("rb") as file:
                tar.addfile(info, file)
        for name, target in links.items():
            info = tarfile.TarInfo(name.lstrip("/"))
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return data.getvalue()
