"""The command line ``scheduledjob``: its commands, their options, and their exit codes.

The work of each command is in a separate module, which is imported when the command is called. So ``next`` does not
load the HTTP client of ``run``. Every failure is handled here: one line on standard error, and exit code 2 for wrong
arguments or a wrong manifest, 1 for everything else.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Optional

import typer
from typer.exceptions import TyperException

from scheduledjob.cli.shared.command_errors import CommandError, Mask, in_one_line, lone
from scheduledjob.stores import MEMORY_URL

INTERRUPTED = 130
"""The exit code after Ctrl-C. ``run`` and ``operator`` shut down cleanly instead, and return 0."""

app = typer.Typer(
    name="scheduledjob",
    help="A job scheduler that never loses a run.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class Level(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


Files = Annotated[
    list[Path], typer.Option("--file", "-f", help="Manifest file or directory; may be repeated.", metavar="PATH")
]
Store = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="SJOB_STORE",
        show_envvar=True,
        show_default=True,
        metavar="URL",
        help="memory:, postgresql://user@host/database or firestore://project/collection. "
        "A password is better kept in the variable than typed.",
    ),
]
Instance = Annotated[
    str,
    typer.Option("--instance", envvar="SJOB_INSTANCE", metavar="NAME", help="The installation in the store."),
]
Output = Annotated[Format, typer.Option("--output", "-o", help="How to print.")]
LogLevel = Annotated[Level, typer.Option("--log-level", help="Lowest level that is logged to standard error.")]
Moreover = Annotated[
    Optional[list[Path]],  # noqa: UP045  # typer reads the annotation while the program runs
    typer.Argument(metavar="PATH", show_default=False, help="More paths, as a shell wildcard expands to."),
]

OF_FILES = "Manifest file or directory, or - for standard input; may be repeated."
MaybeFiles = Annotated[
    Optional[list[str]],  # noqa: UP045  # as above
    typer.Option("--file", "-f", help=OF_FILES, metavar="PATH", show_default=False),
]
Paths = Annotated[
    Optional[list[str]],  # noqa: UP045  # as above
    typer.Argument(
        metavar="PATH",
        show_default=False,
        help="File or directory, or - for standard input; -f before it is optional.",
    ),
]
Words = Annotated[
    Optional[list[str]],  # noqa: UP045  # as above
    typer.Argument(metavar="EXPR", show_default=False, help="A cron expression in quotes; with -f, more paths."),
]
Zone = Annotated[str, typer.Option("--tz", metavar="ZONE", help="IANA time zone of the expression.")]
From = Annotated[
    Optional[str],  # noqa: UP045  # as above
    typer.Option("--from", metavar="INSTANT", help="Start here, as in 2026-12-01T10:00:00Z."),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from scheduledjob.domain.time.zone_data import ZONE_DATA
        from scheduledjob.version import program_version

        typer.echo(f"scheduledjob {program_version()}\ntime zone data {ZONE_DATA}")
        raise typer.Exit


@app.callback()
def program(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that come before a command."""


@app.command()
def run(
    file: Files,
    more: Moreover = None,
    store: Store = MEMORY_URL,
    watch: Annotated[bool, typer.Option("--watch", help="Reload files when they change.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="First remove the schedules of manifests that are in no file any more.")
    ] = False,
    plugins: Annotated[
        bool, typer.Option("--plugins", help="Load the Python jobs that installed packages provide.")
    ] = False,
    instance: Instance = "local",
    capacity: Annotated[
        int,
        typer.Option(
            "--capacity", min=1, metavar="NUMBER", help="Maximum number of jobs that run or wait here at once."
        ),
    ] = 4096,
    output: Annotated[
        Optional[Format],  # noqa: UP045  # typer reads the annotation while the program runs
        typer.Option(
            "--output", "-o", help="Output format; default: a live table on a terminal, JSON lines elsewhere."
        ),
    ] = None,
    log_level: LogLevel = Level.INFO,
) -> None:
    """Run the jobs of manifests until Ctrl-C or SIGTERM.

    Each run that ends is shown as a row of a live table, or as a line of JSON. Several processes with the same
    manifests and one store share the work.

    After the signal, running jobs get 6 seconds to finish. The process exits after at most 12 seconds, even if the
    store does not answer. A second Ctrl-C stops it immediately.
    """
    from .run import RunOptions, run_manifests

    options = RunOptions(
        paths=[str(path) for path in [*file, *(more or ())]],
        store=store,
        watch=watch,
        prune=prune,
        plugins=plugins,
        instance=instance,
        capacity=capacity,
        output=None if output is None else output.value,
        log_level=log_level.value,
    )
    run_manifests(options)


@app.command("run-one", hidden=True)
def run_one(
    plugins: Annotated[
        bool, typer.Option("--plugins", help="Load the Python jobs that installed packages provide.")
    ] = False,
    message: Annotated[Path, typer.Option("--message", metavar="PATH", help="File that receives the result.")] = Path(
        "/dev/termination-log"
    ),
) -> None:
    """Run the one job that the environment describes, as a Pod of the operator's own image does."""
    from .run_one import run_ordered

    raise typer.Exit(run_ordered(message, plugins=plugins))


@app.command("next")
def next_slots(
    words: Words = None,
    file: MaybeFiles = None,
    time_zone: Zone = "UTC",
    start: From = None,
    count: Annotated[
        int, typer.Option("--count", "-c", min=1, max=100_000, metavar="NUMBER", help="Number of slots.")
    ] = 5,
    seed: Annotated[
        str,
        typer.Option("--seed", metavar="TEXT", help="What H in the expression is hashed from: namespace/name."),
    ] = "",
    output: Output = Format.TABLE,
) -> int:
    """List the next slots of a cron expression, or of the jobs of manifests."""
    from scheduledjob.cli.shared.expressions import only_expression, print_next

    if file:
        from scheduledjob.cli.shared.preview import print_next_of_files

        _without("next", {"--tz": time_zone != "UTC", "--seed": bool(seed)})
        return print_next_of_files([*file, *(words or ())], start, count, output.value)
    print_next(only_expression(words, "next"), time_zone, start, count, seed, output.value)
    return 0


@app.command()
def explain(
    words: Words = None, file: MaybeFiles = None, time_zone: Zone = "UTC", output: Output = Format.TABLE
) -> int:
    """Explain in words when a cron expression fires, or what the jobs of manifests do and when."""
    from scheduledjob.cli.shared.expressions import only_expression, print_explanation

    if file:
        from scheduledjob.cli.shared.preview import print_explanation_of_files

        _without("explain", {"--tz": time_zone != "UTC"})
        return print_explanation_of_files([*file, *(words or ())], output.value)
    print_explanation(only_expression(words, "explain"), time_zone, output.value)
    return 0


@app.command()
def validate(paths: Paths = None, file: MaybeFiles = None, output: Output = Format.TABLE) -> int:
    """Check manifests. The exit code is 2 if anything is wrong."""
    from scheduledjob.cli.shared.validation import print_faults

    return 2 if print_faults(_named("validate", file, paths), output.value) else 0


@app.command()
def simulate(
    paths: Paths = None,
    file: MaybeFiles = None,
    start: From = None,
    end: Annotated[
        Optional[str],  # noqa: UP045  # typer reads the annotation while the program runs
        typer.Option("--to", metavar="INSTANT", help="End here; default: a day after the start."),
    ] = None,
    output: Output = Format.TABLE,
) -> int:
    """Draw how many runs of manifests start in each minute, and list the busiest minutes."""
    from scheduledjob.cli.shared.planned_schedule import schedules_of_files
    from scheduledjob.cli.shared.printing import Form
    from scheduledjob.cli.shared.simulation import simulate

    named = _named("simulate", file, paths)
    return simulate(lambda begin: schedules_of_files(named, None, begin), start, end, Form(output.value))


@app.command()
def convert(
    paths: Annotated[
        Optional[list[str]],  # noqa: UP045  # typer reads the annotation while the program runs
        typer.Argument(
            metavar="PATH",
            show_default=False,
            help="File or directory, or - for standard input; -f before it is optional.",
        ),
    ] = None,
    file: Annotated[
        Optional[list[str]],  # noqa: UP045  # as above
        typer.Option("--file", "-f", metavar="PATH", help="File or directory with CronJobs, or - for standard input."),
    ] = None,
    output: Output = Format.YAML,
) -> int:
    """Convert CronJobs to ScheduledJobs; standard error says what differs or can't be converted."""
    from scheduledjob.cli.shared.convert.convert_command import convert_files
    from scheduledjob.cli.shared.printing import Form

    return convert_files(_named("convert", file, paths), Form(output.value))


def _named(command: str, file: list[str] | None, paths: list[str] | None) -> list[str]:
    """Return the paths that were given, with --file or without. Raises CommandError for none."""
    named = [*(file or ()), *(paths or ())]
    if not named:
        example = f"as in `scheduledjob {command} jobs/`, or - for standard input; --file before a path is optional"
        raise CommandError(f"{command}: name files or directories, {example}", 2)
    return named


def _without(command: str, given: dict[str, bool]) -> None:
    for option, is_given in given.items():
        if is_given:
            raise CommandError(
                f"{command}: {option} applies to an expression only; manifests given with -f have their own", 2
            )


@app.command()
def migrate(
    store: Store,
    finish: Annotated[
        bool,
        typer.Option(
            "--finish", help="Also apply the half that older versions can't run with; refused while one runs."
        ),
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Bring the schema of a store up to this version."""
    from scheduledjob.cli.shared.store_commands import print_migration

    print_migration(store, finish, output.value)


@app.command()
def history(
    store: Store,
    name: Annotated[
        Optional[str],  # noqa: UP045  # typer reads the annotation while the program runs
        typer.Argument(metavar="NAME", help="Name of a job, or the slug of a schedule of the library."),
    ] = None,
    namespace: Annotated[
        Optional[str],  # noqa: UP045  # typer reads the annotation while the program runs
        typer.Option("--namespace", "-n", metavar="NAMESPACE", help="Namespace of the job."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=100_000, metavar="NUMBER", help="Maximum number of runs to list.")
    ] = 50,
    instance: Instance = "local",
    output: Output = Format.TABLE,
) -> None:
    """List ended runs, newest first."""
    from scheduledjob.cli.shared.store_commands import print_history

    print_history(store, instance, name, namespace, limit, output.value)


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def operator(context: typer.Context) -> int:
    """Run the ScheduledJobs of a Kubernetes cluster until SIGTERM or Ctrl-C."""
    # Its options come from the model of the settings, which other commands need not load.
    from .operator_command import command

    code: int | None = command(context.args, prog_name="scheduledjob operator", standalone_mode=False)
    return code or 0


def main() -> None:
    """Run the command that was given, and exit."""
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    try:
        code = app(arguments or ["--help"], prog_name="scheduledjob", standalone_mode=False)
        sys.stdout.flush()
    except typer.Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away: keep Python from reporting that it can't flush at exit.
        sys.stdout = None
        return 1
    except TyperException as error:
        return _failed(error.format_message().replace("\n", " ") + _elsewhere(arguments), 2)
    except CommandError as error:
        return _failed(str(error), error.code)
    except Exception as error:
        return _failed(*_unforeseen(lone(error)))
    return code if isinstance(code, int) else 0


def _elsewhere(arguments: list[str]) -> str:
    """Return a hint if only the kubectl plugin has the command that was given."""
    if not arguments or any(command.name == arguments[0] for command in app.registered_commands):
        return ""
    from typer.main import get_group

    from scheduledjob.cli.kubectl.plugin import PROGRAM
    from scheduledjob.cli.kubectl.plugin import app as plugin

    name = arguments[0]
    return f" For a cluster, use `{PROGRAM} {name}`." if name in get_group(plugin).commands else ""


def _unforeseen(error: BaseException) -> tuple[str, int]:
    """Return the message and the exit code for an error that no command handled."""
    from scheduledjob.engine.store import StoreError

    if isinstance(error, StoreError | OSError | ValueError):
        return in_one_line(error), 1
    if type(error).__module__.startswith("scheduledjob."):
        return in_one_line(error), 1
    return f"internal error: {type(error).__name__}: {in_one_line(error)}", 1


def _failed(message: str, code: int) -> int:
    print(f"scheduledjob: {_masked(message)}", file=sys.stderr)  # noqa: T201  # a command prints
    return code


def _masked(message: str) -> str:
    """Mask the password of a store that was named on the command line or in the environment."""
    import os

    for word in [*sys.argv[1:], os.environ.get("SJOB_STORE", "")]:
        if "://" in word:
            message = Mask(word.removeprefix("--store="))(message)
    return message


if __name__ == "__main__":
    main()
