"""Wheels: what goes where, what RECORD says, what is refused."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from lockstep.errors import PackageError
from lockstep.layers.package import Item, Python
from lockstep.layers.wheel import open_wheel
from tests.packages import Content, File, Made, wheel

PYTHON = Python("3.11", "0" * 64)
SITE = "lib/python3.11/site-packages"


def opened(made: Made, folder: Path, compiled: Sequence[Item] = ()) -> dict[str, tuple[Item, bytes]]:
    """Return what a wheel puts into the environment, by path, with the content; RECORD included."""
    path = folder / made.locked.sha256
    path.write_bytes(made.data)
    with open_wheel(path, made.locked, PYTHON) as unpacked:
        items = [*unpacked.items, unpacked.seal(compiled)]
        return {x.path: (x, x.read()) for x in items}


def record(found: dict[str, tuple[Item, bytes]], info: str) -> dict[str, tuple[str, str]]:
    """Return RECORD's rows."""
    text = found[f"{SITE}/{info}/RECORD"][1].decode()
    return {path: (digest, size) for path, digest, size in csv.reader(io.StringIO(text))}


def test_schemes_go_where_they_belong(tmp_path: Path) -> None:
    """Each scheme of the data folder has its place in the prefix (binary distribution format)."""
    files = {
        "m/__init__.py": "x = 1\n",
        "m-1.0.data/purelib/pure.py": "",
        "m-1.0.data/platlib/plat.py": "",
        "m-1.0.data/headers/m.h": "",
        "m-1.0.data/data/share/m/text": "t",
        "m-1.0.data/scripts/tool": "#!python -x\nprint(1)\n",
    }
    found = opened(wheel("m", files=files), tmp_path)
    info = f"{SITE}/m-1.0.dist-info"
    assert sorted(found) == sorted(
        [
            "bin/tool",
            "include/python3.11/m/m.h",
            "share/m/text",
            *(f"{SITE}/{x}" for x in ("m/__init__.py", "pure.py", "plat.py")),
            *(f"{info}/{x}" for x in ("INSTALLER", "METADATA", "RECORD", "WHEEL")),
        ]
    )
    assert found["bin/tool"][1] == b"#!/opt/env/bin/python\nprint(1)\n"
    assert found["bin/tool"][0].executable
    assert found[f"{info}/INSTALLER"][1] == b"lockstep\n"


def test_sizes_and_hashes_fit_the_content(tmp_path: Path) -> None:
    """What an item says of itself is what it holds: also where a script was changed."""
    files: dict[str, Content] = {
        "listed": "a" * 300_000,
        "m-1.0.data/scripts/py": "#!pythonw\nx",
        "m-1.0.data/scripts/empty": "",
        "m-1.0.data/scripts/only": "#!python",
        "m-1.0.data/scripts/sh": "#!/bin/sh\n",
    }
    for item, data in opened(
        wheel("m", files=files, entry_points="[console_scripts]\nm = a:b.c\n"), tmp_path
    ).values():
        assert (item.size, item.sha256) == (len(data), hashlib.sha256(data).hexdigest()), item.path


def test_record_tells_all_that_is_there(tmp_path: Path) -> None:
    """RECORD has a row for every file, generated ones and bytecode included, relative to site-packages."""
    made = wheel(
        "m",
        files={"m.py": "x\n"},
        entry_points="[console_scripts]\nrun = m:main\n[gui_scripts]\ngui = m:main\n",
    )
    pyc = Item(f"{SITE}/__pycache__/m.cpython-311.pyc", 3, "ab" * 32)
    rows = record(opened(made, tmp_path, (pyc,)), "m-1.0.dist-info")
    info = "m-1.0.dist-info"
    assert sorted(rows) == sorted(
        ["../../../bin/run", "../../../bin/gui", "__pycache__/m.cpython-311.pyc", "m.py"]
        + [f"{info}/{x}" for x in ("INSTALLER", "METADATA", "RECORD", "WHEEL", "entry_points.txt")]
    )
    assert rows.pop(f"{info}/RECORD") == ("", "")
    assert all(digest.startswith("sha256=") and size for digest, size in rows.values())


def test_entry_points_run_the_images_python(tmp_path: Path) -> None:
    """Console and gui scripts start the final prefix's Python; one that a wheel brings along doesn't win."""
    made = wheel(
        "m",
        files={"m-1.0.data/scripts/run": "#!/usr/bin/python\nold"},
        entry_points="[console_scripts]\nrun = m.cli:main\n",
    )
    item, data = opened(made, tmp_path)["bin/run"]
    assert data.startswith(b"#!/opt/env/bin/python\n")
    assert b"from m.cli import main" in data
    assert item.executable


def test_executable_bits_are_kept(tmp_path: Path) -> None:
    """A file that its wheel marks as executable stays so; others don't become so."""
    found = opened(wheel("m", files={"m/bin": File(b"x", executable=True), "m/lib": "x"}), tmp_path)
    assert found[f"{SITE}/m/bin"][0].executable
    assert not found[f"{SITE}/m/lib"][0].executable


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_every_compression_is_read(method: int, tmp_path: Path) -> None:
    """Content comes out as it went in, whatever the zip's method, in chunks of any size."""
    data = os.urandom(400_000) + bytes(900_000)
    found = opened(wheel("m", files={"m.bin": data, "empty": b""}, compression=method), tmp_path)
    assert found[f"{SITE}/m.bin"][1] == data
    assert found[f"{SITE}/empty"][1] == b""


def test_root_is_purelib_or_not(tmp_path: Path) -> None:
    """In a conda prefix both roots are site-packages."""
    for purelib in (True, False):
        assert f"{SITE}/m.py" in opened(wheel("m", files={"m.py": ""}, purelib=purelib), tmp_path)


def test_bytecode_that_a_wheel_brings_is_left_out(tmp_path: Path) -> None:
    """What some other Python compiled for some other path has no place in the image."""
    found = opened(wheel("m", files={"m.py": "", "__pycache__/m.cpython-311.pyc": b"?"}), tmp_path)
    assert not [x for x in found if "__pycache__" in x]


@pytest.mark.parametrize(
    "path",
    [
        "../out",
        "/etc/passwd",
        "m/../../out",
        "m//x",
        "./m",
        "m-1.0.data/scripts/../../../out",
        "m-1.0.data/data/../x",
    ],
)
def test_names_that_escape_are_refused(path: str, tmp_path: Path) -> None:
    """An entry that would land elsewhere is an error that names wheel and entry."""
    with pytest.raises(PackageError) as caught:
        opened(wheel("m", files={path: "x"}), tmp_path)
    assert "m-1.0-py3-none-any.whl" in str(caught.value)
    assert path in str(caught.value)


def lines(*rows: str) -> dict[str, str]:
    """Return a RECORD of these rows, besides those of the metadata."""
    known = {
        "METADATA": "Metadata-Version: 2.1\nName: m\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    info = "m-1.0.dist-info"
    made = [f"{info}/{x},{hashed(text.encode())}" for x, text in known.items()]
    return {"RECORD": "\n".join([*made, *rows, f"{info}/RECORD,,"]) + "\n"}


def hashed(data: bytes, algorithm: str = "sha256") -> str:
    """Return a content's hash and size as a row of RECORD has them."""
    digest = base64.urlsafe_b64encode(hashlib.new(algorithm, data).digest()).rstrip(b"=").decode()
    return f"{algorithm}={digest},{len(data)}"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((), "holds 'm.py', which RECORD doesn't list"),
        ((f"m.py,{hashed(b'x')}", f"n.py,{hashed(b'x')}"), "lists 'n.py' in RECORD and doesn't hold it"),
        (("m.py,,",), "states no sha256 for 'm.py'"),
        ((f"m.py,{hashed(b'x', 'md5')}",), "states no sha256 for 'm.py'"),
        ((f"m.py,{hashed(b'x').replace(',1', ',2')}",), "states 2 bytes for 'm.py', which holds 1"),
        ((f"m.py,{hashed(b'x')}", f"m.py,{hashed(b'y')}"), "two things of 'm.py'"),
        ((f"m.py,{hashed(b'y', 'sha512')}",), "states sha256 .* for 'm.py'"),
        (("m.py",), "isn't path, hash and size: 'm.py'"),
    ],
    ids=["unlisted", "absent", "no-hash", "weak-hash", "size", "twice", "other-sha512", "short-row"],
)
def test_a_record_that_is_not_true_is_refused(rows: tuple[str, ...], words: str, tmp_path: Path) -> None:
    """RECORD names every file, no other, and what it says of each fits; the wheel and the entry are named."""
    with pytest.raises(PackageError, match=words) as caught:
        opened(wheel("m", files={"m.py": "x"}, metadata=lines(*rows)), tmp_path)
    assert "m-1.0-py3-none-any.whl" in str(caught.value)


def test_signatures_and_stronger_hashes_are_fine(tmp_path: Path) -> None:
    """RECORD states no hash of its signatures, and may state better ones than sha256; a size may be missing."""
    row = f"m.py,{hashed(b'x', 'sha512')}".removesuffix("1")
    made = wheel("m", files={"m.py": "x", "m-1.0.dist-info/RECORD.jws": "{}"}, metadata=lines(row))
    found = opened(made, tmp_path)
    assert found[f"{SITE}/m.py"][0].sha256 == hashlib.sha256(b"x").hexdigest()
    assert record(found, "m-1.0.dist-info")["m.py"] == tuple(hashed(b"x").split(","))


def test_a_script_that_is_changed_is_checked_first(tmp_path: Path) -> None:
    """What RECORD states of a script is compared with the wheel's bytes, not with what they become."""
    lie = File(b"#!python\nevil\n", stated=b"#!python\ngood\n")
    with pytest.raises(PackageError, match=r"states sha256 .* for 'tool'"):
        opened(wheel("m", files={"m-1.0.data/scripts/tool": lie}), tmp_path)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("NumPy.egg-info/PKG-INFO", "metadata of numpy"),
        ("numpy-2.0-py3.11.egg-info", "metadata of numpy"),
        (f"m-1.0.data/data/{SITE}/numpy-2.0.dist-info/METADATA", "metadata of numpy"),
        ("NUMPY-2.0.DIST-INFO/METADATA", "metadata of numpy"),
        ("m-1.0.data/data/lib/python3.11/numpy-2.0.dist-info/METADATA", "metadata of numpy"),
        ("m-1.0.data/data/lib/python3.11/lib-dynload/numpy.egg-info", "metadata of numpy"),
        ("m-1.0.data/data/conda-meta/python-3.11.0-0.json", "only the installer writes"),
        ("m-1.0.data/data/conda-meta/history", "only the installer writes"),
    ],
)
def test_another_packages_metadata_is_refused(path: str, words: str, tmp_path: Path) -> None:
    """A wheel speaks for itself only, wherever in the archive it puts it."""
    with pytest.raises(PackageError, match=words):
        opened(wheel("m", files={path: "x"}), tmp_path)


def test_own_and_vendored_metadata_is_kept(tmp_path: Path) -> None:
    """What speaks for the wheel itself, and what lies deeper than site-packages, speaks for nobody else."""
    files = {
        "M.egg-info/PKG-INFO": "own",
        "m/_vendor/numpy-2.0.dist-info/METADATA": "x",
        f"m/env/{SITE}/numpy-2.0.dist-info/METADATA": "x",
    }
    assert {f"{SITE}/{x}" for x in files} <= set(opened(wheel("m", files=files), tmp_path))


def test_symlinks_are_refused(tmp_path: Path) -> None:
    """A symlink in a wheel is none of the format's things, and a way out of the prefix."""
    with pytest.raises(PackageError, match=r"symlink.*'m/link'"):
        opened(wheel("m", files={"m/link": File(link="/etc")}), tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    """Of two entries with one name, nobody knows which is meant."""
    with pytest.raises(PackageError, match=r"'m.py' twice"):
        opened(wheel("m", files={"m.py": "1"}, twice=["m.py"]), tmp_path)


def test_two_schemes_for_one_path_are_refused(tmp_path: Path) -> None:
    """A path that the root and the data folder both write comes twice too."""
    with pytest.raises(PackageError, match="twice"):
        opened(wheel("m", files={"m.py": "1", "m-1.0.data/purelib/m.py": "2"}), tmp_path)


def test_a_file_below_a_file_is_refused(tmp_path: Path) -> None:
    """A path can't be a file and a folder."""
    with pytest.raises(PackageError, match="no folder"):
        opened(wheel("m", files={"m": "1", "m/x": "2"}), tmp_path)


@pytest.mark.parametrize("name", ["../evil", "a/b"])
def test_entry_points_stay_in_bin(name: str, tmp_path: Path) -> None:
    """An entry point's name is a file name, not a path."""
    with pytest.raises(PackageError, match="leaves bin"):
        opened(wheel("m", entry_points=f"[console_scripts]\n{name} = m:main\n"), tmp_path)


@pytest.mark.parametrize(
    ("metadata", "entry_points"),
    [
        ({"WHEEL": "Wheel-Version: 2.0\n"}, ""),
        ({"RECORD": "a,b,c,d\nm.py,sha256=!!,1\n"}, ""),
        ({}, "[console_scripts]\nbroken\n"),
        ({}, "[console_scripts]\nrun = not an entry point\n"),
    ],
)
def test_broken_metadata_is_said_in_words(
    metadata: dict[str, str], entry_points: str, tmp_path: Path
) -> None:
    """Whatever `installer` trips over becomes a PackageError that names the wheel and says why."""
    with pytest.raises(PackageError, match=r"m-1.0-py3-none-any.whl") as caught:
        opened(wheel("m", files={"m.py": "x"}, metadata=metadata, entry_points=entry_points), tmp_path)
    assert " at 0x" not in caught.value.message
    assert "unpacked: ." not in caught.value.message


@pytest.mark.parametrize(
    "text", ["Name: numpy\nVersion: 1.0\n", "Name: m\nVersion: 1.1\n", "\0", "", "Version: 1.0\nName: m n\n"]
)
def test_metadata_of_another_project_is_refused(text: str, tmp_path: Path) -> None:
    """METADATA speaks for the project and the version that the file's name states."""
    with pytest.raises(PackageError, match="METADATA"):
        opened(wheel("m", files={"m.py": "x"}, metadata={"METADATA": text}), tmp_path)


def test_metadata_may_spell_name_and_version_otherwise(tmp_path: Path) -> None:
    """Spellings that mean the same (PEP 503, PEP 440) are the same."""
    text = "Metadata-Version: 2.1\nName: A.B-C\nVersion: 1\n"
    assert opened(wheel("a_b_c", files={"m.py": "x"}, metadata={"METADATA": text}), tmp_path)


@pytest.mark.parametrize("row", ["", "m.py", "m.py,,,,"])
def test_a_line_of_record_that_is_none_is_shown(row: str, tmp_path: Path) -> None:
    """RECORD's lines are path, hash and size."""
    with pytest.raises(PackageError, match="isn't path, hash and size"):
        opened(wheel("m", files={"m.py": "x"}, metadata={"RECORD": f"{row}\n"}), tmp_path)


@pytest.mark.parametrize("cut", [1, 100, 300])
def test_a_truncated_wheel_is_said_in_words(cut: int, tmp_path: Path) -> None:
    """A wheel that ends early is an error, whichever part is missing."""
    made = wheel("m", files={"m.py": "x" * 1000})
    with pytest.raises(PackageError, match="can't be unpacked"):
        opened(Made(made.locked, made.data[:-cut]), tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_damage_is_said_in_words_whatever_the_compression(method: int, tmp_path: Path) -> None:
    """A wrong byte, anywhere in an archive, is a PackageError or does no harm: each library raises its own error."""
    made = wheel("m", files={"m.py": "hello" * 100}, compression=method)
    failed = 0
    for place in range(0, len(made.data), 3):
        data = made.data[:place] + bytes([made.data[place] ^ 0xFF]) + made.data[place + 1 :]
        try:
            opened(Made(made.locked, data), tmp_path)
        except PackageError:
            failed += 1
    assert failed > len(made.data) / 3 / 2


def test_content_that_was_damaged_is_found(tmp_path: Path) -> None:
    """A flipped bit on the disk doesn't get into an image: CRC-32 tells."""
    made = wheel("m", files={"m.py": b"hello" * 100}, compression=zipfile.ZIP_STORED)
    damaged = made.data.replace(b"hello", b"hellp", 1)
    with pytest.raises(PackageError, match=r"'m\.py'"):
        opened(Made(made.locked, damaged), tmp_path)


def test_two_names_for_one_entry_are_found(tmp_path: Path) -> None:
    """An archive whose directory and local header disagree means to deceive some reader."""
    made = wheel("m", files={"good.py": b"x"})
    first = made.data.index(b"good.py")
    deceiving = made.data[:first] + b"evil.py" + made.data[first + 7 :]
    with pytest.raises(PackageError, match=r"two names.*good.py"):
        opened(Made(made.locked, deceiving), tmp_path)


def test_a_size_that_lies_is_found(tmp_path: Path) -> None:
    """A directory that announces fewer bytes than there are doesn't shift the layer's headers."""
    made = wheel("m", files={"m.bin": bytes(5000)})
    size, lie = (5000).to_bytes(4, "little"), (100).to_bytes(4, "little")
    with pytest.raises(PackageError):
        opened(Made(made.locked, made.data.replace(size, lie)), tmp_path)


def test_modes_hold_nothing_but_the_executable_bit(tmp_path: Path) -> None:
    """A setuid bit in a wheel goes nowhere: an item has no room for one."""
    made = wheel("m", files={"m.bin": "x"})
    setuid = ((stat.S_IFREG | 0o4755) << 16).to_bytes(4, "little")
    plain = ((stat.S_IFREG | 0o644) << 16).to_bytes(4, "little")
    item, _ = opened(Made(made.locked, made.data.replace(plain, setuid)), tmp_path)[f"{SITE}/m.bin"]
    assert item.executable
    assert item.entry.header()[100:107] == b"0000755"
