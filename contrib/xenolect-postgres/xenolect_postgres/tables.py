"""The tables in PostgreSQL. Text sorts by code points, so that order is the same everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString

from xenolect.errors import ConfigError

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["MAJOR", "MINOR", "prepare"]

MAJOR, MINOR = 1, 3
_PAGE = 1000  # rows sealed at a time
_TURN = 0x786E6C74  # "xnlt": the advisory lock under which the tables are made

# One row each of ``head`` and ``counters`` is locked by whoever appends, until its transaction ends.
# So revisions and sequences become visible in their own order, and a reader that remembers the last one
# misses nothing; a SEQUENCE would hand numbers out in one order and show them in another.
_BATCHES: LiteralString = """CREATE TABLE batches (
  writer text PRIMARY KEY,
  number bigint NOT NULL,
  at double precision NOT NULL,
  digest text NOT NULL
)"""
_TABLES: tuple[LiteralString, ...] = (
    "CREATE TABLE meta (key text PRIMARY KEY, value text NOT NULL)",
    """CREATE TABLE head (
      one boolean PRIMARY KEY DEFAULT true CHECK (one),
      revision bigint NOT NULL,
      digest text NOT NULL
    )""",
    "CREATE TABLE counters (name text PRIMARY KEY, value bigint NOT NULL)",
    """CREATE TABLE facts (
      kind text COLLATE "C" NOT NULL,
      key text COLLATE "C" NOT NULL,
      version bigint NOT NULL,
      value text,
      digest text NOT NULL,
      PRIMARY KEY (kind, key)
    )""",
    """CREATE TABLE journal (
      revision bigint PRIMARY KEY,
      previous text NOT NULL,
      actor text NOT NULL,
      at double precision NOT NULL,
      changes text NOT NULL,
      digest text NOT NULL
    )""",
    """CREATE TABLE observations (
      sequence bigint PRIMARY KEY,
      rollout text NOT NULL,
      arm text NOT NULL,
      unit text NOT NULL,
      operations bigint NOT NULL,
      failures bigint NOT NULL,
      at double precision NOT NULL,
      latency_ms double precision,
      custom text NOT NULL,
      writer text NOT NULL,
      digest text NOT NULL DEFAULT ''
    )""",
    "CREATE INDEX observations_of_rollout ON observations (rollout, sequence)",
    """CREATE TABLE windows (
      id bigint PRIMARY KEY,
      variant_id text NOT NULL,
      start double precision NOT NULL,
      span double precision NOT NULL,
      count bigint NOT NULL,
      failures bigint NOT NULL,
      bins text NOT NULL,
      sums text NOT NULL,
      writer text NOT NULL DEFAULT '',
      digest text NOT NULL DEFAULT ''
    )""",
    "CREATE INDEX windows_of_variant ON windows (variant_id, start, id)",
    "CREATE INDEX windows_by_age ON windows (start)",
    """CREATE TABLE rollups (
      resolution text NOT NULL,
      variant_id text NOT NULL,
      start double precision NOT NULL,
      span double precision NOT NULL,
      count bigint NOT NULL,
      failures bigint NOT NULL,
      bins text NOT NULL,
      sums text NOT NULL,
      digest text NOT NULL DEFAULT '',
      PRIMARY KEY (resolution, variant_id, start)
    )""",
    "CREATE INDEX rollups_by_age ON rollups (resolution, start)",
    """CREATE TABLE leases (
      name text COLLATE "C" PRIMARY KEY,
      holder text NOT NULL,
      until double precision NOT NULL,
      epoch bigint NOT NULL,
      digest text NOT NULL DEFAULT ''
    )""",
    _BATCHES,
    "INSERT INTO head VALUES (true, 0, repeat('0', 64))",
    "INSERT INTO counters VALUES ('observations', 0), ('windows', 0), ('rolled', 0)",
)


def prepare(db: Connection[Any], schema: str) -> None:
    """Make the tables where there are none; refuse a newer major, untouched."""
    from psycopg import sql

    with db.transaction():
        db.execute("SELECT pg_advisory_xact_lock(%s)", (_TURN,))
        name = sql.Identifier(schema)
        # Asked for first: who may use a schema may not be allowed to make one.
        there = db.execute(
            "SELECT 1 FROM information_schema.schemata WHERE schema_name = %s", (schema,)
        ).fetchone()
        if not there:
            db.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        found = db.execute("SELECT to_regclass(%s)", (f"{schema}.meta",)).fetchone()
        if found is None or found[0] is None:
            for statement in _TABLES:
                db.execute(statement)
            db.execute("INSERT INTO meta VALUES ('schema', %s)", (f"{MAJOR}.{MINOR}",))
            return
        row = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        version = "" if row is None else str(row[0])
        major, _, minor = version.partition(".")
        if not (major.isdigit() and minor.isdigit()) or int(major) > MAJOR:
            raise ConfigError(
                f"index: schema {schema!r} has version {version or 'none'}, and this release reads up "
                f"to {MAJOR}.x; upgrade xenolect-postgres, or name another schema in [index]"
            )
        if int(minor) < 1:
            db.execute("ALTER TABLE windows ADD COLUMN writer text NOT NULL DEFAULT ''")
        if int(minor) < 2:
            _seal(db)
        if int(minor) < 3:
            db.execute(_BATCHES)
        if int(minor) < MINOR:
            db.execute("UPDATE meta SET value = %s WHERE key = 'schema'", (f"{MAJOR}.{MINOR}",))


def _seal(db: Connection[Any]) -> None:
    """Give the rows that are there their digests."""
    from xenolect.rows import COLUMNS, digest_row

    for table in ("observations", "windows", "rollups", "leases"):
        columns = COLUMNS[table]
        add = f"ALTER TABLE {table} ADD COLUMN digest text NOT NULL DEFAULT ''"
        read = f"SELECT ctid::text, {', '.join(columns)} FROM {table}"  # noqa: S608
        seal = f"UPDATE {table} SET digest = %s WHERE ctid = %s::tid"  # noqa: S608
        db.execute(add.encode())  # nobody else reads or writes the table until all of it is sealed
        with db.cursor("rows") as rows, db.cursor() as sealing:
            rows.execute(read.encode())
            while page := rows.fetchmany(_PAGE):
                sealing.executemany(
                    seal.encode(), [(digest_row(table, values), at) for at, *values in page]
                )
