"""State: the workspace's SQLite database. What was answered with 200 is in it, also after a `kill -9`."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lockstep.errors import WorkspaceError

VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS environments (
    name TEXT, number INTEGER, version TEXT, definition TEXT NOT NULL, hash TEXT NOT NULL, created TEXT NOT NULL,
    PRIMARY KEY (name, version));
CREATE TABLE IF NOT EXISTS built (definition TEXT PRIMARY KEY, image TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS experiments (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, created TEXT NOT NULL, tags TEXT NOT NULL DEFAULT '{}',
    description TEXT, archived TEXT, mirrored INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS snapshots (id TEXT PRIMARY KEY, created TEXT NOT NULL, tree TEXT, files TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, experiment INTEGER NOT NULL REFERENCES experiments (id), number INTEGER NOT NULL,
    parent TEXT, root TEXT NOT NULL, status TEXT NOT NULL, created TEXT NOT NULL, started TEXT, ended TEXT,
    submitted TEXT, details TEXT NOT NULL, mirrored INTEGER NOT NULL DEFAULT 0, mirrored_status TEXT);
CREATE INDEX IF NOT EXISTS runs_by_parent ON runs (parent);
CREATE INDEX IF NOT EXISTS runs_by_experiment ON runs (experiment, number);
CREATE INDEX IF NOT EXISTS runs_by_number ON runs (number);
CREATE TABLE IF NOT EXISTS metric_values (
    row INTEGER PRIMARY KEY, run TEXT NOT NULL, name TEXT NOT NULL, metric TEXT NOT NULL, created TEXT NOT NULL,
    step INTEGER, data TEXT NOT NULL, kind TEXT NOT NULL, columns TEXT NOT NULL,
    UNIQUE (run, name, metric));
CREATE TABLE IF NOT EXISTS assets (id TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS models (
    name TEXT, version INTEGER, document TEXT NOT NULL, PRIMARY KEY (name, version));
CREATE TABLE IF NOT EXISTS computes (name TEXT PRIMARY KEY, nodes INTEGER NOT NULL, document TEXT NOT NULL);
"""


class State:
    """One database, shared by the server's threads; a lock makes their changes follow one another."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        if found not in (0, VERSION):
            raise WorkspaceError(
                f"{path} was written by another version of Lockstep (its form is {found}, here it is {VERSION}).",
                "`./invoke workspace --reset` begins anew; that version's checkout still reads it.",
            )
        self._connection.executescript(SCHEMA)
        self._connection.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        """Close the database; later use raises."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """Give the connection inside a transaction: all of the block's changes happen, or none."""
        with self._lock:
            if self._connection.in_transaction:  # a change inside a change is part of it
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk may have ended it already
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """Return every row of a query."""
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Any) -> sqlite3.Row | None:
        """Return a query's first row, or None."""
        with self._lock:
            found: sqlite3.Row | None = self._connection.execute(sql, values).fetchone()
            return found

    def note(self, name: str, default: str = "") -> str:
        """Return the small value kept under `name`."""
        found = self.row("SELECT value FROM meta WHERE name = ?", name)
        return str(found["value"]) if found else default

    def claim(self, name: str, value: str) -> None:
        """Keep a small value under `name` unless there is one already."""
        with self.change() as change:
            change.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, value))

    def keep(self, name: str, value: str) -> None:
        """Keep a small value under `name`."""
        with self.change() as change:
            change.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def now() -> str:
    """Return this moment as Azure writes it: UTC, ISO 8601, microseconds, `Z`."""
    return iso(datetime.now(timezone.utc).timestamp())


def iso(seconds: float) -> str:
    """Return a moment (seconds since 1970) as Azure writes it."""
    return (
        datetime.fromtimestamp(seconds, timezone.utc)
        .isoformat(timespec="microseconds")
        .replace("+00:00", "Z")
    )


def moment(text: str) -> float:
    """Return an ISO 8601 time as seconds since 1970. Raises ValueError for anything else."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except OverflowError as error:
        raise ValueError(f"{text!r} is out of range") from error


def text(value: Any) -> str:
    """Return `value` as JSON with its keys in order, so that equal values are equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
