"""What a replica knows of the objects: the newest version, whatever the order of arrival."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.domain.schedule.definition import Keep
from scheduledjob.kube.reconcile.known_objects import KnownObjects


def body(name: str = "a", uid: str = "u", version: int = 1, **status: Any) -> dict[str, Any]:
    metadata = {"namespace": "n", "name": name, "uid": uid, "resourceVersion": str(version), "generation": 1}
    return {"metadata": metadata, "status": status}


@given(st.permutations(range(1, 8)))
def test_the_newest_version_wins_in_any_order(order: list[int]) -> None:
    objects = KnownObjects()
    for version in order:
        objects.update(body(version=version, engine=f"e{version}"))
    observed = objects.get("u")
    assert observed is not None
    assert (observed.version, observed.engine) == ("7", "e7")
    assert len(objects) == 1


def test_versions_are_compared_as_numbers_or_else_by_arrival() -> None:
    objects = KnownObjects()
    objects.update(body(version=9))
    assert objects.update(body(version=10)).version == "10"
    opaque = body()
    opaque["metadata"]["resourceVersion"] = "opaque"
    assert objects.update(opaque).version == "opaque"


def test_a_new_object_takes_over_the_name_of_a_deleted_one() -> None:
    objects = KnownObjects()
    objects.update(body(uid="old"))
    objects.update(body(uid="new", version=2))
    assert objects.uid_of("n/a") == "new"
    objects.remove(["old", "unknown"])
    assert objects.uid_of("n/a") == "new"
    assert objects.uids() == ["new"]
    objects.remove(["new"])
    assert objects.uid_of("n/a") is None
    assert len(objects) == 0


def test_followers_are_found_by_the_schedule_that_they_follow() -> None:
    objects = KnownObjects()
    for name in ("b", "c"):
        objects.update(body(name, uid=name))
        objects.set_reconciled(name, f"n/{name}", (1, ""), ["n/a", "n/x"], valid=True)
    assert objects.followers("n/a") == ["n/b", "n/c"]
    objects.set_reconciled("b", "n/b", (2, ""), ["n/x"], valid=True)
    assert objects.followers("n/a") == ["n/c"]
    objects.remove(["c"])
    assert objects.followers("n/a") == []
    assert objects.followers("n/x") == ["n/b"]


def test_the_reconciled_version_survives_updates() -> None:
    objects = KnownObjects()
    objects.update(body())
    objects.set_reconciled("u", "n/a", (1, "asked"), [], valid=True)
    assert objects.update(body(version=2)).reconciled == (1, "asked")
    assert objects.update(body(uid="other", version=3)).reconciled == (0, "")


def test_an_object_keeps_the_history_that_it_had_when_it_was_last_valid() -> None:
    objects = KnownObjects()
    objects.update(body())
    assert objects.keep_of("n/a", "u") is None
    objects.set_reconciled("u", "n/a", (1, ""), [], valid=True, keep=Keep(1))
    objects.set_reconciled("u", "n/a", (2, ""), [], valid=False)
    objects.update(body(version=2))
    assert objects.keep_of("n/a", "u") == Keep(1)
    assert objects.keep_of("n/b", "u") is None
    assert objects.keep_of("n/a", "other") is None
    objects.set_reconciled("u", "n/a", (3, ""), [], valid=True, keep=Keep(2))
    assert objects.keep_of("n/a", "u") == Keep(2)


def test_invalid_and_overdue_objects_are_counted() -> None:
    objects = KnownObjects()
    for name in ("a", "b", "c"):
        since = {"type": "Overdue", "status": "True" if name == "b" else "False", "lastTransitionTime": "t"}
        objects.update(body(name, uid=name, conditions=[since]))
        objects.set_reconciled(name, f"n/{name}", (1, ""), [], valid=name != "a")
    assert (objects.invalid, objects.overdue) == (1, 1)
    assert objects.is_invalid("n/a")
    objects.remove(["a", "b"])
    assert (objects.invalid, objects.overdue) == (0, 0)
    objects.set_reconciled("c", "n/c", (2, ""), [], valid=False)
    objects.set_reconciled("c", "n/c", (3, ""), [], valid=True)
    assert objects.invalid == 0


def test_a_circle_is_closed_by_the_last_of_its_objects_until_another_follows_nothing() -> None:
    objects = KnownObjects()
    assert objects.circle("ns/a", ["ns/b"]) == []
    assert objects.circle("ns/b", ["ns/a"]) == ["ns/b", "ns/a", "ns/b"]
    assert objects.circle("ns/a", []) == []
    assert objects.circle("ns/b", ["ns/a"]) == []
