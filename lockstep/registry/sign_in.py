"""Signing in to a registry: what `docker login` left, as Basic or for a Bearer token.

Distribution spec's companion, "Token Authentication" (docker/distribution) and its OAuth2 form, which
`az acr login` needs. Who gets credentials and tokens (docs/decisions/30-credentials.md):

- the registry's own origin (scheme, host, port), and no other host that it redirects to or uploads at;
- the token server that the registry itself names in a challenge, over https, wherever it is (docker.io's is
  auth.docker.io); over plain HTTP only if both it and the registry are on this machine's loopback. A challenge
  of a redirect's target isn't listened to, and a token server's redirects aren't followed.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import httpx

from lockstep.errors import RegistryError
from lockstep.redaction import remember
from lockstep.servers import is_loopback
from lockstep.servers.credentials import origin

_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
TOKEN_MARGIN = 10.0  # seconds; a token that is about to end isn't used any more


@dataclass(frozen=True, repr=False)
class Credentials:
    """A user's name and password, or an identity token; `repr` shows neither."""

    user: str = ""
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r})"


def find_credentials(host: str) -> Credentials | None:
    """Return what `docker login HOST` left, from docker's config, its credential store or a helper.

    Raises RegistryError when the config or its helper can't be read.
    """
    import warnings

    import docker.auth
    from docker.errors import DockerException

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a missing helper is told below, in words
            found: dict[str, Any] = dict(docker.auth.load_config().resolve_authconfig(host) or {})
    except (DockerException, ValueError, KeyError, OSError) as error:
        raise RegistryError(
            f"Docker's credentials for {host} can't be read: {error}",
            f"Run `docker login {host}`, or mend the config file of docker.",
        ) from error
    user = found.get("Username") or found.get("username") or ""
    password = found.get("Password") or found.get("password") or ""
    token = found.get("IdentityToken") or found.get("identitytoken") or ""
    remember(password, user)
    remember(token)
    return Credentials(user, password, token) if password or token else None


class SignIn(httpx.Auth):
    """Answers a registry's challenge, and keeps the answer for the requests that follow; threads share it."""

    def __init__(self, url: str, credentials: Credentials | None, client: httpx.Client) -> None:
        """Sign in to the registry at `url`; `client` asks its token server."""
        self._origin = origin(url)
        self._client = client
        self._credentials = credentials
        self._lock = threading.Lock()
        self._header = ""
        self._until = 0.0
        self._scopes: dict[str, set[str]] = {}  # what was asked for so far: a token has to do for all of it

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign a request; when it is refused, do what the refusal asks and send it again.

        A body that is a stream can't be sent twice, so uploads sign in with the request before.
        """
        if origin(str(request.url)) != self._origin:  # an upload's address may be anywhere
            yield request
            return
        with self._lock:
            if self._header and time.monotonic() < self._until:
                request.headers["Authorization"] = self._header
        response = yield request
        challenge = response.headers.get("WWW-Authenticate", "")
        if response.status_code != httpx.codes.UNAUTHORIZED or not challenge:
            return
        if origin(str(response.request.url)) != self._origin:  # redirected
            return
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic" and self._credentials is not None and self._credentials.password:
            header = httpx.BasicAuth(self._credentials.user, self._credentials.password)._auth_header
            self._keep(header, float("inf"))
        elif scheme.lower() == "bearer":
            asking = self._token_request(dict(_CHALLENGE.findall(rest)))
            answer = self._client.send(asking, auth=httpx.Auth(), follow_redirects=False)
            if answer.status_code != httpx.codes.OK:
                return
            told = answer.json()
            token = told.get("token") or told.get("access_token") or ""
            self._keep(f"Bearer {token}", float(told.get("expires_in") or 60))
        else:
            return
        if isinstance(request.stream, httpx.ByteStream):
            request.headers["Authorization"] = self._header
            yield request

    def _keep(self, header: str, seconds: float) -> None:
        with self._lock:
            self._header = header
            self._until = time.monotonic() + seconds - TOKEN_MARGIN

    def _widened(self, scopes: str) -> list[str]:
        """Return scopes (`repository:NAME:pull,push`) with what was asked for before."""
        with self._lock:
            for scope in scopes.split():
                resource, _, actions = scope.rpartition(":")
                self._scopes.setdefault(resource, set()).update(actions.split(","))
            return [
                f"{resource}:{','.join(sorted(self._scopes[resource]))}" for resource in sorted(self._scopes)
            ]

    def _token_request(self, asked: dict[str, str]) -> httpx.Request:
        """Return the request for a token of the scope that a challenge names."""
        realm = self._checked(asked.get("realm", ""))
        query: dict[str, str | list[str]] = {"scope": self._widened(asked.get("scope", ""))}
        if service := asked.get("service"):
            query["service"] = service
        found = self._credentials
        if found is not None and found.identity_token:
            form = {
                **query,
                "scope": " ".join(query["scope"]),
                "grant_type": "refresh_token",
                "refresh_token": found.identity_token,
                "client_id": "lockstep",
            }
            return httpx.Request("POST", realm, data=form)
        request = httpx.Request("GET", realm, params=query)
        if found is not None:
            request.headers["Authorization"] = httpx.BasicAuth(found.user, found.password)._auth_header
        return request

    def _checked(self, realm: str) -> str:
        """Return a token server's address if credentials may go there. Raises RegistryError."""
        try:
            scheme, host, _ = origin(realm)
        except ValueError:
            scheme, host = "", ""
        on_loopback = is_loopback(host) and is_loopback(self._origin[1])
        if host and (scheme == "https" or (scheme == "http" and on_loopback)):
            return realm
        raise RegistryError(
            f"{self._origin[1]} asks to sign in at {realm or 'no address'}, which isn't https, so no credentials "
            "go there.",
            "Find out who answers under that name; whoever runs the registry must name a token server with https.",
        )
