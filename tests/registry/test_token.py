"""Signing in by token, as Docker's own registry and Azure's want it: a real registry, and a token server."""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from lockstep.errors import RegistryError
from lockstep.image import Image
from lockstep.image.store import Store
from lockstep.registry import push, resolve
from lockstep.registry.sign_in import Credentials, SignIn
from tests.registry.conftest import PASSWORD, Registry, layer, log_in, make_image

REFRESH = "an-identity-token"


@dataclass
class Tokens:
    """A token server: what it was asked, and how long its tokens last (seconds)."""

    url: str = ""
    lasts: int = 300
    asked: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[Tokens]:
    """A server that gives tokens to `me`, by password or by identity token, and to nobody else."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    chain = [load_pem_x509_certificate(pem.bytes()) for pem in issued.cert_chain_pems]
    x5c = [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode() for certificate in chain]
    (tmp_path / "root.pem").write_bytes(authority.cert_pem.bytes())
    told = Tokens()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            wanted = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()
            self.answer("password", query, self.headers.get("Authorization") == wanted)

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            right = form.get("refresh_token") == [REFRESH] and form.get("grant_type") == ["refresh_token"]
            form["scope"] = " ".join(form.get("scope", [])).split()
            self.answer("identity token", form, right)

        def answer(self, how: str, query: dict[str, list[str]], right: bool) -> None:
            scopes = query.get("scope", [])
            told.asked.append((how, tuple(scopes)))
            access = []
            for scope in scopes:
                kind, name, actions = scope.split(":")
                access.append({"type": kind, "name": name, "actions": actions.split(",")})
            now = int(time.time())
            claims = {
                "iss": "tests",
                "sub": "me",
                "aud": query["service"][0],
                "exp": now + told.lasts,
                "nbf": now - 10,
                "iat": now,
                "jti": uuid.uuid4().hex,
                "access": access,
            }
            token = jwt.encode(claims, key, algorithm="ES256", headers={"x5c": x5c})
            body = json.dumps({"token": token, "expires_in": told.lasts}).encode() if right else b"{}"
            self.send_response(200 if right else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        told.url = f"http://127.0.0.1:{server.server_port}/token"
        yield told
        server.shutdown()
        thread.join()


@pytest.fixture
def registry(start_registry: Callable[..., Registry], tokens: Tokens, tmp_path: Path) -> Registry:
    """A registry that believes this token server."""
    return start_registry(
        {
            "token": {
                "realm": tokens.url,
                "service": "test registry",
                "issuer": "tests",
                "rootcertbundle": str(tmp_path / "root.pem"),
            }
        }
    )


def test_password_becomes_a_token(
    registry: Registry, tokens: Tokens, image: Image, store: Store, docker_config: Path
) -> None:
    """With `docker login`'s password a token is had that may push, for all requests; without, it is said."""
    reference = f"{registry.host}/team/env:v1"
    with pytest.raises(RegistryError, match="docker login"):
        push(image, store, reference)
    tokens.asked.clear()
    log_in(docker_config, registry.host)
    told = push(image, store, reference)
    assert told.blobs_sent == 4
    assert [how for how, _ in tokens.asked] == ["password"] * len(tokens.asked)
    assert len(tokens.asked) <= 2  # to look, then to push
    assert tokens.asked[-1][1] == ("repository:team/env:pull,push",)
    assert resolve(reference) == told.digest


def test_identity_token_of_az_acr_login(
    registry: Registry, tokens: Tokens, image: Image, store: Store, docker_config: Path
) -> None:
    """What `az acr login` leaves is exchanged for a token."""
    log_in(docker_config, registry.host, str(uuid.UUID(int=0)), "", identitytoken=REFRESH)
    assert push(image, store, f"{registry.host}/env:v1").blobs_sent == 4
    assert tokens.asked[-1] == ("identity token", ("repository:env:pull,push",))


def test_tokens_that_run_out_are_renewed(
    registry: Registry, tokens: Tokens, store: Store, docker_config: Path
) -> None:
    """Tokens that last shorter than a push are renewed on the way."""
    log_in(docker_config, registry.host)
    tokens.lasts = 11  # used for one second, since ten are kept in reserve
    image = make_image(*(layer(store, size=200_000) for _ in range(6)))
    push(image, store, f"{registry.host}/one:v1")
    time.sleep(1.1)
    assert push(image, store, f"{registry.host}/two:v1").sent == 0  # mounted, which needs both repositories
    assert any(len(scopes) == 2 for _, scopes in tokens.asked)


def test_credentials_show_in_no_text() -> None:
    """Neither printing nor logging the credentials gives them away."""
    secret = Credentials("me", "geheim", "auch geheim")
    with httpx.Client() as client:
        signing = SignIn("https://host/v2/x", secret, client)
        assert "geheim" not in f"{secret!r} {secret} {signing!r}"
        client.auth = signing
        assert "geheim" not in repr(client)
