"""Solving against a real channel and a real index on loopback: what is chosen, kept, moved and refused."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from packaging import tags

from lockstep.damage import repaired
from lockstep.errors import FetchError, SettingsError, SolveError, SpecError
from lockstep.fetch import fetch
from lockstep.home import Home
from lockstep.lock import Lock, LockedBase, compare_locks, dump_lock, read_lock, write_lock
from lockstep.progress import Progress
from lockstep.servers import certificates, read_servers
from lockstep.solve import solve
from lockstep.solve.pypi import index_trouble
from lockstep.solve.target import best_wheel
from lockstep.spec import Spec, read_spec
from tests.loopback import Loopback
from tests.packages import conda, wheel

BASE = LockedBase("debian:12-slim", "sha256:" + "0" * 64)
PYTHON = [
    conda("python", "3.11.2", {"bin/python": "x"}),
    conda("python", "3.12.1", {"bin/python": "y"}),
    conda("pip", "23.0", {"x": "x"}, noarch=True, depends=["python >=3.7"]),
]


class Told(Progress):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """Keep a line."""
        self.lines.append(text)


@pytest.fixture(autouse=True)
def _plain_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without settings of its own."""
    for key in list(os.environ):
        if key.startswith(("PIP_", "UV_", "CONDA", "MAMBA", "XDG_")) or key.lower().endswith("_proxy"):
            monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    (tmp_path / "person").mkdir()


@pytest.fixture
def server() -> Iterator[Loopback]:
    """A server for channels and indexes."""
    with Loopback() as loopback:
        yield loopback


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty store."""
    return Home(tmp_path / "home")


Read = Callable[..., Spec]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Give a function that makes a spec of conda dependencies, pip lines and channels."""

    def read_text(
        *dependencies: str, pip: tuple[str, ...] = (), channels: tuple[str, ...] = (), **options: Any
    ) -> Spec:
        lines = [f"channels: [{', '.join(channels)}]", "dependencies:"]
        lines += [f"  - {text}" for text in dependencies]
        lines += ["  - pip:", *(f"    - '{text}'" for text in pip)] if pip else []
        folder = tmp_path / "project"
        folder.mkdir(exist_ok=True)
        (folder / "environment.yml").write_text("\n".join(lines) + "\n")
        (folder / "Dockerfile").write_text("FROM x\n")
        return read_spec(folder / "environment.yml", dockerfile=folder / "Dockerfile", base="x", **options)

    return read_text


def versions(lock: Lock) -> dict[str, str]:
    """Return what was chosen, by key."""
    return {package.key: package.version for package in lock.packages}


@pytest.fixture
def channel(server: Loopback, tmp_path: Path) -> str:
    """A channel with Python, pip and NumPy."""
    numpy = [conda("numpy", v, {"n": v}, depends=["python >=3.11,<3.12"]) for v in ("1.26.4", "2.1.0")]
    return server.channel("main", tmp_path / "main", *PYTHON, *numpy)


def test_conda_and_pip_in_one_lock(
    server: Loopback, channel: str, home: Home, read: Read, tmp_path: Path
) -> None:
    """Conda's packages and pip's wheels, exact to the byte; what conda provides isn't taken twice."""
    six, tool = wheel("six", "1.17.0"), wheel("tool", "1.0", requires=["six>=1", "numpy>=2"])
    index = server.index(six, tool, wheel("numpy", "9.0"), wheel("pip", "99"))
    spec = read("python=3.11", "numpy", "pip", pip=("tool", f"--index-url {index}"), channels=(channel,))
    lock = solve(spec, home=home, base=BASE, source_revision="f" * 40)
    assert versions(lock) == {
        "conda/numpy": "2.1.0",
        "conda/pip": "23.0",
        "conda/python": "3.11.2",
        "pip/six": "1.17.0",
        "pip/tool": "1.0",
    }
    found = {package.key: package for package in lock.packages}
    assert (found["pip/six"].sha256, found["pip/six"].size) == (six.locked.sha256, six.locked.size)
    assert found["pip/tool"].dependencies == (("numpy", ""), ("six", ""))
    assert found["conda/numpy"].dependencies == (("python", ">=3.11,<3.12"),)
    assert found["conda/python"].url == f"{channel}/linux-64/python-3.11.2-0.tar.bz2"
    assert (lock.spec_hash, lock.channels, lock.source_revision) == (spec.hash, (channel,), "f" * 40)
    write_lock(lock, tmp_path / "x.conda-lock.yml")
    assert read_lock(tmp_path / "x.conda-lock.yml") == lock
    assert set(fetch(lock.packages, home)) == {package.sha256 for package in lock.packages}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_conda_lock_reads_what_was_solved(
    server: Loopback, channel: str, home: Home, read: Read, tmp_path: Path
) -> None:
    """conda-lock's parser sorts the packages by their dependencies, so those must be right too."""
    from conda_lock.lockfile import parse_conda_lock_file

    index = server.index(wheel("six", "1.0"), wheel("tool", "1.0", requires=["six", "numpy"]))
    spec = read("python=3.11", "numpy", pip=("tool", f"-i {index}"), channels=(channel,))
    path = tmp_path / "x.conda-lock.yml"
    write_lock(solve(spec, home=home, base=BASE), path)
    assert len(parse_conda_lock_file(path).package) == 4


def test_the_same_spec_gives_the_same_lock(
    server: Loopback, channel: str, read: Read, tmp_path: Path
) -> None:
    """Two machines with empty caches write the same bytes."""
    index = server.index(wheel("six", "1.0"), wheel("tool", "1.0", requires=["six", "numpy"]))
    spec = read("python=3.11", "numpy", pip=("tool", f"-i {index}"), channels=(channel,))
    locks = [dump_lock(solve(spec, home=Home(tmp_path / name), base=BASE)) for name in ("one", "other")]
    assert locks[0] == locks[1]


def test_pip_must_agree_with_conda(server: Loopback, channel: str, home: Home, read: Read) -> None:
    """A wheel that wants another NumPy than conda's is refused with both sides named."""
    index = server.index(wheel("old", "1.0", requires=["numpy<2"]), wheel("numpy", "1.26.4"))
    spec = read("python=3.11", "numpy=2.1", pip=("old", f"-i {index}"), channels=(channel,))
    with pytest.raises(SolveError, match=r"old depend on numpy<2") as refused:
        solve(spec, home=home, base=BASE)
    assert "numpy==2.1.0 (from conda)" in str(refused.value)


def test_names_that_differ(server: Loopback, home: Home, read: Read, tmp_path: Path) -> None:
    """Conda's pytorch is pip's torch: a wheel that needs torch gets conda's."""
    pytorch = conda("pytorch", "2.4.1", {"t": "x"}, depends=["python"], index={"build": "cuda126_0"})
    channel = server.channel("main", tmp_path / "main", *PYTHON, pytorch)
    index = server.index(wheel("timm", "1.0", requires=["torch>=2"]), wheel("torch", "2.9"))
    spec = read("python=3.11", "pytorch", pip=("timm", f"-i {index}"), channels=(channel,))
    assert set(versions(solve(spec, home=home, base=BASE))) == {"conda/python", "conda/pytorch", "pip/timm"}


def test_what_was_locked_stays_until_moved(server: Loopback, home: Home, read: Read, tmp_path: Path) -> None:
    """New versions are taken when asked for: by name, or all; the rest stays where it is."""
    old = [conda("lib", "1.0", {"l": "1"}), conda("extra", "1.0", {"e": "1"})]
    channel = server.channel("main", tmp_path / "main", *PYTHON, *old)
    index = server.index(wheel("six", "1.0"), wheel("attrs", "1.0"))
    options = {"pip": ("six", "attrs", f"-i {index}"), "channels": (channel,)}
    spec = read("python=3.11", "lib", "extra", **options)
    first = solve(spec, home=home, base=BASE)
    newer = [conda("lib", "2.0", {"l": "2"}), conda("extra", "2.0", {"e": "2"})]
    server.channel("main", tmp_path / "main", *newer)
    server.index(*(wheel(name, version) for name in ("six", "attrs") for version in ("1.0", "2.0")))

    def again(previous: Lock | None = first, **change: Any) -> dict[str, str]:
        return versions(solve(change.pop("spec", spec), home=home, base=BASE, previous=previous, **change))

    assert again() == versions(first)
    moved = again(upgrade={"six", "lib"})
    assert (moved["pip/six"], moved["conda/lib"]) == ("2.0", "2.0")
    assert (moved["pip/attrs"], moved["conda/extra"]) == ("1.0", "1.0")
    assert set(again(upgrade="all").values()) == {"3.11.2", "2.0"}
    assert again(previous=None) == again(upgrade="all")
    grown = read("python=3.11", "lib", "extra", "pip", **options)
    assert again(spec=grown) == {**versions(first), "conda/pip": "23.0"}
    forced = read("python=3.11", "lib>=2", "extra", **{**options, "pip": ("six>=2", "attrs", f"-i {index}")})
    assert {key for key, value in again(spec=forced).items() if value == "2.0"} == {"conda/lib", "pip/six"}
    with pytest.raises(SolveError, match="no package called sixx"):
        again(upgrade={"sixx"})


def test_nothing_newer_than_a_day(server: Loopback, home: Home, read: Read, tmp_path: Path) -> None:
    """`exclude_newer` holds for channels (build time) and indexes (upload time) alike."""
    day = 1_767_225_600_000  # 2026-01-01, the index's wheels are of 2026-01-0<version>
    made = [conda("lib", f"{n}.0", {"l": str(n)}, index={"timestamp": day + n * 86_400_000}) for n in (1, 5)]
    python = conda("python", "3.11.2", {"p": "x"}, index={"timestamp": day})
    channel = server.channel("main", tmp_path / "main", python, *made, indexed_at=False)
    index = server.index(wheel("six", "1.0"), wheel("six", "5.0"))
    spec = read("python", "lib", pip=("six", f"-i {index}"), channels=(channel,), exclude_newer="2026-01-03")
    lock = solve(spec, home=home, base=BASE)
    assert (versions(lock)["conda/lib"], versions(lock)["pip/six"]) == ("1.0", "1.0")
    assert lock.exclude_newer == "2026-01-04T00:00:00Z"


def _years_apart(server: Loopback) -> None:
    """Let all wheels of version 1 on the server be of 2019."""
    for path, page in server.files.items():
        if path.startswith("/simple/simple/"):
            server.files[path] = page.replace(b"2026-01-01", b"2019-01-01")


def test_a_release_of_years_ago_gives_way(server: Loopback, channel: str, home: Home, read: Read) -> None:
    """What the resolver gave up for a newer patch level of another package is found at the second try."""
    index = server.index(
        *(wheel("first", version) for version in ("9.4", "9.9")),
        wheel("sdk", "1.0"),
        wheel("sdk", "9.0", requires=["first<9.5"]),
    )
    _years_apart(server)
    spec = read("python=3.11", pip=("first", "sdk", f"-i {index}"), channels=(channel,))
    heard = Told()
    lock = solve(spec, home=home, base=BASE, progress=heard)
    assert (versions(lock)["pip/sdk"], versions(lock)["pip/first"]) == ("9.0", "9.4")
    assert heard.lines == []
    assert dump_lock(solve(spec, home=home, base=BASE)) == dump_lock(lock)


def test_what_forces_a_release_of_years_ago_is_said(
    server: Loopback, channel: str, home: Home, read: Read
) -> None:
    """One of two must be old: which one, since when, and the constraint; kept by the next lock, and said again."""
    index = server.index(
        wheel("first", "1.0"),
        wheel("first", "9.0"),
        wheel("sdk", "1.0"),
        wheel("sdk", "9.0", requires=["first<2"]),
    )
    _years_apart(server)
    spec = read("python=3.11", pip=("first", "sdk", f"-i {index}"), channels=(channel,))
    heard = Told()
    lock = solve(spec, home=home, base=BASE, progress=heard)
    assert (versions(lock)["pip/sdk"], versions(lock)["pip/first"]) == ("1.0", "9.0")
    (line,) = heard.lines
    assert line.startswith("sdk is 1.0 of 2019-01-01, though 9.0 of 2026-01-09 is out.")
    assert "sdk>=9.0 depends on first<2" in line
    kept = Told()
    assert versions(solve(spec, home=home, base=BASE, progress=kept, previous=lock)) == versions(lock)
    assert "`./invoke lock --upgrade sdk`" in kept.lines[0]
    meant = read("python=3.11", pip=("first", "sdk==1.0", f"-i {index}"), channels=(channel,))
    quiet = Told()
    assert versions(solve(meant, home=home, base=BASE, progress=quiet)) == versions(lock)
    assert quiet.lines == []


def test_a_release_of_years_ago_for_want_of_a_wheel_is_refused(
    server: Loopback, channel: str, home: Home, read: Read
) -> None:
    """Where pip would build a package and take the new release, to lock the old one would be a surprise."""
    made = [
        wheel("sdk", "1.0"),
        wheel("sdk", "9.0", requires=["runtime[fuse]"]),
        wheel("runtime", "9.0", requires=["onlysource; extra == 'fuse'"]),
        wheel("onlysource", "3.0"),
        wheel("other", "9.0"),
    ]
    index = server.index(*made)
    _years_apart(server)
    page = "/simple/simple/onlysource/"
    with_wheel = server.files[page]
    server.files[page] = with_wheel.replace(b"onlysource-3.0-py3-none-any.whl", b"onlysource-3.0.tar.gz")
    spec = read("python=3.11", pip=("other", "sdk", f"-i {index}"), channels=(channel,))
    with pytest.raises(
        SolveError, match=r"9\.0 of 2026-01-09 is out: with that one goes onlysource"
    ) as refused:
        solve(spec, home=home, base=BASE)
    assert "`sdk==1.0`" in refused.value.remedy
    meant = read("python=3.11", pip=("other", "sdk==1.0", f"-i {index}"), channels=(channel,))
    assert versions(solve(meant, home=home, base=BASE))["pip/sdk"] == "1.0"


def test_newer_releases_without_a_wheel_are_said(
    server: Loopback, channel: str, home: Home, read: Read
) -> None:
    """An old wheel is taken where all newer releases are source only; that is said."""
    index = server.index(wheel("lib", "1.0"), wheel("lib", "2.0"), wheel("other", "9.0"), wheel("six", "1.0"))
    _years_apart(server)
    page = "/simple/simple/lib/"
    server.files[page] = server.files[page].replace(b"lib-2.0-py3-none-any.whl", b"lib-2.0.tar.gz")
    heard = Told()
    spec = read("python=3.11", pip=("lib", "other", "six", f"-i {index}"), channels=(channel,))
    assert versions(solve(spec, home=home, base=BASE, progress=heard))["pip/lib"] == "1.0"
    assert heard.lines == ["lib is 1.0 of 2019-01-01: its newer releases have no wheel for the image."]


@pytest.mark.parametrize("where", ["spec", "settings"])
@pytest.mark.parametrize("fault", ["refused", "404", "silent name"])
def test_a_page_of_links_that_cant_be_read(
    server: Loopback,
    channel: str,
    home: Home,
    read: Read,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    fault: str,
) -> None:
    """As with pip a warning, not the end; what can't be found names the page, and never its password."""
    page = {
        "refused": "http://me:secret@127.0.0.1:9/wheels",
        "404": f"{server.url}/no/such/page",
        "silent name": "http://me:secret@wheels.invalid/page.html",
    }[fault]
    index = server.index(wheel("six", "1.0"))
    lines = [f"-i {index}"]
    if where == "spec":
        lines.append(f"--find-links {page}")
    else:
        monkeypatch.setenv("PIP_FIND_LINKS", page)
    heard = Told()
    lock = solve(
        read("python=3.11", pip=("six", *lines), channels=(channel,)), home=home, base=BASE, progress=heard
    )
    assert versions(lock)["pip/six"] == "1.0"
    (line,) = heard.lines
    assert page.replace("me:secret@", "") in line
    with pytest.raises(SolveError, match="can't be read") as refused:
        solve(read("python=3.11", pip=("nosuch", *lines), channels=(channel,)), home=home, base=BASE)
    assert page.replace("me:secret@", "") in str(refused.value)
    assert "secret" not in str(refused.value) + line


@pytest.mark.parametrize("strategy", ["best-match", "first-index"])
def test_a_package_that_two_indexes_have(
    server: Loopback, channel: str, home: Home, read: Read, strategy: str
) -> None:
    """Where a stranger's index has a higher version of an own package, it is said which index had it and won."""
    public = server.index(wheel("ours", "9.0"), wheel("six", "1.0"))
    own = server.index(wheel("ours", "1.0"), wheel("tool", "1.0", requires=["ours"]), name="own")
    spec = read(
        "python=3.11", pip=("tool", "six", f"-i {public}", f"--extra-index-url {own}"), channels=(channel,)
    )
    heard = Told()
    chosen = replace(spec, index_strategy=strategy)
    lock = solve(chosen, home=home, base=BASE, progress=heard)
    if strategy == "best-match":
        assert versions(lock)["pip/ours"] == "9.0"
        assert heard.lines == [f"From {public}, though {own} has packages of the same name: ours 9.0."]
        assert chosen.hash == spec.hash
    else:
        assert versions(lock)["pip/ours"] == "1.0"
        assert heard.lines == [f"From {own}, though {public} has packages of the same name: ours 1.0."]
        assert chosen.hash != spec.hash
    alone = Told()
    solve(
        read("python=3.11", pip=("six", f"-i {public}"), channels=(channel,)),
        home=home,
        base=BASE,
        progress=alone,
    )
    assert alone.lines == []


@pytest.mark.parametrize(
    ("glibc", "chosen"),
    [
        ("2.36", "manylinux_2_34"),
        ("2.28", "manylinux_2_28"),
        ("2.30", "manylinux_2_28"),
        ("2.17", "manylinux2014"),
    ],
)
def test_the_best_wheel_for_the_image(
    server: Loopback, channel: str, home: Home, read: Read, glibc: str, chosen: str
) -> None:
    """The wheel fits the image's Python and C library, not those of the machine that locks."""
    tags = [
        "cp311-cp311-manylinux_2_34_x86_64",
        "cp311-cp311-manylinux_2_28_x86_64",
        "cp311-cp311-manylinux2014_x86_64",
        "cp311-cp311-musllinux_1_2_x86_64",
        "cp312-cp312-manylinux_2_28_x86_64",
        "cp39-abi3-manylinux2014_x86_64",
        "cp311-cp311-manylinux_2_28_aarch64",
        "cp311-cp311-win_amd64",
        "py3-none-any",
    ]
    index = server.index(*(wheel("fast", "1.0", tag=tag) for tag in tags))
    options = {"pip": ("fast", f"-i {index}"), "channels": (channel,), "virtual_packages": {"__glibc": glibc}}
    (package,) = [
        p for p in solve(read("python=3.11", **options), home=home, base=BASE).packages if p.name == "fast"
    ]
    assert package.filename == f"fast-1.0-cp311-cp311-{chosen}_x86_64.whl"


def test_sources_are_refused(server: Loopback, channel: str, home: Home, read: Read) -> None:
    """A package that only has its source can't be locked, and the error says that wheels are missing."""
    made = wheel("src", "1.0")
    index = server.index(made)
    page = "/simple/simple/src/"
    server.files[page] = server.files[page].replace(b"src-1.0-py3-none-any.whl", b"src-1.0.tar.gz")
    with pytest.raises(SolveError, match=r"src==1.0 has no usable wheels|no wheels"):
        solve(read("python=3.11", pip=("src", f"-i {index}"), channels=(channel,)), home=home, base=BASE)


def test_constraints_extras_and_several_indexes(
    server: Loopback, channel: str, home: Home, read: Read
) -> None:
    """-c limits without adding; the best version of all indexes wins, as with pip; markers see the image."""
    one = server.index(
        wheel("six", "1.0"),
        wheel("web", "1.0", requires=["fast; extra == 'speed'", "win; sys_platform == 'win32'"]),
        name="one",
    )
    other = server.index(wheel("six", "3.0"), wheel("six", "2.0"), wheel("fast", "1.0"), name="other")
    read("python")  # makes the folder
    spec_folder = home.path.parent / "project"
    (spec_folder / "limits.txt").write_text("six<3\nnever==1\n")
    lines = ("six", "web[speed]", "-c limits.txt", f"-i {one}", f"--extra-index-url {other}")
    lock = solve(read("python=3.11", pip=lines, channels=(channel,)), home=home, base=BASE)
    assert versions(lock) == {
        "conda/python": "3.11.2",
        "pip/six": "2.0",
        "pip/web": "1.0",
        "pip/fast": "1.0",
    }


def test_hashes_in_the_spec_are_held(server: Loopback, channel: str, home: Home, read: Read) -> None:
    """A --hash that the index's wheel doesn't have is refused; the right one passes."""
    six = wheel("six", "1.0")
    index = server.index(six)
    right = read(
        "python", pip=(f"six==1.0 --hash=sha256:{six.locked.sha256}", f"-i {index}"), channels=(channel,)
    )
    assert versions(solve(right, home=home, base=BASE))["pip/six"] == "1.0"
    wrong = read("python", pip=(f"six==1.0 --hash=sha256:{'0' * 64}", f"-i {index}"), channels=(channel,))
    with pytest.raises(SolveError, match="another sha256"):
        solve(wrong, home=home, base=BASE)


def test_an_index_without_hashes(server: Loopback, channel: str, home: Home, read: Read) -> None:
    """Where an index gives neither hash nor size, the wheel is read once to find them."""
    six = wheel("six", "1.0", {"six.py": "x" * 5000})
    index = server.index(six, bare=["six"])
    lock = solve(read("python=3.11", pip=("six", f"-i {index}"), channels=(channel,)), home=home, base=BASE)
    (package,) = [package for package in lock.packages if package.name == "six"]
    assert (package.sha256, package.size) == (six.locked.sha256, six.locked.size)


def test_a_wheel_of_a_url(server: Loopback, channel: str, home: Home, read: Read) -> None:
    """A wheel that is named by its URL is locked with its hash."""
    tiny = wheel("tiny", "1.0")
    server.files[f"/{tiny.locked.filename}"] = tiny.data
    index = server.index(wheel("six", "1.0"))
    lines = (f"{server.url}/{tiny.locked.filename}", "six", f"-i {index}")
    lock = solve(read("python=3.11", pip=lines, channels=(channel,)), home=home, base=BASE)
    (package,) = [package for package in lock.packages if package.name == "tiny"]
    assert (package.version, package.sha256, package.size) == ("1.0", tiny.locked.sha256, tiny.locked.size)
    assert package.url == f"{server.url}/{tiny.locked.filename}"


@pytest.mark.parametrize("where", ["spec", "settings"])
def test_folders_of_this_machine_dont_get_into_a_lock(
    server: Loopback,
    channel: str,
    home: Home,
    read: Read,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """A wheel that only a folder has is refused; one from pip.conf isn't even looked at, and that is said."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    local = wheel("six", "9.0+local")
    (wheels / local.locked.filename).write_bytes(local.data)
    index = server.index(wheel("six", "1.0"))
    told = Told()
    if where == "settings":
        monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
        spec = read("python=3.11", pip=("six", f"-i {index}"), channels=(channel,))
        assert versions(solve(spec, home=home, base=BASE, progress=told))["pip/six"] == "1.0"
        assert str(wheels) in told.lines[0]
        spec = read("python=3.11", pip=("six>=9", f"-i {index}"), channels=(channel,))
        with pytest.raises(SolveError, match="Not looked in"):
            solve(spec, home=home, base=BASE)
    else:
        spec = read("python=3.11", pip=("six", f"-i {index}", f"-f {wheels}"), channels=(channel,))
        with pytest.raises(SolveError, match=r"six 9.0\+local is only in a folder"):
            solve(spec, home=home, base=BASE)


def test_a_gpu_spec_must_not_end_on_the_cpu(server: Loopback, home: Home, read: Read, tmp_path: Path) -> None:
    """A CPU build of torch is refused for __cuda, unless the spec asks for it or has no __cuda."""
    cpu = conda("pytorch", "2.4.1", {"t": "x"}, depends=["python"], index={"build": "cpu_generic_py311_0"})
    channel = server.channel("main", tmp_path / "main", *PYTHON, cpu)
    index = server.index(wheel("torch", "2.9+cpu"))

    def lock(*conda_specs: str, pip: tuple[str, ...] = (), **options: Any) -> Lock:
        lines = (*pip, f"-i {index}") if pip else ()
        return solve(
            read("python=3.11", *conda_specs, pip=lines, channels=(channel,), **options), home=home, base=BASE
        )

    with pytest.raises(
        SolveError, match=r"pytorch 2.4.1 cpu_generic_py311_0 is a build for the CPU"
    ) as refused:
        lock("pytorch")
    assert "__cuda" in refused.value.remedy
    with pytest.raises(SolveError, match=r"torch 2\.9"):
        lock(pip=("torch",))
    assert lock("pytorch=*=cpu*")
    assert lock(pip=("torch==2.9+cpu",))
    assert lock("pytorch", virtual_packages={"__cuda": ""})


def test_virtual_packages_decide(server: Loopback, home: Home, read: Read, tmp_path: Path) -> None:
    """The GPU build needs __cuda from the spec, not from the machine that locks."""
    gpu = conda(
        "pytorch", "2.4.1", {"t": "gpu"}, depends=["python", "__cuda >=12"], index={"build": "cuda126_0"}
    )
    channel = server.channel("main", tmp_path / "main", *PYTHON, gpu)
    spec = read("python=3.11", "pytorch", channels=(channel,), virtual_packages={"__cuda": "12.4"})
    lock = solve(spec, home=home, base=BASE)
    assert dict(lock.virtual_packages)["__cuda"] == "12.4"
    assert all("__cuda" not in dict(package.dependencies) for package in lock.packages)
    old = read("python=3.11", "pytorch", channels=(channel,), virtual_packages={"__cuda": "11.8"})
    with pytest.raises(SolveError, match="__cuda"):
        solve(old, home=home, base=BASE)


def test_what_does_not_exist_is_named(server: Loopback, channel: str, home: Home, read: Read) -> None:
    """A package that isn't there, a version that isn't there: the solver's words, shortened, and a remedy."""
    with pytest.raises(SolveError, match="nosuchthing") as refused:
        solve(read("python=3.11", "nosuchthing", channels=(channel,)), home=home, base=BASE)
    assert len(str(refused.value).splitlines()) < 25
    with pytest.raises(SolveError, match="numpy"):
        solve(read("python=3.11", "numpy>=99", channels=(channel,)), home=home, base=BASE)
    index = server.index(wheel("six", "1.0"))
    with pytest.raises(SolveError, match="nosuchthing"):
        solve(
            read("python=3.11", pip=("nosuchthing", f"-i {index}"), channels=(channel,)), home=home, base=BASE
        )


def test_no_python_in_it(server: Loopback, home: Home, read: Read, tmp_path: Path) -> None:
    """A spec whose packages bring no Python is refused."""
    channel = server.channel("main", tmp_path / "main", conda("lib", "1.0", {"l": "x"}))
    with pytest.raises(SpecError, match="no Python in it"):
        solve(read("lib", channels=(channel,)), home=home, base=BASE)


def test_mirrors_of_the_project(server: Loopback, home: Home, read: Read, tmp_path: Path) -> None:
    """A mirror is asked in the channel's stead; the lock holds the channel's public URLs."""
    lib = conda("lib", "1.0", {"l": "x"})
    mirror = server.channel("mirror", tmp_path / "main", *PYTHON, lib)
    mirrors = {"https://channels.invalid/forge": mirror}
    forge = "https://channels.invalid/forge"
    spec = read("python=3.11", f"{forge}::lib", channels=(forge,))
    lock = solve(spec, home=home, base=BASE, mirrors=mirrors)
    assert {package.url.rsplit("/", 2)[0] for package in lock.packages} == {forge}
    assert mirror not in dump_lock(lock).decode()
    assert fetch(lock.packages, home, servers=read_servers(spec, mirrors))
    again = solve(spec, home=home, base=BASE, mirrors=mirrors, previous=lock)
    assert compare_locks(lock, again) == ()


def test_a_channel_of_one_package(
    server: Loopback, channel: str, home: Home, read: Read, tmp_path: Path
) -> None:
    """`channel::package` takes that package from there, though the channel isn't in the list."""
    special = server.channel(
        "special", tmp_path / "special", conda("numpy", "0.1", {"n": "x"}, depends=["python"])
    )
    lock = solve(read("python=3.11", f"{special}::numpy", channels=(channel,)), home=home, base=BASE)
    assert versions(lock)["conda/numpy"] == "0.1"
    assert lock.channels == (channel, special)


CONDARC = {
    "channels": "channels: [{url}/main]\n",
    "alias": "channel_alias: {url}\n",
    "custom": "custom_channels: {{main: {url}}}\n",
    "defaults": "default_channels: ['{url}/main']\n",
    "multi": "custom_multichannels: {{ours: ['{url}/main']}}\n",
    "mirrored": "mirrored_channels: {{main: ['{url}/main']}}\n",
}


@pytest.mark.parametrize("setting", CONDARC)
def test_condarc(
    server: Loopback, channel: str, home: Home, read: Read, tmp_path: Path, setting: str
) -> None:
    """A channel's name means what .condarc says."""
    (tmp_path / "person" / ".condarc").write_text(CONDARC[setting].format(url=server.url))
    names = {"channels": (), "defaults": ("defaults",), "multi": ("ours",)}.get(setting, ("main",))
    lock = solve(read("python=3.11", channels=names), home=home, base=BASE)
    assert versions(lock) == {"conda/python": "3.11.2"}
    assert fetch(lock.packages, home)
    if setting == "mirrored":
        assert server.url not in dump_lock(lock).decode()


def test_a_broken_condarc_is_said(home: Home, read: Read, tmp_path: Path) -> None:
    """Settings that can't be read are an error with the file's name."""
    (tmp_path / "person" / ".condarc").write_text("channels: [\n")
    with pytest.raises(SettingsError, match=r"\.condarc"):
        solve(read("python=3.11"), home=home, base=BASE)


def _pip_conf(index: str, person: Path) -> Mapping[str, str]:
    (person / ".config" / "pip").mkdir(parents=True)
    (person / ".config" / "pip" / "pip.conf").write_text(f"[global]\nindex-url = {index}\n")
    return {"PIP_CONFIG_FILE": ""}


INDEX: dict[str, Callable[[str, Path], Mapping[str, str]]] = {
    "pip.conf": _pip_conf,
    "PIP_INDEX_URL": lambda index, person: {"PIP_INDEX_URL": index},
    "UV_DEFAULT_INDEX": lambda index, person: {"UV_DEFAULT_INDEX": index},
    "UV_INDEX_URL": lambda index, person: {
        "UV_INDEX_URL": index,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    },
    "netrc": lambda index, person: {
        "PIP_INDEX_URL": index.replace("me:pass%25word@", ""),
        "NETRC": str(_netrc(person)),
    },
    "named": lambda index, person: {
        "UV_DEFAULT_INDEX": "ours=" + index.replace("me:pass%25word@", ""),
        "UV_INDEX_OURS_USERNAME": "me",
        "UV_INDEX_OURS_PASSWORD": "pass%word",
    },
}


def _netrc(person: Path) -> Path:
    path = person / "netrc"
    path.write_text("machine 127.0.0.1 login me password pass%word\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("setting", INDEX)
def test_a_private_index(
    server: Loopback,
    channel: str,
    home: Home,
    read: Read,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
) -> None:
    """The password is where people keep it; it reaches the index, and neither the lock nor an error."""
    with Loopback(login=("me", "pass%word")) as private:
        index = private.index(wheel("six", "1.0"), wheel("broken", "1.0", requires=["nosuchthing"]))
        secret = index.replace("://", "://me:pass%25word@")
        for key, value in INDEX[setting](secret, tmp_path / "person").items():
            monkeypatch.setenv(key, value)
        lock = solve(read("python=3.11", pip=("six",), channels=(channel,)), home=home, base=BASE)
        assert versions(lock)["pip/six"] == "1.0"
        assert "pass" not in dump_lock(lock).decode()
        assert fetch(lock.packages, home)
        with pytest.raises((SolveError, FetchError)) as refused:
            solve(read("python=3.11", pip=("broken",), channels=(channel,)), home=home, base=BASE)
        assert "pass" not in str(refused.value)


def test_a_private_channel(home: Home, read: Read, tmp_path: Path) -> None:
    """A password in .condarc's channel_alias opens the channel and stays out of the lock."""
    with Loopback(login=("me", "secret")) as private:
        url = private.channel("main", tmp_path / "main", *PYTHON)
        alias = private.url.replace("://", "://me:secret@")
        (tmp_path / "person" / ".condarc").write_text(f"channel_alias: {alias}\n")
        lock = solve(read("python=3.11", channels=("main",)), home=home, base=BASE)
        assert lock.packages[0].url.startswith(url)
        assert "secret" not in dump_lock(lock).decode()
        assert fetch(lock.packages, home)


def test_a_private_authority(home: Home, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channel and index behind a company's own certificate: SSL_CERT_FILE is enough for all three clients."""
    with Loopback(tls=_private(tmp_path, "ca")) as private:
        url = private.channel("main", tmp_path / "main", *PYTHON)
        index = private.index(wheel("six", "1.0"))
        spec = read("python=3.11", pip=("six", f"-i {index}"), channels=(url,))
        with pytest.raises(FetchError):
            solve(spec, home=home, base=BASE)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        lock = solve(spec, home=home, base=BASE)
        assert fetch(lock.packages, home)


def _private(folder: Path, name: str) -> ssl.SSLContext:
    """Return what a server of an authority of its own serves with; its certificate is in `<name>.pem`."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / f"{name}.pem"))
    return context


@pytest.mark.parametrize("setting", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "pip.conf", "condarc"])
def test_two_private_authorities(
    home: Home, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """A channel and an index of two authorities, in two settings: every client trusts both, and no other process."""
    for variable in certificates.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "one.pem"))
    other = str(tmp_path / "other.pem")
    if setting == "pip.conf":
        monkeypatch.delenv("PIP_CERT")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "one.pem"))
        (tmp_path / "pip.conf").write_text(f"[install]\ncert = {other}\n")
        monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    elif setting == "condarc":
        (tmp_path / "person" / ".condarc").write_text(f"ssl_verify: {other}\n")
    else:
        monkeypatch.setenv(setting, other)
    before = dict(os.environ)
    with (
        Loopback(tls=_private(tmp_path, "one")) as channels,
        Loopback(tls=_private(tmp_path, "other")) as indexes,
    ):
        url = channels.channel("main", tmp_path / "main", *PYTHON)
        spec = read("python=3.11", pip=("six", f"-i {indexes.index(wheel('six', '1.0'))}"), channels=(url,))
        lock = solve(spec, home=home, base=BASE)
        assert fetch(lock.packages, home)
    assert dict(os.environ) == before
    assert not list(home.path.rglob("*.pem"))


def test_a_bundle_that_is_none_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that names a file without a certificate is an error with the file's name."""
    (tmp_path / "ca.pem").write_text("no certificate")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with pytest.raises(SettingsError, match=r"ca\.pem") as refused:
        read_servers().ssl_context()
    assert "REQUESTS_CA_BUNDLE" in refused.value.remedy


def test_loopback_is_never_asked_through_a_proxy(
    server: Loopback, channel: str, home: Home, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel and an index on this machine are reached past a proxy that is dead, with no NO_PROXY set."""
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    index = server.index(wheel("six", "1.0"))
    lock = solve(read("python=3.11", pip=("six", f"-i {index}"), channels=(channel,)), home=home, base=BASE)
    assert fetch(lock.packages, home)


@pytest.mark.parametrize("place", ["channel_alias", "token"])
def test_no_password_stays_in_the_store(home: Home, read: Read, tmp_path: Path, place: str) -> None:
    """Names and contents of everything below LOCKSTEP_HOME are free of .condarc's passwords and tokens."""
    with Loopback(login=("me", "geheim") if place == "channel_alias" else None) as private:
        private.channel("t/tk-geheim/main", tmp_path / "main", *PYTHON)
        alias = private.url.replace("://", "://me:geheim@") + "/t/tk-geheim"
        if place == "token":
            alias = f"{private.url}/t/tk-geheim"
        (tmp_path / "person" / ".condarc").write_text(f"channel_alias: {alias}\n")
        lock = solve(read("python=3.11", channels=("main",)), home=home, base=BASE)
        assert fetch(lock.packages, home)
    for path in home.path.rglob("*"):
        assert "geheim" not in path.name
        assert path.is_dir() or b"geheim" not in path.read_bytes()


def test_only_this_user_reads_the_repodata(channel: str, home: Home, read: Read) -> None:
    """The cache of channels is the user's own; one of old, which may hold passwords, begins anew."""
    old = home.path / "repodata"
    old.mkdir(parents=True, mode=0o755)
    (old / "1aec400f.info.json").write_text("http://me:geheim@old.example/")
    solve(read("python=3.11", channels=(channel,)), home=home, base=BASE)
    assert old.stat().st_mode & 0o777 == 0o700
    assert not (old / "1aec400f.info.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in old.iterdir()}
    assert kept
    solve(read("python=3.11", channels=(channel,)), home=home, base=BASE)
    assert set(kept) <= set(old.iterdir())


def test_condarcs_are_merged_as_conda_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of several files are joined, the later file's first; single values and keys of maps are the later's."""
    person = tmp_path / "person"
    (person / ".condarc").write_text(
        "channels: [one, shared]\nchannel_alias: http://old.example\n"
        "custom_channels: {a: http://a.example, b: http://b.example}\ncustom_multichannels: {m: [http://m.example/1]}\n"
    )
    (tmp_path / "later.yml").write_text(
        "channels: [two, shared]\nchannel_alias: http://new.example\n"
        "custom_channels: {b: http://c.example}\ncustom_multichannels: {m: [http://m.example/2]}\n"
    )
    monkeypatch.setenv("CONDARC", str(tmp_path / "later.yml"))
    found = read_servers().conda
    assert found.channels == ("two", "shared", "one")
    assert found.channel_alias == "http://new.example"
    assert found.custom_channels == {"a": "http://a.example", "b": "http://c.example"}
    assert found.custom_multichannels == {"m": ("http://m.example/2", "http://m.example/1")}
    monkeypatch.setenv("CONDA_CHANNELS", "three,one")
    assert read_servers().conda.channels == ("three", "one", "two", "shared")


@pytest.mark.parametrize("plus", ["+", "%2B", "%2b"])
def test_a_plus_in_a_wheels_url(plus: str) -> None:
    """A local version is read however its index spells the plus."""
    name = f"torch-2.1{plus}cpu-py3-none-any.whl"
    entry = {"name": "torch", "version": "2.1+cpu", "wheels": [{"url": f"https://h.example/{name}"}]}
    assert best_wheel(entry, list(tags.sys_tags()))["url"].endswith(name)


@pytest.mark.parametrize("setting", ["variables", "files"])
def test_a_proxy(
    server: Loopback, home: Home, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """Hosts that only a proxy can reach: all three clients go through it, as variables or files say."""
    server.channel("main", tmp_path / "main", *PYTHON)
    server.index(wheel("six", "1.0"))
    inside = "http://packages.invalid"
    for path, data in list(server.files.items()):
        server.files[inside + path] = data.replace(server.url.encode(), inside.encode())
        del server.files[path]
    if setting == "variables":
        monkeypatch.setenv("http_proxy", server.url)
    else:
        (tmp_path / "person" / ".condarc").write_text(f"proxy_servers: {{http: '{server.url}'}}\n")
        monkeypatch.setenv("PIP_PROXY", server.url)
    spec = read("python=3.11", pip=("six", f"-i {inside}/simple/simple"), channels=(f"{inside}/main",))
    lock = solve(spec, home=home, base=BASE)
    assert fetch(lock.packages, home)
    assert server.url not in dump_lock(lock).decode()


def test_an_index_that_is_down(channel: str, home: Home, read: Read) -> None:
    """No index, no lock: the error names the host and not the password."""
    dead = "http://me:secret@127.0.0.1:9/simple"
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:9") as failed:
        solve(read("python=3.11", pip=("six", f"-i {dead}"), channels=(channel,)), home=home, base=BASE)
    assert "secret" not in str(failed.value)


def test_an_index_can_be_asked_how_it_is(
    server: Loopback, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `doctor` asks: nothing where the index answers, a reason without the password where it doesn't."""
    monkeypatch.setenv("PIP_INDEX_URL", server.index(wheel("pip", "99")))
    assert index_trouble(read_servers(), home) is None
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:9/simple")
    trouble = index_trouble(read_servers(), home)
    assert trouble
    assert "127.0.0.1:9" in trouble
    assert "secret" not in trouble


def test_one_channel_of_two_is_down(channel: str, home: Home, read: Read) -> None:
    """A channel that nobody answers for isn't passed over in silence, as the packages would be others."""
    with pytest.raises(FetchError, match=r"No server answers for http://127\.0\.0\.1:9/gone"):
        solve(read("python=3.11", channels=("http://127.0.0.1:9/gone", channel)), home=home, base=BASE)


def test_a_channel_that_is_not_there(server: Loopback, home: Home, read: Read) -> None:
    """A server that answers 404 isn't a machine without network: no bootstrap, but an error."""
    with pytest.raises((FetchError, SolveError)) as failed:
        solve(read("python=3.11", channels=(f"{server.url}/typo",)), home=home, base=BASE)
    assert "typo" in str(failed.value) or "python" in str(failed.value)


PUBLIC = "conda-forge"


@pytest.fixture
def _no_public_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The public channels, which are https, can't be reached; servers on loopback, which aren't, can."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")


@pytest.mark.usefixtures("_no_public_channel")
def test_a_lock_from_channels_isnt_replaced_when_they_are_down(
    server: Loopback, channel: str, home: Home, read: Read
) -> None:
    """Without network, a lock whose Python came from a channel doesn't turn into Debian's Python."""
    spec = read("python=3.11", channels=(channel,))
    lock = solve(spec, home=home, base=BASE)
    gone = read("python=3.11", channels=(PUBLIC,))
    with pytest.raises(FetchError, match="the lock's Python came from there"):
        solve(gone, home=home, base=BASE, previous=lock)


@pytest.mark.usefixtures("_no_public_channel")
@pytest.mark.parametrize(
    "channels",
    [
        ("http://127.0.0.1:9/main",),
        (PUBLIC, "http://127.0.0.1:9/main"),
        ("https://host.invalid/conda-forge",),
        ("our-team",),
        ("./no-such-folder",),
        ("alias:main",),
    ],
)
def test_debians_python_stands_in_for_public_channels_only(
    home: Home, read: Read, tmp_path: Path, channels: tuple[str, ...]
) -> None:
    """A channel that isn't known by name may hold another Python: without it there is no lock."""
    if channels == ("alias:main",):
        (tmp_path / "person" / ".condarc").write_text("channel_alias: https://host.invalid\n")
        channels = (PUBLIC,)
    heard = Told()
    with pytest.raises(FetchError, match=re.escape(f"No server answers for {channels[0]}")) as refused:
        solve(read("python=3.11", channels=channels), home=home, base=BASE, progress=heard)
    assert "channel_mirrors" in refused.value.remedy
    assert heard.lines == []


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.usefixtures("_no_public_channel")
def test_no_channel_at_all(server: Loopback, home: Home, read: Read) -> None:
    """Where no public channel answers, Python is the Debian archive's, in one line, and stays what it was."""
    index = server.index(wheel("six", "1.0"))
    spec = read("python=3.11", "pip", pip=("six", f"-i {index}"), channels=(PUBLIC, "defaults"))
    told = Told()
    lock = solve(spec, home=home, base=BASE, progress=told, install=True)
    assert len([line for line in told.lines if "No server answers" in line]) == 1
    assert versions(lock)["pip/six"] == "1.0"
    assert lock.channels == ("lockstep-bootstrap",)
    assert lock.bootstrap
    assert lock.bootstrap.channel_debs
    python = next(package for package in lock.packages if package.name == "python")
    assert python.url.startswith("lockstep-bootstrap://linux-64/python-3.11")
    assert fetch(lock.packages, home, bootstrap=lock.bootstrap)
    assert solve(spec, home=home, base=BASE, previous=lock) == lock
    more = read("python=3.11", "numpy", channels=(PUBLIC,))
    with pytest.raises(SolveError, match="gives only Python and pip") as refused:
        solve(more, home=home, base=BASE)
    assert "pip:" in refused.value.remedy


@pytest.mark.parametrize("written", ["{url}/t/${{TOKEN}}/main", "{url}/$TOKEN/main", "${{CH}}", "$CH"])
def test_channels_with_variables(
    server: Loopback, home: Home, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    """They stand for what is set where the lock is made and fetched; the value is in no lock and no error."""
    for place in ("t/s3cret/main", "s3cret/main"):
        server.channel(place, tmp_path / place, *PYTHON)
    monkeypatch.setenv("TOKEN", "s3cret")
    monkeypatch.setenv("CH", f"{server.url}/t/s3cret/main")
    text = written.format(url=server.url)
    spec = read("python=3.11", channels=(f"'{text}'",))
    lock = solve(spec, home=home, base=BASE)
    assert versions(lock) == {"conda/python": "3.11.2"}
    assert "s3cret" not in dump_lock(lock).decode()
    assert fetch(lock.packages, home, servers=read_servers(spec))
    broken = read("python=3.11", "nosuch", channels=(f"'{text}'",))
    with pytest.raises(SolveError) as refused:
        solve(broken, home=home, base=BASE)
    assert "s3cret" not in str(refused.value)
    for name in ("TOKEN", "CH"):
        monkeypatch.delenv(name)
    with pytest.raises(SettingsError, match=r"(TOKEN|CH), which isn't set"):
        solve(spec, home=home, base=BASE)


def test_a_variable_in_a_channel_that_doesnt_answer(
    server: Loopback, home: Home, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a channel that can't be read names it as it is written."""
    monkeypatch.setenv("TOKEN", "s3cret")
    with pytest.raises((FetchError, SolveError)) as refused:
        solve(read("python=3.11", channels=(f"{server.url}/$TOKEN/none",)), home=home, base=BASE)
    assert "s3cret" not in str(refused.value)
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:9/\$TOKEN/none") as refused:
        solve(read("python=3.11", channels=("http://127.0.0.1:9/$TOKEN/none",)), home=home, base=BASE)


@pytest.mark.parametrize("name", ["local", "folder", "inside"])
@pytest.mark.parametrize("where", ["spec", "settings"])
def test_channels_that_are_folders(
    server: Loopback, channel: str, home: Home, read: Read, tmp_path: Path, where: str, name: str
) -> None:
    """As with folders of wheels: one in the spec may not give a package, one in .condarc isn't looked in."""
    person = tmp_path / "person"
    folder = {
        "local": person / "conda-bld",
        "folder": tmp_path / "elsewhere",
        "inside": tmp_path / "project" / "channel",
    }[name]
    server.channel("unused", folder, *PYTHON, conda("lib", "9.0", {"l": "x"}))
    text = {"local": "local", "folder": str(folder), "inside": "./channel"}[name]
    if where == "settings":
        settings = text if name != "inside" else str(folder)
        (person / ".condarc").write_text(f"channels: [{settings}, '{channel}']\n")
        heard = Told()
        lock = solve(read("python=3.11"), home=home, base=BASE, progress=heard)
        assert lock.packages[0].url.startswith(channel)
        assert heard.lines == [
            f"Not looking for packages in {settings}: a lock can't send other machines there."
        ]
        return
    with pytest.raises(SolveError, match=r"lib 9\.0 is only in a folder of this machine"):
        solve(read("python=3.11", "lib", channels=(channel, text)), home=home, base=BASE)
    assert versions(solve(read("python=3.11", channels=(channel, text)), home=home, base=BASE))


def test_no_local_channel_at_all(home: Home, read: Read) -> None:
    """The name `local` is conda's own: never somebody's channel of that name on the public server."""
    with pytest.raises(SpecError, match="`local` has no folder"):
        solve(read("python=3.11", channels=("local",)), home=home, base=BASE)


def test_provided_names() -> None:
    """Conda's names become the index's, where a package holds a distribution at all."""
    from lockstep.lock.locked import LockedPackage
    from lockstep.solve.provided import provided

    def package(name: str, version: str, *needs: str) -> LockedPackage:
        return LockedPackage(
            name, version, "conda", "u", "0" * 64, 1, dependencies=tuple((n, "") for n in needs)
        )

    assert provided(
        [
            package("pytorch", "2.4.1", "python"),
            package("libtorch", "2.4.1"),
            package("typing_extensions", "4.12.2", "python"),
            package("matplotlib-base", "3.9", "python"),
            package("opencv", "4.10", "python"),
            package("python", "3.11.2", "openssl"),
            package("odd", "1.1.1w", "python"),
            package("local", "1.0+cu118", "python"),
        ]
    ) == {
        "torch": "2.4.1+conda",
        "typing-extensions": "4.12.2+conda",
        "matplotlib": "3.9+conda",
        "opencv-python": "4.10+conda",
        "opencv-python-headless": "4.10+conda",
        "opencv-contrib-python": "4.10+conda",
        "local": "1.0+cu118.conda",
    }


def test_a_damaged_cache_never_gives_another_lock(
    server: Loopback, channel: str, home: Home, read: Read, tmp_path: Path
) -> None:
    """A bit at many places of rattler's cache, its times unchanged: the lock is the one that it was."""
    spec = read("numpy", "python=3.11", channels=(channel,))
    first = dump_lock(solve(spec, home=home, base=BASE))
    files = [path for path in sorted((home.path / "repodata").rglob("*")) if path.is_file()]
    assert len(files) > 3
    for path in files:
        content = path.read_bytes()
        for at in {content.find(b"sha256") + 12, content.find(b"2.1.0") + 2, len(content) // 2}:
            state = path.stat()
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
            said = Told()
            lock = repaired(lambda: solve(spec, home=home, base=BASE), said)
            assert dump_lock(lock) == first
            assert "is damaged" in said.lines[0]
            if not path.exists():  # rattler names some files by chance
                break
            content = path.read_bytes()


def test_the_cache_of_a_killed_process_begins_anew(
    server: Loopback, channel: str, home: Home, read: Read
) -> None:
    """Nobody knows what of it is whole."""
    spec = read("python=3.11", channels=(channel,))
    first = dump_lock(solve(spec, home=home, base=BASE))
    (home.path / "repodata" / "SHA256SUMS").unlink()
    (home.path / "repodata" / "half").write_text("half")
    assert dump_lock(solve(spec, home=home, base=BASE)) == first
    assert not (home.path / "repodata" / "half").exists()
