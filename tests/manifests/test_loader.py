"""Files and documents: what is read, what is ignored, and that a fault affects only its document."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from scheduledjob.manifests import files
from scheduledjob.manifests.loader import DOCUMENTS_LIMIT, load, load_text
from scheduledjob.manifests.problems import Problem

if TYPE_CHECKING:
    from pathlib import Path


def manifest(name: str = "a", more: str = "", namespace: str | None = None) -> str:
    metadata = f"{{name: {name}}}" if namespace is None else f"{{name: {name}, namespace: {namespace}}}"
    return (
        f"apiVersion: scheduledjobs.dev/v1beta1\nkind: ScheduledJob\nmetadata: {metadata}\n"
        f"spec:\n  triggers: [{{every: 30s}}]\n  job: {{custom: {{kind: print}}}}\n{more}"
    )


def lines(problems: list[Problem]) -> list[str]:
    return [str(problem) for problem in problems]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_problem_holds_its_parts() -> None:
    (problem,) = load_text(manifest(namespace="team-a", more="  suspend: 3\n"), "jobs/a.yaml").problems
    assert problem == Problem(
        file="jobs/a.yaml",
        line=7,
        column=12,
        field="spec.suspend",
        message="true or false is expected, not the number 3",
        allowed="",
        job=("team-a", "a"),
    )


def test_directories_are_read_in_order_without_hidden_and_other_files(tmp_path: Path) -> None:
    for name in ("b.yml", "a.yaml", "c.json", ".hidden.yaml", "notes.txt", "below/D.YAML", ".git/e.yaml"):
        path = tmp_path / "jobs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(manifest(path.stem.lower().strip(".")), encoding="utf-8")
    loaded = load(["jobs"])
    assert loaded.files == ["jobs/a.yaml", "jobs/b.yml", "jobs/c.json", "jobs/below/D.YAML"]
    assert [name for _, name in loaded.jobs] == ["a", "b", "c", "d"]


def test_a_link_to_its_own_directory_is_harmless(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "a.yaml").write_text(manifest(), encoding="utf-8")
    (tmp_path / "jobs" / "again").symlink_to("../jobs")
    (tmp_path / "jobs" / "self.yaml").symlink_to("self.yaml")
    (tmp_path / "jobs" / "gone.yaml").symlink_to("nowhere.yaml")
    loaded = load(["jobs"])
    assert list(loaded.jobs) == [("default", "a")]
    assert lines(loaded.problems) == [
        "jobs/gone.yaml: no such file or directory",
        "jobs/self.yaml: too many levels of symbolic links",
    ]


def test_links_that_cross_are_harmless(tmp_path: Path) -> None:
    """A reader that does not remember directories would visit 2**40 of them."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "a.yaml").write_text(manifest(), encoding="utf-8")
    (tmp_path / "jobs" / "b").symlink_to(".")
    (tmp_path / "jobs" / "c").symlink_to(".")
    assert load(["jobs"]).files == ["jobs/a.yaml"]


def test_a_pipe_in_a_directory_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    assert lines(load(["."]).problems) == ["./a.yaml: not a regular file: name a file or a directory"]


def test_missing_files() -> None:
    assert lines(load(["nowhere"]).problems) == ["nowhere: no such file or directory"]
    assert lines(load(["a\0b"]).problems) == ["a\\x00b: a path can't contain a NUL character"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(manifest(), encoding="utf-8")
    (tmp_path / "a.yaml").chmod(0)
    assert lines(load(["a.yaml"]).problems) == ["a.yaml: permission denied"]


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(manifest(), encoding="utf-8")
    loaded = load(["a.yaml", "a.yaml"])
    assert (list(loaded.jobs), loaded.problems) == ([("default", "a")], [])


@pytest.mark.parametrize("other", ["./a.yaml", ".", "link.yaml"])
def test_a_file_with_two_paths_is_read_once(tmp_path: Path, other: str) -> None:
    (tmp_path / "a.yaml").write_text(manifest(), encoding="utf-8")
    if other == "link.yaml":
        (tmp_path / "link.yaml").symlink_to("a.yaml")
    loaded = load(["a.yaml", other])
    assert (list(loaded.jobs), loaded.problems) == ([("default", "a")], [])


def test_a_name_in_two_files_names_both_places(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# first\n" + manifest(), encoding="utf-8")
    (tmp_path / "b.yaml").write_text(manifest(namespace="default"), encoding="utf-8")
    (tmp_path / "c.yaml").write_text(manifest(namespace="other"), encoding="utf-8")
    loaded = load(["a.yaml", "b.yaml", "c.yaml"])
    assert list(loaded.jobs) == [("default", "a"), ("other", "a")]
    assert loaded.jobs["default", "a"].file == "a.yaml"
    assert lines(loaded.problems) == [
        'b.yaml:3: metadata.name: ScheduledJob "a" in namespace "default" is already defined in a.yaml:2: '
        "choose another name"
    ]


def test_a_fault_does_not_affect_other_documents() -> None:
    text = manifest("a") + "---\na: [\n---\n" + manifest("b") + "---\n" + manifest("c", "  suspend: 3\n") + "---\n"
    loaded = load_text(text + manifest("d"), "f.yaml")
    assert [name for _, name in loaded.jobs] == ["a", "b", "d"]
    assert [(problem.line, problem.job) for problem in loaded.problems] == [(9, None), (23, ("default", "c"))]


def test_other_kinds_are_ignored_with_a_line() -> None:
    loaded = load_text("kind: Deployment\napiVersion: apps/v1\nmetadata: {name: web}\nx: 1\nx: 2\n", "f.yaml")
    assert loaded.ignored == ["f.yaml:1: Deployment web is ignored"]
    assert loaded.problems == []


def test_secrets_and_config_maps_are_kept_by_namespace() -> None:
    loaded = load_text(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: db, namespace: team-a}\n"
        "data: {password: aHVudGVyMg==, user: b2xk}\nstringData: {user: me}\n"
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: db}\ndata: {region: eu}\nbinaryData: {raw: AAE=}\n"
    )
    assert loaded.problems == []
    assert loaded.secrets["team-a", "db"].values == {"password": b"hunter2", "user": b"me"}
    assert loaded.config_maps["default", "db"].values == {"region": b"eu", "raw": b"\x00\x01"}


@pytest.mark.parametrize(
    "data", ["data: {pin: '271828'}", "stringData: {pin: 271828}", "stringData: {pin: [271828]}", "data: 271828"]
)
def test_the_value_of_a_secret_is_never_repeated(data: str) -> None:
    (problem,) = load_text(f"apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{data}\n").problems
    assert "271828" not in str(problem)


@pytest.mark.parametrize(
    "curl",
    [
        "{url: 'https://me:hunter2@example.com/'}",
        "{url: 'me:hunter2@example.com/'}",
        "{url: 'http://me:hunter2@[::1/'}",
        "{url: 'http://me:hunter2@example.com:x/'}",
        "{url: 'https://me: hunter2@example.com/'}",
        "{url: 'https://example.com/', auth: {bearer: hunter2}}",
        "{url: 'https://example.com/', headers: {Authorization: \"hunter2\\n\"}}",
    ],
)
def test_a_password_in_the_wrong_place_is_not_repeated(curl: str) -> None:
    (problem,) = load_text(manifest().replace("custom: {kind: print}", f"curl: {curl}")).problems
    assert "hunter2" not in str(problem)


def test_json_from_any_library(tmp_path: Path) -> None:
    job = load_text(manifest()).jobs["default", "a"].job.model_dump(by_alias=True, exclude_none=True)
    payload = 'a "quoted" \\ud83d\\\\ 🙂 é \u2028 \t \x7f /'
    job["spec"]["payload"] = payload
    for ascii_only in (True, False):
        (tmp_path / "a.json").write_text(json.dumps(job, ensure_ascii=ascii_only, indent="\t"), encoding="utf-8")
        loaded = load(["a.json"])
        assert lines(loaded.problems) == []
        assert loaded.jobs["default", "a"].job.spec.payload == payload


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("no", False),
        ("On", True),
        ("1:30", "1:30"),
        ("2026-12-01", "2026-12-01"),
        ("2026-12-01T10:00:00Z", "2026-12-01T10:00:00Z"),
        ("0644", 0o644),
        ("0o644", 0o644),
        ("089", 89.0),
        ("0x1F", 31),
        ("1_000", 1000),
        ("+5", 5),
        ("-0", 0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1.2.3", "1.2.3"),
        ("y", True),
        ("N", False),
        ("~", None),
        ("null", None),
        ("'null'", "null"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("! 5", "5"),
        ("=", "="),
        ("5s", "5s"),
        ("9223372036854775807", 9223372036854775807),
    ],
)
def test_what_a_plain_scalar_means(written: str, means: object) -> None:
    text = manifest().replace("kind: print", f"kind: report, params: {{a: {written}}}")
    loaded = load_text(text)
    assert lines(loaded.problems) == []
    custom = loaded.jobs["default", "a"].job.spec.job.custom
    assert custom is not None
    assert custom.params is not None
    assert (custom.params["a"], type(custom.params["a"])) == (means, type(means))


@pytest.mark.parametrize(
    "written", ["9223372036854775808", "9" * 10_000, "1e400", "-1e400", "0x" + "f" * 17, ".inf", "-.INF", ".nan"]
)
def test_numbers_that_json_can_not_represent(written: str) -> None:
    (problem,) = load_text(manifest().replace("kind: print", f"kind: report, params: {{a: {written}}}")).problems
    assert problem.field == "spec.job.custom.params.a"
    assert "quotes" in problem.message


def test_merge_keys_do_not_override_explicit_keys() -> None:
    base = "timeouts: {<<: [{attempt: 1m, total: 1h}, {attempt: 9m, pending: 2m}], total: 2h}\n"
    timeouts = load_text(manifest(more="  " + base)).jobs["default", "a"].job.spec.timeouts
    assert timeouts is not None
    assert (timeouts.attempt, timeouts.pending, timeouts.total) == ("1m", "2m", "2h")


def test_limits_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# " + "x" * files.SIZE_LIMIT, encoding="utf-8")
    assert lines(load(["a.yaml"]).problems) == ["a.yaml: larger than 1 MiB: split it into several files"]
    (problem,) = load_text("---\n{kind: A, apiVersion: b/c}\n" * (DOCUMENTS_LIMIT + 1)).problems
    assert problem.message == "more than 10000 documents in one file"


def test_a_document_with_many_faults_names_the_first_twenty() -> None:
    problems = load_text(manifest(more="".join(f"  unknown{i}: 1\n" for i in range(500)))).problems
    assert len(problems) == 21
    assert str(problems[-1]).endswith("480 more faults: fix those above first")


def test_names_in_messages_are_printable(tmp_path: Path) -> None:
    name = "a\x1b[2J\n.yaml"
    (tmp_path / name).write_text("x: 1", encoding="utf-8")
    (problem,) = load(["."]).problems
    assert str(problem).isprintable()


def test_a_circle_over_files_is_refused_and_named(tmp_path: Path) -> None:
    for name, upstream in (("a", "c"), ("b", "a"), ("c", "b"), ("d", "c")):
        text = manifest(name).replace("{every: 30s}", f"{{following: {{name: {upstream}}}}}")
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    loaded = load(["a.yaml", "b.yaml", "c.yaml", "d.yaml"])
    assert [name for _, name in loaded.jobs] == ["a", "b", "d"]
    (problem,) = loaded.problems
    assert (problem.file, problem.field, problem.job) == ("c.yaml", "spec.triggers", ("default", "c"))
    assert problem.message == "jobs follow each other in a circle, so they would run for ever: c -> a -> b -> c"
    assert problem.allowed == "remove the trigger following from one of them"
