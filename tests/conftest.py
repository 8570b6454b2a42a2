"""Fixtures for the real servers that tests need; tests/support says how each server is found.

Each worker of pytest-xdist starts its own server on first use, which is quicker than sharing one. If a server is not
available, its tests are skipped, and a line at the end says how to get it. REQUIRE_ALL=1 makes that a failure.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support import firestore, postgres
from tests.support import pgbouncer as pgbouncer_support
from tests.support.absent import NOT_RUN, or_do_without
from tests.support.firestore import FirestoreTarget, any_firestore, new_target
from tests.support.pgbouncer import PgBouncer, pgbouncer_before
from tests.support.postgres import PostgresDatabases, PostgresServer, any_postgres

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores SIGINT for background processes, and the programs that tests interrupt would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The time limits of Hypothesis fail tests when the machine is busy.
settings.register_profile("without time limits", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("without time limits")

HOW_TO_GET = {
    "a Postgres": postgres.HOW_TO_GET,
    "a PgBouncer": pgbouncer_support.HOW_TO_GET,
    "a Firestore emulator": firestore.HOW_TO_GET,
    # Written here, so that only the tests of a cluster import its harness.
    "a Kubernetes control plane": (
        "install Go 1.26 (the first run builds Kubernetes, once, in some minutes), or set KUBEBUILDER_ASSETS to a "
        "folder with etcd, kube-apiserver, kube-controller-manager and kubectl, or TEST_KUBECONFIG to a kubeconfig"
    ),
    "a cluster that may be broken": "unset TEST_KUBECONFIG, so that the harness starts one",
    "a wrong clock": "apt-get install libfaketime",
    "shells that complete": "apt-get install bash-completion zsh fish",
    "the operator's image": "make e2e makes it before, with docker, or as root with buildah and mmdebstrap",
    "a Kubernetes node": (
        "run as root on Debian with Go 1.26 and without TEST_KUBECONFIG, and "
        "apt-get install containerd runc containernetworking-plugins busybox-static iptables iproute2"
    ),
}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Report the tests that were not run after pytest's own output, where people see it."""
    result = yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:  # a worker of pytest-xdist has none
        reasons = [str(report.longrepr) for report in reporter.getreports("skipped")]
        for what, how_to_get in HOW_TO_GET.items():
            if count := sum(f"{NOT_RUN}{what}" in reason for reason in reasons):
                line = f"{count} TESTS WERE NOT RUN for want of {what}: {how_to_get}. REQUIRE_ALL=1 shows what failed."
                reporter.write_line(line, yellow=True, bold=True)
    return result


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresDatabases]:
    """The Postgres server that tests share. Create databases on it, or use `postgres_dsn`."""
    with or_do_without(any_postgres(), "a Postgres") as databases:
        yield databases


@pytest.fixture
def postgres_dsn(postgres_server: PostgresDatabases) -> Iterator[str]:
    """The DSN of an empty database for this test only."""
    dsn = postgres_server.new_database()
    yield dsn
    postgres_server.drop_database(dsn)


@pytest.fixture(scope="module")
def module_postgres_dsn(postgres_server: PostgresDatabases) -> Iterator[str]:
    """The DSN of an empty database that the tests of one module share."""
    dsn = postgres_server.new_database()
    yield dsn
    postgres_server.drop_database(dsn)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A Postgres server for this test only, which may stop, pause and kill it. It takes most of a second to start."""
    with PostgresServer(durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer(postgres_server: PostgresDatabases) -> Iterator[PgBouncer]:
    """PgBouncer in transaction mode in front of the Postgres server that tests share."""
    with or_do_without(pgbouncer_before(postgres_server.dsn), "a PgBouncer") as bouncer:
        yield bouncer


@pytest.fixture
def pgbouncer_dsn(postgres_dsn: str, pgbouncer: PgBouncer) -> str:
    """The DSN of this test's database through PgBouncer. `postgres_dsn` is the same database without PgBouncer."""
    return pgbouncer.through(postgres_dsn)


@pytest.fixture(scope="session")
def firestore_host() -> Iterator[str]:
    """The `host:port` of the Firestore emulator. FIRESTORE_EMULATOR_HOST is set while the fixture is in use."""
    with or_do_without(any_firestore(), "a Firestore emulator") as host, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRESTORE_EMULATOR_HOST", host)
        yield host


@pytest.fixture
def firestore_target(firestore_host: str) -> FirestoreTarget:
    """A collection of the emulator for this test only."""
    return new_target(firestore_host)
