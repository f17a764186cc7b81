"""Servers: where packages come from on this machine, and how to get at them without telling anyone else.

Locks hold public URLs. What a machine's settings add (mirrors, credentials, proxies, certificates) is
put on when a request is made and taken off everything that is kept, printed or raised.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from lockstep.errors import SettingsError
from lockstep.redaction import USERINFO, redact, remember_url
from lockstep.servers import certificates
from lockstep.servers.condarc import Condarc, read_condarc
from lockstep.servers.credentials import Login, of_keyring, of_netrc, origin
from lockstep.servers.pip_settings import PipSettings, read_pip_settings
from lockstep.servers.proxies import Proxies, read_proxies
from lockstep.servers.variables import expand
from lockstep.spec.spec import VARIABLE

if TYPE_CHECKING:
    import httpx

    from lockstep.spec import Spec

_CONDA_TOKEN = re.compile(r"/t/[^/\s]+(?=/)")


@dataclass(frozen=True)
class Servers:
    """The machine's settings, and the mirrors that the project names (public URL -> URLs to try first)."""

    conda: Condarc = field(default_factory=Condarc, repr=False)
    pip: PipSettings = field(default_factory=PipSettings, repr=False)
    proxies: Proxies = field(default_factory=Proxies, repr=False)
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
        found += [known + url[len(hide(known)) :] for known in self._tokens() if url.startswith(hide(known))]
        return tuple(dict.fromkeys([*found, url]))

    def credentials(self, url: str) -> Login | None:
        """Return user and password for a URL: its own, else a setting's of that origin, ~/.netrc's, a keyring's."""
        here = origin(url)
        known = [found for found in self._known_urls() if origin(found) == here]
        user = ""
        for each in (url, *known):
            parts = urlsplit(each)
            if parts.password:
                return unquote(parts.username or ""), unquote(parts.password)
            user = user or unquote(parts.username or "")
        if found := None if user else of_netrc(*here[1:]):
            return found
        if self.pip.keyring:
            for index in known:
                place = without_userinfo(index)
                if found := of_keyring(place, urlsplit(place).netloc, user):
                    return found
        return (user, "") if user else None

    def auth(self, url: str) -> httpx.Auth:
        """Return what to sign a request to a URL with; nothing where no credentials are known."""
        import httpx

        found = self.credentials(url)
        return httpx.BasicAuth(*found) if found else httpx.Auth()

    def client(self, authorities: Sequence[str] = ()) -> httpx.Client:
        """Return an HTTP client with this machine's proxies and certificates; the caller closes it.

        `authorities` are files of certificates that it trusts too; one that can't be read is passed over.
        """
        import httpx

        from lockstep.servers.transport import Routed

        context = self.ssl_context()
        for path in authorities:
            with contextlib.suppress(OSError):
                context.load_verify_locations(path)
        return httpx.Client(
            transport=Routed(self.proxies, context, self.pip.trusted_hosts),
            trust_env=False,
            follow_redirects=True,
            timeout=httpx.Timeout(60, connect=20),
            headers={"user-agent": "lockstep", "accept-encoding": "identity"},
        )

    def ssl_context(self) -> ssl.SSLContext:
        """Return a context that trusts the system's authorities and every bundle that a setting names."""
        context = ssl.create_default_context()
        named = self.ca_bundles()  # one of them, SSL_CERT_FILE, has taken the place of the system's by now
        for bundle in (*named, certificates.of_this_system()) if named else ():
            try:
                context.load_verify_locations(bundle)
            except OSError as error:  # ssl.SSLError among them
                raise SettingsError(
                    f"A setting names {bundle} as a file of certificates (PEM), but it can't be read: {error}.",
                    f"Correct {', '.join(certificates.VARIABLES)}, pip's `cert` or conda's `ssl_verify`.",
                ) from error
        if not self.conda.ssl_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def ca_bundles(self) -> tuple[str, ...]:
        """Return the files of certificates that variables, pip.conf and .condarc name."""
        return certificates.bundles((self.pip.ca_bundle, self.conda.ca_bundle))

    def environment(self, folder: Path) -> dict[str, str]:
        """Return the environment of a child process that talks to servers: proxies, index, certificates.

        What is trusted is written to a file in `folder` if a setting names a bundle. Index URLs go this way,
        as `ps` shows passwords in arguments.
        """
        found = self.proxies.environment()
        if authorities := certificates.joined(self.ca_bundles()):
            (folder / "certificates.pem").write_bytes(authorities)
            found |= dict.fromkeys(certificates.VARIABLES, str(folder / "certificates.pem"))
        else:
            found.setdefault("UV_SYSTEM_CERTS", "true")
        if self.pip.index_url:
            found["UV_DEFAULT_INDEX"] = self.pip.index_url
        if self.pip.keyring:
            found.setdefault("UV_KEYRING_PROVIDER", "subprocess")
        return found

    def _known_urls(self) -> Iterator[str]:
        yield from (
            url for url in (self.pip.index_url, *self.pip.extra_index_urls, *self.pip.find_links) if url
        )
        yield from (url for urls in self.mirrors.values() for url in urls)
        yield from (url for urls in self.conda.mirrored_channels.values() for url in urls)
        yield from (url for urls in self.conda.custom_multichannels.values() for url in urls if "://" in url)
        yield from (url for url in (self.conda.channel_alias, *self.conda.custom_channels.values()) if url)
        yield from (url for url in (*self.conda.channels, *self.conda.default_channels) if "://" in url)

    def _tokens(self) -> Iterator[str]:
        """Yield the URLs that hold a token of conda's, ending with a slash."""
        known = (f"{url.rstrip('/')}/" for url in self._known_urls())
        return (url for url in known if _CONDA_TOKEN.search(url))


def read_servers(spec: Spec | None = None, mirrors: Mapping[str, str] | None = None) -> Servers:
    """Read this machine's settings; options in the spec win over them. Raises SettingsError.

    `mirrors` are the project's: a channel's name or a URL, and the URL to try before it.
    """
    conda, pip = read_condarc(), read_pip_settings()
    urls = {
        hide(url): (mirror,) for name, mirror in (mirrors or {}).items() for url in conda.locate(name, Path())
    }
    servers = Servers(conda, pip, read_proxies(pip.proxy, conda.proxy_servers), urls)
    return _checked(servers if spec is None else _with_options(servers, spec))


def _checked(servers: Servers) -> Servers:
    """Return the servers, their passwords known to be secret. Raises SettingsError for what isn't a URL."""
    for url in (*servers._known_urls(), *servers.pip.left_out):
        remember_url(url)
        try:
            origin(url)
        except ValueError as error:
            raise SettingsError(
                f"A setting of pip, uv or conda isn't a URL: {redact(url)}",
                "Percent-encode the special characters of its user and password: `/` is %2F, `:` is %3A, "
                "`@` is %40.",
            ) from error
    return servers


def _with_options(servers: Servers, spec: Spec) -> Servers:
    """Return the servers with the options of a spec's pip section over them."""
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
    return _CONDA_TOKEN.sub("", USERINFO.sub("", text))


def without_userinfo(url: str) -> str:
    """Return a URL without user and password, which travel in a header of their own."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
