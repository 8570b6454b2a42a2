"""Loads files. Every document becomes a job, a Secret, a ConfigMap, a line that says it is ignored, or problems.

A wrong document does not affect the others: a file is split at its ``---`` lines before it is parsed, so that even a
syntax error affects only its own document. The content of a file never raises an exception here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.triggers.circles import Follows, words_of_circle
from scheduledjob.domain.triggers.timetable import SearchCostError
from scheduledjob.resource_names import KIND

from . import files
from .documents import ManifestDocument, Meaning
from .error_words import problems_of
from .models import ConfigMap, ScheduledJob, Secret
from .problems import Problem, quoted
from .translate import to_definition
from .yamltree import YamlError, documents

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DOCUMENTS_LIMIT = 10_000
"""Maximum documents of one file."""

JOB_WEIGHT = 20_000
"""Maximum values in one job, aliases expanded, in the unit of ``yamltree.MAX_WEIGHT``: stores accept this size."""

TOO_MANY_VALUES = (
    f"contains more than {JOB_WEIGHT} values, aliases expanded",
    "make payload, params and template smaller",
)
"""What is wrong with a larger job, and what to write instead."""

_SEPARATOR = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class LoadedJob:
    """A valid job and its place."""

    job: ScheduledJob
    file: str
    line: int


@dataclass(slots=True)
class Loaded:
    """The content of some files. Keys are (namespace, name), in the order of the files."""

    jobs: dict[tuple[str, str], LoadedJob] = field(default_factory=dict)
    secrets: dict[tuple[str, str], Secret] = field(default_factory=dict)
    config_maps: dict[tuple[str, str], ConfigMap] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    """A line for each document of another kind."""
    problems: list[Problem] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    """The files that were found, those with problems included."""


def load(paths: Iterable[str]) -> Loaded:
    """Load these files and directories. A file that is found twice is read once."""
    loading = _Loading()
    for path in dict.fromkeys(paths):
        for found in files.discover(path):
            if isinstance(found, Problem):
                loading.loaded.problems.append(found)
            else:
                loading.read(found)
    loading.refuse_circles()
    return loading.loaded


def load_text(text: str, file: str = "<text>") -> Loaded:
    """Load the text of one file, which problems call ``file``."""
    loading = _Loading()
    loading.add(file, text)
    loading.refuse_circles()
    return loading.loaded


class _Loading:
    """Loads some files, and finds names that occur twice."""

    def __init__(self) -> None:
        self.loaded = Loaded()
        self._read: set[str] = set()
        """The files by their real paths."""
        self._first: dict[tuple[str, str, str], str] = {}
        """Where each (kind, namespace, name) was first, as ``file:line``."""

    def read(self, path: str) -> None:
        target = os.path.realpath(path)
        if target in self._read:
            return
        self._read.add(target)
        self.loaded.files.append(path)
        text = files.read(path)
        if isinstance(text, Problem):
            self.loaded.problems.append(text)
        else:
            self.add(path, text)

    def add(self, file: str, text: str) -> None:
        for count, (line_offset, piece) in enumerate(_pieces(text)):
            if count >= DOCUMENTS_LIMIT:
                message = f"more than {DOCUMENTS_LIMIT} documents in one file"
                self.loaded.problems.append(Problem(file, line_offset + 1, 1, "", message, "split it"))
                return
            faults: list[YamlError] = []
            try:
                for root in documents(piece, faults):
                    self._take(ManifestDocument(file, line_offset, root), faults)
                    faults.clear()
            except YamlError as error:
                self.loaded.problems.append(ManifestDocument(file, line_offset).syntax(error))

    def refuse_circles(self) -> None:
        """Refuse the last of the jobs that follow each other in a circle, which would run for ever."""
        jobs, follows = self.loaded.jobs, Follows[tuple[str, str]]()
        for (namespace, name), found in list(jobs.items()):
            upstreams = [trigger.following.name for trigger in found.job.spec.triggers if trigger.following is not None]
            follows.set((namespace, name), [(namespace, upstream) for upstream in upstreams])
            if circle := follows.circle((namespace, name)):
                follows.set((namespace, name), ())
                del jobs[namespace, name]
                message, advice = words_of_circle([name for _, name in circle])
                problem = Problem(found.file, found.line, 1, "spec.triggers", message, advice, job=(namespace, name))
                self.loaded.problems.append(problem)

    def _take(self, document: ManifestDocument, faults: list[YamlError]) -> None:
        """Load one document, or report what is wrong with it."""
        meaning = document.meaning()
        if isinstance(meaning, Problem):
            self.loaded.problems.extend(self._faults_beside(meaning, document, faults))
            return
        if meaning is Meaning.OTHER:
            self.loaded.ignored.append(document.ignored())
            return
        self.loaded.problems.extend(document.syntax(fault) for fault in faults)
        if meaning is Meaning.LIST:
            for item in document.items():
                self._take(item, [])
        elif meaning is Meaning.JOB and document.weight > JOB_WEIGHT:
            self.loaded.problems.append(document.problem((), *TOO_MANY_VALUES))
        elif meaning is Meaning.JOB:
            job = self._validated(document, ScheduledJob)
            if job is not None and (costly := _why_too_costly(job)):
                self.loaded.problems.append(document.problem(("spec", "exclude"), *costly, key=job.key))
                job = None
            if job is not None and not faults and self._is_first(document, KIND, job.key):
                self.loaded.jobs[job.key] = LoadedJob(job, document.file, document.line)
        elif meaning is Meaning.SECRET:
            secret = self._validated(document, Secret)
            if secret is not None and not faults and self._is_first(document, "Secret", secret.key):
                self.loaded.secrets[secret.key] = secret
        else:
            config_map = self._validated(document, ConfigMap)
            if config_map is not None and not faults and self._is_first(document, "ConfigMap", config_map.key):
                self.loaded.config_maps[config_map.key] = config_map

    def _faults_beside(self, first: Problem, document: ManifestDocument, faults: list[YamlError]) -> list[Problem]:
        """Return a wrong apiVersion or kind and, if the document is meant as a job, its other faults as well.

        So a user can fix all faults at once.
        """
        problems = [first]
        if document.is_meant_as_job and document.weight <= JOB_WEIGHT:
            problems += [document.syntax(fault) for fault in faults]
            try:
                ScheduledJob.model_validate(document.value())
            except YamlError as error:
                problems.append(document.syntax(error))
            except ValidationError as error:
                others = problems_of(error, ScheduledJob, document)
                problems += [problem for problem in others if problem.field != first.field]
        return sorted(problems, key=lambda problem: (problem.line, problem.column))

    def _validated(self, document: ManifestDocument, model: type[M]) -> M | None:
        try:
            return model.model_validate(document.value())
        except YamlError as error:
            self.loaded.problems.append(document.syntax(error))
        except ValidationError as error:
            self.loaded.problems.extend(problems_of(error, model, document))
        return None

    def _is_first(self, document: ManifestDocument, kind: str, key: tuple[str, str]) -> bool:
        """Whether this name is new. If it is not, report the second document; the first one is kept."""
        first = self._first.setdefault((kind, *key), f"{document.file}:{document.line}")
        if first == f"{document.file}:{document.line}":
            return True
        namespace, name = key
        message = f"{kind} {quoted(name)} in namespace {quoted(namespace)} is already defined in {first}"
        self.loaded.problems.append(document.problem(("metadata", "name"), message, "choose another name", key=key))
        return False


def _why_too_costly(job: ScheduledJob) -> tuple[str, str] | None:
    """Return why the search for the slots of a job is refused, and what to write instead; None if it is not."""
    if not any(excluded.cron is not None for excluded in job.spec.exclude or ()):
        return None
    try:
        slots_of(Plan(to_definition(job)), seed="/".join(job.key), created=0)
    except SearchCostError as error:
        return error.message, error.advice
    except ValueError:
        return None  # it has another fault, and whoever uses the job reports it
    return None


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Yield the documents of a file before they are parsed, each with the number of lines before it.

    In YAML ``---`` at the beginning of a line always separates documents, even inside block text.
    """
    start, lines = 0, 0
    for separator in _SEPARATOR.finditer(text):
        before = text[start : separator.start()]
        # Comments and directives (%YAML) belong to the document that follows them.
        if all(not line.strip() or line.lstrip()[0] in "#%" for line in before.split("\n")):
            continue
        yield lines, before
        lines += before.count("\n")
        start = separator.start()
    yield lines, text[start:]
