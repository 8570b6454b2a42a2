"""Triggers and exclusions that are valid, and whose search for slots costs too much."""

from __future__ import annotations

_ZONES = (
    "UTC",
    "Europe/Lisbon",
    "America/New_York",
    "Asia/Tokyo",
    "Asia/Kolkata",
    "Europe/Moscow",
    "Asia/Tehran",
    "Asia/Seoul",
    "Africa/Cairo",
)
TRIGGERS = [{"cron": f"* * * {day + 1}-31 * ?", "timeZone": _ZONES[day % 9]} for day in range(16)]
EXCLUDE = [{"cron": f"* * * {day % 28 + 1} * ?", "timeZone": _ZONES[day % 9]} for day in range(64)]
