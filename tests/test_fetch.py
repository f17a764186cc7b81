"""Fetching against servers that misbehave: every package comes whole and verified, or is refused in words."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockstep.errors import DiskFullError, FetchError, IntegrityError
from lockstep.fetch import fetch, fetch_url
from lockstep.home import Home
from lockstep.lock.locked import LockedPackage
from lockstep.progress import Progress, Task
from lockstep.servers import Servers, transfers
from lockstep.servers.pip_settings import PipSettings
from tests.loopback import Fault, Loopback, Request

DATA = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server() -> Iterator[Loopback]:
    """A server with one wheel."""
    with Loopback(files={"/one-1-py3-none-any.whl": DATA}) as loopback:
        yield loopback


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty store."""
    return Home(tmp_path / "home")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries last a hundredth."""
    wait = threading.Event.wait
    monkeypatch.setattr(
        threading.Event, "wait", lambda self, timeout=None: wait(self, timeout and timeout / 100)
    )


def package(server: Loopback, data: bytes = DATA, path: str = "/one-1-py3-none-any.whl") -> LockedPackage:
    """Return the locked package of a file of the server."""
    sha256 = hashlib.sha256(data).hexdigest()
    return LockedPackage("one", "1", "pip", server.url + path, sha256, len(data))


def part(home: Home, data: bytes) -> Path:
    """Leave a part as a killed run would."""
    path = home.package(SHA256).with_name(f"{SHA256}.part")
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def test_packages_come_once(server: Loopback, home: Home) -> None:
    """Ten packages come in parallel into their places; the next call asks no server."""
    made = [random.Random(seed).randbytes(10_000 + seed) for seed in range(10)]
    for number, data in enumerate(made):
        server.files[f"/{number}.whl"] = data
    packages = [package(server, data, f"/{number}.whl") for number, data in enumerate(made)]
    found = fetch(packages, home, servers=Servers())
    assert [found[each.sha256].read_bytes() for each in packages] == made
    assert len(server.requests) == 10
    before = found[packages[0].sha256].stat().st_mtime_ns
    assert fetch(packages, home, servers=Servers()) == found
    assert len(server.requests) == 10
    assert found[packages[0].sha256].stat().st_mtime_ns == before
    assert not list((home.path / "packages").glob("*.part"))


def test_a_part_is_continued(server: Loopback, home: Home) -> None:
    """What a killed run left is not fetched again."""
    left = part(home, DATA[:100_000])
    fetch([package(server)], home, servers=Servers())
    assert home.package(SHA256).read_bytes() == DATA
    assert [request.headers["range"] for request in server.requests] == ["bytes=100000-"]
    assert not left.exists()


@pytest.mark.parametrize("length", [len(DATA), len(DATA) + 5, 100_000])
def test_a_part_of_other_bytes_begins_anew(server: Loopback, home: Home, length: int) -> None:
    """A part that a broken disk or another server spoiled is noticed, thrown away and fetched again."""
    part(home, bytes(length))
    fetch([package(server)], home, servers=Servers())
    assert home.package(SHA256).read_bytes() == DATA


def test_a_server_without_ranges_starts_over(server: Loopback, home: Home) -> None:
    """A server that can't continue sends everything; that is fine."""
    part(home, DATA[:100_000])
    server.faults["/one-1-py3-none-any.whl"] = deque([Fault(ranges=False)])
    fetch([package(server)], home, servers=Servers())
    assert home.package(SHA256).read_bytes() == DATA
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=503),
        Fault(status=429, headers=(("retry-after", "1"),)),
        Fault(status=503, headers=(("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"),)),
        Fault(cut=1_000),
        Fault(cut=0),
        Fault(cut=1_000, chunked_end=True),
        Fault(body=b"<html>please log in</html>"),
        Fault(body=DATA + b"more"),
        Fault(body=bytes(len(DATA))),
    ],
)
def test_a_passing_fault_is_retried(server: Loopback, home: Home, fault: Fault) -> None:
    """A fault that passes costs another try and nothing else."""
    server.faults["/one-1-py3-none-any.whl"] = deque([fault])
    fetch([package(server)], home, servers=Servers())
    assert home.package(SHA256).read_bytes() == DATA
    assert len(server.requests) == 2


def test_retry_after_is_honoured(server: Loopback, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server says how long to wait, and so long it is."""
    waits: list[float | None] = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, timeout=None: waits.append(timeout) or False)
    server.faults["/one-1-py3-none-any.whl"] = deque([Fault(status=429, headers=(("retry-after", "7"),))])
    fetch([package(server)], home, servers=Servers())
    assert 7.0 in waits


def test_many_short_answers_add_up(server: Loopback, home: Home) -> None:
    """A line that breaks all the time still ends with the whole file, as each try goes on."""
    server.faults["/one-1-py3-none-any.whl"] = deque([Fault(cut=30_000)] * 9)
    fetch([package(server)], home, servers=Servers())
    assert home.package(SHA256).read_bytes() == DATA
    starts = [int((request.headers["range"] or "bytes=0-")[6:-1]) for request in server.requests]
    assert starts == [30_000 * number for number in range(10)]


def test_wrong_bytes_are_refused(server: Loopback, home: Home) -> None:
    """Bytes that stay wrong are an IntegrityError that names both hashes; nothing is stored."""
    server.files["/one-1-py3-none-any.whl"] = wrong = bytes(len(DATA))
    with pytest.raises(IntegrityError) as refused:
        fetch([package(server)], home, servers=Servers())
    assert SHA256[:16] in str(refused.value)
    assert hashlib.sha256(wrong).hexdigest()[:16] in str(refused.value)
    assert not home.package(SHA256).exists()


def test_a_truncated_file_is_refused(server: Loopback, home: Home) -> None:
    """A server that only has the first half says so in the error; nothing takes the package's place."""
    server.files["/one-1-py3-none-any.whl"] = DATA[:150_000]
    with pytest.raises(IntegrityError, match=r"300,000 bytes.*150,000 bytes"):
        fetch([package(server)], home, servers=Servers())
    assert not home.package(SHA256).exists()


def test_a_package_that_is_gone_is_named(server: Loopback, home: Home) -> None:
    """404 isn't retried; the remedy is another lock."""
    with pytest.raises(FetchError, match="404") as refused:
        fetch([package(server, path="/gone.whl")], home, servers=Servers())
    assert "gone.whl" in str(refused.value)
    assert "lock --upgrade" in refused.value.remedy
    assert len(server.requests) == 1


def test_a_dead_server_is_said_and_the_next_run_continues(server: Loopback, home: Home) -> None:
    """No network in the middle: an error in words, the part stays, the next run asks for the rest only."""
    faults = deque([Fault(cut=100_000), *[Fault(status=503)] * 9])
    server.faults["/one-1-py3-none-any.whl"] = faults
    with pytest.raises(FetchError, match="tries") as failed:
        fetch([package(server)], home, servers=Servers())
    assert "continues where this one stopped" in failed.value.remedy
    faults.clear()
    fetch([package(server)], home, servers=Servers())
    assert server.requests[-1].headers["range"] == "bytes=100000-"
    assert home.package(SHA256).read_bytes() == DATA


def test_nobody_listens(home: Home) -> None:
    """A refused connection is a FetchError with the host's name."""
    gone = LockedPackage("one", "1", "pip", "http://127.0.0.1:9/one.whl", SHA256, len(DATA))
    with pytest.raises(FetchError, match=r"127\.0\.0\.1"):
        fetch([gone], home, servers=Servers())


def test_a_redirect_is_followed(server: Loopback, home: Home) -> None:
    """Indexes send to other servers; credentials don't go along to another host."""
    with Loopback(files={"/there.whl": DATA}) as other:
        elsewhere = other.url.replace("127.0.0.1", "localhost")
        target = (("location", f"{elsewhere}/there.whl"),)
        server.faults["/one-1-py3-none-any.whl"] = deque([Fault(status=302, headers=target)])
        with_login = server.url.replace("://", "://me:secret@")
        fetch([package(server)], home, servers=Servers(pip=PipSettings(index_url=with_login)))
        assert home.package(SHA256).read_bytes() == DATA
        assert server.requests[0].headers["authorization"]
        assert other.requests[0].headers["authorization"] is None


def test_credentials_of_the_settings(server: Loopback, home: Home) -> None:
    """The lock holds a bare URL; the password comes from the index's setting and never shows."""
    server.login = ("me", "pass word")
    with pytest.raises(FetchError, match="401"):
        fetch([package(server)], home, servers=Servers())
    bad = PipSettings(index_url=server.url.replace("://", "://me:wrongsecret@") + "/simple")
    with pytest.raises(FetchError) as refused:
        fetch([package(server)], home, servers=Servers(pip=bad))
    assert "wrongsecret" not in str(refused.value)
    good = PipSettings(extra_index_urls=(server.url.replace("://", "://me:pass%20word@") + "/simple",))
    fetch([package(server)], home, servers=Servers(pip=good))
    assert home.package(SHA256).read_bytes() == DATA


def test_credentials_of_netrc(
    server: Loopback, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """~/.netrc counts, as for pip and conda."""
    server.login = ("me", "secret")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    fetch([package(server)], home, servers=Servers())
    assert home.package(SHA256).read_bytes() == DATA


def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Make a person's netrc."""
    (tmp_path / "netrc").write_text(text)
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_netrc_is_for_its_host_and_port_alone(
    server: Loopback, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry of another port isn't sent, nor is the one for any host; the port's own comes before the host's."""
    port = server.url.rpartition(":")[2]
    for text in ("machine 127.0.0.1:9 login me password secret\n", "default login me password secret\n"):
        netrc(tmp_path, monkeypatch, text)
        assert Servers().credentials(server.url) is None
    text = f"machine 127.0.0.1 login other password one\nmachine 127.0.0.1:{port} login me password secret\n"
    netrc(tmp_path, monkeypatch, text)
    server.login = ("me", "secret")
    fetch([package(server)], home, servers=Servers())
    assert home.package(SHA256).read_bytes() == DATA


def test_a_setting_is_for_its_origin_alone(server: Loopback) -> None:
    """Credentials of an index go to its scheme, host and port: neither a neighbour's port nor plain HTTP."""
    index = PipSettings(index_url="https://me:secret@packages.example/simple")
    servers = Servers(pip=index)
    assert servers.credentials("https://packages.example:443/files/x.whl") == ("me", "secret")
    for url in ("http://packages.example/x.whl", "https://packages.example:8443/x", "https://example/x"):
        assert servers.credentials(url) is None


def test_a_keyring_is_asked(
    server: Loopback, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pip's or uv's keyring setting, our own requests get what `keyring get` gives; it is asked once."""
    program = tmp_path / "bin" / "keyring"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n'
        f'case "$*" in "get {server.url}/simple me") echo pass/word;; *) exit 1;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    server.login = ("me", "pass/word")
    other = random.Random(2).randbytes(1000)
    server.files["/two-1-py3-none-any.whl"] = other
    settings = PipSettings(index_url=server.url.replace("://", "://me@") + "/simple", keyring=True)
    packages = [package(server), package(server, other, "/two-1-py3-none-any.whl")]
    fetch(packages, home, servers=Servers(pip=settings))
    assert home.package(SHA256).read_bytes() == DATA
    assert (tmp_path / "asked").read_text().splitlines().count(f"get {server.url}/simple me") == 1


class Said(Progress):
    """Keeps what was said and how far the bar went."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done = self.most = 0
        self.lock = threading.Lock()

    def say(self, text: str) -> None:
        self.lines.append(text)

    @contextlib.contextmanager
    def task(self, text: str, total: int | None = None, *, unit: str = "bytes") -> Iterator[Task]:
        said = self

        class Counter(Task):
            def advance(self, amount: int = 1) -> None:
                with said.lock:
                    said.done += amount
                    said.most = max(said.most, said.done)

        yield Counter()


def encoded(data: bytes, **more: object) -> Fault:
    """Return an answer that is compressed although it wasn't asked to be."""
    headers = (("content-encoding", "gzip"),)
    return Fault(body=gzip.compress(data, mtime=0), headers=headers, ranges=False, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [DATA, bytes(300_000)], ids=["larger encoded", "smaller encoded"])
@pytest.mark.parametrize("chunked", [True, False], ids=["without a length", "with a length"])
def test_a_wheel_that_is_encoded_on_the_way(server: Loopback, home: Home, data: bytes, chunked: bool) -> None:
    """A server that compresses what it sends is understood on the second try, and the bar stays below 100%."""
    server.files["/one-1-py3-none-any.whl"] = data
    server.faults["/one-1-py3-none-any.whl"] = deque([encoded(data, chunked_end=chunked)] * 2)
    said = Said()
    fetch([package(server, data)], home, said, servers=Servers())
    assert home.package(hashlib.sha256(data).hexdigest()).read_bytes() == data
    assert len(server.requests) == 2
    assert (said.done, said.most) == (len(data), len(data))


def test_an_archive_that_is_called_encoded(server: Loopback, home: Home) -> None:
    """A .tar.gz that a server labels as gzip-encoded is taken as it is: the lock's hash is of those bytes."""
    data = gzip.compress(DATA, mtime=0)
    server.files["/one.tar.gz"] = data
    server.faults["/one.tar.gz"] = deque([encoded(DATA)])
    fetch([package(server, data, "/one.tar.gz")], home, servers=Servers())
    assert home.package(hashlib.sha256(data).hexdigest()).read_bytes() == data
    assert len(server.requests) == 1


def test_too_many_bytes_are_said_as_too_many(server: Loopback, home: Home) -> None:
    """An answer of no stated length that is too long is no broken line: two tries, and the right words."""
    more = Fault(body=DATA + bytes(200_000), chunked_end=True)
    server.faults["/one-1-py3-none-any.whl"] = deque([more] * 9)
    said = Said()
    with pytest.raises(IntegrityError, match=r"300,000 bytes.*more than that"):
        fetch([package(server)], home, said, servers=Servers())
    assert len(server.requests) == 2
    assert said.done == 0
    assert said.most <= len(DATA)


def test_a_server_that_starts_over_doesnt_count_twice(server: Loopback, home: Home) -> None:
    """The bar goes back when a server can't continue."""
    part(home, DATA[:100_000])
    server.faults["/one-1-py3-none-any.whl"] = deque([Fault(ranges=False)])
    said = Said()
    fetch([package(server)], home, said, servers=Servers())
    assert (said.done, said.most) == (len(DATA), len(DATA))


def test_further_tries_are_said(server: Loopback, home: Home) -> None:
    """Each further try says why, which one it is and how many there will be."""
    server.faults["/one-1-py3-none-any.whl"] = deque([Fault(status=503)] * 2)
    said = Said()
    fetch([package(server)], home, said, servers=Servers())
    assert [re.search(r"503: trying again in .* s \(try (\d) of 5\)", line)[1] for line in said.lines] == [  # type: ignore[index]
        "2",
        "3",
    ]


def test_silence_is_said(server: Loopback, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the request and sends nothing is named, with how long and what then."""
    monkeypatch.setattr(transfers, "SILENCE", 0.2)
    server.before = lambda request: time.sleep(1.0)
    said = Said()
    fetch([package(server)], home, said, servers=Servers())
    waited = [line for line in said.lines if line.startswith("Waiting for 127.0.0.1: nothing came for")]
    assert 1 <= len(waited) <= 3
    assert "after 60 s it is tried again" in waited[0]


def test_a_circle_of_redirects_has_a_remedy(server: Loopback, home: Home) -> None:
    """A mirror or a sign-in page that sends round in a circle is said with what to correct."""
    target = (("location", f"{server.url}/one-1-py3-none-any.whl"),)
    server.faults["/one-1-py3-none-any.whl"] = deque([Fault(status=302, headers=target)] * 50)
    with pytest.raises(FetchError, match="circle") as refused:
        fetch([package(server)], home, servers=Servers())
    assert "Correct the index" in refused.value.remedy


def test_mirrors_come_first(server: Loopback, home: Home) -> None:
    """A mirror is asked first; one that fails or lies is passed over."""
    public = LockedPackage("one", "1", "conda", "https://channels.test/c/noarch/one.conda", SHA256, len(DATA))
    server.files["/good/noarch/one.conda"] = DATA
    server.files["/liar/noarch/one.conda"] = b"no"
    mirrors = ("http://127.0.0.1:9", f"{server.url}/empty", f"{server.url}/liar", f"{server.url}/good")
    fetch([public], home, servers=Servers(mirrors={"https://channels.test/c": mirrors}))
    assert home.package(SHA256).read_bytes() == DATA


def test_a_file_url(tmp_path: Path, home: Home) -> None:
    """A channel in a folder is read from there and verified the same."""
    source = tmp_path / "with space.conda"
    source.write_bytes(DATA)
    local = LockedPackage("one", "1", "conda", source.as_uri(), SHA256, len(DATA))
    fetch([local], home, servers=Servers())
    assert home.package(SHA256).read_bytes() == DATA
    home.package(SHA256).unlink()
    source.write_bytes(bytes(len(DATA)))
    with pytest.raises(IntegrityError):
        fetch([local], home, servers=Servers())
    source.unlink()
    with pytest.raises(FetchError, match="No such file"):
        fetch([local], home, servers=Servers())


def test_one_file_of_unknown_size(server: Loopback, home: Home) -> None:
    """Data sets come by the same road, with their own mirrors."""
    path = fetch_url(
        "http://127.0.0.1:9/x",
        SHA256,
        None,
        home,
        mirrors=[f"{server.url}/one-1-py3-none-any.whl"],
        servers=Servers(),
    )
    assert path == home.package(SHA256)
    assert path.read_bytes() == DATA


def test_a_broken_file_in_the_store_is_replaced(server: Loopback, home: Home) -> None:
    """A package that lost its end (a full disk of old) is fetched again."""
    home.package(SHA256).parent.mkdir(parents=True)
    home.package(SHA256).write_bytes(DATA[:-1])
    fetch([package(server)], home, servers=Servers())
    assert home.package(SHA256).read_bytes() == DATA


CHILD = """
import sys
from pathlib import Path
from lockstep.fetch import fetch
from lockstep.home import Home
from lockstep.lock.locked import LockedPackage
from lockstep.progress import Progress, Task
from lockstep.servers import Servers, transfers
url, sha256, size, home = sys.argv[1:]
fetch([LockedPackage("one", "1", "pip", url, sha256, int(size))], Home(Path(home)), servers=Servers())
"""


def child(server: Loopback, home: Home) -> subprocess.Popen[bytes]:
    """Start another process that fetches the wheel."""
    url = f"{server.url}/one-1-py3-none-any.whl"
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", CHILD, url, SHA256, str(len(DATA)), str(home.path)]
    return subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE)


def _until(condition: object, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_fetch_is_continued(server: Loopback, home: Home, number: signal.Signals) -> None:
    """Killed, or stopped by Ctrl-C, in the middle: it ends at once, and the next run fetches the rest."""
    server.faults["/one-1-py3-none-any.whl"] = deque([Fault(cut=100_000)])
    hold = {"on": True}

    def stall(request: Request) -> None:
        if request.headers["range"] and hold["on"]:
            _until(lambda: not hold["on"])

    server.before = stall
    with child(server, home) as process:
        _until(lambda: len(server.requests) == 2)
        began = time.monotonic()
        process.send_signal(number)
        process.wait(timeout=10)
        assert process.returncode != 0
        assert time.monotonic() - began < 5
    hold["on"] = False
    assert not home.package(SHA256).exists()
    fetch([package(server)], home, servers=Servers())
    assert home.package(SHA256).read_bytes() == DATA
    assert server.requests[-1].headers["range"] == "bytes=100000-"


def test_two_processes_fetch_once(server: Loopback, home: Home) -> None:
    """Two builds at once share one download: the second waits and finds it there."""
    server.before = lambda request: time.sleep(0.5)
    with child(server, home) as one, child(server, home) as other:
        assert (one.wait(30), other.wait(30)) == (0, 0)
    assert home.package(SHA256).read_bytes() == DATA
    assert len(server.requests) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB, for root only."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk takes root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_said(server: Loopback, small_disk: Path) -> None:
    """A disk that fills up in the middle is a DiskFullError that names it."""
    server.files["/big"] = data = bytes(3_000_000)
    with pytest.raises(DiskFullError, match="is full") as full:
        fetch_url(
            f"{server.url}/big", hashlib.sha256(data).hexdigest(), None, Home(small_disk), servers=Servers()
        )
    assert str(small_disk) in str(full.value)
    assert len(server.requests) == 1


def test_no_room_is_said_before_anything_is_fetched(server: Loopback, home: Home) -> None:
    """More bytes than the disk has are refused at once, with both numbers."""
    huge = LockedPackage("one", "1", "pip", f"{server.url}/huge.whl", SHA256, 10**18)
    with pytest.raises(DiskFullError, match="MB free"):
        fetch([huge], home, servers=Servers())
    assert server.requests == []


def test_memory_stays_flat(server: Loopback, home: Home) -> None:
    """A package of 200 MB passes through without ever being in memory."""
    server.files["/one-1-py3-none-any.whl"] = data = bytes(200_000_000)
    big = package(server, data)
    # not ru_maxrss, which a child has from the process that it was forked from
    code = CHILD + "\nprint(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    command = [sys.executable, "-c", code, big.url, big.sha256, str(big.size), str(home.path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, check=True)
    assert int(done.stdout) < 120_000
