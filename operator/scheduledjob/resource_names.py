"""The names of the resource in the API. Labels and annotations begin with the group."""

from typing import Final

GROUP: Final = "scheduledjobs.dev"
VERSION: Final = "v1beta1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "ScheduledJob"
PLURAL: Final = "scheduledjobs"
RESOURCE: Final = f"{PLURAL}.{GROUP}"
"""The full name of the resource, which is also the name of its CustomResourceDefinition."""
