"""The plugin's command line ``kubectl scheduledjob``: its commands, their options, and their exit codes.

As for ``scheduledjob``, the work of each command is in a separate module that is imported when the command is called,
and every failure is handled here, with one line on standard error. Exit codes: 0 success; 1 failure; 2 wrong arguments
or a wrong manifest; 3 ``trigger --wait``: the run did not succeed; 4 ``trigger --wait``: the run did not end in time;
130 Ctrl-C.
"""

from __future__ import annotations

import sys
from typing import Annotated, Optional

import typer
from typer.exceptions import TyperException

from scheduledjob.cli.shared.command_errors import CommandError, Mask, in_one_line, lone
from scheduledjob.cli.shared.printing import RED, Form, coloured, say

from .cluster_access import Where

PROGRAM = "kubectl scheduledjob"
INTERRUPTED = 130
HELP = ("-h", "--help")

app = typer.Typer(
    name=PROGRAM,
    help="See and steer the ScheduledJobs of a cluster. It needs nothing but the API server.",
    epilog="Exit codes: 0 success; 1 failure; 2 wrong arguments or manifests; 3 trigger --wait: the run did "
    "not succeed; 4 trigger --wait: it did not end in time; 130 Ctrl-C.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": list(HELP)},
)

Text = Optional[str]  # noqa: UP045  # typer reads the annotation while the program runs
Texts = Optional[list[str]]  # noqa: UP045  # as above
Seconds = Optional[float]  # noqa: UP045  # as above
Count = Optional[int]  # noqa: UP045  # as above

OF_FILES = "Manifest file or directory, or - for standard input; may be repeated."

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the ScheduledJob.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME", help="Names of ScheduledJobs.")]
MaybeName = Annotated[Text, typer.Argument(metavar="NAME", help="Name of a ScheduledJob; default: all.")]
Namespace = Annotated[
    Text, typer.Option("--namespace", "-n", metavar="NAMESPACE", help="Namespace; default: the context's.")
]
Everywhere = Annotated[bool, typer.Option("--all-namespaces", "-A", help="In all namespaces.")]
Selector = Annotated[
    Text,
    typer.Option("--selector", "-l", metavar="LABELS", help="Only with these labels, as in team=a,tier!=b."),
]
Output = Annotated[Form, typer.Option("--output", "-o", help="Output format.")]
Context = Annotated[Text, typer.Option("--context", metavar="NAME", help="Context of the kubeconfig.")]
Kubeconfig = Annotated[Text, typer.Option("--kubeconfig", metavar="PATH", help="The kubeconfig to use.")]
Files = Annotated[Texts, typer.Option("--file", "-f", help=OF_FILES, metavar="PATH")]
MorePaths = Annotated[
    Texts, typer.Argument(metavar="PATH", show_default=False, help="More paths, as a shell wildcard expands to.")
]
From = Annotated[Text, typer.Option("--from", metavar="INSTANT", help="Start here, as in 2026-12-01T10:00:00Z.")]
Instance = Annotated[
    Text,
    typer.Option("--instance", metavar="NAME", help='With --store: the operator\'s installation; default: "local".'),
]
Limit = Annotated[
    int, typer.Option("--limit", min=1, max=100_000, metavar="NUMBER", help="Maximum number of runs to list.")
]


@app.command("list")
def list_jobs(
    namespace: Namespace = None,
    everywhere: Everywhere = False,
    selector: Selector = None,
    output: Output = Form.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List ScheduledJobs with schedule, last outcome and next run."""
    from .listing import print_list

    print_list(Where(namespace, everywhere, selector, context, kubeconfig), output)


@app.command("next")
def next_slots(
    name: MaybeName = None,
    start: From = None,
    count: Annotated[
        int, typer.Option("--count", "-c", min=1, max=100_000, metavar="NUMBER", help="Number of slots.")
    ] = 10,
    namespace: Namespace = None,
    everywhere: Everywhere = False,
    selector: Selector = None,
    output: Output = Form.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List the next slots of one ScheduledJob, or of all, in order. Needs no operator."""
    from .upcoming import print_next

    print_next(Where(namespace, everywhere, selector, context, kubeconfig), name, start, count, output)


@app.command()
def describe(
    name: Name,
    namespace: Namespace = None,
    output: Output = Form.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show everything about one ScheduledJob: schedule, conditions, runs, Events."""
    from .describing import print_description

    print_description(Where(namespace, context=context, kubeconfig=kubeconfig), name, output)


@app.command()
def explain(
    name: Annotated[
        str, typer.Argument(metavar="NAME|EXPR", help="Name of a ScheduledJob, or a cron expression in quotes.")
    ],
    time_zone: Annotated[str, typer.Option("--tz", metavar="ZONE", help="IANA time zone of an expression.")] = "UTC",
    namespace: Namespace = None,
    output: Output = Form.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Explain in words when a ScheduledJob runs, and what happens when runs overlap, are late or fail."""
    from .upcoming import print_explanation

    print_explanation(Where(namespace, context=context, kubeconfig=kubeconfig), name, time_zone, output)


@app.command()
def trigger(
    name: Name,
    payload: Annotated[
        Text, typer.Option("--payload", metavar="TEXT", help="Payload of this run instead of the spec's.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Follow the run to its end and print its output.")] = False,
    timeout: Annotated[
        Seconds, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="With --wait: longest time to wait.")
    ] = None,
    namespace: Namespace = None,
    output: Output = Form.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> int:
    """Run a ScheduledJob now, in addition to its schedule."""
    from .waiting import trigger

    if timeout is not None and not wait:
        raise CommandError("--timeout needs --wait", 2)
    where = Where(namespace, context=context, kubeconfig=kubeconfig)
    return trigger(where, name, payload, output, wait=wait, seconds=timeout)


@app.command()
def suspend(
    names: Names,
    namespace: Namespace = None,
    output: Output = Form.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Stop starting new slots. Active runs finish, and trigger still works."""
    from .steering import suspend

    suspend(Where(namespace, context=context, kubeconfig=kubeconfig), names, output)


@app.command()
def resume(
    names: Names,
    namespace: Namespace = None,
    output: Output = Form.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Start slots again after suspend or an automatic pause. Slots missed meanwhile do not run."""
    from .steering import resume

    resume(Where(namespace, context=context, kubeconfig=kubeconfig), names, output)


@app.command()
def cancel(
    name: Name,
    run: Annotated[
        Text, typer.Argument(metavar="RUN", help="Id of the run, as shown by describe and history -o wide.")
    ] = None,
    namespace: Namespace = None,
    output: Output = Form.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Cancel the active run, or the named one of several."""
    from .steering import cancel

    cancel(Where(namespace, context=context, kubeconfig=kubeconfig), name, run, output)


@app.command()
def history(
    name: MaybeName = None,
    limit: Limit = 50,
    store: Annotated[
        Text,
        typer.Option(
            "--store",
            metavar="URL",
            help="Read everything that the operator's store keeps instead of the newest ten runs in status.",
        ),
    ] = None,
    instance: Instance = None,
    namespace: Namespace = None,
    everywhere: Everywhere = False,
    selector: Selector = None,
    output: Output = Form.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List ended runs, newest first."""
    from .run_history import kept_in, print_recent, print_stored

    where = Where(namespace, everywhere, selector, context, kubeconfig)
    kept = kept_in(store, instance)
    if kept is None:
        print_recent(where, name, limit, output)
    else:
        print_stored(where, kept, name, limit, output)


@app.command()
def logs(
    name: Name,
    run: Annotated[Text, typer.Option("--run", metavar="RUN", help="Id, slot or token of a run.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow until the job ends.")] = False,
    tail: Annotated[Count, typer.Option("--tail", min=1, metavar="LINES", help="Only the last lines.")] = None,
    store: Annotated[
        Text,
        typer.Option(
            "--store", metavar="URL", help="Read the output that the operator's store keeps, even if the Pod is gone."
        ),
    ] = None,
    instance: Instance = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print the output of a run: from the newest Pod, or from status, which has that of the newest failed run."""
    from .job_logs import print_logs
    from .run_history import kept_in

    kept = kept_in(store, instance)
    if follow and kept is not None:
        raise CommandError("--follow can't be combined with --store, which has only ended runs", 2)
    print_logs(Where(namespace, context=context, kubeconfig=kubeconfig), name, run, tail, live=follow, kept=kept)


@app.command()
def validate(file: Files = None, more: MorePaths = None, output: Output = Form.TABLE) -> int:
    """Check manifests. The exit code is 2 if anything is wrong."""
    from scheduledjob.cli.shared.validation import print_faults

    paths = [*(file or ()), *(more or ())]
    if not paths:
        raise CommandError("name files or directories, as in `validate jobs/`, or - for standard input", 2)
    return 2 if print_faults(paths, "table" if output.is_for_people else output.value) else 0


@app.command()
def convert(
    names: Annotated[Texts, typer.Argument(metavar="NAME", help="CronJobs; with -f, more paths.")] = None,
    file: Annotated[
        Texts,
        typer.Option("--file", "-f", metavar="PATH", help="File or directory with CronJobs, or - for standard input."),
    ] = None,
    whole: Annotated[bool, typer.Option("--all", help="All CronJobs of the namespace; with -A, of all.")] = False,
    namespace: Namespace = None,
    everywhere: Everywhere = False,
    selector: Selector = None,
    output: Output = Form.YAML,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> int:
    """Convert CronJobs to ScheduledJobs; standard error says what differs or can't be converted."""
    from scheduledjob.cli.shared.convert.convert_command import convert_files, print_converted

    if file:
        return convert_files([*file, *(names or ())], output)
    if bool(names) == (whole or everywhere or selector is not None):
        raise CommandError("name CronJobs of the cluster, or give --all, or files with -f", 2)
    where = Where(namespace, everywhere, selector, context, kubeconfig)
    found = where.run(lambda cluster: cluster.cronjobs(names or []))
    if not found:
        say("no CronJobs found")
    return print_converted(found, output)


@app.command()
def simulate(
    file: Files = None,
    more: MorePaths = None,
    start: From = None,
    end: Annotated[Text, typer.Option("--to", metavar="INSTANT", help="End here; default: a day later.")] = None,
    namespace: Namespace = None,
    everywhere: Everywhere = False,
    selector: Selector = None,
    output: Output = Form.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> int:
    """Draw how many runs of manifests or of the cluster start in each minute, and list the busiest minutes."""
    from scheduledjob.cli.shared.planned_schedule import schedules_of_files
    from scheduledjob.cli.shared.simulation import simulate

    from .upcoming import schedules_of_cluster

    where = Where(namespace, everywhere, selector, context, kubeconfig)
    paths = [*(file or ()), *(more or ())]
    if paths:
        return simulate(lambda begin: schedules_of_files(paths, where.namespace, begin), start, end, output)
    return simulate(lambda begin: (schedules_of_cluster(where), False), start, end, output)


_WITH_VALUE = frozenset({"-n", "--namespace", "-l", "--selector", "-o", "--output", "--context", "--kubeconfig"})


def command_first(arguments: list[str]) -> list[str]:
    """Turn ``-n team-a list`` into ``list -n team-a``: kubectl's own commands take options on both sides."""
    place = 0
    while place < len(arguments) and arguments[place].startswith("-") and arguments[place] not in HELP:
        place += 2 if arguments[place] in _WITH_VALUE else 1
    return [*arguments[place : place + 1], *arguments[:place], *arguments[place + 1 :]]


def main() -> None:
    """Run the command that was typed, and exit."""
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    try:
        ordered = command_first(arguments or ["--help"])
        if ordered[0].startswith("-") and ordered[0] not in HELP:
            raise CommandError(f"name a command: {PROGRAM} -h lists them", 2)
        code = app(ordered, prog_name=PROGRAM, standalone_mode=False)
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
        return _failed(error.format_message().replace("\n", " "), 2, arguments)
    except CommandError as error:
        return _failed(str(error), error.code, arguments)
    except Exception as error:
        alone = lone(error)
        known = isinstance(alone, OSError | ValueError) or type(alone).__module__.startswith("scheduledjob.")
        words = in_one_line(alone)
        return _failed(words if known else f"internal error: {type(alone).__name__}: {words}", 1, arguments)
    return code if isinstance(code, int) else 0


def _failed(message: str, code: int, arguments: list[str]) -> int:
    for word in arguments:  # the password of a store must not be printed
        if "://" in word:
            message = Mask(word.removeprefix("--store="))(message)
    print(f"{coloured('error:', RED, sys.stderr)} {message}", file=sys.stderr)  # noqa: T201  # a command prints
    return code


if __name__ == "__main__":
    main()
