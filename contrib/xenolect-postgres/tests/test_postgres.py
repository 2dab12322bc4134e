"""The index through the kit, with two processes, and with a server that goes away."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from xenolect_postgres import PostgresOptions
from xenolect_postgres.index import PostgresIndex

from xenolect import EmergenceManager
from xenolect.errors import ConfigError, CorruptError, InvalidError, UnavailableError
from xenolect.facts import Observation, Put, Rollup, Window
from xenolect.testing import IndexTests


def schema_of(place: Path) -> str:
    """A schema of its own for each place."""
    return "x" + hashlib.sha256(str(place).encode()).hexdigest()[:20]


class TestPostgres(IndexTests):
    """It keeps every promise of an index."""

    examples = 5
    rounds = 10

    @pytest.fixture(autouse=True)
    def _server(self, server: str) -> None:
        type(self).url = server

    url = ""

    def make(self, place: Path) -> PostgresIndex:
        """A schema for the place."""
        return PostgresIndex(PostgresOptions(self.url, schema=schema_of(place)))


@pytest.fixture
def index(server: str, tmp_path: Path) -> Any:
    """An index of this test alone."""
    made = PostgresIndex(PostgresOptions(server, schema=schema_of(tmp_path)))
    yield made
    made.close()


def _opened(server: str, tmp_path: Path) -> EmergenceManager:
    return EmergenceManager.open(
        tmp_path / "store",
        index={"use": "postgres", "url": server, "schema": schema_of(tmp_path)},
        background=False,
    )


def test_two_managers_share_it(server: str, tmp_path: Path) -> None:
    """What one commits the other has after its next tick; rolled back means rolled back."""
    with _opened(server, tmp_path) as one, _opened(server, tmp_path) as two:
        one.variants.activate(one.variants.propose("plain", {"wire": "json"}, id="json"))
        zstd = one.variants.propose("zstd", {"wire": "zstd"}, id="zstd")
        one.variants.activate(zstd, force=True)
        one.states.put("zstd", {"window": 1})
        two.tick()
        assert two.variants.get("zstd").status == "active"
        assert two.states.get("zstd") == {"window": 1}
        two.rollback("zstd", reason="ticket 7")
        one.tick()
        assert one.variants.get("zstd").status == "rolled_back"
        assert one.status()["parts"]["index"] == "postgres"


def _child(index: PostgresIndex) -> None:
    index.commit([Put("v", "child", 1, 0)], actor="child", at=0)


def test_a_forked_process_connects_anew(index: PostgresIndex) -> None:
    """The child commits on a connection of its own; the parent's goes on."""
    index.commit([Put("v", "parent", 1, 0)], actor="parent", at=0)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(index,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert index.commit([Put("v", "parent", 2, 1)], actor="parent", at=0) == 3
    assert [entry.actor for entry in index.changes(0)] == ["parent", "child", "parent"]


def test_an_edited_row_is_found(index: PostgresIndex, server: str, tmp_path: Path) -> None:
    """Facts and journal are checked against their digests when they are read."""
    index.commit([Put("v", "a", {"x": 1}, 0)], actor="", at=0)
    with psycopg.connect(server) as db:
        schema = schema_of(tmp_path)
        db.execute(f"UPDATE {schema}.facts SET value = '{{\"x\":2}}'")
    with pytest.raises(CorruptError, match="v 'a' at version 1 is not what was written"):
        index.load()
    with psycopg.connect(server) as db:
        db.execute(f"UPDATE {schema}.journal SET actor = 'somebody'")
    with pytest.raises(CorruptError, match="journal entry 1 is not what was written"):
        index.changes(0)


def _measured(index: PostgresIndex) -> None:
    """One row in each table of measurements, and a lease; floats that need all their digits."""
    index.append_windows(
        [
            Observation("r", "canary", "a", 3, 1, 5, 0.1 + 0.2, {"bytes": 2.0}, "w"),
            Window("v", 60, 60, 10, 1, [[3, 10]], {"bytes": [4.0, 2]}),
        ]
    )
    since, until, _ = index.unrolled(10)
    index.roll_up(since, until, [Rollup("v", 0, 3600, 10, 1, [[3, 10]], resolution="hourly")])
    index.lease("leader/r", "me", 10.1, 100.2)


@pytest.mark.parametrize(
    ("table", "edit", "key"),
    [
        ("observations", "failures = 7", "observations/1"),
        ("observations", "digest = ''", "observations/1"),
        ("windows", "count = 99", "windows/1"),
        ("rollups", "failures = 5", "rollups/hourly/v/0"),
        ("leases", "until = 9e9", "leases/leader/r"),
    ],
)
def test_an_edited_measurement_is_never_believed(
    index: PostgresIndex,
    server: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    table: str,
    edit: str,
    key: str,
) -> None:
    """Evidence is refused whole; a window, a roll-up or a lease is left out; all are named."""
    _measured(index)
    assert list(index.damage()) == []
    with psycopg.connect(server) as db:
        db.execute(f"UPDATE {schema_of(tmp_path)}.{table} SET {edit}")

    assert list(index.damage()) == [key]
    if table == "observations":
        with pytest.raises(CorruptError, match=r"observation 1 .* not what was written"):
            index.observations("r", 0)
        return
    caplog.clear()
    if table == "windows":
        assert list(index.windows("v", 0, 1e6)) == index.unrolled(10)[2] == []
    elif table == "rollups":
        assert list(index.rollups("v", "hourly", 0, 1e6)) == []
    else:
        assert [lease.holder for lease in index.leases("leader/", 200.0)] == ["(damaged)"]
        taken = index.lease("leader/r", "other", 20.0, 100.0)
        assert (taken.holder, taken.epoch) == ("other", 2)
    assert "not what was written" in caplog.text


@pytest.mark.parametrize("minor", [0, 1, 2])
def test_an_older_schema_is_brought_up_to_date(
    index: PostgresIndex, server: str, tmp_path: Path, minor: int
) -> None:
    """Rows that were written before there were digests get theirs when it is opened; once."""
    _measured(index)
    more = [Window("v", float(n), 60, n, 0) for n in range(2500)]  # more than are sealed at a time
    index.append_windows(more)
    index.close()
    schema = schema_of(tmp_path)
    with psycopg.connect(server) as db:
        db.execute(f"DROP TABLE {schema}.batches")
        for table in ("observations", "windows", "rollups", "leases") if minor < 2 else ():
            db.execute(f"ALTER TABLE {schema}.{table} DROP COLUMN digest")
        if not minor:
            db.execute(f"ALTER TABLE {schema}.windows DROP COLUMN writer")
        db.execute(f"UPDATE {schema}.meta SET value = '1.{minor}'")

    for _ in range(2):
        again = PostgresIndex(PostgresOptions(server, schema=schema))
        assert list(again.damage()) == []
        assert sum(window.count for window in again.windows("v", 0, 1e6)) == sum(range(2500)) + 10
        assert [each.latency_ms for each in again.observations("r", 0)] == [0.1 + 0.2]
        assert again.lease("leader/r", "me", 11.0, 100.0).epoch == 1
        again.close()


def test_floats_keep_their_digits_whatever_the_server_says(server: str, tmp_path: Path) -> None:
    """A database that shortens floats would fail every digest: each connection asks for all of them."""
    short = "&" if "?" in server else "?"
    url = f"{server}{short}options=-c%20extra_float_digits%3D-10"
    index = PostgresIndex(PostgresOptions(url, schema=schema_of(tmp_path)))
    _measured(index)
    index.commit([Put("v", "a", 1, 0)], actor="", at=0.1 + 0.2)

    assert list(index.damage()) == []
    assert [entry.at for entry in index.changes(0)] == [0.1 + 0.2]
    index.close()


def test_connections_that_were_cut_are_replaced(index: PostgresIndex, server: str) -> None:
    """The server ends every connection; the next call works, and nothing is lost."""
    index.commit([Put("v", "a", 1, 0)], actor="", at=0)
    with psycopg.connect(server, autocommit=True) as db:
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'xenolect' AND pid != pg_backend_pid()"
        )
    assert index.commit([Put("v", "a", 2, 1)], actor="", at=0) == 2
    assert index.get("v", "a") == 2


def test_a_lost_answer_is_looked_up(
    index: PostgresIndex, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks after the commit came through, then before: only the second one failed."""
    inner = index._connections.transaction

    def breaking(cut: Callable[[Any], None]) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def through(**how: Any) -> Any:
            with inner(**how) as db:
                yield db
                cut(db)
            raise UnavailableError("the answer was lost")

        return through

    monkeypatch.setattr(index._connections, "transaction", breaking(lambda db: None))
    assert index.commit([Put("v", "a", 1, 0)], actor="", at=0) == 1
    monkeypatch.setattr(
        index._connections, "transaction", breaking(lambda db: db.execute("ROLLBACK"))
    )
    with pytest.raises(UnavailableError, match="the answer was lost"):
        index.commit([Put("v", "a", 2, 1)], actor="", at=0)
    monkeypatch.undo()
    assert index.get("v", "a") == 1


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"url": "nonsense"}, ConfigError, "url is no PostgreSQL address"),
        ({"url": "postgresql://127.0.0.1:1/none"}, UnavailableError, "does not answer"),
        ({"schema": "x; drop"}, ValueError, "schema must be letters"),
    ],
)
def test_wrong_settings_are_named(
    server: str, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    """Each says what is wrong with it."""
    with pytest.raises(error, match=words):
        PostgresIndex(PostgresOptions(**{"url": server, **settings}))


def test_a_newer_major_is_refused(server: str, tmp_path: Path) -> None:
    """Untouched, with what to do."""
    schema = schema_of(tmp_path)
    PostgresIndex(PostgresOptions(server, schema=schema)).close()
    with psycopg.connect(server) as db:
        db.execute(f"UPDATE {schema}.meta SET value = '2.0'")
    with pytest.raises(ConfigError, match=r"has version 2\.0.*upgrade xenolect-postgres"):
        PostgresIndex(PostgresOptions(server, schema=schema))


def test_a_text_that_postgresql_can_not_hold(index: PostgresIndex) -> None:
    """A zero byte in a key: refused, and the index works on."""
    with pytest.raises(InvalidError, match="nothing was changed"):
        index.commit([Put("v", "a\x00b", 1, 0)], actor="", at=0)
    assert index.commit([Put("v", "ab", 1, 0)], actor="", at=0) == 1
