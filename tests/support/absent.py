"""Skips tests whose server is not available and reports that at the end, or fails them with REQUIRE_ALL=1.

It is not in a conftest.py, because the conftest.py of several folders needs it.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, NoReturn, TypeVar

import pytest

from tests.support.processes import ServerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

NOT_RUN = "not run for want of "


def do_without(what: str, reason: object) -> NoReturn:
    """Skip the test that needs `what`, which is a key of HOW_TO_GET in tests/conftest.py; REQUIRE_ALL=1 fails it."""
    if os.environ.get("REQUIRE_ALL", "") not in {"", "0"}:
        pytest.fail(f"REQUIRE_ALL=1, but {reason}", pytrace=False)
    pytest.skip(f"{NOT_RUN}{what}")


@contextmanager
def or_do_without(server: AbstractContextManager[T], what: str) -> Iterator[T]:
    """Enter `server`. If it is not available, skip the test or fail."""
    with ExitStack() as stack:
        try:
            running = stack.enter_context(server)
        except ServerUnavailableError as missing:
            do_without(what, missing)
        yield running
