"""A server in a container, for machines that only have Docker. The harness tries this last."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.processes import ServerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@contextmanager
def running_container(
    image: str,
    port: int,
    *,
    command: str = "",
    environment: Mapping[str, str],
    ready: str,
    times: int = 1,
    otherwise: str,
) -> Iterator[str]:
    """The `host:port` at which the container's `port` answers, once it has logged the line `ready` so many `times`.

    If Docker can't start it, the error contains `otherwise`, which says what is missing and how to get it.
    """
    try:
        from testcontainers.core.container import DockerContainer
        from testcontainers.core.wait_strategies import LogMessageWaitStrategy

        container = DockerContainer(image).with_exposed_ports(port).with_envs(**environment)
        if command:
            container.with_command(command)
        container.waiting_for(LogMessageWaitStrategy(ready, times=times)).start()
    except Exception as error:  # whatever the Docker client raises, there is no container
        raise ServerUnavailableError(f"{otherwise} (Docker says: {error})") from error
    try:
        yield f"{container.get_container_host_ip()}:{container.get_exposed_port(port)}"
    finally:
        container.stop()
