"""What a store's URL may contain, and that no error shows its secrets."""

from __future__ import annotations

import pytest

from scheduledjob.stores.postgres.address import CONNECT_TIMEOUT, parse_address


def test_an_address_is_shown_without_its_user_and_password() -> None:
    address = parse_address("postgresql://user:s%40cret@db.example:6432/jobs?sslmode=require")
    assert address.shown == "db.example:6432/jobs"
    assert address.dsn == "postgresql://user:s%40cret@db.example:6432/jobs?sslmode=require"
    assert address.connect_timeout == CONNECT_TIMEOUT


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgres://db.example", "db.example"),
        ("postgresql://a:1,b:2/jobs", "a:1,b:2/jobs"),
        ("postgresql://[::1]:5432/jobs", "[::1]:5432/jobs"),
        ("postgresql:///jobs?host=/var/run/postgresql", "/var/run/postgresql/jobs"),
        ("postgresql://", "the local server"),
    ],
)
def test_every_form_of_libpq_is_an_address(url: str, shown: str) -> None:
    assert parse_address(url).shown == shown


def test_our_own_parameters_are_not_passed_to_the_driver() -> None:
    address = parse_address("postgresql://db/jobs?connect_timeout=2&application_name=mine&user=me")
    assert (address.connect_timeout, address.application_name) == (2.0, "mine")
    assert address.dsn == "postgresql://db/jobs?user=me"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("postgresql://u:secret@db/jobs?sslmod=require", "unknown parameter 'sslmod'.*did you mean 'sslmode'"),
        ("postgresql://u:secret@db/jobs?pool_size=9", "unknown parameter 'pool_size'.*allowed are application_name,"),
        ("postgresql://u:secret@db/jobs?sslmode=a&sslmode=b", "'sslmode' is given twice"),
        ("postgresql://u:secret@db/jobs?connect_timeout=soon", "connect_timeout='soon'.*whole seconds"),
        ("postgresql://u:secret@db/jobs?connect_timeout=0", "connect_timeout='0'"),
        ("postgresql://u:secret@db/jobs?sslmode", "malformed"),
        ("postgresql://u:secret@db:port/jobs", "'port' in the store's URL is not a port"),
        ("postgresql://u:secret@db:70000/jobs", "'70000' in the store's URL is not a port"),
        ("postgresql://u:secr#et@db/jobs", "%23"),
        ("mysql://u:secret@db/jobs", "'mysql' is not a scheme of Postgres"),
        ("postgresql://u:secret@[db/jobs", "malformed"),
    ],
)
def test_the_error_for_a_wrong_url_says_what_to_write_and_keeps_its_secret(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        parse_address(url)
    assert "secr" not in str(caught.value)
    assert caught.value.__cause__ is None
