"""Assembling: whole environments from real packages, collisions, kills, full disks, and what Python says of them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lockstep.errors import DiskFullError, FetchError, PackageError
from lockstep.home import Home
from lockstep.image.layer import Layer
from lockstep.image.store import Store
from lockstep.layers.assemble import assemble, assembled, checked
from lockstep.lock import Lock, dump_lock
from lockstep.progress import Progress, Task
from tests.packages import PYTHON, File, Made, conda, lock_of, put, python_package, unpack, wheel

SITE = f"lib/python{PYTHON}/site-packages"
PYTHON_ONLY = conda("python", f"{PYTHON}.0", {"share/python": "no program: for what isn't compiled"})
BIG = random.Random(1).randbytes(9_000_000)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty store."""
    return Home(tmp_path / "home")


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A store that has the layers of Python already."""
    home = Home(tmp_path_factory.mktemp("warm"))
    made(home, python_package())
    return home


def made(home: Home, *packages: Made) -> tuple[Layer, ...]:
    """Assemble packages into layers."""
    return assemble(lock_of(*packages), put(home, *packages), home)


def contents(home: Home, layer: Layer) -> dict[str, bytes]:
    """Return the files of a layer, by path."""
    with tarfile.open(Store(home).blob(layer.diff_id)) as archive:
        found = {each.name: archive.extractfile(each) for each in archive if each.isfile()}
        return {name: file.read() for name, file in found.items() if file is not None}


def environment() -> list[Made]:
    """Return an environment of all kinds: wheels, a noarch and a binary conda package."""
    return [
        python_package(),
        wheel(
            "greet",
            "2.0",
            {"greet/__init__.py": "def main():\n    print('hello')\n", "greet/bad.py": "no python\n"},
            entry_points="[console_scripts]\ngreet = greet:main\n",
            requires=["polite>=1"],
        ),
        wheel("big", files={"big/data.bin": BIG, "big/__init__.py": "size = 9_000_000\n"}),
        conda(
            "polite",
            "1.5",
            {
                "site-packages/polite/__init__.py": "please = True\n",
                "site-packages/polite-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: polite\nVersion: 1.5\n",
                "site-packages/polite-1.5.dist-info/RECORD": "",
            },
            noarch=True,
            entry_points=["polite = polite:main"],
            depends=["python"],
        ),
        conda("libx", files={"lib/libx.so.1": "code", "lib/libx.so": File(link="libx.so.1")}),
    ]


def run(prefix: Path, code: str, *options: str) -> str:
    """Run code with an environment's own Python and return what it says."""
    command = [str(prefix / "bin" / "python"), *options, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={"LANG": "C.UTF-8"}).stdout


def test_an_environment_works(warm: Home, tmp_path: Path) -> None:
    """What comes out imports, runs, and tells the truth about itself to importlib.metadata."""
    prefix = unpack(made(warm, *environment()), Store(warm), tmp_path)
    code = """
import importlib.metadata as m, json, greet, polite, big
print(json.dumps({x.name: [x.version, x.read_text("INSTALLER")] for x in m.distributions()}))
print(all(x.locate().exists() for x in m.files("greet")))
print([str(x) for x in m.files("greet") if x.suffix == ".pyc"])
print([x.value for x in m.entry_points(group="console_scripts")], greet.__cached__.startswith(greet.__file__[:9]))
"""
    told, there, compiled, points = run(prefix, code).splitlines()
    assert json.loads(told) == {
        "greet": ["2.0", "lockstep\n"],
        "big": ["1.0", "lockstep\n"],
        "polite": ["1.5", None],
    }
    assert there == "True"
    assert compiled == f"['greet/__pycache__/__init__.{sys.implementation.cache_tag}.pyc']"
    assert "greet:main" in points
    script = (prefix / "bin/greet").read_text().splitlines()
    assert script[0] == "#!/opt/env/bin/python"
    command = [str(prefix / "bin/python"), str(prefix / "bin/greet")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "hello\n"
    records = sorted(x.name for x in (prefix / "conda-meta").glob("*.json"))
    assert records == sorted(f"{x}.json" for x in ("libx-1.0-0", "polite-1.5-0", python_stem()))


def python_stem() -> str:
    """Return the Python package's name as conda-meta has it."""
    return python_package().locked.filename.removesuffix(".conda")


def test_nothing_is_compiled_at_run_time(warm: Home, tmp_path: Path) -> None:
    """Standard library and packages load from the image's bytecode; a writable prefix stays as it was."""
    prefix = unpack(made(warm, *environment()), Store(warm), tmp_path)
    before = sorted(prefix.rglob("*"))
    command = [str(prefix / "bin/python"), "-v", "-c", "import greet, polite, big, json, email.message"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "code object from" in told
    assert ".py'\n" not in "".join(
        x for x in told.splitlines(keepends=True) if x.startswith("# code object from")
    )
    assert "# wrote" not in told
    assert sorted(prefix.rglob("*")) == before


def test_everything_is_readable_and_nobodys(warm: Home, tmp_path: Path) -> None:
    """Any uid can read every file and enter every folder; no setuid, no owner but root."""
    import tarfile

    layers = made(warm, *environment())
    for layer in layers:
        with tarfile.open(Store(warm).blob(layer.diff_id)) as archive:
            for entry in archive:
                assert entry.mode == (
                    0o777 if entry.issym() else 0o755 if entry.isdir() else entry.mode & 0o755
                )
                assert entry.mode & 0o444 == 0o444
                assert (entry.uid, entry.gid) == (0, 0)
                assert entry.name == "opt" or entry.name == "opt/env" or entry.name.startswith("opt/env/")


@pytest.mark.slow
def test_pip_tells_the_truth_and_uninstalls(tmp_path: Path, home: Home) -> None:
    """`pip list`, `pip check` and `pip uninstall` find what is there, and leave nothing of what they remove."""
    packages = [python_package(whole=True), *environment()[1:]]
    prefix = unpack(made(home, *packages), Store(home), tmp_path)

    def pip(*arguments: str) -> str:
        options = ["--disable-pip-version-check", "--python", str(prefix / "bin/python")]
        command = [sys.executable, "-m", "pip", *options, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    listed = {x["name"]: x["version"] for x in json.loads(pip("list", "--format", "json"))}
    assert listed == {"greet": "2.0", "big": "1.0", "polite": "1.5"}
    assert "No broken requirements" in pip("check")
    pip("uninstall", "-y", "greet")
    assert not list(prefix.rglob("*greet*"))


def test_packages_share_layers_across_environments(warm: Home) -> None:
    """A layer is made once per machine: another environment with the same big package has the same layer."""
    first, second = made(warm, *environment()), made(warm, *environment()[:3])
    assert first[:2] == second[:2]
    assert first[0].packages == ("big 1.0",) or first[1].packages == ("big 1.0",)
    assert first[-1] != second[-1]
    assert first[-1].packages == ("greet 2.0", "libx 1.0", "polite 1.5")


def test_a_second_build_reads_nothing(home: Home) -> None:
    """With all layers there no package is needed, and the answer comes within 50 ms."""
    packages = [PYTHON_ONLY, wheel("big", files={"big.bin": BIG})]
    layers = made(home, *packages)
    shutil.rmtree(home.path / "packages")
    lock = lock_of(*packages)
    began = time.perf_counter()
    assert assemble(lock, {}, home) == assembled(lock, home) == layers
    assert time.perf_counter() - began < 0.05


def test_the_interpreter_is_unpacked_once(home: Home) -> None:
    """A later build that compiles needs Python's package no more."""
    python, one, two = python_package(), *(wheel(x, files={f"{x}.py": "pass\n"}) for x in ("one", "two"))
    put(home, python, one, two)
    made(home, python, one)
    home.package(python.locked.sha256).unlink()
    assert "two 1.0" in made(home, python, one, two)[-1].packages


def test_a_layer_that_went_is_made_again(home: Home) -> None:
    """Somebody deletes a blob: the next build makes that one anew, the same."""
    packages = [PYTHON_ONLY, wheel("big", files={"big.bin": BIG}), wheel("small", files={"s.txt": "s"})]
    layers = made(home, *packages)
    for layer in layers:
        Store(home).blob(layer.diff_id).unlink()
        assert assembled(lock_of(*packages), home) is None
        assert made(home, *packages) == layers


@pytest.mark.parametrize(
    ("one", "two", "path"),
    [
        (wheel("one", files={"same.txt": "1"}), wheel("two", files={"same.txt": "2"}), f"{SITE}/same.txt"),
        (
            wheel("one", files={"one-1.0.data/data/lib/libx.so": "1"}),
            conda("libx", files={"lib/libx.so": "2"}),
            "lib/libx.so",
        ),
        (conda("one", files={"a": "1"}), conda("two", files={"a/b": "1"}), "env/a, "),
        (conda("one", files={"lib": File(link="lib64")}), conda("two", files={"lib/x": "1"}), "env/lib, "),
        (conda("one", files={"a": File(link="b")}), conda("two", files={"a": File(link="c")}), "env/a, "),
    ],
)
def test_different_content_for_one_path_is_refused(one: Made, two: Made, path: str, home: Home) -> None:
    """Two packages that disagree about a path are both named, with the path, and nothing is built."""
    with pytest.raises(PackageError) as caught:
        made(home, PYTHON_ONLY, one, two)
    text = str(caught.value)
    assert path in text
    assert f"{one.locked.name} {one.locked.version}" in text
    assert f"{two.locked.name} {two.locked.version}" in text
    assert assembled(lock_of(PYTHON_ONLY, one, two), home) is None


STDLIB = f"lib/python{PYTHON}"


@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        (
            conda("python", f"{PYTHON}.0", {f"{STDLIB}/_json.so": b"right"}),
            wheel("evil", files={f"evil-1.0.data/data/{STDLIB}/_json.so": File(b"wrong", stated=b"right")}),
            "wheel evil.* states sha256 .*_json.so",
        ),
        (
            conda("python", f"{PYTHON}.0", {"lib/libx.so": b"right"}),
            conda("evil", files={"lib/libx.so": File(b"wrong", stated=b"right")}),
            "package evil.* states sha256 .* for 'lib/libx.so'",
        ),
        (
            conda("python", f"{PYTHON}.0", {"lib/libx.so": BIG}),
            conda("evil", files={"lib/libx.so": File(BIG[::-1], stated=BIG)}),
            "both write /opt/env/lib/libx.so",
        ),
        (
            conda("python", f"{PYTHON}.0", {"lib/libx.so": b"right"}),
            conda("evil", files={"lib/libx.so": File(link=hashlib.sha256(b"right").hexdigest())}),
            "both write /opt/env/lib/libx.so",
        ),
        (
            conda("python", f"{PYTHON}.0", {"lib/x": b"right"}),
            conda("evil", files={"lib": File(link="folder")}),
            "both write /opt/env/lib,",
        ),
    ],
    ids=["wheel-lies", "conda-lies", "large-file-lies", "link-to-a-hash", "link-to-folder"],
)
def test_collisions_are_decided_by_bytes(one: Made, two: Made, words: str, home: Home) -> None:
    """What a package states of itself, or how it names a link's target, lets it write over nobody's file."""
    with pytest.raises(PackageError, match=words):
        made(home, one, two)


PKGUTIL = b"__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"


@pytest.mark.parametrize("size", [0, 6_000_000], ids=["in one layer", "in two"])
def test_one_namespace_may_be_spelled_differently(size: int, home: Home) -> None:
    """As azure's and google's packages do: module and bytecode are one package's, and both packages are there."""
    spelled = {"one": PKGUTIL, "two": b"# (c)\n\n" + PKGUTIL}
    packages = [
        wheel(
            name,
            files={
                "ns/__init__.py": text,
                f"ns/{name}.py": b"",
                f"{name}.bin": random.Random(name).randbytes(size),
            },
        )
        for name, text in spelled.items()
    ]
    layers = made(home, python_package(), *packages)
    held = {path: what for layer in layers for path, what in contents(home, layer).items()}
    site = f"opt/env/{SITE}/ns"
    assert {f"{site}/one.py", f"{site}/two.py"} <= held.keys()
    source = held[f"{site}/__init__.py"]
    assert source in spelled.values()
    compiled = held[f"{site}/__pycache__/__init__.{sys.implementation.cache_tag}.pyc"]
    assert compiled[8:16] == importlib.util.source_hash(source)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (PKGUTIL, PKGUTIL + b"import os\n"),
        (File(link="a.py"), File(link="b.py")),
        (b"", File(link="b.py")),
        (PKGUTIL, b" " * 5000 + b"\n" + PKGUTIL),
    ],
    ids=["code", "links", "file and link", "too long"],
)
def test_modules_that_differ_are_a_collision(one: bytes | File, two: bytes | File, home: Home) -> None:
    """More than a declaration, what is no file, and what is too long to be looked at."""
    packages = [
        conda(name, files={f"{SITE}/ns/__init__.py": text, f"{SITE}/ns/{name}.py": b""})
        for name, text in (("one", one), ("two", two))
    ]
    with pytest.raises(PackageError, match=r"both write .*/ns/__init__\.py"):
        made(home, python_package(), *packages)


@pytest.mark.parametrize("make", [wheel, conda])
def test_a_large_file_is_hashed_once_and_meanwhile(make: Callable[..., Made], home: Home) -> None:
    """A lie about a file that isn't hashed while it is written ends the build; the truth is read once."""
    lying, honest = make("lies", files={"big.bin": File(BIG, stated=BIG[::-1])}), wheel("w", files={"b": BIG})
    made(home, PYTHON_ONLY, lying, honest)
    for _ in range(2):
        with (
            pytest.raises(PackageError, match=r"lies-1\.0.* states sha256 .*big\.bin"),
            checked(lock_of(PYTHON_ONLY, lying, honest), home),
        ):
            pass
    with checked(lock_of(PYTHON_ONLY, honest), home):
        pass
    for blob in (home.layers / "sha256").iterdir():
        blob.write_bytes(b"nobody reads it again")
    with checked(lock_of(PYTHON_ONLY, honest), home):
        pass


@pytest.mark.parametrize(
    ("two", "words"),
    [
        (
            conda("evil", files={f"{SITE}/one-9.dist-info/METADATA": "x"}),
            "both write metadata of one",
        ),
        (
            conda("evil", files={f"{SITE}/one-1.0.dist-info/entry_points.txt": "[x]\ny = z:w\n"}),
            "both write metadata of one",
        ),
        (
            conda("evil", files={f"{SITE}/one/tests/__pycache__/t.cpython-311.pyc": b"evil"}),
            r"first writes /.*t\.cpython-311\.pyc, bytecode of the second",
        ),
    ],
)
def test_what_belongs_to_another_package_is_refused(two: Made, words: str, home: Home) -> None:
    """Metadata and bytecode of another package can't be written even where that package has no such file."""
    one = wheel("one", files={"one/tests/t.py": "x = 1\n"})
    with pytest.raises(PackageError, match=words) as caught:
        made(home, PYTHON_ONLY, one, two)
    assert "one 1.0" in str(caught.value)
    assert "evil 1.0" in str(caught.value)


@pytest.mark.parametrize("name", [".wh.python", "d/.wh..wh..opq", ".wh.d/x"])
def test_a_whiteout_names_its_package(name: str, home: Home) -> None:
    """Wheels and conda packages can't delete what lies in the layers below theirs."""
    for evil in (wheel("evil", files={name: "", "big.bin": BIG}), conda("evil", files={name: ""})):
        with pytest.raises(PackageError, match=rf"evil-1\.0.* holds .*{re.escape(name)}"):
            made(home, PYTHON_ONLY, evil)


def test_the_same_content_twice_is_fine(home: Home, tmp_path: Path) -> None:
    """Namespace packages bring the same file each; it is there once and collides with nothing."""
    packages = [wheel(x, files={"space/__init__.txt": "same", f"space/{x}.txt": x}) for x in ("one", "two")]
    prefix = unpack(made(home, PYTHON_ONLY, *packages), Store(home), tmp_path / "image")
    assert sorted(x.name for x in (prefix / SITE / "space").iterdir()) == [
        "__init__.txt",
        "one.txt",
        "two.txt",
    ]


def test_an_error_leaves_no_half_thing(home: Home) -> None:
    """A package that is refused leaves whole layers, no work in progress, and the next build is right."""
    good, evil = wheel("good", files={"good.bin": BIG}), wheel("evil", files={"../evil.txt": "x"})
    with pytest.raises(PackageError, match=r"evil.*\.\./evil\.txt"):
        made(home, PYTHON_ONLY, good, evil)
    assert not list((home.path / "tmp").iterdir())
    assert len(made(home, PYTHON_ONLY, good)) == 2


def test_a_wheel_without_python_is_refused(home: Home) -> None:
    """There is no site-packages to put it into."""
    with pytest.raises(PackageError, match="Add python to the spec"):
        made(home, wheel("lone", files={"lone.txt": "x"}))


def test_a_package_that_went_is_said_in_words(home: Home) -> None:
    """Somebody empties the cache between fetch and assemble: the remedy is to fetch again."""
    packages = [PYTHON_ONLY, wheel("gone", files={"gone.txt": "x"})]
    paths = put(home, *packages)
    paths[packages[1].locked.sha256].unlink()
    with pytest.raises(FetchError, match=r"gone-1\.0.*any more"):
        assemble(lock_of(*packages), paths, home)


def test_progress_comes_to_its_end(home: Home) -> None:
    """The bytes told add up to the packages' sizes, as far as content goes; a source that is compiled counts once."""

    class Counting(Progress, Task):
        said = total = 0

        @contextlib.contextmanager
        def task(self, text: str, total: int | None = None, *, unit: str = "bytes") -> Iterator[Task]:
            self.total = total or 0
            yield self

        def advance(self, amount: int = 1) -> None:
            self.said += amount

    listener = Counting()
    source = f"text = '{BIG[:3_000_000].hex()}'\n"
    packages = [python_package(), wheel("big", files={"big.bin": BIG, "big.py": source})]
    assemble(lock_of(*packages), put(home, *packages), home, listener)
    assert 0.99 * listener.total < listener.said <= listener.total


CHILD = """
import sys
from pathlib import Path
from lockstep.layers.assemble import assemble
from lockstep.home import Home
from lockstep.lock import read_lock
lock, home = read_lock(Path(sys.argv[1])), Home(Path(sys.argv[2]))
home.sweep()
layers = assemble(lock, {x.sha256: home.package(x.sha256) for x in lock.packages}, home)
status = dict(x.split(":", 1) for x in open("/proc/self/status").read().splitlines())
print(*(x.diff_id for x in layers), status["VmHWM"].split()[0])
"""


def child(lock: Lock, home: Home) -> subprocess.Popen[str]:
    """Start another process that assembles a lock."""
    path = home.path / "lock.yml"
    path.write_bytes(dump_lock(lock))
    command = [sys.executable, "-c", CHILD, str(path), str(home.path)]
    root = Path(__file__).parents[1]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def compressible(count: int) -> list[Made]:
    """Return wheels that take a moment each, and Python files that take compiling."""
    source = "".join(f"def f{x}(a, b):\n    return [a, b, {x}, 'text {x}']\n" for x in range(1000))
    return [
        wheel(f"w{x}", files={f"w{x}.bin": bytes(30_000_000 + x), f"w{x}.py": source}) for x in range(count)
    ]


def test_killed_at_any_moment_the_next_run_is_right(warm: Home, tmp_path: Path) -> None:
    """A kill -9 early or late leaves whole layers or none; the next run sweeps and gives the same as ever."""
    packages = [python_package(), *compressible(4)]
    put(warm, *packages)
    expected = [x.diff_id for x in made(warm, *packages)]
    for delay in (0.4, 0.7, 1.1):
        home = Home(tmp_path / str(delay))
        put(home, *packages)
        shutil.copytree(warm.layers, home.layers, dirs_exist_ok=True)
        for blob in expected[1:]:
            Store(home).blob(blob).unlink()
        for each in (home.layers / "made").iterdir():
            if "w" in json.loads(each.read_text())["packages"][0]:
                each.unlink()
        running = child(lock_of(*packages), home)
        time.sleep(delay)
        running.kill()
        running.communicate()
        again = child(lock_of(*packages), home)
        out, errors = again.communicate()
        assert (out.split()[:-1], errors) == (expected, "")
        assert not list((home.path / "tmp").iterdir())


def test_two_builds_at_once_are_both_right(home: Home) -> None:
    """Two processes with one store and one lock: both get the layers, and each was made once."""
    packages = [PYTHON_ONLY, *(wheel(f"w{x}", files={"w{x}.bin": bytes(9_000_000)}) for x in range(1))]
    packages += [wheel(f"v{x}", files={f"v{x}.bin": bytes(9_000_000)}) for x in range(4)]
    put(home, *packages)
    both = [child(lock_of(*packages), home) for _ in range(2)]
    told = [x.communicate() for x in both]
    assert [errors for _, errors in told] == ["", ""]
    first, second = (out.split()[:-1] for out, _ in told)
    assert first == second == [x.diff_id for x in made(home, *packages)]


def test_ctrl_c_ends_it_at_once(home: Home) -> None:
    """An interrupt in the middle of work ends process and compilers within moments and leaves no work behind."""
    packages = [python_package(), *compressible(6)]
    put(home, *packages)
    running = child(lock_of(*packages), home)
    time.sleep(1.5)
    running.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = running.communicate()
    assert "KeyboardInterrupt" in errors
    assert time.monotonic() - began < 3
    assert not [x for x in (home.path / "tmp").iterdir() if x.is_dir()]


def test_memory_stays_flat(home: Home) -> None:
    """A wheel of 400 MB goes through a process that never grows beyond 120 MB."""
    packages = [PYTHON_ONLY, wheel("huge", files={"huge.bin": bytes(400_000_000)})]
    put(home, *packages)
    out, errors = child(lock_of(*packages), home).communicate()
    assert errors == ""
    assert int(out.split()[-1]) < 120_000  # kB


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB, for root only."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk takes root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("kind", ["wheel", "conda"])
def test_a_full_disk_is_said_and_leaves_nothing_half(kind: str, small_disk: Path) -> None:
    """When the disk fills up, the error names it, the work is gone, and what was there is whole."""
    home = Home(small_disk)
    files = {"share/huge.bin" if kind == "conda" else "huge.bin": bytes(30_000_000)}
    packages = [PYTHON_ONLY, (conda if kind == "conda" else wheel)("huge", files=files)]
    with pytest.raises(DiskFullError, match="is full"):
        made(home, *packages)
    assert not list((small_disk / "tmp").iterdir())
    assert len(made(home, PYTHON_ONLY)) == 1
    for blob in (home.layers / "sha256").iterdir():
        assert os.stat(blob).st_size < 24_000_000
