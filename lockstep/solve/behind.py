"""Behind: direct requirements that came out years older than the newest release that fits, and why.

A resolver that backtracks gives up a requirement's newest release as soon as one decision before it
stands in the way, and may go on to one of years ago. So each such requirement is tried once more with a
lower bound; what forces the old release after that is found in uv's own words.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
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
    search = _Search(ask, folder, releases(ask("--no-deps", "--format", "pylock.toml").stdout), names)
    said: list[str] = []
    for name in sorted(search.behind(search.chosen)):
        chosen, newest = search.chosen[name], search.newest[name]
        if kept.get(name) == str(chosen.version):
            said.append(
                f"{name} stays at {chosen}, as the lock has it, though {newest} is out: "
                f"`./invoke lock --upgrade {name}` moves it."
            )
        elif chosen.is_far_behind(newest) and (reason := search.push(name)):
            said.append(_forced(name, search.chosen[name], newest, reason))
    return said + _without_wheels(search, set(names) - set(kept))


@dataclass(frozen=True)
class _Search:
    """The solution in `folder`, the newest releases that fit each requirement alone, and uv to ask again."""

    ask: Ask
    folder: Path
    newest: Mapping[str, Release]
    names: Collection[str]

    @property
    def chosen(self) -> dict[str, Release]:
        return releases((self.folder / "pylock.toml").read_text())

    def behind(self, solution: Mapping[str, Release]) -> set[str]:
        """Return the requirements whose release in a solution is far behind the newest."""
        known = set(self.names) & set(self.newest) & set(solution)
        return {name for name in known if solution[name].is_far_behind(self.newest[name])}

    def push(self, name: str) -> str | None:
        """Let the solution be one with the newest release of `name`, else with any newer one.

        None if there is one with the newest that leaves no other requirement behind; else uv's words why not.
        """
        chosen = self.chosen
        newest = f"{name}>={self.newest[name].version.public}"
        moved, reason = self._try(name, newest)
        if moved:
            return None
        if not reason:  # possible, but at the cost of another requirement: what, if none of them goes back?
            rest = [
                f"{other}>={chosen[other].version.public}"
                for other in sorted(set(self.names) & set(chosen) - {name})
            ]
            moved, reason = self._try(name, newest, *rest)
        if not moved:
            self._try(name, f"{name}>{chosen[name].version.public}")
        return reason if name in self.behind(self.chosen) else None

    def _try(self, name: str, *bounds: str) -> tuple[bool, str]:
        """Solve with lower bounds. Returns whether that was taken as the solution, and why there is none."""
        (self.folder / "bounds.txt").write_text("\n".join(bounds) + "\n")
        again = self.folder / "pylock.again.toml"
        again.write_bytes((self.folder / "kept.toml").read_bytes())
        done = self.ask("--constraints", "bounds.txt", "--format", "pylock.toml", "--output-file", again.name)
        if done.returncode != 0:
            return False, done.stderr
        before, after = self.chosen, releases(again.read_text())
        if after[name].version <= before[name].version or not self.behind(after) <= self.behind(before):
            return False, ""
        again.replace(self.folder / "pylock.toml")
        return True, ""


def _forced(name: str, chosen: Release, newest: Release, reason: str) -> str:
    missing = _missing_wheels(reason)
    if missing:
        raise SolveError(
            f"{name} would be {chosen}, though {newest} is out: with that one goes {', '.join(missing)}, "
            "which has no wheel for the image. pip would build it from source; only wheels can be locked.",
            f"Publish a wheel of {missing[0]} to an index of yours, replace {name} by the parts of it that "
            f"you need, or, if the old one is meant, write `{name}=={chosen.version}`.",
        )
    lines = "\n".join(f"  {line}" for line in _reasons(reason))
    return f"{name} is {chosen}, though {newest} is out. What stands in its way:\n{lines}"


def _without_wheels(search: _Search, names: Collection[str]) -> list[str]:
    """Say which old releases were taken because newer ones are published as source only."""
    chosen = search.chosen
    days = [each.day for each in chosen.values() if each.day]
    said = []
    for name in sorted(set(names) & set(chosen)):
        day = chosen[name].day
        if day is None or max(days) - day <= 2 * FAR:
            continue
        (search.folder / "bounds.txt").write_text(f"{name}>{chosen[name].version.public}\n")
        done = search.ask("--no-deps", "--constraints", "bounds.txt", "--format", "pylock.toml")
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
