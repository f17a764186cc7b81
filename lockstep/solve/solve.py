"""The solve: conda first, then pip within what conda provides; both prefer what was locked before."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping
from typing import Literal

from lockstep.errors import FetchError, SolveError, SpecError
from lockstep.home import Home
from lockstep.lock import Lock
from lockstep.lock.locked import BOOTSTRAP_SCHEME, Bootstrap, LockedBase, LockedPackage
from lockstep.progress import SILENT, Progress
from lockstep.servers import Servers, hide, read_servers
from lockstep.solve.channels import (
    ChannelAddress,
    answering,
    at_address,
    channels_of,
    is_public,
    left_out,
    unreachable,
    without_channel,
)
from lockstep.solve.conda import ChannelsError, solve_conda
from lockstep.solve.gpu import check_gpu
from lockstep.solve.provided import provided
from lockstep.solve.pypi import solve_pypi
from lockstep.spec import Spec

Upgrade = Literal["all"] | Collection[str] | None
"""What may move although it needn't: nothing, the packages of these names, or everything."""


def solve(
    spec: Spec,
    *,
    home: Home,
    base: LockedBase,
    progress: Progress = SILENT,
    previous: Lock | None = None,
    upgrade: Upgrade = None,
    bootstrap: Bootstrap | None = None,
    install: bool = False,
    mirrors: Mapping[str, str] | None = None,
    source_revision: str | None = None,
) -> Lock:
    """Return the lock of a spec: the newest versions that fit, or those of `previous` where they still do.

    `bootstrap` says what a bootstrapped `base` was made from. `mirrors` are the project's: a channel's
    name or URL, and the URL to ask before it. Raises SolveError, SpecError, FetchError or SettingsError.
    """
    servers = read_servers(spec, mirrors)
    if places := ", ".join(map(hide, servers.pip.left_out)):
        progress.say(f"Not looking for wheels in {places}: a lock can't send other machines there.")
    if places := ", ".join(left_out(spec, servers)):
        progress.say(f"Not looking for packages in {places}: a lock can't send other machines there.")
    _check_names(previous, upgrade)
    keep = _keep(previous, upgrade)
    channels, conda, record = _solve_conda(spec, servers, home, progress, previous, keep, upgrade, install)
    python = next((package.version for package in conda if package.name == "python"), None)
    if python is None:
        raise SpecError("The spec has no Python in it.", "Add `- python=3.11` to its dependencies.")
    wheels = solve_pypi(
        spec,
        python,
        provided(conda),
        servers=servers,
        home=home,
        keep=[package for package in keep if package.manager == "pip"],
    )
    for remark in wheels.remarks:
        progress.say(remark)
    packages = (*conda, *wheels.packages)
    check_gpu(spec, packages)
    from lockstep.bootstrap import combine

    return Lock(
        spec_hash=spec.hash,
        base=base,
        packages=tuple(sorted(packages, key=lambda package: (package.name, package.manager))),
        platform=spec.platform,
        channels=channels,
        virtual_packages=spec.virtual_packages,
        variables=spec.variables,
        exclude_newer=spec.exclude_newer,
        source_revision=source_revision,
        bootstrap=combine(bootstrap, record),
        sources=spec.sources,
    )


def _check_names(previous: Lock | None, upgrade: Upgrade) -> None:
    if upgrade is None or upgrade == "all":
        return
    known = {package.name for package in previous.packages} if previous else set()
    if strange := sorted(set(upgrade) - known):
        raise SolveError(
            f"The lock has no package called {', '.join(strange)}.", "`./invoke image` lists what it has."
        )


def _keep(previous: Lock | None, upgrade: Upgrade) -> list[LockedPackage]:
    if previous is None or upgrade == "all":
        return []
    return [package for package in previous.packages if package.name not in (upgrade or ())]


def _solve_conda(
    spec: Spec,
    servers: Servers,
    home: Home,
    progress: Progress,
    previous: Lock | None,
    keep: list[LockedPackage],
    upgrade: Upgrade,
    install: bool,
) -> tuple[tuple[str, ...], tuple[LockedPackage, ...], Bootstrap | None]:
    """Return the channels' names, the packages, and what a channel of our own was made from."""
    channels = channels_of(spec, servers)
    names = tuple(dict.fromkeys(hide(channel.name) for channel in channels))
    kept = [package for package in keep if package.manager == "conda"]
    found = answering(channels, servers)
    if channels and not any(found.values()) and all(map(is_public, channels)):
        return _solve_bootstrap(spec, servers, home, progress, previous, channels, kept, upgrade, install)
    if silent := [channel for channel in channels if not found[channel.public]]:
        raise FetchError(
            f"No server answers for {unreachable(silent)}. Python comes from the Debian archive only where "
            "public channels are meant and none of them can be reached.",
            "Correct its name, set a mirror for it (`channel_mirrors` in invoke.yaml), or try again later.",
        )
    if not channels:
        raise SpecError(
            "No channel is left to look in: conda's `local` has no folder on this machine.",
            "Name a channel in the spec, such as conda-forge.",
        )
    chosen = {public: address for public, address in found.items() if address}
    until = (
        datetime.datetime.fromisoformat(spec.exclude_newer.replace("Z", "+00:00"))
        if spec.exclude_newer
        else None
    )
    try:
        packages = solve_conda(
            spec,
            list(chosen.items()),
            [at_address(text, chosen, servers) for text in spec.conda],
            servers=servers,
            home=home,
            keep=kept,
            exclude_newer=until,
        )
    except ChannelsError as error:
        raise FetchError(
            f"A channel can't be read: {error}", "Check the channel's name and the network, then try again."
        ) from error
    return names, packages, None


def _solve_bootstrap(
    spec: Spec,
    servers: Servers,
    home: Home,
    progress: Progress,
    previous: Lock | None,
    channels: tuple[ChannelAddress, ...],
    kept: list[LockedPackage],
    upgrade: Upgrade,
    install: bool,
) -> tuple[tuple[str, ...], tuple[LockedPackage, ...], Bootstrap | None]:
    own = previous.bootstrap if previous and previous.bootstrap and previous.bootstrap.channel_debs else None
    if previous and own is None:
        raise FetchError(
            f"No server answers for {unreachable(channels)}, and the lock's Python came from there.",
            "Try again with the network up, or delete the lock to make one from the Debian archive.",
        )
    from lockstep.bootstrap import bootstrap_channel

    progress.say(f"No server answers for {unreachable(channels)}: taking Python from the Debian archive.")
    recorded = None if upgrade == "all" or "python" in (upgrade or ()) else own
    channel = bootstrap_channel(home, progress, install=install, recorded=recorded)
    public = f"{BOOTSTRAP_SCHEME}:/"
    try:
        packages = solve_conda(
            spec,
            [(public, channel.path.absolute().as_uri())],
            [without_channel(text) for text in spec.conda],
            servers=servers,
            home=home,
            keep=kept,
        )
    except SolveError as error:
        raise SolveError(
            f"No server answers for {unreachable(channels)}, and the Debian archive gives only Python "
            f"and pip.\n{error.message}",
            "Move the other packages to the `pip:` section, set a mirror (`channel_mirrors` in invoke.yaml), "
            "or lock where the channels can be reached.",
        ) from error
    return (BOOTSTRAP_SCHEME,), packages, channel.record
