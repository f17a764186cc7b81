"""Indexes: which packages several of them have. The highest version wins, as with pip, whoever put it there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from lockstep.servers import Servers, hide, without_userinfo


def indexes_of(emitted: str, servers: Servers) -> tuple[str, ...]:
    """Return the indexes' URLs as the settings have them; that of uv's default is read from its output."""
    default = re.search(r"^--index-url (\S+)", emitted, re.MULTILINE)
    first = servers.pip.index_url or (default[1] if default else None)
    return tuple(url for url in (first, *servers.pip.extra_index_urls) if url)


def origins(emitted: str) -> dict[str, str]:
    """Return where each package came from, out of uv's annotations (`# from <index>`)."""
    found: dict[str, str] = {}
    name = ""
    for line in emitted.splitlines():
        if requirement := re.match(r"([A-Za-z0-9][\w.-]*)", line):
            name = requirement[1]
        elif origin := re.match(r"\s+# from (\S+)", line):
            found[name] = origin[1]
    return found


def say_who_else(versions: Mapping[str, str], emitted: str, servers: Servers) -> list[str]:
    """Return a line for each pair of indexes: what was taken from the one though the other has it too.

    `versions` are the packages that were chosen, by name. Asks nothing where there is one index only.
    """
    indexes = indexes_of(emitted, servers)
    if len(indexes) < 2:
        return []
    taken = {name: url for name, url in origins(emitted).items() if name in versions}
    pairs = [
        (name, url, other)
        for name, url in sorted(taken.items())
        for other in indexes
        if _plain(other) != _plain(url)
    ]
    with servers.client() as client, ThreadPoolExecutor(max_workers=16) as threads:

        def has(pair: tuple[str, str, str]) -> bool:
            import httpx

            url = f"{without_userinfo(pair[2]).rstrip('/')}/{pair[0]}/"
            try:
                answer = client.head(url, auth=servers.auth(pair[2]), timeout=20)
                if answer.status_code in (405, 501):
                    answer = client.get(url, auth=servers.auth(pair[2]), timeout=20)
            except httpx.HTTPError:
                return False
            return answer.status_code == 200

        both = [pair for pair, there in zip(pairs, threads.map(has, pairs), strict=True) if there]
    return list(_lines(both, versions))


def _lines(both: Sequence[tuple[str, str, str]], versions: Mapping[str, str]) -> Iterator[str]:
    grouped: dict[tuple[str, str], list[str]] = {}
    for name, url, other in both:
        grouped.setdefault((hide(url), hide(other)), []).append(f"{name} {versions[name]}")
    for (url, other), names in grouped.items():
        yield f"From {url}, though {other} has packages of the same name: {', '.join(names)}."


def _plain(url: str) -> str:
    return hide(url).rstrip("/")
