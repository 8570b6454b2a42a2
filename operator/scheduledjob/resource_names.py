"""The API group, version and kind of the resource. Labels, annotations and paths of the API begin with the group."""

from typing import Final

GROUP: Final = "scheduledjobs.dev"
VERSION: Final = "v1beta1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "ScheduledJob"
