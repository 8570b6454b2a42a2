"""Shell and HTTP jobs of the library, in which the payload says what to run.

``ShellJob()`` runs its payload as a command, ``CurlJob()`` requests the URL that is its payload. Both are descriptions;
``executor()`` makes the executor that a scheduler starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from scheduledjob.engine.executor import Attempt, Executor, Result, Value
from scheduledjob.jobs.curl.curl_executor import CurlExecutor
from scheduledjob.jobs.curl.curl_spec import CurlSpec
from scheduledjob.jobs.shell.shell_executor import ShellExecutor
from scheduledjob.jobs.shell.shell_spec import ShellSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class ShellJob:
    """Runs the payload as a shell command."""

    kind: ClassVar[str] = "shell"

    def __init__(self, shell: str = "/bin/sh") -> None:
        if not isinstance(shell, str) or not shell:
            raise ValueError(f'shell {shell!r:.60} is not allowed: give the path of a program, as in "/bin/sh"')
        self._shell = shell

    def executor(self) -> Executor:
        return _ByPayload(ShellExecutor(), lambda command: ShellSpec(command, self._shell), "a shell command")


class CurlJob:
    """Requests the URL that is the payload."""

    kind: ClassVar[str] = "curl"

    def __init__(self, method: str = "GET", headers: Mapping[str, str] | None = None) -> None:
        if not isinstance(method, str) or not method.isascii() or not method.replace("-", "").isalpha():
            raise ValueError(f'method {method!r:.60} is not allowed: give an HTTP method, as in "POST"')
        if headers is not None and not isinstance(headers, Mapping):
            raise TypeError(f'headers are {type(headers).__name__}: give a mapping, as in {{"Accept": "text/plain"}}')
        for name, value in (headers or {}).items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(
                    f"header {name!r:.60}: {value!r:.60} is not allowed: give text for the name and the value"
                )
        self._method = method
        self._headers = {name: Value(value) for name, value in (headers or {}).items()}

    def executor(self) -> Executor:
        return _ByPayload(CurlExecutor(), lambda url: CurlSpec(url, self._method, dict(self._headers)), "a URL")


class _ByPayload:
    """An executor that makes the params of each attempt from its payload, and runs it with another executor."""

    def __init__(self, executor: Executor, spec: Callable[[str], Any], what: str) -> None:
        self._executor = executor
        self._spec = spec
        self._what = what

    async def start(self) -> None:
        await self._executor.start()

    async def stop(self) -> None:
        await self._executor.stop()

    def extend(self, run_ids: Sequence[str], deadline: float) -> None:
        self._executor.extend(run_ids, deadline)

    async def run(self, attempt: Attempt) -> Result:
        try:
            text = (attempt.payload or b"").decode()
        except UnicodeDecodeError:
            return Result(False, f"the payload is not UTF-8: make it {self._what}")
        if not text.strip():
            return Result(False, f"the payload is empty: make it {self._what}")
        attempt.params, attempt.payload = self._spec(text), None
        return await self._executor.run(attempt)
