"""The conda settings that people already have: `.condarc` files and `CONDA_*` variables.

Files are looked for where conda looks (conda's guide, "Searching for .condarc") and merged as conda merges
them: a later file's single value wins, its lists come before those of earlier files, maps are joined key by key.
Read are the settings that say where channels are and how to reach them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lockstep.errors import SettingsError


@dataclass(frozen=True)
class Condarc:
    """Where channels are. URLs may hold credentials; this value never leaves the machine."""

    channels: tuple[str, ...] = ()
    channel_alias: str | None = None
    default_channels: tuple[str, ...] = ("main", "r")
    custom_channels: Mapping[str, str] = field(default_factory=dict)
    custom_multichannels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mirrored_channels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    proxy_servers: Mapping[str, str] = field(default_factory=dict)
    ssl_verify: bool = True
    ca_bundle: str | None = None
    build_folders: tuple[str, ...] = ()

    def locate(self, channel: str, folder: Path) -> tuple[str, ...]:
        """Return the URLs that a channel's name stands for (several for `defaults`), as conda does.

        Folders are relative to `folder`. `local` are conda-build's folders, as many as there are.
        """
        if "://" in channel:
            return (channel.rstrip("/"),)
        if channel.startswith((".", "/", "~")):
            path = os.path.normpath(folder / Path(channel).expanduser())
            return (f"file://{quote(os.path.abspath(path))}",)
        if channel == "local":
            existing = (Path(text).resolve() for text in self.build_folders if Path(text).is_dir())
            return tuple(dict.fromkeys(place.as_uri() for place in existing))
        multi = {"defaults": self.default_channels, **self.custom_multichannels}
        if channel in multi:
            return tuple(url for name in multi[channel] for url in self.locate(name, folder))
        for name, base in sorted(self.custom_channels.items(), key=lambda item: -len(item[0])):
            if channel == name or channel.startswith(f"{name}/"):
                return (f"{base.rstrip('/')}/{channel}",)
        if self.channel_alias:
            return (f"{self.channel_alias.rstrip('/')}/{channel}",)
        import rattler

        return (rattler.Channel(channel).base_url.rstrip("/"),)


def read_condarc() -> Condarc:
    """Read every `.condarc` there is. Raises SettingsError for one that isn't YAML or of the wrong shape."""
    found: dict[str, Any] = {}
    for path in _paths():
        for key, value in _read(path).items():
            found[key] = _merged(found.get(key), value)
    for key in ("channel_alias", "ssl_verify"):
        if value := os.environ.get(f"CONDA_{key.upper()}"):
            found[key] = {"true": True, "false": False}.get(value.lower(), value)
    if value := os.environ.get("CONDA_CHANNELS"):
        found["channels"] = _merged(found.get("channels"), value.split(","))
    ssl_verify = found.get("ssl_verify", True)
    try:
        return Condarc(
            channels=_texts(found.get("channels")),
            channel_alias=found.get("channel_alias"),
            default_channels=_texts(found.get("default_channels")) or Condarc.default_channels,
            custom_channels=dict(found.get("custom_channels") or {}),
            custom_multichannels=_multi(found.get("custom_multichannels")),
            mirrored_channels=_multi(found.get("mirrored_channels")),
            proxy_servers={
                key: str(value) for key, value in (found.get("proxy_servers") or {}).items() if value
            },
            ssl_verify=ssl_verify is not False,
            ca_bundle=ssl_verify if isinstance(ssl_verify, str) and "/" in ssl_verify else None,
            build_folders=tuple(_build_folders(found)),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"A setting in .condarc is of the wrong type: {error}.", "Mend it.") from error


def _build_folders(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield where conda-build may have put packages (conda's `context.conda_build_local_paths`)."""
    for key in ("croot", "bld_path"):
        if value := os.environ.get(f"CONDA_{key.upper()}") or found.get(key):
            yield os.path.expanduser(str(value))
    if root := os.environ.get("CONDA_ROOT"):
        yield os.path.join(root, "conda-bld")
    yield os.path.expanduser("~/conda-bld")


def _paths() -> Iterator[Path]:
    home = Path.home()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    roots = [Path("/etc/conda"), Path("/var/lib/conda")]
    roots += [Path(value) for key in ("CONDA_ROOT",) if (value := os.environ.get(key))]
    roots += [config / "conda", home / ".conda"]
    for root in roots:
        yield from (root / ".condarc", root / "condarc")
        yield from sorted((root / "condarc.d").glob("*.y*ml"))
    yield from (home / ".condarc", home / ".mambarc")
    if prefix := os.environ.get("CONDA_PREFIX"):
        yield Path(prefix) / ".condarc"
    yield from (Path(value) for key in ("CONDARC", "MAMBARC") if (value := os.environ.get(key)))


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(os.path.expandvars(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} can't be read: {error}.", "Mend or remove it.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold `key: value` lines.", "Mend or remove it.")
    return content


def _merged(earlier: Any, later: Any) -> Any:
    """Return a setting of several files as one (conda's guide, "Configuration engine", merging)."""
    if isinstance(earlier, dict) and isinstance(later, dict):
        return {**earlier, **{key: _merged(earlier.get(key), value) for key, value in later.items()}}
    if isinstance(earlier, list) and isinstance(later, list):
        return list(dict.fromkeys(map(str, (*later, *earlier))))
    return earlier if later is None else later


def _texts(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(str(entry) for entry in value or ())


def _multi(value: Any) -> dict[str, tuple[str, ...]]:
    return {str(key): _texts(entries) for key, entries in (value or {}).items()}
