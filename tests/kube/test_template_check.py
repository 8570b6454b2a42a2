"""Pod templates are checked by the API server, without harm to others if it does not answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from scheduledjob.jobs.container.pod_spec import PodSettings
from scheduledjob.kube.client.api_errors import ApiError, ApiUnavailable, Forbidden, Invalid
from scheduledjob.kube.pods import template_check
from scheduledjob.kube.pods.template_check import TemplateCheck
from scheduledjob.kube.reconcile.desired_state import ObjectRules, read_object
from tests.support.objects import object_with_template

POLICY = Invalid(422, "Invalid", "denied by a policy", {"causes": [{"message": "denied"}]})
FIELD = Invalid(422, "Invalid", "bad operator", {"causes": [{"field": "spec.tolerations[0].operator"}]})


class Answers:
    """Stands in for the client: answers each request with an error, or not at all."""

    def __init__(self, error: ApiError | None = None, *, hangs: bool = False) -> None:
        self.paths: list[str] = []
        self._error = error
        self._hangs = hangs

    async def post(self, path: str, body: object, params: dict[str, str], *, attempts: int) -> None:
        self.paths.append(path)
        assert params == {"fieldValidation": "Strict", "dryRun": "All"}
        if self._hangs:
            await asyncio.Event().wait()
        if self._error is not None:
            raise self._error


def an_object(namespace: str = "team-a", **spec: Any) -> dict[str, Any]:
    return object_with_template(namespace, {"nodeSelector": {"disk": "ssd"}}, **spec)


async def problem(check: TemplateCheck, body: dict[str, Any]) -> str:
    return await check(read_object(body, ObjectRules()), body)


def checking(answers: Answers) -> TemplateCheck:
    return TemplateCheck(answers, PodSettings())  # type: ignore[arg-type]  # it needs only this method of the client


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (None, ""),
        (FIELD, "spec.execution.pod: bad operator"),
        (POLICY, ""),
        (Forbidden(403, "Forbidden", "exceeded quota"), ""),
    ],
)
async def test_only_what_an_edit_can_change_makes_an_object_invalid(error: ApiError | None, words: str) -> None:
    assert await problem(checking(Answers(error)), an_object()) == words


async def test_a_job_without_a_template_is_not_checked() -> None:
    answers = Answers(FIELD)
    for body in (an_object(execution={"mode": "Pod"}), an_object(job={"curl": {"url": "https://a"}}, execution={})):
        assert await problem(checking(answers), body) == ""
    assert answers.paths == []


@pytest.mark.parametrize("answers", [Answers(ApiUnavailable(500, "", "failed calling webhook")), Answers(hangs=True)])
async def test_a_namespace_whose_webhook_fails_delays_no_other(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_check, "SECONDS", 0.01)
    check = checking(answers)
    assert await problem(check, an_object()) == ""
    assert await problem(check, an_object()) == ""
    assert len(answers.paths) == 1
    await problem(check, an_object("team-b"))
    assert answers.paths[1:] == ["/api/v1/namespaces/team-b/pods"]
