"""``convert``: prints CronJobs of files or of the cluster as ScheduledJobs, and notes about them on standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from scheduledjob.cli.shared.command_errors import CommandError, in_one_line
from scheduledjob.cli.shared.printing import YELLOW, Form, coloured, print_objects, say
from scheduledjob.manifests import files
from scheduledjob.manifests.documents import ManifestDocument
from scheduledjob.manifests.problems import Problem, plain
from scheduledjob.manifests.yamltree import Mapping, Node, Scalar, Sequence, YamlError, documents, find, to_python

from .compare import differences, in_words
from .cronjob import convert

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STDIN = "-"
NAMES_SHOWN = 4
HELM_WORDS = "it is a Helm template: render it first, as in helm template RELEASE CHART | scheduledjob convert -f -"


def convert_files(paths: Iterable[str], form: Form) -> int:
    """Convert the CronJobs of files (``-`` is standard input).

    Returns the exit code: 1 if a CronJob can't be converted, 2 if a file can't be read.
    """
    found: list[dict[str, Any]] = []
    faults = 0
    for path in paths:
        for text in [sys.stdin.read()] if path == STDIN else _texts(path):
            for cronjob in [text] if isinstance(text, Problem) else _cronjobs(path, text):
                if isinstance(cronjob, Problem):
                    say(str(cronjob))
                    faults += 1
                else:
                    found.append(cronjob)
    if not found and not faults:
        raise CommandError("the files contain no CronJob (apiVersion: batch/v1, kind: CronJob)", 2)
    return max(print_converted(found, form), 2 if faults else 0)


def print_converted(cronjobs: list[dict[str, Any]], form: Form) -> int:
    """Print the ScheduledJobs and the notes about them; return the exit code."""
    manifests: list[dict[str, Any]] = []
    names_by_note: dict[str, list[str]] = {}
    code = 0
    for cronjob in cronjobs:
        metadata = cronjob.get("metadata")
        name = plain(str(metadata.get("name", "?"))) if isinstance(metadata, dict) else "?"
        try:
            converted = convert(cronjob)
            notes = [*converted.notes, *map(in_words, differences(cronjob, converted))]
        except ValueError as error:
            words = HELM_WORDS if _is_helm_template(cronjob) else plain(in_one_line(error))
            say(coloured(f"{name}: can't be converted: {words}", YELLOW, sys.stderr))
            code = 1
            continue
        except (TypeError, AttributeError, LookupError):
            # A template may contain anything, so one that is not a Pod may cause any of these errors.
            words = "the API server would not accept this CronJob (kubectl create --dry-run=server shows why)"
            say(coloured(f"{name}: can't be converted: {words}", YELLOW, sys.stderr))
            code = 1
            continue
        manifests.append(converted.manifest)
        for note in dict.fromkeys(notes):
            names_by_note.setdefault(note, []).append(name)
    _print(manifests, form)
    for note, names in names_by_note.items():
        say(f"{coloured(_named(names, len(manifests)), YELLOW, sys.stderr)}: {plain(note)}")
    return code


def _is_helm_template(value: Any) -> bool:
    """Whether any text of the manifest has an action of a template."""
    if isinstance(value, str):
        return "{{" in value and "}}" in value
    if isinstance(value, dict):
        return any(map(_is_helm_template, (*value, *value.values())))
    return isinstance(value, list) and any(map(_is_helm_template, value))


def _named(names: list[str], whole: int) -> str:
    if len(names) == whole > 1:
        return f"all {whole}"
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _print(manifests: list[dict[str, Any]], form: Form) -> None:
    if form is Form.YAML or form.is_for_people:
        from scheduledjob.cli.shared.formats import as_yaml

        sys.stdout.write("".join(as_yaml(manifest, explicit_start=True) for manifest in manifests))
    elif manifests:
        print_objects(manifests, form, one=len(manifests) == 1)
    sys.stdout.flush()


def _texts(path: str) -> Iterator[str | Problem]:
    for found in files.discover(path):
        yield found if isinstance(found, Problem) else files.read(found)


def _cronjobs(file: str, text: str) -> Iterator[dict[str, Any] | Problem]:
    """Yield the CronJobs of a text, and its faults. Other objects are ignored."""
    faults: list[YamlError] = []
    try:
        for root in documents(text, faults):
            yield from _of(root)
    except YamlError as error:
        yield ManifestDocument(file, 0).syntax(error)
    for fault in faults:
        yield ManifestDocument(file, 0).syntax(fault)


def _of(node: Node, of_list: str = "") -> Iterator[dict[str, Any]]:
    """Yield the CronJobs of a document. ``of_list`` is the kind of items that name none, as in answers of the API."""
    kind, items = find(node, ("kind",)), find(node, ("items",))
    version = find(node, ("apiVersion",))
    of_batch = isinstance(version, Scalar) and version.text.startswith("batch/")
    if isinstance(items, Sequence):
        listed = isinstance(kind, Scalar) and kind.text == "CronJobList" and of_batch
        for item in items.items:
            yield from _of(item, "CronJob" if listed else "")
    elif isinstance(node, Mapping):
        known = kind.text if isinstance(kind, Scalar) else of_list
        if known == "CronJob" and (of_batch or (of_list and version is None)):
            yield to_python(node)
