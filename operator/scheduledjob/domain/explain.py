"""Words."""

from scheduledjob.domain.cron_parse import CronFields


def explain(fields: CronFields, time_zone: str) -> str:
    return ""
