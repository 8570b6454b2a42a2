"""Explanations of expressions. A person has checked that each row is correct and good English."""

from __future__ import annotations

import random

import pytest

from scheduledjob.domain.triggers.cron import Cron, CronError
from scheduledjob.domain.triggers.every import Every
from scheduledjob.domain.triggers.following import FollowingTrigger
from scheduledjob.domain.triggers.manual import ManualTrigger
from scheduledjob.domain.triggers.once import AfterTrigger, At
from tests.domain.cron_oracle import random_expression

WORDS = [
    ("* * * * *", "every minute, UTC"),
    ("*/5 * * * *", "every 5 minutes, UTC"),
    ("*/7 * * * *", "every 7 minutes from minute 0 of each hour, UTC"),
    ("0 * * * *", "every hour, UTC"),
    ("15 * * * *", "every hour at minute 15, UTC"),
    ("0 */2 * * *", "every 2 hours, UTC"),
    ("30 */2 * * *", "every 2 hours from 00:30, UTC"),
    ("0 */5 * * *", "every 5 hours from 00:00 to 20:00, UTC"),
    ("0 9-17 * * *", "every hour from 09:00 to 17:00, UTC"),
    ("30 9-17/2 * * MON-FRI", "every 2 hours from 09:30 to 17:30, Monday to Friday, UTC"),
    ("*/15 9-17 * * 1-5", "every 15 minutes, from 09:00 to 17:59, Monday to Friday, UTC"),
    ("0 22-2 * * *", "every hour from 22:00 to 02:00, UTC"),
    ("30 2 * * *", "at 02:30 every day, UTC"),
    ("0 0,12 * * *", "at 00:00 and 12:00 every day, UTC"),
    ("0,30 9 * * *", "at 09:00 and 09:30 every day, UTC"),
    ("5,10,15,20 9,10 * * *", "at minutes 5, 10, 15 and 20, from 09:00 to 09:59 and from 10:00 to 10:59, UTC"),
    ("1-10 3 * * *", "every minute from minute 1 to 10 of each hour, from 03:00 to 03:59, UTC"),
    ("0 0 1 * *", "at 00:00 on the 1st of the month, UTC"),
    ("0 0 1,15 * *", "at 00:00 on the 1st and the 15th of the month, UTC"),
    ("0 0 1-7 * *", "at 00:00 on the 1st to the 7th of the month, UTC"),
    ("0 0 */2 * *", "at 00:00 on every 2nd day from the 1st to the 31st of the month, UTC"),
    ("0 0 */2 * FRI", "at 00:00 on every 2nd day from the 1st to the 31st of the month, but only on Friday, UTC"),
    ("0 0 13 * 5", "at 00:00 on the 13th of the month or on Friday, UTC"),
    ("0 0 L * *", "at 00:00 on the last day of the month, UTC"),
    ("0 0 L-3 * *", "at 00:00 on the 3rd day before the last day of the month, UTC"),
    ("0 0 LW * *", "at 00:00 on the last weekday of the month, UTC"),
    ("0 0 15W * *", "at 00:00 on the weekday nearest to the 15th of the month, UTC"),
    ("0 0 1,L * *", "at 00:00 on the 1st and the last day of the month, UTC"),
    ("0 0 * * 5L", "at 00:00 on the last Friday of the month, UTC"),
    ("0 0 * * FRI#2", "at 00:00 on the second Friday of the month, UTC"),
    ("0 0 * * MON#1,FRIL", "at 00:00 on the first Monday and the last Friday of the month, UTC"),
    ("0 0 * * FRI-SUN", "at 00:00, Friday to Sunday, UTC"),
    ("0 0 * * 1/2", "at 00:00 on Monday, Wednesday, Friday and Sunday, UTC"),
    ("0 0 * * 1,3,5", "at 00:00 on Monday, Wednesday and Friday, UTC"),
    ("0 0 * * 7", "at 00:00 on Sunday, UTC"),
    ("0 0 1 1 *", "at 00:00 on the 1st of January, UTC"),
    ("0 0 1 1,7 *", "at 00:00 on the 1st of January and July, UTC"),
    ("0 0 1 */3 *", "at 00:00 on the 1st of January, April, July and October, UTC"),
    ("0 0 * 3 *", "at 00:00 every day in March, UTC"),
    ("0 0 * NOV-FEB *", "at 00:00 every day from November to February, UTC"),
    ("0 0 L 2 *", "at 00:00 on the last day of February, UTC"),
    ("0 0 29 2 *", "at 00:00 on the 29th of February, UTC"),
    ("0 9 * 6-8 MON-FRI", "at 09:00, Monday to Friday, from June to August, UTC"),
    ("0 30 2 * * ?", "at 02:30 every day, UTC"),
    ("15 30 2 * * ?", "at 02:30:15 every day, UTC"),
    ("* * * * * ?", "every second, UTC"),
    ("*/10 * * * * ?", "every 10 seconds, UTC"),
    ("30 * * * * ?", "at second 30 of every minute, UTC"),
    (
        "0,30 */5 8-18 ? * MON-FRI",
        "at seconds 0 and 30, in every 5th minute from 0 to 55, from 08:00 to 18:59, Monday to Friday, UTC",
    ),
    ("*/10 0 * * * ?", "every 10 seconds, in minute 0, UTC"),
    ("* 10-20 * * * ?", "every second, in minutes 10 to 20, UTC"),
    ("0 0 12 ? * MON-FRI 2027", "at 12:00, Monday to Friday, in 2027, UTC"),
    ("0 0 12 1 1 ? 2027-2030", "at 12:00 on the 1st of January, from 2027 to 2030, UTC"),
    ("0 0 12 1 1 ? 2027/2", "at 12:00 on the 1st of January, in every 2nd year from 2027 to 2099, UTC"),
    ("H H * * *", "at 04:19 every day, UTC (H spreads it by the job's name)"),
    ("H/15 * * * *", "every 15 minutes from minute 4 to 49 of each hour, UTC (H spreads it by the job's name)"),
    ("H(0-29) 3 * * *", "at 03:19 every day, UTC (H spreads it by the job's name)"),
    ("*/20 1,2 * * *", "every 20 minutes, from 01:00 to 01:59 and from 02:00 to 02:59, UTC"),
    ("10/20 * * * *", "every 20 minutes from minute 10 to 50 of each hour, UTC"),
    ("45-15/10 * * * *", "every 10 minutes from minute 45 to 15 of each hour, UTC"),
    ("0 0 0 ? * 2#5", "at 00:00 on the fifth Tuesday of the month, UTC"),
    ("0 6/6 * * *", "every 6 hours from 06:00 to 18:00, UTC"),
    ("0 8,10-12 * * *", "at 08:00 and every hour from 10:00 to 12:00, UTC"),
    ("@daily", "at 00:00 every day, UTC"),
    ("@hourly", "every hour, UTC"),
    ("@weekly", "at 00:00 on Sunday, UTC"),
    ("@every 90s", "every 1m30s"),
    ("59/5 * * * *", "every hour at minute 59, UTC"),
    ("*/90 * * * *", "at minute 0 of every hour, UTC"),
    ("0 0 * * 0-7", "at 00:00 on every day of the week, UTC"),
]


@pytest.mark.parametrize(("expression", "words"), WORDS)
def test_expressions_are_explained(expression: str, words: str) -> None:
    assert Cron(expression).explain() == words


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("0 0 * * 0,7", "at 00:00 on Sunday, UTC"),
        ("0 0 1,1 * *", "at 00:00 on the 1st of the month, UTC"),
        ("0 0 * * 7,SUN,0,1", "at 00:00 on Sunday and Monday, UTC"),
        ("0 0 * * 5-7,0", "at 00:00, Friday to Sunday, UTC"),
        ("0 0 1-5,3 * *", "at 00:00 on the 1st to the 5th of the month, UTC"),
        ("0 0 L,3,1-5 * *", "at 00:00 on the last day and the 1st to the 5th of the month, UTC"),
        ("0 9-17,12 * 1-3,FEB *", "every hour from 09:00 to 17:00, every day from January to March, UTC"),
        ("*/15,30 * * * *", "every 15 minutes, UTC"),
        ("0 0 * * MON,1#1,1#1", "at 00:00 on Monday and the first Monday of the month, UTC"),
    ],
)
def test_a_value_that_is_given_twice_is_named_once(expression: str, words: str) -> None:
    assert Cron(expression).explain() == words


def test_the_zone_is_named() -> None:
    assert Cron("0 30 2 * * ?", "Europe/Lisbon").explain() == "at 02:30 every day, Europe/Lisbon time"


def test_other_triggers_are_explained() -> None:
    assert Every(5400).explain() == "every 1h30m"
    assert Every(30).bind(0).explain() == "every 30s, counted from 1970-01-01T00:00:00Z"
    assert At("2026-12-01T10:00:00+01:00").explain() == "once, at 2026-12-01T09:00:00Z"
    assert AfterTrigger(300_000_000).long("") == "once, 5m after the object is created"
    assert FollowingTrigger("extract").long("") == "when a run of extract succeeds"
    assert FollowingTrigger("extract", "Failed").long("") == "when a run of extract fails"
    assert ManualTrigger().long("") == "by hand, when somebody starts a run"


def test_every_expression_is_explained() -> None:
    pick = random.Random(7)
    for number in range(2000):
        expression = random_expression(pick, seconds=number % 2 == 0)
        try:
            words = Cron(expression, "Asia/Tokyo").explain()
        except CronError:
            continue
        assert words.endswith("Asia/Tokyo time"), expression
        assert "  " not in words, expression
        assert ", ," not in words, expression
        assert not words.startswith((",", " ")), expression
