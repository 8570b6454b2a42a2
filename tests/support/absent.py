"""What becomes of a test whose server cannot be had: it is skipped and said so loudly, or it fails with REQUIRE_ALL=1.

It is here, and not in a conftest.py, because the conftest.py of more than one folder needs it.
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
    """Enter `server`; where it cannot be had, skip or fail."""
    with ExitStack() as stack:
        try:
            running = stack.enter_context(server)
        except ServerUnavailableError as missing:
            do_without(what, missing)
        yield running
