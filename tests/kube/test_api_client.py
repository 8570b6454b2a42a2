"""Paths, pauses and errors of the client."""

from __future__ import annotations

import pytest

from scheduledjob.kube.client.api import (
    FIRST_PAUSE,
    LONGEST_ASKED_PAUSE,
    LONGEST_PAUSE,
    pause,
    resource_of,
    retry_after,
)
from scheduledjob.kube.client.api_errors import (
    AlreadyExists,
    ApiConflict,
    ApiError,
    ApiUnavailable,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    error_of_answer,
)
from scheduledjob.kube.client.paths import pods, scheduled_jobs


@pytest.mark.parametrize(
    ("path", "resource", "named"),
    [
        (pods(), "pods", False),
        (pods("a"), "pods", False),
        (pods("a", "b"), "pods", True),
        (pods("a", "b") + "/log", "pods/log", True),
        (scheduled_jobs(), "scheduledjobs", False),
        (scheduled_jobs("a", "b") + "/status", "scheduledjobs/status", True),
        ("/api/v1/namespaces", "namespaces", False),
        ("/api/v1/namespaces/kube-system", "namespaces", True),
        ("/version", "", False),
    ],
)
def test_the_resource_of_a_path(path: str, resource: str, named: bool) -> None:
    assert resource_of(path) == (resource, named)


def test_paths_of_scheduled_jobs_and_pods() -> None:
    assert scheduled_jobs() == "/apis/scheduledjobs.dev/v1beta1/scheduledjobs"
    assert scheduled_jobs("a", "b") == "/apis/scheduledjobs.dev/v1beta1/namespaces/a/scheduledjobs/b"
    assert pods("a") == "/api/v1/namespaces/a/pods"


def test_pauses_grow_to_a_limit() -> None:
    for attempt in range(1, 2000):
        assert (
            0.5 * min(FIRST_PAUSE * 2.0 ** min(attempt - 1, 50), LONGEST_PAUSE) <= pause(attempt, 0.0) <= LONGEST_PAUSE
        )


def test_a_retry_after_is_obeyed_up_to_a_limit() -> None:
    assert 3.0 <= pause(1, 3.0) <= 3.3
    assert pause(1, 86400.0) <= LONGEST_ASKED_PAUSE * 1.1


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 0.0), ("1", 1.0), ("", 0.0), ("-1", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0)]
)
def test_a_retry_after_header_is_read_as_seconds(header: str | None, seconds: float) -> None:
    assert retry_after(header) == seconds


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "ApiConflict", ApiConflict),
        (409, "AlreadyExists", AlreadyExists),
        (410, "Expired", Gone),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", ApiUnavailable),
        (500, "InternalError", ApiUnavailable),
        (503, "ServiceUnavailable", ApiUnavailable),
        (418, "Teapot", ApiError),
    ],
)
def test_errors_have_the_message_of_the_server(status: int, reason: str, kind: type[ApiError]) -> None:
    body = f'{{"kind": "Status", "reason": "{reason}", "message": "words", "details": {{"name": "x"}}}}'
    error = error_of_answer(status, body.encode())
    assert type(error) is kind
    assert (error.status, error.reason, error.message, error.details) == (status, reason, "words", {"name": "x"})


@pytest.mark.parametrize("body", [b"", b"<html>bad gateway</html>", b"\xff\xfe", b"[]", b'{"kind": "Pod"}'])
def test_an_answer_that_is_not_a_status_is_still_an_error(body: bytes) -> None:
    error = error_of_answer(502, body)
    assert isinstance(error, ApiUnavailable)
    assert error.message.startswith("HTTP 502")


def test_the_page_of_a_proxy_is_cut() -> None:
    assert len(error_of_answer(502, b"x" * 10**6).message) < 400
