"""`./invoke`, the wrapper: its first setup reaches a package index as this machine's settings say.

pip and the index are real; what the lock calls uv is a program that writes down how it was called.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.conftest import ROOT
from tests.loopback import Loopback
from tests.packages import File, Made, wheel

UV = """#!python
import os
import sys
from pathlib import Path
names = ("SSL_CERT_FILE", "HTTPS_PROXY", "https_proxy", "UV_DEFAULT_INDEX")
bundle = Path(os.environ.get("SSL_CERT_FILE", os.devnull)).read_text()
Path(os.environ["SEEN"]).write_text(repr([{name: os.environ.get(name) for name in names}, bundle]))
"""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Loopback]:
    """An index with TLS of an authority of its own, in one.pem."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "one.pem"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    with Loopback(tls=context) as server:
        yield server


UV_WHEEL: Made = wheel(
    "uv",
    "1.0",
    {
        "uv-1.0.data/scripts/uv": File(UV.encode(), executable=True),
        "invoke/__main__.py": "import os; print(dict(os.environ))\n",
    },
)


@pytest.fixture
def checkout(tmp_path: Path, index: Loopback) -> Path:
    """The wrapper, with a lock of one package."""
    index.index(UV_WHEEL)
    root = tmp_path / "checkout"
    (root / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / "invoke", root)
    (root / "requirements" / "host.lock").write_text(
        f"uv==1.0 \\\n    --hash=sha256:{UV_WHEEL.locked.sha256}\n"
    )
    return root


def run(checkout: Path, index: Loopback, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the wrapper on a machine with no settings but these."""
    plain = {
        "PATH": os.environ["PATH"],
        "HOME": str(checkout.parent / "person"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"{index.url}/simple/simple",
        "PIP_RETRIES": "0",
        "SEEN": str(checkout / "seen"),
        **({"PYENV_ROOT": os.environ["PYENV_ROOT"]} if "PYENV_ROOT" in os.environ else {}),
    }
    command = [str(checkout / "invoke"), "--list"]
    return subprocess.run(
        command,
        env={**plain, **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("setting", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "pip.conf"])
def test_certificates_and_proxies_of_every_setting(
    checkout: Path, index: Loopback, tmp_path: Path, setting: str
) -> None:
    """Whichever setting names the company's authority, pip and uv get it, beside another; the tasks get neither."""
    one, other = str(tmp_path / "one.pem"), str(tmp_path / "other.pem")
    settings = {"REQUESTS_CA_BUNDLE": other, setting: one}
    if setting == "REQUESTS_CA_BUNDLE":
        settings["PIP_CERT"] = other
    if setting == "pip.conf":
        (tmp_path / "pip.conf").write_text(f"[install]\ncert = {one}\n")
        settings = {"REQUESTS_CA_BUNDLE": other, "PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}
    settings |= {"ALL_PROXY": "http://me:pw@127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    done = run(checkout, index, settings)
    assert done.returncode == 0, done.stderr
    seen, bundle = eval((checkout / "seen").read_text())
    for path in (one, other):
        assert Path(path).read_text().strip() in bundle
    assert seen["HTTPS_PROXY"] == seen["https_proxy"] == "http://me:pw@127.0.0.1:9"
    assert seen["UV_DEFAULT_INDEX"] == f"{index.url}/simple/simple"
    given = eval(done.stdout)
    assert given.get("SSL_CERT_FILE") == settings.get("SSL_CERT_FILE")
    assert "UV_DEFAULT_INDEX" not in given
    assert not Path(seen["SSL_CERT_FILE"]).exists()


def test_pips_own_proxy(checkout: Path, index: Loopback, tmp_path: Path) -> None:
    """What pip.conf names as pip's proxy is the only way out: pip uses it, and uv gets it."""
    inside = "http://packages.invalid"
    with Loopback() as proxy:
        proxy.index(UV_WHEEL)
        for path, data in list(proxy.files.items()):
            proxy.files[inside + path] = data.replace(proxy.url.encode(), inside.encode())
        (tmp_path / "pip.conf").write_text(
            f"[global]\nindex-url = {inside}/simple/simple\ntrusted-host = packages.invalid\n"
            f"[install]\nproxy = {proxy.url}\n"
        )
        settings = {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "PIP_INDEX_URL": ""}
        done = run(checkout, index, settings)
        assert done.returncode == 0, done.stderr
        seen, _ = eval((checkout / "seen").read_text())
        assert seen["HTTPS_PROXY"] == seen["https_proxy"] == proxy.url
        assert seen["UV_DEFAULT_INDEX"] == f"{inside}/simple/simple"


def test_a_certificate_that_isnt_trusted_has_a_remedy(checkout: Path, index: Loopback) -> None:
    """Without the company's authority the setup fails with what to set, and not with pip's words alone."""
    done = run(checkout, index, {"NO_PROXY": "127.0.0.1"})
    assert done.returncode == 2
    assert "SSL_CERT_FILE=/path/to/company-ca.pem ./invoke" in done.stderr


def test_an_index_that_is_away_has_a_remedy(checkout: Path, index: Loopback) -> None:
    """A proxy that is dead: the remedy names the settings, and nothing shows its password."""
    away = {
        "PIP_INDEX_URL": "http://me:geheim@packages.invalid/simple",
        "HTTP_PROXY": "http://me:geheim@127.0.0.1:9",
    }
    done = run(checkout, index, away)
    assert done.returncode == 2
    assert "HTTPS_PROXY" in done.stderr
    assert "geheim" not in done.stderr + done.stdout
