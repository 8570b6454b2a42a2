"""The store in Postgres."""

from .store import PostgresStore

__all__ = ["PostgresStore"]
