"""Debian packages and archives made in code, for the tests of the bootstrap."""

from __future__ import annotations

import asyncio
import hashlib
import io
import lzma
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from lockstep.home import Home
from lockstep.lock.locked import LockedDeb


@dataclass(frozen=True)
class Made:
    """A .deb in memory: `files` by path from the root; a value that starts with "-> " is a symbolic link."""

    name: str
    version: str = "1.0-1"
    files: dict[str, str | bytes] = field(default_factory=dict)
    depends: str = ""
    source: str = ""
    architecture: str = "amd64"
    epoch: int = 1_600_000_000

    @property
    def control(self) -> str:
        """The control file."""
        fields = {
            "Package": self.name,
            "Source": self.source,
            "Version": self.version,
            "Architecture": self.architecture,
            "Maintainer": "Nobody <nobody@example.com>",
            "Depends": self.depends,
            "Description": "a package\n of the tests",
        }
        return "".join(f"{key}: {value}\n" for key, value in fields.items() if value)

    @property
    def data(self) -> bytes:
        """The file's bytes (deb(5))."""
        members = {
            "debian-binary": b"2.0\n",
            "control.tar.xz": _tar({"control": self.control}, self.epoch),
            "data.tar.xz": _tar(self.files, self.epoch),
        }
        archive = b"!<arch>\n"
        for name, data in members.items():
            head = f"{name:<16}{self.epoch:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n"
            archive += head.encode() + data + b"\n" * (len(data) % 2)
        return archive

    @property
    def path(self) -> str:
        """Where an archive keeps it."""
        return f"pool/main/{self.name[0]}/{self.name}_{self.version.split(':')[-1]}_{self.architecture}.deb"

    @property
    def locked(self) -> LockedDeb:
        """What a lock says of it."""
        sha256 = hashlib.sha256(self.data).hexdigest()
        return LockedDeb(self.name, self.version, self.path, sha256, len(self.data))


def _tar(files: dict[str, str | bytes], epoch: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path, content in sorted(files.items()):
            member = tarfile.TarInfo(f"./{path}")
            member.mtime, member.mode = epoch, 0o755 if "/bin/" in path else 0o644
            if isinstance(content, str) and content.startswith("-> "):
                member.type, member.linkname = tarfile.SYMTYPE, content[3:]
                tar.addfile(member)
                continue
            data = content.encode() if isinstance(content, str) else content
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return lzma.compress(stream.getvalue())


def archive(folder: Path, suite: str, origin: str, *packages: Made) -> None:
    """Lay out an apt archive of these packages, unsigned, with one suite and the component main."""
    index = []
    for package in packages:
        target = folder / package.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(package.data)
        locked = package.locked
        index.append(
            f"{package.control}Filename: {locked.path}\nSize: {locked.size}\nSHA256: {locked.sha256}\n"
        )
    dist = folder / "dists" / suite
    (dist / "main" / "binary-amd64").mkdir(parents=True)
    text = "\n".join(index)
    (dist / "main" / "binary-amd64" / "Packages").write_text(text)
    (dist / "Release").write_text(
        f"Origin: {origin}\nSuite: {suite}\nCodename: {suite}\nComponents: main\nArchitectures: amd64\n"
        f"Date: Mon, 01 Jun 2026 00:00:00 UTC\nSHA256:\n {hashlib.sha256(text.encode()).hexdigest()} "
        f"{len(text)} main/binary-amd64/Packages\n"
    )


def wheel(name: str) -> bytes:
    """Return a small pure wheel with one script."""
    info = f"{name}-23.0.dist-info"
    files = {
        f"{name}/__init__.py": "def main(): print('hello from', __file__)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 23.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return stream.getvalue()


def stored(home: Home, *debs: Made) -> Home:
    """Lay .debs into a store, as a fetch does."""
    home.package("x").parent.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        home.package(deb.locked.sha256).write_bytes(deb.data)
    return home


def link(channel: Path, prefix: Path, *specs: str) -> dict[str, str]:
    """Solve with rattler against the channel alone, link into a prefix, return the versions by name."""
    import rattler
    from rattler.package.build_string import BuildString

    glibc = rattler.GenericVirtualPackage(
        rattler.PackageName("__glibc"), rattler.Version("2.41"), BuildString("0")
    )

    async def run() -> dict[str, str]:
        found = await rattler.solve(
            sources=[rattler.Channel(channel.as_uri())],
            specs=[rattler.MatchSpec(spec) for spec in specs],
            platforms=[rattler.Subdir("linux-64"), rattler.Subdir("noarch")],
            gateway=rattler.Gateway(cache_dir=prefix.with_name("repodata")),
            virtual_packages=[glibc],
        )
        await rattler.install(
            found, target_prefix=prefix, cache_dir=prefix.with_name("cache"), show_progress=False
        )
        return {one.name.normalized: str(one.version) for one in found}

    return asyncio.run(run())
