"""The studio's own door: what a page or a link of somebody else's can do in the browser of the workspace's owner."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from lockstep.workspace.daemon import Daemon

SCRIPT = "<img src=x onerror=alert(document.domain)>"


@pytest.fixture(scope="module")
def browser(server: Daemon) -> Iterator[httpx.Client]:
    """A browser that came in through the studio's address."""
    base = f"http://127.0.0.1:{server.studio_port}"
    with httpx.Client(base_url=base, trust_env=False, timeout=30) as browser:
        browser.get(httpx.URL(server.studio).path)
        yield browser


@pytest.mark.parametrize(
    "address",
    [
        "/runs/{}",
        "/studio/{secret}/runs/{}",
        "/get-artifact?run_uuid={}&path=a",
        "/get-artifact?run_uuid=x&path=../{}",
        "/ajax-api/2.0/mlflow/artifacts/list?run_id={}",
        "/ajax-api/2.0/mlflow/artifacts/list?run_id=..{}",
    ],
)
def test_what_an_address_holds_is_text_on_the_page(
    browser: httpx.Client, server: Daemon, address: str
) -> None:
    """A link in a run's tag, name or log may hold markup, and a page of ours shows it as it is written."""
    secret = httpx.URL(server.studio).path.rpartition("/")[2]
    page = browser.get(address.replace("{secret}", secret).replace("{}", quote(SCRIPT)))
    assert page.status_code in (400, 404)
    assert "<img" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "PUT"])
@pytest.mark.parametrize(
    "origin",
    ["http://127.0.0.1:1", "http://localhost:1", "https://127.0.0.1:{port}", "http://evil.test", "null"],
)
def test_a_page_of_another_origin_changes_nothing(
    browser: httpx.Client, server: Daemon, method: str, origin: str
) -> None:
    """A browser takes every port of this machine for one site, so the cookie comes with other pages' requests too."""
    headers = {"Origin": origin.format(port=server.studio_port), "Content-Type": "text/plain"}
    path = "/ajax-api/2.0/mlflow/runs/delete"
    refused = browser.request(method, path, headers=headers, content=b'{"run_id": "x"}')
    assert refused.status_code == 403
    assert "another page" in refused.text
    own = {**headers, "Origin": f"http://127.0.0.1:{server.studio_port}"}
    assert browser.request(method, path, headers=own, content=b"{}").status_code not in (401, 403)
    assert browser.request(method, path, content=b"{}").status_code not in (401, 403)  # no browser


def test_no_other_site_frames_the_studio(browser: httpx.Client) -> None:
    """A page of another port can't lay the studio under its own buttons."""
    assert browser.get("/").headers["x-frame-options"] == "SAMEORIGIN"
