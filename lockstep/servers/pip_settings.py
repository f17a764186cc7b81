"""The index settings that people already have: pip's configuration files, `PIP_*` and `UV_*` variables.

pip's files are read where pip reads them (pip's guide, "Configuration"). `UV_*` says more precisely what
is meant for uv, so it wins over pip's; an option in the spec wins over both.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from lockstep.errors import SettingsError
from lockstep.redaction import remember


@dataclass(frozen=True)
class PipSettings:
    """Where wheels are looked for. URLs may hold credentials; this value never leaves the machine.

    `left_out` are folders and `file:` URLs: a lock can't send other machines to them. `keyring` says whether
    the program of that name is asked for passwords.
    """

    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    no_index: bool = False
    ca_bundle: str | None = None
    proxy: str | None = None
    keyring: bool = False
    left_out: tuple[str, ...] = ()


def read_pip_settings() -> PipSettings:
    """Read pip's files and variables, then uv's variables over them."""
    found = _read_pip()
    index_urls = _words(os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL"))
    index_urls = index_urls or _words(found.get("index-url"))
    extra = [*_words(os.environ.get("UV_INDEX")), *_words(os.environ.get("UV_EXTRA_INDEX_URL"))]
    extra = extra or _words(found.get("extra-index-url"))
    find_links = (os.environ.get("UV_FIND_LINKS") or "").replace(",", " ").split()
    find_links = find_links or _words(found.get("find-links"))
    hosts = [*_words(os.environ.get("UV_INSECURE_HOST")), *_words(found.get("trusted-host"))]
    everything = [*index_urls[-1:], *extra, *find_links]
    return PipSettings(
        index_url=next((url for url in map(_named_index, index_urls[-1:]) if _is_remote(url)), None),
        extra_index_urls=tuple(url for url in map(_named_index, extra) if _is_remote(url)),
        find_links=tuple(url for url in find_links if _is_remote(url)),
        trusted_hosts=tuple(hosts),
        no_index=(os.environ.get("UV_NO_INDEX") or found.get("no-index") or "").lower()
        in ("1", "true", "yes", "on"),
        ca_bundle=found.get("cert"),
        proxy=found.get("proxy"),
        keyring=(os.environ.get("UV_KEYRING_PROVIDER") or found.get("keyring-provider") or "").lower()
        in ("subprocess", "import"),
        left_out=tuple(dict.fromkeys(url for url in map(_named_index, everything) if not _is_remote(url))),
    )


def _read_pip() -> dict[str, str]:
    found: dict[str, str] = {}
    if os.environ.get("PIP_CONFIG_FILE") != os.devnull:
        for path in _paths():
            found.update(_read_file(path))
    for key, value in os.environ.items():
        if key.startswith("PIP_") and value:
            found[key[4:].lower().replace("_", "-")] = value
    return found


def _paths() -> Iterator[Path]:
    """Yield pip's files in pip's order: global, user, site, then `PIP_CONFIG_FILE`."""
    home = Path.home()
    for folder in reversed((os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")):
        yield Path(folder) / "pip" / "pip.conf"
    yield Path("/etc/pip.conf")
    yield home / ".pip" / "pip.conf"
    if sys.platform == "darwin":
        yield home / "Library" / "Application Support" / "pip" / "pip.conf"
    yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    yield Path(sys.prefix) / "pip.conf"
    if path := os.environ.get("PIP_CONFIG_FILE"):
        yield Path(path)


def _read_file(path: Path) -> Mapping[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{path} can't be read: {error}.", "Mend or remove it.") from error
    found: dict[str, str] = {}
    for section in ("global", "install", "download"):
        if parser.has_section(section):
            found.update({key.replace("_", "-"): value for key, value in parser.items(section)})
    return found


def _words(value: str | None) -> list[str]:
    return (value or "").split()


def _named_index(url: str) -> str:
    """Return the URL of `name=url`, with the credentials that uv takes from `UV_INDEX_<NAME>_USERNAME`."""
    name, separator, rest = url.partition("=")
    if not separator or "/" in name:
        return url
    variable = f"UV_INDEX_{name.upper().replace('-', '_').replace('.', '_')}"
    username, password = os.environ.get(f"{variable}_USERNAME"), os.environ.get(f"{variable}_PASSWORD")
    if not username and not password:
        return rest
    remember(password or "", username or "")
    parts = urlsplit(rest)
    login = f"{quote(username or '', safe='')}:{quote(password or '', safe='')}"
    return parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}").geturl()


def _is_remote(url: str) -> bool:
    return url.startswith(("https://", "http://"))
