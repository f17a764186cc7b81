"""Servers: where packages come from on this machine, and how to get at them without telling anyone else.

Locks hold public URLs. What a machine's settings add (mirrors, credentials, proxies, certificates) is
put on when a request is made and taken off everything that is kept, printed or raised.
"""

from __future__ import annotations

import netrc
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from lockstep.servers.condarc import Condarc, read_condarc
from lockstep.servers.pip_settings import PipSettings, read_pip_settings
from lockstep.servers.variables import expand
from lockstep.spec.spec import VARIABLE

if TYPE_CHECKING:
    import httpx

    from lockstep.spec import Spec

_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_CONDA_TOKEN = re.compile(r"/t/[^/\s]+(?=/)")


@dataclass(frozen=True)
class Servers:
    """The machine's settings, and the mirrors that the project names (public URL -> URLs to try first)."""

    conda: Condarc = field(default_factory=Condarc, repr=False)
    pip: PipSettings = field(default_factory=PipSettings, repr=False)
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    folder: Path = Path()
    named: tuple[str, ...] = ()
    """The spec's channels that hold variables of the environment, as they are written."""

    def channel(self, name: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return what a channel's name stands for: pairs of a public URL and the URLs to try, best first.

        A URL's variables stay in the public one as they are written, as they may be secrets. Raises
        SettingsError for a variable that isn't set.
        """
        expanded = expand(name, "The channel")
        mirrored = self.conda.mirrored_channels.get(expanded, ())
        written = hide(name.rstrip("/")) if "://" in name else None
        return tuple(
            (public, (*self.mirrors_of(public), *mirrored, url))
            for url in self.conda.locate(expanded, self.folder)
            for public in (written or hide(url),)
        )

    def mirrors_of(self, url: str) -> tuple[str, ...]:
        """Return the URLs of the same thing on the project's mirrors."""
        return tuple(
            mirror.rstrip("/") + url[len(public.rstrip("/")) :]
            for public, urls in self.mirrors.items()
            for mirror in urls
            if url == public.rstrip("/") or url.startswith(public.rstrip("/") + "/")
        )

    def addresses(self, url: str) -> tuple[str, ...]:
        """Return the URLs to fetch a locked URL from, best first. They may hold credentials."""
        found = [*self.mirrors_of(url)]
        for name, urls in self.conda.mirrored_channels.items():
            for public in self.conda.locate(name, self.folder):
                if url.startswith(hide(public) + "/"):
                    found += [mirror.rstrip("/") + url[len(hide(public)) :] for mirror in urls]
        found += [
            address + url[len(public) :]
            for name in self.named
            for public, urls in self.channel(name)
            for address in urls
            if url.startswith(public + "/")
        ]
        found += [
            known + url[len(hide(known)) :] for known in self._tokens() if url.startswith(hide(known) + "/")
        ]
        return tuple(dict.fromkeys([*found, url]))

    def credentials(self, url: str) -> tuple[str, str] | None:
        """Return user and password for a URL: its own, else a setting's of that host, else ~/.netrc's."""
        parts = urlsplit(url)
        if parts.username or parts.password:
            return unquote(parts.username or ""), unquote(parts.password or "")
        for known in self._known_urls():
            other = urlsplit(known)
            same = (other.scheme, other.hostname, other.port) == (parts.scheme, parts.hostname, parts.port)
            if same and (other.username or other.password):
                return unquote(other.username or ""), unquote(other.password or "")
        return _netrc(parts.hostname or "")

    def auth(self, url: str) -> httpx.Auth:
        """Return what to sign a request to a URL with; nothing where no credentials are known."""
        import httpx

        found = self.credentials(url)
        return httpx.BasicAuth(*found) if found else httpx.Auth()

    def client(self) -> httpx.Client:
        """Return an HTTP client with this machine's proxies and certificates; the caller closes it."""
        import httpx

        proxies = {f"{scheme}://": url for scheme, url in self.conda.proxy_servers.items()}
        if self.pip.proxy:
            proxies = {"http://": self.pip.proxy, "https://": self.pip.proxy}
        context = self.ssl_context()
        set_already = any(os.environ.get(key) for key in PROXY_VARIABLES)
        mounts = (
            {}
            if set_already
            else {key: httpx.HTTPTransport(verify=context, proxy=url) for key, url in proxies.items()}
        )
        insecure = {f"all://{host}": httpx.HTTPTransport(verify=False) for host in self.pip.trusted_hosts}
        return httpx.Client(
            verify=context,
            mounts={**mounts, **insecure},
            follow_redirects=True,
            timeout=httpx.Timeout(60, connect=20),
            headers={"user-agent": "lockstep", "accept-encoding": "identity"},
        )

    def ssl_context(self) -> ssl.SSLContext:
        """Return a context that trusts the system's authorities and every bundle that a setting names."""
        context = ssl.create_default_context()
        for bundle in self.ca_bundles():
            context.load_verify_locations(bundle)
        if not self.conda.ssl_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def ca_bundles(self) -> tuple[str, ...]:
        """Return the files of certificates that variables, pip.conf and .condarc name."""
        variables = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
        named = [*(os.environ.get(key) for key in variables), self.pip.ca_bundle, self.conda.ca_bundle]
        return tuple(dict.fromkeys(path for path in named if path and Path(path).is_file()))

    def _known_urls(self) -> Iterator[str]:
        yield from (
            url for url in (self.pip.index_url, *self.pip.extra_index_urls, *self.pip.find_links) if url
        )
        yield from (url for urls in self.mirrors.values() for url in urls)
        yield from (url for urls in self.conda.mirrored_channels.values() for url in urls)
        yield from (url for url in (self.conda.channel_alias, *self.conda.custom_channels.values()) if url)
        yield from (url for url in (*self.conda.channels, *self.conda.default_channels) if "://" in url)

    def _tokens(self) -> Iterator[str]:
        return (url.rstrip("/") for url in self._known_urls() if _CONDA_TOKEN.search(url))


PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


def read_servers(spec: Spec | None = None, mirrors: Mapping[str, str] | None = None) -> Servers:
    """Read this machine's settings; options in the spec win over them. Raises SettingsError.

    `mirrors` are the project's: a channel's name or a URL, and the URL to try before it.
    """
    conda = read_condarc()
    urls = {
        hide(url): (mirror,) for name, mirror in (mirrors or {}).items() for url in conda.locate(name, Path())
    }
    servers = Servers(conda, read_pip_settings(), urls)
    if spec is None:
        return servers
    options = spec.pip_options
    pip = replace(
        servers.pip,
        index_url=_expand(options.index_url or servers.pip.index_url),
        extra_index_urls=tuple(
            dict.fromkeys(
                _expand(url) or "" for url in (*options.extra_index_urls, *servers.pip.extra_index_urls)
            )
        ),
        find_links=tuple(
            dict.fromkeys(_expand(url) or "" for url in (*options.find_links, *servers.pip.find_links))
        ),
        trusted_hosts=(*options.trusted_hosts, *servers.pip.trusted_hosts),
        no_index=options.no_index or servers.pip.no_index,
    )
    named = tuple(name for name in spec.channels if VARIABLE.search(name))
    return replace(servers, pip=pip, folder=spec.folder, named=named)


def _expand(url: str | None) -> str | None:
    """Put variables into `${NAME}`, as pip does in requirements files; an unknown one stays as it is."""
    return (
        re.sub(r"\$\{([A-Z0-9_]+)\}", lambda found: os.environ.get(found[1], found[0]), url) if url else url
    )


def hide(text: str) -> str:
    """Return a text without the credentials in its URLs: user, password, conda's `/t/<token>`."""
    return _CONDA_TOKEN.sub("", _USERINFO.sub("", text))


def without_userinfo(url: str) -> str:
    """Return a URL without user and password, which travel in a header of their own."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _netrc(host: str) -> tuple[str, str] | None:
    path = os.environ.get("NETRC") or str(Path.home() / ".netrc")
    try:
        found = netrc.netrc(path).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None
    return (found[0], found[2] or "") if found else None
