"""A process's connections: a pool, made anew after a fork, and PostgreSQL's errors as ours."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import conninfo, sql
from psycopg_pool import ConnectionPool, PoolTimeout

from xenolect.errors import (
    ConfigError,
    CorruptError,
    EmergenceError,
    InvalidError,
    StorageError,
    StorageFullError,
    UnavailableError,
)
from xenolect_postgres.tables import prepare

if TYPE_CHECKING:
    from xenolect_postgres import PostgresOptions

__all__ = ["Connections"]

_FOREIGN = (
    psycopg.Error,
    PoolTimeout,
    UnicodeEncodeError,
    OverflowError,
)  # the last two: bad values
_abandoned: list[object] = []  # a parent's pools: closing them would say good-bye in its name


class Connections:
    """Transactions on one database, for every thread and fork of a process."""

    def __init__(self, options: PostgresOptions) -> None:
        self._options = options
        given = {"password": options.password.reveal()} if options.password else {}
        try:
            self._conninfo = conninfo.make_conninfo(
                options.url,
                connect_timeout=str(max(1, round(options.connect_timeout))),
                application_name="xenolect",
                **given,
            )
        except psycopg.Error as error:
            raise ConfigError(
                f"index: url is no PostgreSQL address ({error}); write postgresql://user@host/database"
            ) from error
        parts = conninfo.conninfo_to_dict(self._conninfo)
        self.name = f"{parts.get('host') or 'localhost'}/{parts.get('dbname') or ''}"
        self._making = threading.Lock()
        self._closed = False
        self._pid = 0
        self._pool: ConnectionPool[psycopg.Connection[Any]] | None = None
        self._first()

    def _first(self) -> None:
        """Make the tables on a connection of its own, where a wrong password is said at once."""
        try:
            with psycopg.connect(self._conninfo, autocommit=True) as db:
                self._configure(db)
                prepare(db, self._options.schema)
        except psycopg.Error as error:
            raise self._translated(error) from error

    def _configure(self, db: psycopg.Connection[Any]) -> None:
        db.autocommit = True  # every transaction here is begun in words
        milliseconds = round(self._options.timeout * 1000)
        db.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(self._options.schema)))
        db.execute("SET extra_float_digits = 3")  # floats come back as they were digested
        db.execute(sql.SQL("SET statement_timeout = {}").format(sql.Literal(milliseconds)))
        db.execute(
            sql.SQL("SET idle_in_transaction_session_timeout = {}").format(
                sql.Literal(milliseconds)
            )
        )

    def _live(self) -> ConnectionPool[psycopg.Connection[Any]]:
        if self._closed:
            raise StorageError("the index is closed; open it again")
        if self._pool is None or self._pid != os.getpid():
            if self._pid and self._pid != os.getpid():
                self._making = threading.Lock()  # the parent's may have been held at the fork
            with self._making:
                if self._pool is None or self._pid != os.getpid():
                    if self._pool is not None:
                        _abandoned.append(self._pool)
                    self._pool = ConnectionPool(
                        self._conninfo,
                        min_size=1,
                        max_size=self._options.connections,
                        timeout=self._options.connect_timeout,
                        configure=self._configure,
                        check=ConnectionPool.check_connection,
                        name="xenolect",
                        open=True,
                    )
                    self._pid = os.getpid()
        return self._pool

    @contextmanager
    def transaction(self, *, reading: bool = False) -> Iterator[psycopg.Connection[Any]]:
        """All or nothing; reading: of one moment."""
        try:
            with self._live().connection() as db:
                if reading:
                    db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                else:
                    db.execute("BEGIN")
                try:
                    yield db
                except BaseException:
                    if not db.closed:
                        db.execute("ROLLBACK")
                    raise
                db.execute("COMMIT")
        except _FOREIGN as error:
            raise self._translated(error) from error

    def one(self, statement: Any, values: tuple[Any, ...] = ()) -> Any:
        """The first row, or None."""
        rows = self.all(statement, values)
        return rows[0] if rows else None

    def all(self, statement: Any, values: tuple[Any, ...] = ()) -> list[Any]:
        """Every row of one statement."""
        try:
            with self._live().connection() as db:
                return db.execute(statement, values).fetchall()
        except _FOREIGN as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> EmergenceError:
        state = getattr(error, "sqlstate", None) or ""
        words = str(error).strip().split("\n")[0]
        where = f"the index on {self.name}"
        if isinstance(error, (psycopg.DataError, UnicodeEncodeError, OverflowError)):
            return InvalidError(f"{where} refuses a value: {words}; nothing was changed")
        if state.startswith(("28", "3D", "42501")) or "authentication failed" in words:
            return ConfigError(f"{where} lets nobody in with these settings: {words}; see [index]")
        if state.startswith("53100"):
            return StorageFullError(f"no space is left for {where}; free some, nothing was changed")
        if state.startswith("XX"):
            return CorruptError(f"{where} is damaged: {words}; restore it from a backup")
        if isinstance(error, (psycopg.OperationalError, PoolTimeout)) or state.startswith(
            ("40", "55P03", "57", "53", "08")
        ):
            return UnavailableError(f"{where} does not answer: {words}; try again")
        return StorageError(f"{where} failed: {words}; nothing was acknowledged")

    def close(self) -> None:
        """Give the connections back; twice is fine."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None and self._pid == os.getpid():
            pool.close()
        elif pool is not None:
            _abandoned.append(pool)
