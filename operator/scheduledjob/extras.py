"""The optional dependencies of the package, its extras, and what to say where one is not installed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MODULES = {
    "firestore": {"google", "grpc"},
    "kube": {"kopf", "kubernetes", "prometheus_client"},
}
"""What each extra installs, as top-level modules."""


class MissingExtraError(ImportError):
    """An extra is needed that is not installed; the message says what to install."""


@contextmanager
def needs_extra(extra: str, who: str) -> Iterator[None]:
    """Raise MissingExtraError where an import inside of ``with`` fails because `extra` is not installed.

    `who` begins the message, as in ``the operator needs a client for Kubernetes``.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _MODULES[extra]:
            raise
        raise MissingExtraError(f'{who}: pip install "scheduledjob[{extra}]"') from None
