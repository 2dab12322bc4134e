"""Offers the index "postgres". psycopg is imported when the index is opened, not before."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from xenolect import hookimpl, offer
from xenolect.hookspecs import Offer
from xenolect.interfaces import Index
from xenolect.secret import Secret
from xenolect.units import Seconds

__all__ = ["PostgresOptions", "xenolect_index_storage"]


def _identifier(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not (value.isidentifier() and value.isascii() and value == value.lower()):
        raise ValueError(
            f"{attribute.name} must be letters a-z, digits and '_', no digit first, got {value!r}"
        )


@attrs.frozen
class PostgresOptions:
    """``use = "postgres"``. url: ``postgresql://user@host:5432/database``, best without a password in
    it; password: the secret, from the environment or a file. schema: its tables live there, made when
    missing. Of the timeouts, ``timeout`` bounds one statement, ``connect_timeout`` getting a connection.
    """

    url: str
    password: Secret | None = None
    schema: str = attrs.field(default="xenolect", validator=_identifier)
    timeout: Seconds = Seconds(30.0)
    connect_timeout: Seconds = Seconds(10.0)
    connections: int = attrs.field(default=4, validator=attrs.validators.ge(2))


def _postgres(options: PostgresOptions) -> Index:
    from xenolect_postgres.index import PostgresIndex

    return PostgresIndex(options)


@hookimpl
def xenolect_index_storage() -> Iterable[Offer[Index]]:
    """Offer the index."""
    yield offer("postgres", _postgres)
