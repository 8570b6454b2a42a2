"""Resolves references without a cluster, to Secrets and ConfigMaps in the manifest files.

As in a cluster, a job can refer only to values in its own namespace. One replica runs jobs of many namespaces, so a
definition refers to a Secret or ConfigMap as ``namespace/name``. The values stay in memory and never appear in a
message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .sources import qualified

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .models import ConfigMap, Secret


class ManifestReferences:
    """``References`` to the Secrets and ConfigMaps of some manifests, in all namespaces."""

    def __init__(
        self, secrets: Mapping[tuple[str, str], Secret], config_maps: Mapping[tuple[str, str], ConfigMap]
    ) -> None:
        """Both by (namespace, name), as ``Loaded`` has them."""
        self._values: dict[tuple[str, str], dict[str, bytes]] = {}
        self.replace(secrets, config_maps)

    def replace(
        self, secrets: Mapping[tuple[str, str], Secret], config_maps: Mapping[tuple[str, str], ConfigMap]
    ) -> None:
        """Replace all values. The next attempt uses the new ones."""
        self._values = {("Secret", qualified(*key)): secret.values for key, secret in secrets.items()}
        self._values |= {("ConfigMap", qualified(*key)): config_map.values for key, config_map in config_maps.items()}

    async def resolve(self, kind: str, name: str, key: str) -> bytes:
        """Return the value of ``key`` in the ``kind`` called ``namespace/name``, or raise ``LookupError``."""
        values = self._values.get((kind, name))
        namespace, _, bare = name.rpartition("/")
        if values is None:
            raise LookupError(
                f'there is no {kind} "{bare}" in namespace "{namespace}" for key "{key}": add it to the manifest files'
            )
        if key not in values:
            there = ", ".join(sorted(values)) or "none"
            raise LookupError(f'{kind} "{bare}" in namespace "{namespace}" has no key "{key}": its keys are {there}')
        return values[key]
