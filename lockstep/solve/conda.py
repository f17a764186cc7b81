"""The conda side: MatchSpecs become exact packages, with rattler's solver and the channels' repodata."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lockstep.errors import SolveError, SpecError
from lockstep.home import Home
from lockstep.lock.locked import LockedPackage
from lockstep.servers import Servers, hide, without_userinfo
from lockstep.solve.repodata import repodata_cache
from lockstep.spec import Spec
from lockstep.spec.spec import VARIABLE

if TYPE_CHECKING:
    import rattler

_LINES = 16


class ChannelsError(Exception):
    """A channel's repodata couldn't be read; the caller finds out whether anybody answers there at all."""


def solve_conda(
    spec: Spec,
    channels: Sequence[tuple[str, str]],
    specs: Sequence[str],
    *,
    servers: Servers,
    home: Home,
    keep: Sequence[LockedPackage] = (),
    exclude_newer: datetime.datetime | None = None,
) -> tuple[LockedPackage, ...]:
    """Return the packages that satisfy `specs`, sorted by name.

    `channels` are pairs of a public URL, which goes into the lock, and the address to ask. `keep` are
    packages that stay as they are if they can. Raises SolveError, or ChannelsError for an unreadable channel.
    """
    import rattler
    from rattler.exceptions import GatewayError, InvalidMatchSpecError, SolverError

    async def run(cache: Path) -> list[rattler.RepoDataRecord]:
        sources = [rattler.Channel(address) for _, address in channels]
        gateway = rattler.Gateway(cache_dir=cache, client=_client(servers, home))
        locked = await _records(gateway, sources, spec.platform, keep, channels) if keep else []
        return await rattler.solve(
            sources,
            [rattler.MatchSpec(text) for text in specs],
            gateway=gateway,
            platforms=_platforms(spec.platform),
            locked_packages=locked,
            virtual_packages=[_virtual(name, version) for name, version in spec.virtual_packages],
            exclude_newer=exclude_newer,
            channel_relations="disabled",
        )

    def run_afresh() -> list[rattler.RepoDataRecord]:
        with home.workspace("repodata") as fresh:
            fresh.chmod(0o700)
            return asyncio.run(run(fresh))

    try:
        if any(hide(address) != address or VARIABLE.search(public) for public, address in channels):
            records = run_afresh()  # rattler would keep the password, token or variable's value in its cache
        else:
            try:
                with repodata_cache(home) as cache:
                    records = asyncio.run(run(cache))
            except GatewayError:  # a damaged cache, or a plain server whose 304 rattler can't follow
                records = run_afresh()
    except InvalidMatchSpecError as error:
        raise SpecError(f"A dependency isn't a package: {error}.", "Write it as `name=1.2`.") from error
    except SolverError as error:
        raise SolveError(
            f"No set of conda packages satisfies the spec:\n{_shorten(_without_addresses(str(error), channels))}",
            "Relax or correct a version in the spec, or add the channel that has the package.",
        ) from error
    except GatewayError as error:
        raise ChannelsError(_without_addresses(str(error), channels)) from error
    return tuple(sorted((_locked(record, channels) for record in records), key=lambda package: package.name))


def _client(servers: Servers, home: Home) -> rattler.networking.Client:
    """Return rattler's client with this machine's proxies and certificates."""
    from rattler import Config
    from rattler.networking import Client

    proxies = {key: url for key in ("http", "https") if (url := getattr(servers.proxies, key))}
    lines = ['tls-root-certs = "system"', f"tls-no-verify = {str(not servers.conda.ssl_verify).lower()}"]
    if proxies:
        lines.append("[proxy-config]")
        lines += [f"{scheme} = {json.dumps(url)}" for scheme, url in proxies.items()]
        lines.append(f"non-proxy-hosts = {json.dumps(servers.proxies.variables()['no_proxy'].split(','))}")
    with home.workspace("rattler") as folder, _variables(servers.environment(folder)):
        return Client.from_config(Config.from_toml("\n".join(lines)))


@contextlib.contextmanager
def _variables(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set SSL_CERT_FILE as `wanted` has it for the time of the block: rattler reads it, once, for a new client."""
    before, now = os.environ.get("SSL_CERT_FILE"), wanted.get("SSL_CERT_FILE")
    if now:
        os.environ["SSL_CERT_FILE"] = now
    try:
        yield
    finally:
        if now and before is None:
            del os.environ["SSL_CERT_FILE"]
        elif now and before is not None:
            os.environ["SSL_CERT_FILE"] = before


def _platforms(platform: str) -> list[rattler.platform.Subdir]:
    from rattler.platform import Subdir

    return [Subdir("linux-aarch64" if platform == "linux-aarch64" else "linux-64"), Subdir("noarch")]


def _virtual(name: str, value: str) -> rattler.GenericVirtualPackage:
    import rattler
    from rattler.exceptions import InvalidPackageNameError, InvalidVersionError
    from rattler.package import BuildString

    version, _, build = value.partition("=")
    try:
        return rattler.GenericVirtualPackage(
            rattler.PackageName(name), rattler.Version(version), BuildString(build or "0")
        )
    except (InvalidPackageNameError, InvalidVersionError) as error:
        raise SpecError(
            f"The virtual package {name}={value} isn't one: {error}.", "Mend virtual_packages in invoke.yaml."
        ) from error


async def _records(
    gateway: rattler.Gateway,
    sources: Sequence[rattler.Channel],
    platform: str,
    keep: Sequence[LockedPackage],
    channels: Sequence[tuple[str, str]],
) -> list[rattler.RepoDataRecord]:
    """Find the records of packages that were locked before; one that was withdrawn isn't among them."""
    found = await gateway.query(
        sources, _platforms(platform), [package.name for package in keep], recursive=False
    )
    wanted = {package.url for package in keep}
    return [record for records in found for record in records if _public(record.url, channels) in wanted]


def _public(url: str, channels: Sequence[tuple[str, str]]) -> str:
    """Return the URL that the lock holds for a URL at the address that was asked."""
    for public, address in channels:
        for known in (address, without_userinfo(address), hide(address)):
            if url.startswith(f"{known}/"):
                return public + url[len(known) :]
    return hide(url)


def _without_addresses(text: str, channels: Sequence[tuple[str, str]]) -> str:
    """Return a text in which the addresses that were asked, which may hold secrets, are the public URLs."""
    for public, address in channels:
        for known in (address, without_userinfo(address), hide(address)):
            text = text.replace(known, public)
    return hide(text)


def _locked(record: rattler.RepoDataRecord, channels: Sequence[tuple[str, str]]) -> LockedPackage:
    name = record.name.normalized
    url = _public(record.url, channels)
    if url.startswith("file:"):
        raise SolveError(
            f"{name} {record.version} is only in a folder of this machine, so it can't be locked.",
            "Put the folder on a server as a channel, and name that in the spec.",
        )
    if not record.sha256 or not record.md5 or record.size is None:
        raise SolveError(
            f"{name} {record.version} can't be locked: its channel gives no sha256, md5 or size for it.",
            "Index the channel again (`conda index` writes all three), or take another channel.",
        )
    return LockedPackage(
        name=name,
        version=str(record.version),
        manager="conda",
        url=url,
        sha256=record.sha256.hex(),
        size=record.size,
        md5=record.md5.hex(),
        build=str(record.build),
        dependencies=_dependencies(record.depends),
    )


def _dependencies(depends: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return conda's dependency lines as pairs; two lines of one package become one constraint."""
    found: dict[str, list[str]] = {}
    for line in depends:
        name, _, constraint = line.partition(" ")
        if not name.startswith("__"):
            found.setdefault(name, []).append(constraint.strip())
    return tuple((name, ",".join(filter(None, parts))) for name, parts in sorted(found.items()))


def _shorten(explanation: str) -> str:
    lines = [hide(line) for line in explanation.strip().splitlines() if line.strip()]
    more = len(lines) - _LINES
    return "\n".join(
        [
            *(re.sub(r"^", "  ", line) for line in lines[:_LINES]),
            *([f"  … {more} more lines"] if more > 0 else []),
        ]
    )
