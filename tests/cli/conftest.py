"""The command line reads settings from the environment, and a developer's settings must not affect the tests."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_settings_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SJOB_")]:
        monkeypatch.delenv(name)
