"""Proxies: one reading, and each client of ours tried with a proxy that counts as the only way out.

The hosts are called `*.invalid`, which nothing resolves: what doesn't ask the proxy fails.
"""

from __future__ import annotations

import os
import platform
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from lockstep.bootstrap.archive import open_archive
from lockstep.bootstrap.debs import fetch_debs
from lockstep.errors import FetchError, SettingsError
from lockstep.fetch import fetch
from lockstep.home import Home
from lockstep.lock.locked import LockedPackage
from lockstep.progress import SILENT
from lockstep.servers import Servers, certificates, is_loopback, read_servers
from lockstep.servers.proxies import Proxies, read_proxies
from tests.debian import Made, archive
from tests.loopback import Loopback
from tests.packages import wheel

INSIDE = "http://packages.invalid"
APP = Made("app", "1.0", {"usr/bin/app": "hello"})


@pytest.fixture(autouse=True)
def _plain_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without settings of its own."""
    for key in list(os.environ):
        if key.startswith(("PIP_", "UV_", "CONDA")) or key.lower().endswith("_proxy"):
            monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("CONDARC", str(tmp_path / "person" / "condarc"))
    (tmp_path / "person").mkdir()


@pytest.fixture
def proxy() -> Iterator[Loopback]:
    """A proxy that has the files of hosts inside, and counts."""
    with Loopback() as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty store."""
    return Home(tmp_path / "home")


Setting = Callable[[str, pytest.MonkeyPatch, Path], None]


def _pip_conf(url: str, monkeypatch: pytest.MonkeyPatch, person: Path) -> None:
    (person / "pip.conf").write_text(f"[install]\nproxy = {url}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(person / "pip.conf"))


SETTINGS: dict[str, Setting] = {
    "http_proxy": lambda url, monkeypatch, _: monkeypatch.setenv("http_proxy", url),
    "HTTP_PROXY": lambda url, monkeypatch, _: monkeypatch.setenv("HTTP_PROXY", url),
    "ALL_PROXY": lambda url, monkeypatch, _: monkeypatch.setenv("ALL_PROXY", url),
    "without a scheme": lambda url, monkeypatch, _: monkeypatch.setenv("HTTP_PROXY", url[7:]),
    "pip.conf": _pip_conf,
    "condarc": lambda url, _, person: (
        (person / "condarc").write_text(f"proxy_servers: {{http: '{url}'}}\n") and None
    ),
}


@pytest.fixture(params=SETTINGS)
def only_way_out(
    request: pytest.FixtureRequest, proxy: Loopback, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Loopback:
    """The proxy, named in one of the places where people name it."""
    SETTINGS[request.param](proxy.url, monkeypatch, tmp_path / "person")
    return proxy


def package(proxy: Loopback, host: str = INSIDE) -> LockedPackage:
    """Put a wheel on a host inside."""
    made = wheel("six", "1.0")
    proxy.files[f"{host}/six.whl"] = made.data
    return LockedPackage("six", "1.0", "pip", f"{host}/six.whl", made.locked.sha256, len(made.data))


def test_our_own_requests(only_way_out: Loopback, home: Home) -> None:
    """However the proxy is named, a download goes through it, once."""
    locked = package(only_way_out)
    assert fetch([locked], home)[locked.sha256].stat().st_size == locked.size
    assert [request.path for request in only_way_out.requests] == [f"{INSIDE}/six.whl"]


def test_a_trusted_host_goes_through_it_too(
    only_way_out: Loopback, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host whose certificate isn't to be verified is still reached through the proxy."""
    monkeypatch.setenv("PIP_TRUSTED_HOST", "packages.invalid")
    locked = package(only_way_out)
    assert fetch([locked], home)
    assert len(only_way_out.requests) == 1


def test_child_processes(only_way_out: Loopback) -> None:
    """A program that reads one spelling only gets it: apt reads small letters, others capitals."""
    environment = read_servers().proxies.environment()
    url = only_way_out.url
    assert [environment[key] for key in ("http_proxy", "HTTP_PROXY")] == [url, url]
    assert "127.0.0.1" in environment["no_proxy"].split(",")
    assert "all_proxy" not in {key.lower() for key in environment}


def serve_archive(proxy: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str = "") -> None:
    """Serve a Debian archive of APP inside, and name it in apt's sources."""
    if not shutil.which("apt-get"):
        pytest.skip("apt isn't there")
    release = platform.freedesktop_os_release()
    root = tmp_path / "debian"
    archive(root, release["VERSION_CODENAME"], release["ID"].capitalize(), APP)
    for path in root.rglob("*"):
        if path.is_file():
            proxy.files[f"http://debian.invalid/d/{path.relative_to(root)}"] = path.read_bytes()
    (tmp_path / "sources.list").write_text(
        f"deb [trusted=yes] http://debian.invalid/d {release['VERSION_CODENAME']} main\n"
    )
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
        f'Acquire::Retries "0";\nAcquire::AllowInsecureRepositories "true";\n{more}'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))


def test_apt_and_its_debs(
    only_way_out: Loopback, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apt reads the lists through the proxy however it is spelled, and the .debs come the same way."""
    serve_archive(only_way_out, tmp_path, monkeypatch)
    found = open_archive(home, SILENT)
    fetch_debs([APP.locked], found.sources, home, SILENT, mirrors=found.mirrors)
    assert home.package(APP.locked.sha256).read_bytes() == APP.data
    assert [request.path for request in only_way_out.requests if request.path.endswith(".deb")]


@pytest.mark.parametrize(
    "setting",
    [
        'Acquire::http::Proxy "{url}";\n',
        'Acquire::http::Proxy "http://127.0.0.1:9";\nAcquire::http::Proxy::debian.invalid "{url}";\n',
        'Acquire::http::Proxy-Auto-Detect "{program}";\n',
    ],
    ids=["all hosts", "a host", "a program"],
)
def test_apts_own_proxy(
    proxy: Loopback, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """What apt's configuration says counts for its archives, also where we fetch, and for nothing else."""
    program = tmp_path / "find-proxy"
    program.write_text(f"#!/bin/sh\necho {proxy.url}\n")
    program.chmod(0o755)
    serve_archive(proxy, tmp_path, monkeypatch, setting.format(url=proxy.url, program=program))
    found = open_archive(home, SILENT)
    fetch_debs([APP.locked], found.sources, home, SILENT, mirrors=found.mirrors)
    assert home.package(APP.locked.sha256).read_bytes() == APP.data
    with pytest.raises(FetchError):
        fetch([package(proxy)], home)


def test_this_machine_is_asked_without_it(
    proxy: Loopback, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server on loopback isn't asked through a proxy, with no NO_PROXY set."""
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    with Loopback() as own:
        locked = package(own, "")
        url = f"{own.url}/six.whl"
        fetch([LockedPackage("six", "1.0", "pip", url, locked.sha256, locked.size)], home)
    assert proxy.requests == []


@pytest.mark.parametrize(
    ("said", "entries"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "A.example", "no_proxy": "b.example"}, "a.example,b.example,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "a.example,*"}, "*"),
    ],
)
def test_a_child_process_gets_what_both_spellings_say(
    said: dict[str, str], entries: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And `*` stays alone, as most programs know it only so."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    found = read_proxies().environment()
    assert (set(found["no_proxy"].split(",")), found["NO_PROXY"]) == (
        set(entries.split(",")),
        found["no_proxy"],
    )


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("", "https://a.example/x", False),
        ("a.example", "https://a.example/x", True),
        ("example", "https://a.example/x", True),
        (".example", "https://a.example/x", True),
        ("*.example", "https://a.example/x", True),
        ("b.example, .c", "https://a.example/x", False),
        ("xample", "https://a.example/x", False),
        ("a.example:443", "https://a.example/x", True),
        ("a.example:8443", "https://a.example/x", False),
        ("*", "https://a.example/x", True),
        ("10.0.0.0/8", "https://10.1.2.3/x", True),
        ("10.0.0.0/8", "https://11.1.2.3/x", False),
        ("fd00::/8", "https://[fd00::1]:8443/x", True),
        ("[fd00::1]:8443", "https://[fd00::1]:8443/x", True),
        ("", "http://localhost:8080/x", True),
        ("", "http://[::1]:8080/x", True),
        ("", "http://127.8.9.1/x", True),
        ("", "file:///x", True),
    ],
)
def test_no_proxy(no_proxy: str, url: str, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Domains with what is below them, addresses, networks, ports; and loopback always."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (read_proxies("http://proxy.example:3128").of(url) is None) is direct


def test_what_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small letters before capitals, the scheme's own before ALL_PROXY, variables before pip's, then conda's."""
    conda = {"http": "http://conda:1", "https": "http://conda:1", "https://a.example": "http://own:1"}
    assert read_proxies(None, conda).https == "http://conda:1"
    assert read_proxies(None, conda).of("https://a.example/x") == "http://own:1"
    assert read_proxies("pip:1", conda).https == "http://pip:1"
    monkeypatch.setenv("ALL_PROXY", "http://all:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://capitals:1")
    assert (read_proxies("pip:1").http, read_proxies("pip:1").https) == ("http://all:1", "http://capitals:1")
    monkeypatch.setenv("https_proxy", "http://small:1")
    assert read_proxies("pip:1").https == "http://small:1"


@pytest.mark.parametrize("url", ["socks5://me:hush@h:1", "http://me:hu/sh@h:1", "http://h:port", "http://"])
def test_what_is_no_proxy_is_said(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that can't be is refused in words, without its password."""
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(SettingsError, match="HTTP proxy") as refused:
        read_servers()
    assert "hu" not in refused.value.message.replace("http", "")
    assert "http://proxy.example:3128" in refused.value.remedy


def test_proxies_show_no_password() -> None:
    """Neither printing nor logging the value gives it away."""
    found = Proxies(
        "http://me:geheim@h:1", "http://me:geheim@h:1", hosts={"http://x": "http://me:geheim@h:1"}
    )
    assert "geheim" not in f"{found!r} {found}"


@pytest.mark.parametrize(
    ("host", "is_it"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("a.localhost:80", True),
        ("127.1.2.3", True),
        ("[::1]:5000", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("", False),
    ],
)
def test_loopback(host: str, is_it: bool) -> None:
    """The machine itself, by each of its names."""
    assert is_loopback(host) is is_it


def test_a_virtual_environment(
    only_way_out: Loopback, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uv makes virtual environments through the proxy, wherever that is named."""
    made = wheel("six", "1.0", {"six.py": "x = 1\n"})
    only_way_out.index(made)
    for path, data in list(only_way_out.files.items()):
        only_way_out.files[INSIDE + path] = data.replace(only_way_out.url.encode(), INSIDE.encode())
    monkeypatch.setenv("PIP_INDEX_URL", f"{INSIDE}/simple/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    lock = tmp_path / "small.lock"
    lock.write_text(f"six==1.0 --hash=sha256:{made.locked.sha256}\n")
    from lockstep.virtualenv import provide

    python = provide(tmp_path / "venv", lock, SILENT)
    assert subprocess.run([python, "-c", "import six"], check=True).returncode == 0
    assert only_way_out.requests
    assert sys.prefix not in str(python)


def test_an_own_authority_counts_beside_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSL_CERT_FILE takes the system's file away from Python; ours is read beside it, wherever that is."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "company.pem"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "system.pem"))
    monkeypatch.setattr(certificates, "_OF_SYSTEMS", (str(tmp_path / "system.pem"),))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "company.pem"))
    context = Servers().ssl_context()
    found = {ssl.DER_cert_to_PEM_cert(each) for each in context.get_ca_certs(binary_form=True)}
    assert {(tmp_path / name).read_text() for name in ("company.pem", "system.pem")} <= found
