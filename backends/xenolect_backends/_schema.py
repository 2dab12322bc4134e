"""The tables of the SQLite index, and how an older file becomes a newer one.

The schema has a version ``major.minor``. A minor step only adds what older releases leave alone, so
two neighbouring releases share one file; a newer major is refused, untouched.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xenolect.errors import ConfigError, CorruptError
from xenolect.rows import COLUMNS, digest_row

if TYPE_CHECKING:
    from sqlite_utils import Migrations

__all__ = ["APPLICATION", "MAJOR", "MINOR", "check", "prepare"]

APPLICATION = 0x786E6C74
"""``xnlt``, in the header of the file: whose database it is."""

MAJOR = 1
MINOR = 4

_FIRST = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE facts (
  kind TEXT NOT NULL,
  key TEXT NOT NULL,
  version INTEGER NOT NULL,
  value TEXT,
  digest TEXT NOT NULL,
  PRIMARY KEY (kind, key)
) STRICT;
CREATE TABLE journal (
  revision INTEGER PRIMARY KEY,
  previous TEXT NOT NULL,
  actor TEXT NOT NULL,
  at REAL NOT NULL,
  changes TEXT NOT NULL,
  digest TEXT NOT NULL
) STRICT;
CREATE TABLE observations (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  rollout TEXT NOT NULL,
  arm TEXT NOT NULL,
  unit TEXT NOT NULL,
  operations INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  at REAL NOT NULL,
  latency_ms REAL,
  custom TEXT NOT NULL,
  writer TEXT NOT NULL
) STRICT;
CREATE INDEX observations_of_rollout ON observations (rollout, sequence);
CREATE TABLE windows (
  id INTEGER PRIMARY KEY,
  variant_id TEXT NOT NULL,
  start REAL NOT NULL,
  span REAL NOT NULL,
  count INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  bins TEXT NOT NULL,
  sums TEXT NOT NULL
) STRICT;
CREATE INDEX windows_of_variant ON windows (variant_id, start);
CREATE TABLE leases (
  name TEXT PRIMARY KEY,
  holder TEXT NOT NULL,
  until REAL NOT NULL,
  epoch INTEGER NOT NULL
) STRICT;
"""

_ROLLUPS = """
CREATE TABLE rollups (
  resolution TEXT NOT NULL,
  variant_id TEXT NOT NULL,
  start REAL NOT NULL,
  span REAL NOT NULL,
  count INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  bins TEXT NOT NULL,
  sums TEXT NOT NULL,
  PRIMARY KEY (resolution, variant_id, start)
) STRICT;
CREATE INDEX rollups_by_age ON rollups (resolution, start);
CREATE INDEX windows_by_age ON windows (start);
"""

_BATCHES = """
CREATE TABLE batches (
  writer TEXT PRIMARY KEY,
  number INTEGER NOT NULL,
  at REAL NOT NULL,
  digest TEXT NOT NULL
) STRICT;
"""

_WRITER = "ALTER TABLE windows ADD COLUMN writer TEXT NOT NULL DEFAULT ''"


def _migrations() -> Migrations:
    from sqlite_utils import Database, Migrations

    migrations = Migrations("xenolect")

    @migrations()
    def first_tables(db: Database) -> None:
        _each(db, _FIRST)

    @migrations()
    def rollups(db: Database) -> None:
        _each(db, _ROLLUPS)

    @migrations()
    def writer_of_windows(db: Database) -> None:
        _each(db, _WRITER)

    @migrations()
    def digests_of_rows(db: Database) -> None:
        for table in ("observations", "windows", "rollups", "leases"):
            columns = COLUMNS[table]
            db.execute(f"ALTER TABLE {table} ADD COLUMN digest TEXT NOT NULL DEFAULT ''")
            for number, *values in db.execute(
                f"SELECT rowid, {', '.join(columns)} FROM {table}"  # noqa: S608
            ).fetchall():
                db.execute(
                    f"UPDATE {table} SET digest = ? WHERE rowid = ?",  # noqa: S608
                    (digest_row(table, values), number),
                )

    @migrations()
    def batches(db: Database) -> None:
        _each(db, _BATCHES)

    return migrations


def _each(db: Any, statements: str) -> None:
    """One by one: executescript would end the transaction that makes a migration all or nothing."""
    for statement in statements.split(";"):
        if statement.strip():
            db.execute(statement)


def check(connection: sqlite3.Connection, path: Path) -> tuple[int, int] | None:
    """The version that is there, None for a new file; writes nothing.

    ConfigError when the file is somebody else's, or of a newer major.
    """
    found = _version(connection, path)
    if found is not None and found[0] > MAJOR:
        raise ConfigError(
            f"index: {path} has schema {found[0]}.{found[1]}, and this release reads up to {MAJOR}.x; "
            f"upgrade xenolect, or name another file in [index] path"
        )
    return found


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file to this release's schema; the caller keeps every other process out."""
    found = check(connection, path)
    if found is not None and found >= (MAJOR, MINOR):
        return  # the usual case, and it spares the 80 ms that importing sqlite_utils costs
    from sqlite_utils import Database

    # Plugins of sqlite_utils may replace functions of the connection; they have no say here.
    _migrations().apply(Database(connection, execute_plugins=False))
    connection.execute(
        "INSERT INTO meta VALUES ('schema', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (f"{MAJOR}.{MINOR}",),
    )
    connection.execute(f"PRAGMA application_id = {APPLICATION}")


def _version(connection: sqlite3.Connection, path: Path) -> tuple[int, int] | None:
    """The schema's version; None for a file without tables, or one whose creation was cut short."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if not tables:
        return None
    ours = connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION
    if not ours and "_sqlite_migrations" not in tables:
        raise ConfigError(
            f"index: {path} is an SQLite database of something else; name another file in [index] path"
        )
    if "meta" not in tables:
        return None
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    if row is None:
        return None
    major, _, minor = str(row[0]).partition(".")
    if not major.isdigit() or not minor.isdigit():
        raise CorruptError(
            f"index: {path} says its schema is {row[0]!r}, which is no version; restore it "
            f"from a backup",
            key="meta/schema",
            found=str(row[0]),
        )
    return int(major), int(minor)
