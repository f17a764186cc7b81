"""Bytecode: made by the image's Python, for the final path, the same in whatever order."""

from __future__ import annotations

import importlib.util
import marshal
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest

from lockstep.errors import PackageError
from lockstep.layers.bytecode import Compiler, source_of, sources
from lockstep.layers.package import Item, Python
from tests.packages import PYTHON

SITE = f"lib/python{PYTHON}/site-packages"
BODY = """
def f(a, b={"x", "y", None, 1.5}, *c, **d):
    "doc"
    class Inner:
        value = (1, 2, "three", b"four", frozenset({"five"}))
        def g(self):
            return lambda: (self, a, b, __name__)
    return [Inner for x in c if x in {"p", "q", "r"}]
"""


def item(name: str, text: str | bytes) -> Item:
    """Return a source in site-packages."""
    data = text.encode() if isinstance(text, str) else text
    return Item(f"{SITE}/{name}", len(data), chunks=lambda: (data,))


@pytest.fixture
def compiler() -> Iterator[Compiler]:
    """Compile with the Python that runs the tests, in two processes."""
    made = Compiler(lambda: Path(sys.executable), 2)
    yield made
    made.close()


def test_pyc_is_unchecked_and_for_the_final_path(compiler: Compiler, tmp_path: Path) -> None:
    """The header says "hash-based, unchecked" and every code object knows its path in the image."""
    (made,) = compiler.compile([item("m.py", BODY)], tmp_path / "spool")
    data = made.read()
    assert made.path == f"{SITE}/__pycache__/m.{sys.implementation.cache_tag}.pyc"
    assert data[:4] == importlib.util.MAGIC_NUMBER
    assert data[4:8] == b"\1\0\0\0"
    assert data[8:16] == importlib.util.source_hash(BODY.encode())
    code = marshal.loads(data[16:])
    todo = [code]
    while todo:
        one = todo.pop()
        assert one.co_filename == f"/opt/env/{SITE}/m.py"
        todo += [x for x in one.co_consts if isinstance(x, CodeType)]


def test_tests_are_left_alone() -> None:
    """Every module of a package is compiled but those in its folders of tests."""
    paths = ("a.py", "tests/b.py", "a/test/deep/c.py", "a/testing/d.py", "a/tests.py", "a/data.txt")
    (piece,) = sources([item(x, "") for x in paths], Python(PYTHON, "0" * 64))
    assert [x.path.removeprefix(f"{SITE}/") for x in piece] == ["a.py", "a/testing/d.py", "a/tests.py"]


def test_python_loads_it_and_writes_nothing(compiler: Compiler, tmp_path: Path) -> None:
    """An import takes the .pyc although the source's time is another, and has nothing to write."""
    (made,) = compiler.compile([item("m.py", "x = 'from here'\n")], tmp_path / "spool")
    cached = tmp_path / "__pycache__" / Path(made.path).name
    cached.parent.mkdir()
    cached.write_bytes(made.read())
    (tmp_path / "m.py").write_text("raise SystemExit('compiled again')\n")
    command = [sys.executable, "-v", "-c", "import m; print(m.x)"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == "from here\n"
    assert f"code object from {str(cached)!r}" in ran.stderr
    assert f"wrote {str(cached)!r}" not in ran.stderr


def test_bytes_depend_on_the_file_alone(tmp_path: Path) -> None:
    """The standard library, compiled in three orders by processes with other hash seeds: the same bytes."""
    folder = Path(shutil.__file__).parent
    files = sorted(folder.glob("*.py"))[:60] + sorted((folder / "email").glob("*.py"))
    items = [item(str(x.relative_to(folder)), x.read_bytes()) for x in files]
    found = []
    for number in range(3):
        one = Compiler(lambda: Path(sys.executable), 1)
        random.Random(number).shuffle(items)
        made = one.compile(items, tmp_path / f"spool{number}")
        one.close()
        found.append({x.path: x.sha256 for x in made})
    alone = Compiler(lambda: Path(sys.executable), 1)
    (last,) = alone.compile(items[-1:], tmp_path / "alone")
    alone.close()
    assert found[0] == found[1] == found[2]
    assert found[0][last.path] == last.sha256
    assert len(found[0]) == len(items)


@pytest.mark.parametrize("text", ["def f(:\n", b"x = '\xff'\n", b"\0", "(" * 300, "print 'two'\n"])
def test_what_does_not_compile_is_left_out(text: str | bytes, compiler: Compiler, tmp_path: Path) -> None:
    """As with pip, a template or a file for another Python is no reason not to install a package."""
    made = compiler.compile([item("bad.py", text), item("good.py", "x = 1\n")], tmp_path / "spool")
    assert [x.path.rpartition("/")[2].split(".")[0] for x in made] == ["good"]


DEEP = "x = " + "-" * 7000 + "1\n"
"""More than the parser of any Python takes; up to 3.11 it says MemoryError."""


def test_what_is_nested_too_deeply_is_left_out(compiler: Compiler, tmp_path: Path) -> None:
    """Such a file never compiles, on no machine, so it is no reason not to install a package either."""
    made = compiler.compile([item("deep.py", DEEP), item("good.py", "x = 1\n")], tmp_path / "spool")
    assert [x.path.rpartition("/")[2].split(".")[0] for x in made] == ["good"]


def test_bytecode_whose_name_would_be_too_long_is_left_out(compiler: Compiler, tmp_path: Path) -> None:
    """A module's name may be as long as Linux takes; then Python can't write its bytecode either."""
    names = ("x" * 252 + ".py", "y.py")
    made = compiler.compile([item(x, BODY) for x in names], tmp_path / "spool")
    assert [x.path.rsplit("/", 1)[1][:2] for x in made] == ["y."]
    assert made[0].read() == compiler.compile([item("y.py", BODY)], tmp_path / "other")[0].read()


def test_want_of_memory_leaves_nothing_out(tmp_path: Path) -> None:
    """A file that another machine would compile ends the build, in words: its image would be another one."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nulimit -v 300000\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    compiler = Compiler(lambda: program, 1)
    big = "".join(f"x{n} = [{n}, 'a{n}', {{'b{n}': {n}.5}}]\n" for n in range(120_000))
    with pytest.raises(PackageError, match=rf"{SITE}/big\.py: MemoryError(.|\n)*ulimit"):
        compiler.compile([item("a.py", "x = 1\n"), item("big.py", big)], tmp_path / "spool")
    compiler.close()


def test_sources_are_those_that_are_imported() -> None:
    """Python files of the library and of site-packages count, sorted; scripts, links and data don't."""
    python = Python(PYTHON, "")
    items = [item("b.py", "x"), item("a.py", "x"), item("c.txt", "x")]
    items += [Item("bin/tool.py", 1), Item(f"{SITE}/link.py", link="a.py"), Item("share/x.py", 1)]
    assert [x.path for piece in sources(items, python) for x in piece] == [f"{SITE}/a.py", f"{SITE}/b.py"]


def test_work_comes_in_pieces() -> None:
    """A big package is compiled by several processes: about a megabyte of source is one piece."""
    items = [Item(f"{SITE}/{x}.py", 600_000) for x in range(5)]
    assert [len(x) for x in sources(items, Python(PYTHON, ""))] == [2, 2, 1]


def test_a_monstrous_source_is_left_alone() -> None:
    """Compiling tens of megabytes would take gigabytes of memory."""
    assert not list(sources([Item(f"{SITE}/huge.py", 40_000_000)], Python(PYTHON, "")))


def test_bytecode_is_told_from_its_source() -> None:
    """Only what lies in __pycache__ has a source elsewhere."""
    assert source_of("a/__pycache__/m.cpython-311.opt-2.pyc") == "a/m.py"
    assert source_of("a/m.pyc") is None
    assert source_of("a/__pycache__/m.py") is None


@pytest.mark.parametrize("text", ["#!/bin/false\n", "no program"])
def test_a_python_that_does_not_run_is_said_in_words(text: str, tmp_path: Path) -> None:
    """A Python for another machine, or one that ends at once, is an error with a remedy."""
    program = tmp_path / "python"
    program.write_text(text)
    program.chmod(0o755)
    broken = Compiler(lambda: program, 1)
    with pytest.raises(PackageError, match="doesn't run on this machine"):
        broken.compile([item("m.py", "x")], tmp_path / "spool")
    broken.close()


def test_a_compiler_that_is_killed_is_said_in_words(tmp_path: Path) -> None:
    """When the compiling process dies (out of memory, say), the file it was at is named."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nprintf '\\000\\000\\000\\003tag'\nhead -c 8 > /dev/null\n")
    program.chmod(0o755)
    compiler = Compiler(lambda: program, 1)
    with pytest.raises(PackageError, match=r"died while it compiled .*n\.py"):
        compiler.compile([item("n.py", "x" * 200_000)], tmp_path / "spool")
    compiler.close()
