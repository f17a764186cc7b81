"""Requirements: the lines of a conda file's `pip:` section, and of the requirements files that it names.

The syntax is pip's requirements file format (pip's reference, "Requirements File Format"): comments,
continued lines, `${VARIABLES}`, options and PEP 508 requirements. What no hash can pin is refused.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from lockstep.errors import SpecError

_COMMENT = re.compile(r"(^|\s)#.*$")
_HASH = re.compile(r"\s--hash[=\s](\S+)")
_VCS = re.compile(r"^(git|hg|svn|bzr)(\+|:)|@\s*(git|hg|svn|bzr)\+")
_ARCHIVE = re.compile(r"\.(whl|zip|tar\.gz|tgz|tar\.bz2|tar\.xz)(#.*)?$")

_TAKES_VALUE = {
    "-r": "--requirement",
    "-c": "--constraint",
    "-i": "--index-url",
    "--pypi-url": "--index-url",
    "-f": "--find-links",
    "-e": "--editable",
}
_VALUE_OPTIONS = {
    "--requirement",
    "--constraint",
    "--index-url",
    "--extra-index-url",
    "--find-links",
    "--editable",
    "--trusted-host",
    "--no-binary",
    "--only-binary",
}
_NO_EFFECT = {"--require-hashes", "--prefer-binary", "--only-binary"}
"""Options that ask for what a lock does anyway: wheels only, each with its hash."""


@dataclass
class Requirements:
    """What was read so far: normalised requirement lines and pip's options, in the order of the files."""

    lines: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    index_url: str | None = None
    extra_index_urls: list[str] = field(default_factory=list)
    find_links: list[str] = field(default_factory=list)
    trusted_hosts: list[str] = field(default_factory=list)
    no_index: bool = False
    prerelease: bool = False
    files: list[Path] = field(default_factory=list)


def read_requirements(path: Path, into: Requirements, *, root: Path, constraints: bool = False) -> None:
    """Read one requirements file, and those that it names, into `into`. Folders become relative to `root`."""
    path = Path(os.path.normpath(path))
    if path in into.files:
        return
    into.files.append(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"The requirements file {path} can't be read: {error}.", "Check its name.") from error
    for number, line in _logical_lines(text.splitlines()):
        read_line(
            line, into, where=f"{path}, line {number}", folder=path.parent, root=root, constraints=constraints
        )


def read_line(
    line: str, into: Requirements, *, where: str, folder: Path, root: Path, constraints: bool = False
) -> None:
    """Read one requirement or option into `into`; `where` names the place in errors."""
    line = _COMMENT.sub("", line).strip()
    if not line:
        return
    if line.startswith("-"):
        for given in _split_options(line, where):
            _read_option(given, into, where=where, folder=folder, root=root, constraints=constraints)
        return
    (into.constraints if constraints else into.lines).append(_normalise(line, where))


def _logical_lines(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Join lines that end in a backslash; give each with the number of its first line."""
    held, start = "", 0
    for number, line in enumerate(lines, start=1):
        start = start if held else number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            held += line[:-1] + " "
            continue
        yield start, held + line
        held = ""
    if held:
        yield start, held


def _read_option(
    given: tuple[str, str], into: Requirements, *, where: str, folder: Path, root: Path, constraints: bool
) -> None:
    option, value = given
    if option in ("--requirement", "--constraint"):
        if "://" in value:
            raise SpecError(
                f"{where}: {option} names a URL, which can change.", "Save the file in the project."
            )
        nested = constraints or option == "--constraint"
        read_requirements(folder / value, into, root=root, constraints=nested)
    elif option == "--index-url":
        into.index_url = value
    elif option == "--extra-index-url":
        into.extra_index_urls.append(value)
    elif option == "--find-links":
        local = value if "://" in value else os.path.relpath(folder / value, root)
        into.find_links.append(local)
    elif option == "--trusted-host":
        into.trusted_hosts.append(value)
    elif option == "--no-index":
        into.no_index = True
    elif option == "--pre":
        into.prerelease = True
    elif option == "--editable":
        raise _unpinnable(where, f"-e {value}", "an editable install is whatever the folder holds that day")
    elif option == "--no-binary":
        raise SpecError(
            f"{where}: `{option} {value}` asks for a build from source; only wheels can be locked by their hash.",
            "Take the option out, or build a wheel and publish it to an index.",
        )
    elif option not in _NO_EFFECT:
        raise SpecError(
            f"{where}: the option {option} isn't known.",
            "Known: -r, -c, --index-url, --extra-index-url, --no-index, --find-links, --trusted-host, --pre.",
        )


def _split_options(line: str, where: str) -> Iterator[tuple[str, str]]:
    """Yield the options of a line by their long names, each with its value, `""` for one that takes none.

    Words are split as a shell does, so a line may hold several options. Understood are `-rfile`,
    `-r file`, `--option=value` and `--option value`.
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise SpecError(f"{where}: a quote isn't closed.", "Close it.") from error
    option = ""
    while words:
        before, word = option, words.pop(0)
        if word[:2] in _TAKES_VALUE and not word.startswith("--"):
            option, value = _TAKES_VALUE[word[:2]], word[2:].removeprefix("=")
        else:
            option, _, value = word.partition("=")
            option = _TAKES_VALUE.get(option, option)
        if not option.startswith("-"):
            raise SpecError(
                f"{where}: the word after {before} isn't an option.", "Give each requirement its own line."
            )
        if option in _VALUE_OPTIONS and not value:
            value = words.pop(0) if words else ""
            if not value:
                raise SpecError(f"{where}: {option} needs a value.", "Write it after the option.")
        yield option, value


def _normalise(line: str, where: str) -> str:
    """Return a requirement in one spelling, followed by its `--hash` options; refuse what can't be pinned."""
    hashes = sorted(_HASH.findall(line))
    for found in hashes:
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", found):
            raise SpecError(f"{where}: {found!r} isn't a sha256.", "Write --hash=sha256:<64 hex digits>.")
    text = _HASH.sub("", line).strip()
    if misplaced := re.search(r"\s(-[a-z]|--[a-z][a-z-]+)(?=[=\s]|$)", text):
        raise SpecError(
            f"{where}: {misplaced[1]} stands behind a requirement, where pip takes no notice of it.",
            f"Give {misplaced[1]} a line of its own; it counts for all requirements.",
        )
    if _VCS.search(text):
        raise _unpinnable(where, text, "a version control URL is whatever the branch or tag is that day")
    if (url := text.partition("#")[0]).startswith(("https://", "http://")):
        text = f"{_wheel_name(url, where, text)} @ {text}"
    if "file:" in text or text.startswith((".", "/", "~")) or ("@" not in text and _is_path(text)):
        raise _unpinnable(where, text, "a path exists on one machine only")
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        first = str(error).splitlines()[0]
        raise SpecError(
            f"{where}: {text!r} isn't a requirement: {first}.", "Write it as `name==1.2`."
        ) from error
    if requirement.url:
        _wheel_name(requirement.url, where, text)
        if "@" in urlsplit(requirement.url).netloc:
            raise SpecError(
                f"{where}: the URL of {requirement.name} holds credentials.", "Keep them in ~/.netrc instead."
            )
    requirement.name = canonicalize_name(requirement.name)
    return " ".join([str(requirement), *(f"--hash={found}" for found in hashes)])


def _is_path(text: str) -> bool:
    requirement = text.partition(";")[0].strip()
    return "/" in requirement or bool(_ARCHIVE.search(requirement))


def _wheel_name(url: str, where: str, text: str) -> str:
    filename = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
    try:
        return parse_wheel_filename(filename)[0]
    except InvalidWheelFilename as error:
        raise _unpinnable(
            where, text, "it isn't a wheel, and what a build makes of it has no hash"
        ) from error


def _unpinnable(where: str, line: str, reason: str) -> SpecError:
    return SpecError(
        f"{where}: `{line}` can't be locked: {reason}, so no hash can pin it.",
        "Build a wheel, publish it to an index and name it with its version.",
    )
