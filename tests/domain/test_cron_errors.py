"""Errors of cron expressions name the field, the value and what is allowed."""

from __future__ import annotations

import pytest

from scheduledjob.domain.triggers.cron import Cron, CronError

WRONG = [
    # expression, what the message names
    ("", ["0 fields", "5 (minute", "6 (second", "7 (year"]),
    ("* * * *", ["4 fields", "allowed are 5"]),
    ("* * * * * * * *", ["8 fields"]),
    ("60 * * * *", ["minute '60'", "60 is out of range", "0 to 59"]),
    ("* 24 * * *", ["hour '24'", "0 to 23"]),
    ("0 0 0 * *", ["day-of-month '0'", "1 to 31"]),
    ("0 0 32 * *", ["day-of-month '32'", "1 to 31", "LW"]),
    ("0 0 * 13 *", ["month '13'", "1 to 12", "JAN to DEC"]),
    ("0 0 * 0 *", ["month '0'", "1 to 12"]),
    ("0 0 * " + "9" * 40 + " *", ["month '" + "9" * 40 + "'"]),
    ("0 0 * " + "9" * 41 + " *", ["month '" + "9" * 40 + "…'"]),
    ("0 0 * foo *", ["month 'foo'", "'FOO' is not a value", "JAN to DEC"]),
    ("0 0 * * 8", ["day-of-week '8'", "0 to 7 (Sunday is 0 and 7)"]),
    ("0 0 * * FUNDAY", ["day-of-week 'FUNDAY'", "SUN to SAT"]),
    ("0 0 * * MONDAY-FRI", ["day-of-week 'MONDAY-FRI'", "'MONDAY'"]),
    ("61 * * * * ?", ["second '61'", "0 to 59"]),
    ("0 0 0 1 1 ? 1969", ["year '1969'", "1970 to 2099"]),
    ("0 0 0 1 1 ? 2100", ["year '2100'", "1970 to 2099"]),
    ("0 0 0 1 1 ? 2030-2027", ["year '2030-2027'", "write 2027-2030"]),
    ("0 0 0 1 1 ? H", ["year 'H'", "1970 to 2099"]),
    ("*/0 * * * *", ["minute '*/0'", "the step", "1 or more"]),
    ("*/x * * * *", ["minute '*/x'", "the step"]),
    ("*/ * * * *", ["minute '*/'", "the step"]),
    ("*/1/2 * * * *", ["minute '*/1/2'", "the step"]),
    ("1,,2 * * * *", ["minute ''", "empty value"]),
    ("1- * * * *", ["minute '1-'", "a value is missing"]),
    ("-5 * * * *", ["minute '-5'", "a value is missing"]),
    ("1-2-3 * * * *", ["minute '1-2-3'", "'2-3' is not a value"]),
    ("1.5 * * * *", ["minute '1.5'", "'1.5' is not a value"]),
    ("+5 * * * *", ["minute '+5'"]),
    ("? * * * *", ["minute '?'", "day fields only"]),
    ("0 0 0 ? ? *", ["month '?'", "day fields only"]),
    ("0 0 0 ? * ?", ["day-of-week '?'", "both day fields", "write * in one"]),
    ("0 0 0 1 * MON", ["day-of-week 'MON'", "day-of-month is set too (1)", "write ? or *"]),
    ("0 0 0 L * 5L 2027", ["day-of-week '5L'", "day-of-month is set too (L)"]),
    ("0 0 * * L", ["day-of-week 'L'", "write 6 for Saturday", "FRIL"]),
    ("0 0 * * 5#0", ["day-of-week '5#0'", "n#1 to n#5"]),
    ("0 0 * * 5#6", ["day-of-week '5#6'", "n#1 to n#5"]),
    ("0 0 * * 8#1", ["day-of-week '8#1'", "8 is out of range"]),
    ("0 0 * * 1-5#2", ["day-of-week '1-5#2'"]),
    ("0 0 32W * *", ["day-of-month '32W'", "32 is out of range"]),
    ("0 0 1-5W * *", ["day-of-month '1-5W'"]),
    ("0 0 W * *", ["day-of-month 'W'", "nW"]),
    ("0 0 L-31 * *", ["day-of-month 'L-31'", "L-1 to L-30"]),
    ("0 0 5L * *", ["day-of-month '5L'"]),
    ("0 L * * *", ["hour 'L'"]),
    ("0 0 * * 15W", ["day-of-week '15W'"]),
    ("H(5) * * * *", ["minute 'H(5)'", "H(a-b)"]),
    ("H(30-10) * * * *", ["minute 'H(30-10)'", "write H(10-30)"]),
    ("H(0-60) * * * *", ["minute 'H(0-60)'", "60 is out of range"]),
    ("HX * * * *", ["minute 'HX'", "H/n"]),
    ("H/0 * * * *", ["minute 'H/0'", "the step"]),
    ("TZ=Europe/Lisbon 0 9 * * *", ["contains a time zone (TZ=Europe/Lisbon)", "write it beside the expression"]),
    ("CRON_TZ=UTC 0 9 * * *", ["contains a time zone (CRON_TZ=UTC)"]),
    ("5m", ["'5m' has 1 field;"]),
    ("@reboot", ["'@reboot' is unknown", "@yearly", "@every 30s"]),
    ("@daily 5", ["'@daily 5' is unknown"]),
    ("@every", ["@every", "one duration"]),
    ("@every 30", ["@every", "'30' has no unit", "30s"]),
    ("@every 0s", ["@every '0s'", "1s or longer"]),
    ("@every 5m 3s", ["@every", "one duration"]),
    ("0 0 31 2 *", ["day-of-month and month", "can never fire", "no such day"]),
    ("0 0 30 2 *", ["can never fire"]),
    ("0 0 31 4,6,9,11 *", ["can never fire"]),
    ("0 0 31W 2 *", ["can never fire"]),
    ("0 0 L-30 4 *", ["can never fire"]),
    ("0 0 0 29 2 ? 2027", ["day-of-month, month and year", "can never fire"]),
    ("0 0 0 ? 2 MON#5 2027", ["can never fire"]),
    ("０ * * * *", ["characters that cron does not know", "ASCII"]),
    ("٣ * * * *", ["ASCII"]),
    ("99999999999999999999 * * * *", ["minute '99999999999999999999'"]),
    ("* * * * * " + "0," * 2000, ["4010 characters", "1024"]),
]


@pytest.mark.parametrize(("expression", "named"), WRONG)
def test_an_error_names_field_value_and_what_is_allowed(expression: str, named: list[str]) -> None:
    with pytest.raises(CronError) as raised:
        Cron(expression)
    message = str(raised.value)
    assert len(message) < 300
    for part in [*named, "write" if "write" in message else "allowed"]:
        assert part in message


@pytest.mark.parametrize(
    ("zone", "named"),
    [
        ("Nowhere/Land", ["time zone 'Nowhere/Land' is unknown", "IANA", "Europe/Lisbon"]),
        ("europe/lisbon", ["did you mean Europe/Lisbon?"]),
        ("America/New York", ["did you mean America/New_York?"]),
        ("", ["time zone '' is unknown"]),
        ("../../etc/passwd", ["is unknown"]),
        ("/etc/localtime", ["is unknown"]),
        ("America", ["time zone 'America' is unknown"]),
        ("right/UTC", ["is unknown"]),
        ("localtime", ["is unknown"]),
        ("a\0b", ["is unknown"]),
        ("X" * 5000, ["is unknown"]),
    ],
)
def test_an_unknown_zone_is_refused(zone: str, named: list[str]) -> None:
    with pytest.raises(CronError) as raised:
        Cron("* * * * *", zone)
    assert len(str(raised.value)) < 200
    for part in named:
        assert part in str(raised.value)


@pytest.mark.parametrize(
    "expression", ["0 0 29 2 *", "0 0 29 2 */7", "0 0 31W 1-3 *", "0 0 0 29 2 ? 2028", "*/90 * * * *"]
)
def test_every_expression_that_fires_is_allowed(expression: str) -> None:
    assert Cron(expression).explain()


def test_cron_errors_are_value_errors() -> None:
    assert issubclass(CronError, ValueError)
