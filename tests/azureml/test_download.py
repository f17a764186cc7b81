"""Download: a service's file names are a job's, so none of them decides where a file goes."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from lockstep.azureml.download import fetch
from lockstep.copies import Allowance

BROKEN: list[str] = []


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves one file's bytes at every address, and says nothing."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with the address itself; the first answer for `breaks` ends in its middle."""
        body = self.path.encode()
        self.send_response(200)
        if self.path.endswith("chunks"):
            self.send_header("Transfer-Encoding", "chunked")
            body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:4], body[4:], b""))
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path.endswith("breaks") and not BROKEN:
            BROKEN.append(self.path)
            body = body[:3]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def run() -> Iterator[Any]:
    """What the SDK gives for a run: a way to ask where a file can be read."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        artifacts = SimpleNamespace(get_artifact_uri=lambda origin, container, name: f"{base}/{quote(name)}")
        yield SimpleNamespace(id="r", _container="dcid.r", _client=SimpleNamespace(artifacts=artifacts))
        server.shutdown()


def test_names_that_lead_out_are_left_out(run: Any, tmp_path: Path) -> None:
    """`..`, an absolute name, a link that stands in the way, a file that would be a folder: said, not fetched there."""
    (tmp_path / "to").mkdir()
    (tmp_path / "host").mkdir()
    (tmp_path / "to" / "link").symlink_to(tmp_path / "host")
    names = ("outputs/good", "outputs/../../x", "outputs//etc/x", "outputs/link/x", "outputs/good/x")
    said: list[str] = []
    got = fetch(run, names, tmp_path / "to", "outputs/", said.append)
    assert got == (tmp_path / "to" / "good",)
    assert (tmp_path / "to" / "good").read_bytes() == b"/outputs/good"
    assert len(said) == 4
    assert "'outputs/../../x', its name leads out of the folder." in said[0]
    assert list((tmp_path / "host").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["host", "to"]
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["good", "link"]


def test_a_file_that_broke_off_is_fetched_again(run: Any, tmp_path: Path) -> None:
    """A connection that ends in the middle: tried again, and what arrives is whole."""
    BROKEN.clear()
    (path,) = fetch(run, ("outputs/breaks",), tmp_path, "outputs/", print)
    assert BROKEN == ["/outputs/breaks"]
    assert path.read_bytes() == b"/outputs/breaks"
    assert [each.name for each in tmp_path.iterdir()] == ["breaks"]


def test_a_file_whose_size_is_not_stated_arrives_whole(run: Any, tmp_path: Path) -> None:
    """An answer in chunks, as some proxies send what had a length: it isn't an empty file."""
    (path,) = fetch(run, ("outputs/chunks",), tmp_path, "outputs/", print)
    assert path.read_bytes() == b"/outputs/chunks"


def test_a_file_whose_size_is_not_stated_has_to_fit(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left out as soon as there is more than the disk has room for."""
    monkeypatch.setattr(Allowance, "on", lambda folder: Allowance(disk=5))
    said: list[str] = []
    assert fetch(run, ("outputs/chunks",), tmp_path, "outputs/", said.append) == ()
    assert "the disk has no room for it" in said[0]
    assert list(tmp_path.iterdir()) == []
