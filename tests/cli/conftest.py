"""The command line takes settings from the environment; a developer's own must not reach the tests."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_settings_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SJOB_")]:
        monkeypatch.delenv(name)
