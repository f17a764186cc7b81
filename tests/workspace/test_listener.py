"""Slow clients and many of them: they are cut off, and everybody else is served."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from lockstep.engine import Engine
from lockstep.errors import EngineError
from lockstep.workspace.connection import Patience
from lockstep.workspace.folder import Folder
from lockstep.workspace.listener import Listener
from lockstep.workspace.routes.blobs import DATASTORE, datastore_resource
from lockstep.workspace.server import Parts, running
from lockstep.workspace.tls import Authority

SOON = 5.0


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Read the body, answer with its length."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = str(size).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
    )
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def listening(folder: Path, patience: Patience) -> Iterator[tuple[int, int]]:
    """Serve `echo` in the clear and over TLS; give both ports."""
    listener = Listener(Authority(folder), patience)
    try:
        yield listener.serve_clear(echo, 0), listener.serve_secure(echo, "127.0.0.1", 0)
    finally:
        listener.stop()


def ended_within(connection: socket.socket, seconds: float, trickle: bytes = b"") -> bool:
    """Tell whether the server ends the connection in time, while `trickle` is sent a byte at a time."""
    connection.settimeout(0.05)
    end = time.monotonic() + seconds
    sent = iter(trickle)
    while time.monotonic() < end:
        try:
            for byte in sent:
                connection.sendall(bytes([byte]))
                break
            if connection.recv(100) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


@pytest.mark.parametrize(
    ("first", "trickle"),
    [
        (b"", b""),
        (b"", b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 1000),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 1000),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123", b""),
    ],
    ids=["says-nothing", "trickles-a-head", "trickles-a-second-head", "stops-in-a-body"],
)
def test_a_slow_client_is_cut_off(tmp_path: Path, first: bytes, trickle: bytes) -> None:
    """Whatever it is that doesn't come: the connection ends."""
    with listening(tmp_path, Patience(head=0.5, body=0.5)) as (port, _):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(first)
        if first.startswith(b"GET"):
            time.sleep(0.1)
            assert connection.recv(1000).endswith(b"\r\n\r\n0")
        assert ended_within(connection, SOON, trickle)
        connection.close()


def test_a_client_that_never_begins_tls_is_cut_off(tmp_path: Path) -> None:
    """Before there is a request there is TLS."""
    with listening(tmp_path, Patience(head=0.5)) as (_, port):
        connection = socket.create_connection(("127.0.0.1", port))
        assert ended_within(connection, SOON)
        connection.close()


def test_a_client_that_goes_on_is_served(tmp_path: Path) -> None:
    """One connection that is used again and again, and a body that comes piece by piece, outlast the limits."""
    with listening(tmp_path, Patience(head=0.4, body=0.4)) as (port, _):
        kept = http.client.HTTPConnection("127.0.0.1", port)
        for _ in range(8):
            kept.request("GET", "/")
            assert kept.getresponse().read() == b"0"
            time.sleep(0.1)
        kept.putrequest("POST", "/")
        kept.putheader("Content-Length", "8")
        kept.endheaders()
        for _ in range(8):
            kept.send(b"x")
            time.sleep(0.1)
        assert kept.getresponse().read() == b"8"
        kept.close()


def test_idle_connections_make_room(tmp_path: Path) -> None:
    """However many are open: a new one is served at once, and the oldest that ask nothing are closed."""
    with listening(tmp_path, Patience(head=60, connections=10)) as (port, _):
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        began = time.monotonic()
        asked = http.client.HTTPConnection("127.0.0.1", port, timeout=SOON)
        asked.request("GET", "/")
        assert asked.getresponse().read() == b"0"
        assert time.monotonic() - began < SOON
        asked.close()
        assert sum(ended_within(one, 0.1) for one in idle[:50]) == 50
        for one in idle:
            one.close()


def test_what_was_trusted_is_kept_whoever_names_our_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every bundle that a variable names is in ours, also after a start in a shell that has ours in its variables."""
    folder = tmp_path / "tls"
    folder.mkdir()
    names = {"SSL_CERT_FILE": tmp_path / "one.pem", "REQUESTS_CA_BUNDLE": tmp_path / "two.pem"}
    for variable, path in names.items():
        trustme.CA().cert_pem.write_to_path(str(path))
        monkeypatch.setenv(variable, str(path))
    Authority(folder)
    for ours in ("ca.pem", "ca-bundle.pem"):
        for variable in names:
            monkeypatch.setenv(variable, str(folder / ours))
        Authority(folder)
        bundle = (folder / "ca-bundle.pem").read_text()
        assert all(path.read_text() in bundle for path in names.values())


@pytest.mark.parametrize("asks", ["with a token", "at a signed address"])
def test_a_busy_state_holds_up_only_who_needs_it(tmp_path: Path, asks: str) -> None:
    """While a long change holds the state, a job's request waits in a thread, and others are answered."""
    folder = Folder(tmp_path)
    folder.prepare()

    def no_engine() -> Engine:
        raise EngineError("none here")

    with running(folder, Parts(no_engine), 0, 0) as site, ThreadPoolExecutor(1) as waiting:
        base = next(f"https://{host}" for host in site.hosts if host.startswith("127.0.0.1:"))
        context = ssl.create_default_context(cafile=str(folder.tls / "ca.pem"))
        with httpx.Client(verify=context, trust_env=False, timeout=20) as client:
            headers, path = {}, f"/{DATASTORE}?{site.identity.signed(datastore_resource(), 'r')}"
            if asks == "with a token":
                headers, path = {"Authorization": f"Bearer {site.identity.token(60, 'r')}"}, "/subscriptions"
            with site.state.change():
                job = waiting.submit(client.get, f"{base}{path}", headers=headers)
                assert not wait([job], timeout=0.5).done
                assert client.get(f"{base}/metadata/endpoints", timeout=5).status_code == 200
            assert job.result(20).status_code in (401, 403)
