"""Who gets a registry's credentials: its own origin and the token server that it names, and nobody else."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from lockstep.errors import IntegrityError, RegistryError, UnreachableError
from lockstep.registry import resolve
from lockstep.registry.client import RegistryClient, StatusError
from lockstep.registry.reference import parse_reference
from tests.loopback import Fault, Loopback
from tests.registry.conftest import PASSWORD, log_in

MANIFEST = "/v2/team/env/manifests/v1"


@pytest.fixture
def registry(docker_config: Path) -> Iterator[Loopback]:
    """A registry that wants what `docker login` left."""
    with Loopback() as server:
        log_in(docker_config, host_of(server))
        yield server


@pytest.fixture
def stranger() -> Iterator[Loopback]:
    """Another server on another origin: it has another name and another port."""
    with Loopback() as server:
        server.url = server.url.replace("127.0.0.1", "localhost")
        yield server


def host_of(server: Loopback) -> str:
    """Return host and port."""
    return server.url.partition("://")[2]


def challenge(scheme: str, realm: str = "") -> Fault:
    """Return a refusal that asks for a sign-in."""
    asked = f'{scheme} realm="{realm}",service="s",scope="repository:team/env:pull"'
    return Fault(status=401, headers=(("www-authenticate", asked),))


def redirect(to: str, status: int = 307) -> Fault:
    """Return a redirect."""
    return Fault(status=status, headers=(("location", to),))


def authorizations(*servers: Loopback) -> set[str | None]:
    """Return what came in the header of that name."""
    return {request.headers["authorization"] for server in servers for request in server.requests}


@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
def test_a_redirects_target_gets_nothing(registry: Loopback, stranger: Loopback, scheme: str) -> None:
    """Where the registry sends us, a 401 isn't answered: neither there nor at the realm that it names."""
    registry.faults[MANIFEST] = deque([redirect(f"{stranger.url}/m")] * 9)
    stranger.faults["/m"] = deque([challenge(scheme, f"{stranger.url}/token")] * 9)
    with pytest.raises(RegistryError, match="401"):
        resolve(f"{host_of(registry)}/team/env:v1")
    assert authorizations(registry, stranger) == {None}
    assert not stranger.gets("/token")


@pytest.mark.parametrize(
    "realm", ["http://tokens.invalid/token", "ftp://tokens.invalid/", "", "http://[bad/"]
)
def test_a_realm_without_tls_gets_nothing(registry: Loopback, realm: str) -> None:
    """A token server elsewhere that is asked over plain HTTP is refused in words, before anything is sent."""
    registry.faults[MANIFEST] = deque([challenge("Bearer", realm)])
    with pytest.raises(RegistryError, match="isn't https") as refused:
        resolve(f"{host_of(registry)}/team/env:v1")
    assert not isinstance(refused.value, UnreachableError)
    assert PASSWORD not in str(refused.value)


def test_a_token_servers_redirect_is_not_followed(registry: Loopback, stranger: Loopback) -> None:
    """What is asked of a token server (an identity token, in a body) doesn't travel on to another host."""
    registry.faults[MANIFEST] = deque([challenge("Bearer", f"{registry.url}/token")])
    registry.faults["/token"] = deque([redirect(f"{stranger.url}/token")])
    with pytest.raises(RegistryError, match="401"):
        resolve(f"{host_of(registry)}/team/env:v1")
    assert registry.gets("/token")
    assert stranger.requests == []


def test_an_uploads_address_elsewhere_gets_nothing(registry: Loopback, stranger: Loopback) -> None:
    """The address that a registry gives for an upload may be anywhere: only the registry's own is signed."""
    registry.login = ("me", PASSWORD)
    registry.files[MANIFEST] = b"{}"
    registry.faults[MANIFEST] = deque()
    stranger.faults["/upload"] = deque([challenge("Basic")] * 2)
    with RegistryClient(parse_reference(f"{host_of(registry)}/team/env:v1")) as client:
        client.http.auth._keep("Bearer of-the-registry", float("inf"))  # type: ignore[union-attr]
        with pytest.raises(StatusError):
            client.request("GET", f"{stranger.url}/upload")
    assert authorizations(stranger) == {None}


def test_a_registry_on_loopback_with_tls(
    docker_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry on this machine that speaks TLS is spoken to in TLS, and its certificate is verified."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with Loopback(tls=context, files={MANIFEST: b'{"config": {}, "layers": []}'}) as server:
        log_in(docker_config, host_of(server))
        reference = f"{host_of(server)}/team/env:v1"
        with pytest.raises(RegistryError, match="certificate") as refused:
            resolve(reference)
        assert "SSL_CERT_FILE" in refused.value.remedy
        monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "ca.pem"))
        assert resolve(reference).startswith("sha256:")


def test_a_circle_of_redirects_has_a_remedy(registry: Loopback) -> None:
    """A page that sends round in a circle isn't a traceback."""
    registry.faults[MANIFEST] = deque([redirect(registry.url + MANIFEST)] * 50)
    with pytest.raises(RegistryError, match="circle") as refused:
        resolve(f"{host_of(registry)}/team/env:v1")
    assert "proxy" in refused.value.remedy


def test_a_refusal_without_words_says_what_to_check(registry: Loopback) -> None:
    """An answer that nobody foresaw names the reference to check."""
    registry.faults[MANIFEST] = deque([Fault(status=418)])
    with pytest.raises((RegistryError, IntegrityError), match="418") as refused:
        resolve(f"{host_of(registry)}/team/env:v1")
    assert "team/env" in refused.value.remedy
