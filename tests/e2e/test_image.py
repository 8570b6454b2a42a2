"""What is in the image, and what is not."""

from __future__ import annotations

import pytest

from image.build import archive, version
from image.scan import scan
from tests.e2e.conftest import AN_IMAGE
from tests.support.absent import do_without

pytestmark = pytest.mark.e2e

LARGEST = 200_000_000


def test_the_image_is_small_and_holds_nothing_that_it_must_not() -> None:
    if not archive().exists():
        do_without(AN_IMAGE, f"there is no {archive()}: make image")
    found = scan(archive())
    assert not any(found.faults.values()), found.faults
    assert found.size < LARGEST
    assert found.user == "65532:65532"
    assert found.labels["org.opencontainers.image.version"] == version()
