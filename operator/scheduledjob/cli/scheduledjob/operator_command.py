"""``operator``: its options, its log, and the call of ``scheduledjob.kube``.

The options are generated from the model of the settings, so that a setting is described once. They are passed on as
text: the model parses flags, variables and the file in one notation and reports their errors in the same words.
"""

from __future__ import annotations

import inspect
import os
import sys
from typing import Annotated, Any

import typer

from scheduledjob.cli.shared.command_errors import CommandError, Mask
from scheduledjob.extras import needs_extra
from scheduledjob.kube.settings.operator_settings import Setting, every_setting
from scheduledjob.kube.settings.setting_sources import CONFIG_VARIABLE, SettingsError, read_settings

LOG_BUDGET = 256 * 1024
"""Bytes that one namespace may cause to be logged in a minute."""


def operator(**typed: Any) -> None:
    """Run the ScheduledJobs of a Kubernetes cluster until SIGTERM or Ctrl-C.

    Each option is also a variable (--pod-capacity: SJOB_POD_CAPACITY) and a key of the file that --config names
    (podCapacity). Options win over variables, variables over the file.
    """
    flags = {name: _texts(value) for name, value in typed.items() if value not in (None, [])}
    try:
        settings = read_settings(flags, os.environ)
    except SettingsError as error:
        raise CommandError(str(error), 2) from None
    with needs_extra("kube", "the operator needs kopf, kubernetes and prometheus-client"):
        from scheduledjob.kube.operator import run_operator
    import structlog

    from scheduledjob.cli.shared import command_log

    log = structlog.get_logger("scheduledjob.operator")
    budget = command_log.LogBudget(LOG_BUDGET)
    command_log.configure(settings.log_level, _say, Mask(settings.store), form=settings.log_format, budget=budget)
    command_log.take_standard(settings.log_level)
    log.info("settings", **settings.shown())
    for warning in settings.warnings():
        log.warning(warning)
    try:
        code = run_operator(settings)
    except Exception:
        log.exception("the operator ended with an unexpected error")
        code = 1
    raise typer.Exit(code)


def _texts(value: Any) -> list[str]:
    if isinstance(value, bool):
        return ["true" if value else "false"]
    return list(value) if isinstance(value, list) else [value]


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _option(setting: Setting) -> Any:
    """Return the annotation of one option, whose value is None if it is not given."""
    words = f"{setting.description} Default: {setting.default_text.replace('`', '')}."
    if setting.type.switch:
        return Annotated[bool | None, typer.Option(f"{setting.flag}/--no-{setting.flag[2:]}", help=words)]
    option = typer.Option(setting.flag, metavar=setting.type.metavar, help=words)
    return Annotated[list[str] | None, option] if setting.type.many else Annotated[str | None, option]


def _parameters() -> list[inspect.Parameter]:
    file = typer.Option("--config", metavar="FILE", help=f"A YAML file of settings. Also {CONFIG_VARIABLE}.")
    options = {"config": Annotated[str | None, file]} | {setting.name: _option(setting) for setting in every_setting()}
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in options.items()
    ]


# typer reads these in place of the function's own signature.
operator.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]  # functions may carry one
operator.__annotations__ = {parameter.name: parameter.annotation for parameter in _parameters()}

command = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
command.command()(operator)
