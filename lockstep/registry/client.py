"""One registry's repository over HTTP: signed in, retried, its refusals in words."""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx

from lockstep.errors import LockstepError, RegistryError, UnreachableError
from lockstep.registry.reference import Reference
from lockstep.registry.sign_in import SignIn, find_credentials
from lockstep.servers import read_servers
from lockstep.servers.certificates import CERTIFICATE_REMEDY

TRIES = 4
BUSY = {408, 429, 500, 502, 503, 504}

T = TypeVar("T")


class StatusError(Exception):
    """A registry's answer that isn't the expected one; `busy` says that later it may be."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        # an upload's body can't be sent twice: when its token has run out, it begins again with a new one
        ran_out = response.status_code == 401 and response.request.method == "PATCH"
        self.busy = response.status_code in BUSY or ran_out
        super().__init__(f"HTTP {response.status_code}")


class RegistryClient:
    """A repository's HTTP; `with` closes it. Threads may share it."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.http = read_servers().client(_own_authorities(reference.host))
        self.http.timeout = httpx.Timeout(60, connect=10)
        self.url = reference.url
        self._credentials = find_credentials(reference.host)

    def _address(self) -> str:
        """Return the repository's address: a registry on loopback that answers plain HTTP with TLS's is https."""
        url = self.reference.url
        if url.startswith("http://"):
            try:
                answer = self.http.get(str(httpx.URL(url).join("/v2/")), follow_redirects=False)
                wants_tls = answer.status_code == 400 and "HTTPS" in answer.text
            except httpx.ConnectError:
                wants_tls = False  # nobody there: said when something is asked for
            except (httpx.RemoteProtocolError, httpx.ReadError):
                wants_tls = True
            except httpx.HTTPError:
                wants_tls = False
            if wants_tls:
                return url.replace("http://", "https://", 1)
        return url

    def __enter__(self) -> RegistryClient:
        self.url = self._address()
        self.http.auth = SignIn(self.url, self._credentials, self.http)
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def request(
        self, method: str, path: str, *, expect: tuple[int, ...] = (200,), **options: Any
    ) -> httpx.Response:
        """Send a request below the repository's address, or to a URL; StatusError unless as expected."""
        response = self.http.request(method, self.locate(path), **options)
        if response.status_code not in expect:
            raise StatusError(response)
        return response

    @contextlib.contextmanager
    def stream(
        self, path: str, *, expect: tuple[int, ...], headers: dict[str, str]
    ) -> Iterator[httpx.Response]:
        """Get something whose body is read as it comes."""
        with self.http.stream("GET", self.locate(path), headers=headers) as response:
            if response.status_code not in expect:
                response.read()
                raise StatusError(response)
            yield response

    def locate(self, path: str) -> str:
        """Return the URL of a path below the repository (`manifests/…`), of a `/path` or of a whole URL."""
        if path.startswith(("http://", "https://", "/")):
            return str(httpx.URL(self.url).join(path))
        return f"{self.url}/{path}"

    def retried(self, doing: str, action: Callable[[], T]) -> T:
        """Do `action`, again after 1, 2 and 4 s when the connection breaks or the registry is busy.

        Raises UnreachableError when no connection comes about, RegistryError in words otherwise.
        """
        for attempt in range(1, TRIES + 1):
            last = attempt == TRIES
            try:
                return action()
            except StatusError as error:
                if last or not error.busy:
                    raise self.in_words(error, doing) from error
                wait = float(_seconds(error.response.headers.get("Retry-After", "")) or 2 ** (attempt - 1))
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
                if last or attempt == 1:  # what never answered won't within seconds
                    raise self._unreachable(error) from error
                wait = 2 ** (attempt - 1)
            except httpx.TooManyRedirects as error:
                raise RegistryError(
                    f"{self.reference.host} sends requests round in a circle while {doing}: {error}",
                    "Is the name that of a registry, and not of a page that wants a sign-in? Correct the name, or "
                    "the proxy settings.",
                ) from error
            except httpx.TransportError as error:
                if last:
                    raise RegistryError(
                        f"The connection to {self.reference.host} broke {TRIES} times while {doing}: {error}",
                        "Run the same command again: it goes on where it stopped.",
                    ) from error
                wait = 2 ** (attempt - 1)
            time.sleep(min(wait, 30))
        raise AssertionError

    def in_words(self, error: StatusError, doing: str) -> LockstepError:
        """Return the error for a refusal: what was asked, the registry's own words, the remedy."""
        host, status = self.reference.host, error.response.status_code
        told = _errors(error.response)
        if status in (401, 403):
            return RegistryError(
                f"{host} refused ({status}) while {doing}{told}.",
                f"Run `docker login {host}` (for Azure: `az acr login --name {host.split('.')[0]}`) with an "
                f"account that may use {self.reference.repository}.",
            )
        if status == 404:
            return RegistryError(
                f"{host} has no {self.reference.repository}:{self.reference.wanted}{told}."
                if not self.reference.digest
                else f"{host} has no {self.reference.repository}@{self.reference.digest}{told}.",
                "Is the name spelled right, and may your account see it "
                f"(`docker login {host}`; some registries say 404 for what they don't show)?",
            )
        if status == 429:
            return RegistryError(
                f"{host} allows no more requests for now{told}.",
                f"Wait, or run `docker login {host}`: accounts are allowed more.",
            )
        remedy = (
            "Try again later."
            if error.busy
            else f"Check the name {self.reference} and what your account may do there, then run this again."
        )
        return RegistryError(f"{host} answered {status} while {doing}{told}.", remedy)

    def _unreachable(self, error: httpx.TransportError) -> LockstepError:
        host = self.reference.host
        if "CERTIFICATE" in str(error).upper() or isinstance(error.__cause__, ssl.SSLError):
            return RegistryError(
                f"The TLS certificate of {host} isn't trusted: {error}",
                f"{CERTIFICATE_REMEDY} Or put it at /etc/docker/certs.d/{host}/ca.crt.",
            )
        if "SSL" in str(error):
            return RegistryError(
                f"No TLS connection to {host} comes about: {error}",
                "Is the port right? Plain HTTP is used for registries on this machine's loopback only.",
            )
        return UnreachableError(
            f"The registry {host} can't be reached ({error}).",
            "Check the network and the proxy variables, then run this again.",
        )


def _own_authorities(host: str) -> tuple[str, ...]:
    """Return the certificates of docker's own folder for a host."""
    return tuple(str(path) for path in sorted(Path("/etc/docker/certs.d", host).glob("*.crt")))


def _errors(response: httpx.Response) -> str:
    """Return the registry's own words (distribution spec, "Error Codes"), or nothing."""
    try:
        errors = json.loads(response.text).get("errors") or []
        words = "; ".join(str(error.get("message") or error.get("code")) for error in errors)
    except (ValueError, AttributeError, httpx.ResponseNotRead):
        return ""
    return f": {words[:300]}" if words else ""


def _seconds(text: str) -> int:
    return int(text) if text.isdecimal() else 0
