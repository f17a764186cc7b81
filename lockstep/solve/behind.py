"""Behind: direct requirements that came out years older than the newest release that fits, and why.

A resolver that backtracks gives up a requirement's newest release as soon as one decision before it
stands in the way, and may go on to one of years ago. So each such requirement is tried once more with a
lower bound; what forces the old release after that is found in uv's own words.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from lockstep.errors import SolveError
from lockstep.solve.pylock import FAR, Release, releases

Ask = Callable[..., "subprocess.CompletedProcess[str]"]
"""Run uv on the spec's requirements and constraints with more options; its exit code is 0, or 1 for no solution."""

_NO_WHEELS = re.compile(r"(\S+) has no usable wheels|all versions of (\S+) have no usable wheels")
_REASONS = 6


def catch_up(ask: Ask, folder: Path, names: Collection[str], kept: Mapping[str, str]) -> list[str]:
    """Let `pylock.toml` hold newer releases of direct requirements where a solution with them exists.

    `names` are the requirements to look at; `kept` are the versions of the lock before, which stay and are
    only spoken of. Returns what is to be said. Raises SolveError where nothing but a missing wheel
    forces a release of years ago: pip would build from source and take the newer one.
    """
    newest = releases(ask("--no-deps", "--format", "pylock.toml").stdout)
    said: list[str] = []
    bounds: list[str] = []
    for name in sorted(set(names) & set(newest)):
        chosen = releases((folder / "pylock.toml").read_text()).get(name)
        if chosen is None or not chosen.is_far_behind(newest[name]):
            continue
        if kept.get(name) == str(chosen.version):
            said.append(
                f"{name} stays at {chosen}, as the lock has it, though {newest[name]} is out: "
                f"`./invoke lock --upgrade {name}` moves it."
            )
            continue
        reason = _push(ask, folder, name, chosen, newest[name], bounds)
        chosen = releases((folder / "pylock.toml").read_text())[name]
        if reason and chosen.is_far_behind(newest[name]):
            said.append(_forced(name, chosen, newest[name], reason))
    return said + _without_wheels(ask, folder, set(names) - set(kept))


def _push(
    ask: Ask, folder: Path, name: str, chosen: Release, newest: Release, bounds: list[str]
) -> str | None:
    """Try again with a lower bound: first the newest release, then anything newer than what was chosen.

    A solution replaces `pylock.toml`, and its bound is kept in `bounds`. Returns why the newest failed.
    """
    reason = None
    for bound in (f"{name}>={newest.version.public}", f"{name}>{chosen.version.public}"):
        (folder / "bounds.txt").write_text("\n".join([*bounds, bound]) + "\n")
        again = folder / "pylock.again.toml"
        again.write_bytes((folder / "kept.toml").read_bytes())
        done = ask("--constraints", "bounds.txt", "--format", "pylock.toml", "--output-file", again.name)
        if done.returncode == 0:
            again.replace(folder / "pylock.toml")
            bounds.append(bound)
            break
        reason = reason or done.stderr
    return reason


def _forced(name: str, chosen: Release, newest: Release, reason: str) -> str:
    missing = _missing_wheels(reason)
    if missing:
        raise SolveError(
            f"{name} would be {chosen}, though {newest} is out: that one needs {', '.join(missing)}, which "
            "has no wheel for the image. pip would build it from source; only wheels can be locked.",
            f"Publish a wheel of {missing[0]} to an index of yours, replace {name} by the parts of it that "
            f"you need, or, if the old one is meant, write `{name}=={chosen.version}`.",
        )
    lines = "\n".join(f"  {line}" for line in _reasons(reason))
    return f"{name} is {chosen}, though {newest} is out. What stands in its way:\n{lines}"


def _without_wheels(ask: Ask, folder: Path, names: Collection[str]) -> list[str]:
    """Say which old releases were taken because newer ones are published as source only."""
    chosen = releases((folder / "pylock.toml").read_text())
    days = [each.day for each in chosen.values() if each.day]
    said = []
    for name in sorted(set(names) & set(chosen)):
        day = chosen[name].day
        if day is None or max(days) - day <= 2 * FAR:
            continue
        (folder / "bounds.txt").write_text(f"{name}>{chosen[name].version.public}\n")
        done = ask("--no-deps", "--constraints", "bounds.txt", "--format", "pylock.toml")
        if name in _missing_wheels(done.stderr):
            said.append(f"{name} is {chosen[name]}: its newer releases have no wheel for the image.")
    return said


def _missing_wheels(text: str) -> list[str]:
    """Return the packages that uv's words say to have no usable wheel, in the order of their mention."""
    found = [re.split(r"[\[<>=!~]", one or other)[0] for one, other in _NO_WHEELS.findall(text)]
    return list(dict.fromkeys(found))


def _reasons(text: str) -> list[str]:
    lines = [re.sub(r"^\s*(cause|hint): ", "", line).strip() for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith("error:")]
    return [*kept[:_REASONS], *([f"… {len(kept) - _REASONS} more lines"] if len(kept) > _REASONS else [])]
