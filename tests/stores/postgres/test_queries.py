"""The named queries: how files of them are read, and that their columns are those of the values made from them."""

from __future__ import annotations

from importlib.resources import files

import pytest

from scheduledjob.domain.schedule.state import RunRecord
from scheduledjob.engine.stored_row import Row
from scheduledjob.stores.postgres import queries
from scheduledjob.stores.postgres.queries import SQL, load

RENAMED = {"key": "id", "recovered": "false", "requests": "acts"}
"""Fields of a row whose columns have other names."""


def fragment(file: str, name: str) -> list[str]:
    text = (files(queries) / file).read_text("utf-8")
    return load(text, f"-- name: wanted\n{{{name}}}")["wanted"].replace("\n", " ").split(", ")


def test_a_query_includes_fragments_and_fragments_of_those() -> None:
    loaded = load(
        "-- name: all\n-- why\nSELECT {both};\n-- fragment: both\n{first}, {other}", "-- fragment: first\na -- kept"
    )
    assert loaded == {"all": "SELECT a -- kept, {other}"}


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="the name twice"):
        load("-- name: twice\nSELECT 1;", "-- fragment: twice\n2")


def test_no_fragment_is_missing() -> None:
    open_braces = {name: query for name, query in SQL.items() if "{" in query}
    assert set(open_braces) == {"claim", "select_due_of_kind", "settle_removed", "settle_written"}


def test_the_columns_of_a_row_are_its_fields_in_order() -> None:
    *fields, of_claims_only = Row.__struct_fields__
    assert of_claims_only == "due_at"
    assert fragment("schedules.sql", "row_columns") == [RENAMED.get(name, name) for name in fields]


def test_a_claim_returns_the_columns_of_a_row_in_order() -> None:
    _, _, returned = SQL["claim"].partition("RETURNING picked.turn, ")
    columns = returned.partition("\n)")[0].split(",")
    expected = RENAMED | {"recovered": "recovered"}
    assert [column.strip().rpartition(".")[2].rpartition(" AS ")[2] for column in columns] == [
        expected.get(name, name) for name in Row.__struct_fields__
    ]


def test_the_columns_of_a_record_are_its_fields_in_order() -> None:
    assert fragment("history.sql", "record_columns") == list(RunRecord.__struct_fields__)
