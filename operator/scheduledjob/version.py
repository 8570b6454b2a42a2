"""Which version of the program this is: for the store's migrations, the metrics and whoever asks."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def program_version() -> str:
    """As installed; ``0`` where it is not."""
    try:
        return version("scheduledjob")
    except PackageNotFoundError:
        return "0"
