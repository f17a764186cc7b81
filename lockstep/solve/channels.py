"""Channels: which ones a spec means, at which addresses, and whether anybody answers there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lockstep.servers import Servers, hide, without_userinfo
from lockstep.servers.variables import expand
from lockstep.spec import Spec

DEFAULT_CHANNEL = "conda-forge"
"""What is used where neither the spec nor .condarc names a channel: the community's, free for everybody."""

PUBLIC_CHANNELS = (
    *("conda-forge", "bioconda", "main", "r", "free", "anaconda"),
    *("pkgs/main", "pkgs/r", "pkgs/free", "pkgs/msys2", "msys2", "defaults"),
    *("pytorch", "pytorch-lts", "pytorch-nightly", "nvidia", "rapidsai", "pyg", "dglteam", "xformers"),
    *("huggingface", "fastai", "intel", "microsoft", "numba", "esri", "plotly"),
)
"""Channels that are on the public server under these names."""

_DEFAULTS = "https://repo.anaconda.com/pkgs/"
_CHANNEL_OF_SPEC = re.compile(r"^(?P<channel>[^\s\[]+?)::(?P<rest>.*)$")
_SUBDIR = re.compile(r"/(noarch|linux-64|linux-aarch64|linux-ppc64le|linux-32)$")


@dataclass(frozen=True)
class ChannelAddress:
    """A channel's public URL, and the addresses that serve it, best first (they may hold credentials)."""

    name: str
    public: str
    addresses: tuple[str, ...] = field(repr=False)


def channels_of(spec: Spec, servers: Servers) -> tuple[ChannelAddress, ...]:
    """Return the channels to look in, in order of priority.

    They are the spec's, else .condarc's but for folders, else conda-forge; then those that single packages
    name (`channel::package`). Raises SettingsError for a variable in a channel that isn't set.
    """
    names = list(spec.channels) or [
        name for name in servers.conda.channels if not (_is_folder(name, servers) or name == "nodefaults")
    ]
    names = names or [DEFAULT_CHANNEL]
    for text in spec.conda:
        if found := _CHANNEL_OF_SPEC.match(text):
            names.append(_SUBDIR.sub("", found["channel"]))
    channels = {
        public: ChannelAddress(_shown(name), public, addresses)
        for name in reversed(names)
        for public, addresses in reversed(servers.channel(name))
    }
    return tuple(reversed(channels.values()))


def left_out(spec: Spec, servers: Servers) -> tuple[str, ...]:
    """Return the folders among .condarc's channels, which aren't looked in as other machines don't have them."""
    return () if spec.channels else tuple(x for x in servers.conda.channels if _is_folder(x, servers))


def is_public(channel: ChannelAddress) -> bool:
    """Tell whether everybody knows a channel, by its name or its URL: another's packages aren't Debian's."""
    import rattler

    urls = {rattler.Channel(name).base_url.rstrip("/") for name in PUBLIC_CHANNELS}
    return channel.public in urls or channel.public.startswith(_DEFAULTS)


def _is_folder(name: str, servers: Servers) -> bool:
    return all(public.startswith("file:") for public, _ in servers.channel(name))


def _shown(name: str) -> str:
    """Return what a channel is called in the lock: a URL as it is written, a name with its variables' values."""
    return name if "://" in name else expand(name, "The channel")


def at_address(text: str, chosen: dict[str, str], servers: Servers) -> str:
    """Return a MatchSpec with the channel that it names replaced by the address that was chosen for it."""
    found = _CHANNEL_OF_SPEC.match(text)
    if not found:
        return text
    name = _SUBDIR.sub("", found["channel"])
    subdir = found["channel"][len(name) :]
    public = servers.channel(name)[0][0]
    return f"{chosen.get(public, public)}{subdir}::{found['rest']}"


def without_channel(text: str) -> str:
    """Return a MatchSpec that any channel may satisfy."""
    found = _CHANNEL_OF_SPEC.match(text)
    return found["rest"] if found else text


def answering(channels: Sequence[ChannelAddress], servers: Servers) -> dict[str, str | None]:
    """Return, by public URL, the address of each channel where a server answers; asked all at once."""
    with ThreadPoolExecutor(max_workers=8) as threads:
        found = threads.map(lambda channel: first_answering(channel, servers), channels)
        return {channel.public: address for channel, address in zip(channels, found, strict=True)}


def first_answering(channel: ChannelAddress, servers: Servers) -> str | None:
    """Return the first address where a server answers within 10 s, whatever it says; None if there is none.

    A proxy that refuses to connect, or says that it can't (502 to 504), isn't an answer. Certificates that
    don't verify are one: they are a fault to mend, not a machine without network.
    """
    import httpx

    with servers.client() as client:
        for address in channel.addresses:
            if address.startswith("file:"):
                if Path(unquote(urlsplit(address).path)).is_dir():
                    return address
                continue
            try:
                url = without_userinfo(address) + "/noarch/repodata.json"
                answer = client.head(url, auth=servers.auth(address), timeout=10)
            except httpx.TooManyRedirects:
                return address  # somebody answers: whoever reads the channel says what is wrong
            except httpx.TransportError as error:
                if "CERTIFICATE" in str(error):
                    return address
                continue
            if answer.status_code not in (407, 502, 503, 504):
                return address
    return None


def unreachable(channels: Sequence[ChannelAddress]) -> str:
    """Name channels for an error: `conda-forge, bioconda`."""
    return ", ".join(hide(channel.name) for channel in channels)
