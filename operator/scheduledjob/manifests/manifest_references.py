"""Secrets and ConfigMaps beside the jobs: where references lead without a cluster.

A file with Secret and ConfigMap documents serves the jobs of the same namespace, as the API server does in a cluster.
One replica runs jobs of many namespaces, so a definition names what it refers to as ``namespace/name``, and a job
can't reach another namespace's values. They stay in memory, and no message has one in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .models import ConfigMap, Secret


def qualified(namespace: str, name: str) -> str:
    """The name of a Secret or ConfigMap as a definition has it."""
    return f"{namespace}/{name}"


class ManifestReferences:
    """``References`` to the documents of some manifests, of all namespaces."""

    def __init__(
        self, secrets: Mapping[tuple[str, str], Secret], config_maps: Mapping[tuple[str, str], ConfigMap]
    ) -> None:
        """Both by (namespace, name), as ``Loaded`` has them."""
        self._values: dict[tuple[str, str], dict[str, bytes]] = {}
        self.replace(secrets, config_maps)

    def replace(
        self, secrets: Mapping[tuple[str, str], Secret], config_maps: Mapping[tuple[str, str], ConfigMap]
    ) -> None:
        """From the next attempt on these count, and nothing that was there before."""
        self._values = {("Secret", qualified(*key)): secret.values for key, secret in secrets.items()}
        self._values |= {("ConfigMap", qualified(*key)): config_map.values for key, config_map in config_maps.items()}

    async def resolve(self, kind: str, name: str, key: str) -> bytes:
        """The value of ``key`` in the ``kind`` called ``namespace/name``; ``LookupError`` says what is missing."""
        values = self._values.get((kind, name))
        namespace, _, bare = name.rpartition("/")
        if values is None:
            raise LookupError(
                f'there is no {kind} "{bare}" in namespace "{namespace}" for key "{key}": '
                "put its document beside the job's"
            )
        if key not in values:
            there = ", ".join(sorted(values)) or "none"
            raise LookupError(f'{kind} "{bare}" in namespace "{namespace}" has no key "{key}": its keys are {there}')
        return values[key]
