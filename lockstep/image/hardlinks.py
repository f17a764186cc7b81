"""Hard links of a tar that is written anew in another order, or with entries left out.

A tar's reader makes a hard link to what came before (POSIX pax, "ustar Interchange Format"), so of the
entries that are one file, whichever comes first must hold the content.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence

Settled = dict[str, tuple[str, str]]


def settle(order: Sequence[str], entries: Mapping[str, tarfile.TarInfo]) -> Settled:
    """Return, for each path that is one of several of a file, the path that comes first and the file's own.

    `order` is the paths as they will be written, `entries` all that the tar held, by path, with each
    `linkname` a path too. A link to what the tar doesn't hold isn't among them.
    """
    links = {path: entry.linkname for path, entry in entries.items() if entry.islnk()}
    files = set(links.values())
    first: dict[str, str] = {}
    found: Settled = {}
    for path in order:
        if (path in links or path in files) and (file := _end(path, links)) in entries:
            found[path] = (first.setdefault(file, path), file)
    return found


def settled_entry(path: str, entries: Mapping[str, tarfile.TarInfo], settled: Settled) -> tarfile.TarInfo:
    """Make the entry of a path what `settled` says: the file, or a link to it; return whose content it has.

    To be called in the order that `settle` was given.
    """
    entry = entries[path]
    if path not in settled:
        return entry
    holder, file = settled[path]
    if holder != path:
        entry.type, entry.size, entry.linkname = tarfile.LNKTYPE, 0, holder
        return entry
    original = entries[file]
    entry.type, entry.size, entry.linkname = original.type, original.size, original.linkname
    entry.mode, entry.uid, entry.gid = original.mode, original.uid, original.gid
    entry.pax_headers = original.pax_headers
    return original


def _end(path: str, links: Mapping[str, str]) -> str:
    """Follow links of links; a ring, which no file system gives, leads to a path that no entry has."""
    seen = {path}
    while path in links:
        path = links[path]
        if path in seen:
            return ""
        seen.add(path)
    return path
