"""Settings of the operator: which source wins, how errors are reported, and what is never shown."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.kube.settings.operator_settings import OperatorSettings, Setting, SettingsConflict, every_setting
from scheduledjob.kube.settings.setting_sources import SettingsError, read_settings
from scheduledjob.kube.settings.settings_page import settings_page
from scheduledjob.web.listen import Listen, parse_listen

if TYPE_CHECKING:
    from collections.abc import Callable

SETTINGS = {setting.name: setting for setting in every_setting()}
PAGE = Path(__file__).parents[2] / "docs" / "operator-settings.md"

EXAMPLES: dict[str, tuple[str, Any]] = {
    "store": ("postgresql://me:secret@db:5432/jobs", "postgresql://me:secret@db:5432/jobs"),
    "instance": ("6e0a/scheduling/jobs", "6e0a/scheduling/jobs"),
    "namespaces": ("team-a, team-b", ("team-a", "team-b")),
    "namespace": ("scheduling", "scheduling"),
    "memory_lease": ("jobs", "jobs"),
    "kubeconfig": (__file__, __file__),
    "context": ("admin@cluster", "admin@cluster"),
    "capacity": ("7", 7),
    "pod_capacity": ("8", 8),
    "namespace_share": ("0.5", 0.5),
    "namespace_weights": ("team-a=2,team-b=0.5", (("team-a", 2.0), ("team-b", 0.5))),
    "inline_shell_namespaces": ("*", ("*",)),
    "accept_unconfined_shell": ("true", True),
    "inline_http_allow": ("10.0.0.0/8,127.0.0.1,db.example.com", ("10.0.0.0/8", "127.0.0.1", "db.example.com")),
    "inline_http_proxies": ("proxy.example.com", ("proxy.example.com",)),
    "lease": ("1m30s", 90.0),
    "heartbeat": ("5s", 5.0),
    "grace": ("0s", 0.0),
    "status_budget": ("100", 100),
    "sweep_interval": ("5m", 300.0),
    "pod_image": ("registry.example.com/team/scheduledjob:1.2", "registry.example.com/team/scheduledjob:1.2"),
    "pod_security": ("restricted", "restricted"),
    "plugins": ("true", True),
    "listen": ("127.0.0.1:0", Listen("127.0.0.1", 0)),
    "log_level": ("debug", "debug"),
    "log_format": ("console", "console"),
}
"""For each setting a text that is not its default, and its value."""


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        file = tmp_path / "operator.yaml"
        file.write_text(text, encoding="utf-8")
        return str(file)

    return write


def faults(flags: dict[str, list[str]] | None = None, environment: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as raised:
        read_settings(flags or {}, environment or {})
    return raised.value.faults


def test_the_default_is_a_single_replica_in_memory() -> None:
    assert read_settings({}, {"HOME": "/"}) == OperatorSettings()
    assert OperatorSettings().store == "memory:"
    assert OperatorSettings().inline_shell_namespaces == ()


def test_every_setting_is_tested_here() -> None:
    assert list(EXAMPLES) == [field.name for field in fields(OperatorSettings)]
    assert all(SETTINGS[name].default != value for name, (_, value) in EXAMPLES.items())


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.name)
def test_each_setting_has_a_flag_a_variable_and_a_key(setting: Setting, config: Callable[[str], str]) -> None:
    text, value = EXAMPLES[setting.name]
    by_flag = read_settings({setting.name: [text]}, {})
    by_variable = read_settings({}, {setting.variable: text})
    by_file = read_settings({"config": [config(f'{setting.key}: "{text}"\n')]}, {})
    assert getattr(by_flag, setting.name) == value
    assert by_flag == by_variable == by_file


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.name)
def test_what_is_shown_can_be_read(setting: Setting) -> None:
    _, value = EXAMPLES[setting.name]
    if setting.name != "store":
        assert setting.type.read([setting.show(value)]) == value
    if setting.default is not None:
        assert setting.type.read([setting.show(setting.default)]) == setting.default


def test_flags_win_over_variables_over_the_file_over_defaults(config: Callable[[str], str]) -> None:
    file = config("lease: 20s\nheartbeat: 20s\ngrace: 20s\nsweepInterval: 20s\n")
    found = read_settings(
        {"config": [file], "lease": ["40s"]},
        {"SJOB_LEASE": "30s", "SJOB_HEARTBEAT": "30s", "SJOB_GRACE": ""},
    )
    assert (found.lease, found.heartbeat, found.grace, found.sweep_interval) == (40, 30, 20, 20)
    assert found.capacity == OperatorSettings().capacity


def test_the_file_may_be_named_by_a_variable_and_may_be_empty(config: Callable[[str], str]) -> None:
    assert read_settings({}, {"SJOB_CONFIG": config("instance: blue")}).instance == "blue"
    assert read_settings({}, {"SJOB_CONFIG": config("# nothing\n")}) == OperatorSettings()
    assert read_settings({}, {"SJOB_CONFIG": config("podImage:\nnamespaces: ~\n")}) == OperatorSettings()


def test_lists_have_several_notations(config: Callable[[str], str]) -> None:
    expected = ("team-a", "team-b")
    assert read_settings({"namespaces": ["team-a", "team-b,team-a"]}, {}).namespaces == expected
    for text in ("namespaces: [team-a, team-b]", "namespaces:\n- team-a\n- team-b\n", "namespaces: team-a,team-b"):
        assert read_settings({"config": [config(text)]}, {}).namespaces == expected
    assert read_settings({"config": [config("namespaces: []")]}, {}).namespaces == ()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("lease", "2s", '"2s" is too short: write 3s to 10m'),
        ("lease", "30", "'30' has no unit: write 30s for seconds"),
        ("lease", "soon", "whole days, hours, minutes and seconds"),
        ("heartbeat", "2h", '"2h" is too long: write 1s to 1h'),
        ("capacity", "0", '"0" is not allowed: write a whole number from 1 to 100000'),
        ("capacity", "many", "write a whole number from 1"),
        ("capacity", "-1", "write a whole number from 1"),
        ("namespace_share", "2", '"2" is not allowed: write a number from 0.1 to 1'),
        ("namespace_share", "87%", "write a number from 0.1 to 1"),
        ("namespace_weights", "team-a", "write NAMESPACE=WEIGHT, as in team-a=2"),
        ("namespace_weights", "team-a=0", "write a number from 0.01 to 100"),
        ("namespace_weights", "Team=1", "write lower-case letters"),
        ("status_budget", "9" * 4000, "write a whole number from 1"),
        ("namespaces", "Team_A", '"Team_A" is not allowed: write lower-case letters'),
        ("namespaces", "*", "omit the setting for all"),
        ("inline_shell_namespaces", "*,team-a", "write it alone"),
        ("inline_http_allow", "10.0.0.0/99", '"10.0.0.0/99" is not allowed: write a network such as 10.0.0.0/8'),
        ("inline_http_allow", "999.1.1.1", "write a network"),
        ("pod_security", "Restricted", "did you mean restricted? write privileged, baseline or restricted"),
        ("log_level", "trace", "write debug, info, warning or error"),
        ("plugins", "maybe", '"maybe" is not allowed: write true or false'),
        ("listen", "8080", "write host:port"),
        ("listen", ":80800", "80800 is not a port: write a number up to 65535"),
        ("kubeconfig", "/nowhere/config", 'there is no file "/nowhere/config"'),
        ("pod_image", "a b", "write a container image"),
        ("instance", "two words", "without spaces"),
        ("memory_lease", "My_Lease", "lower-case"),
        ("store", "mysql://me:hunter2@db/x", "'mysql' names no store: give one of memory:"),
        ("store", "postgresql://me:hunter2@db/x?sslmod=require", "did you mean 'sslmode'?"),
        ("context", "\t\n\x00", "write the name of a context"),
    ],
)
def test_an_invalid_value_is_reported_with_its_source(
    name: str, text: str, message: str, tmp_path: Path, config: Callable[[str], str]
) -> None:
    setting = SETTINGS[name]
    (by_flag,) = faults({name: [text]})
    assert by_flag.startswith(f"{setting.flag}: ")
    assert message in by_flag
    (by_variable,) = faults(environment={setting.variable: text})
    assert by_variable == by_flag.replace(setting.flag, setting.variable, 1)
    if text.isprintable():
        file = config(f'# settings\n\n{setting.key}: "{text}"\n')
        (by_file,) = faults({"config": [file]})
        assert by_file == f"{tmp_path}/operator.yaml:3: {setting.key}" + by_flag.removeprefix(setting.flag)
    assert len(by_flag) < 600
    assert by_flag.isprintable()


def test_all_faults_are_reported_together(config: Callable[[str], str]) -> None:
    file = config("lease: 1s\nspeed: 3\n")
    found = faults({"config": [file], "capacity": ["0"]}, {"SJOB_GRACE": "x", "SJOB_LEESE": "3s"})
    assert len(found) == 5


def test_an_invalid_value_that_is_overridden_does_not_matter() -> None:
    assert read_settings({"lease": ["4s"]}, {"SJOB_LEASE": "x"}).lease == 4


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("SJOB_LEESE", "did you mean SJOB_LEASE?"),
        ("SJOB_NAMESPACES_ALL", "did you mean SJOB_NAMESPACES?"),
        ("SJOB_PORT", "SJOB_"),
        ("SJOB_", "known are SJOB_"),
    ],
)
def test_an_unknown_variable_is_refused(variable: str, hint: str) -> None:
    (found,) = faults(environment={variable: "8080"})
    assert found.startswith(f"{variable} is not a variable of the operator: ")
    assert hint in found


def test_variables_of_services_are_ignored() -> None:
    environment = {
        "SJOB_SERVICE_HOST": "10.96.0.7",
        "SJOB_SERVICE_PORT": "8080",
        "SJOB_SERVICE_PORT_HTTP": "8080",
        "SJOB_PORT": "tcp://10.96.0.7:8080",
        "SJOB_PORT_8080_TCP": "tcp://10.96.0.7:8080",
        "SJOB_METRICS_PORT_8080_TCP_PROTO": "tcp",
        "SJOB_METRICS_PORT_8080_TCP_ADDR": "10.96.0.7",
        "SJOB_METRICS_PORT": "tcp://10.96.0.7:8080",
    }
    assert read_settings({}, environment) == OperatorSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lease: 15s\nleese: 3s\n", ":2: leese is not a setting of the operator: did you mean lease?"),
        ("pod-capacity: 3\n", ":1: pod-capacity is not a setting of the operator: did you mean podCapacity?"),
        ("lease: 15s\nlease: 20s\n", ":2: "),
        ("- lease: 15s\n", ":1: no settings found: write lines such as lease: 15s"),
        ("just text", ":1: no settings found"),
        ("lease: {seconds: 3}\n", ":1: lease: a single value is expected: write 3s to 10m"),
        ("lease: [3s]\n", ":1: lease: a single value is expected"),
        (
            "namespaces: [{name: a}]\n",
            ":1: namespaces: a list is expected: write names of namespaces, each after a dash",
        ),
        ("lease: 15s\n---\nlease: 16s\n", ":3: a second document is not allowed: write all settings in one"),
        ("lease: [15s\n", ":2: "),
        ("a: " + "[" * 200, ":1: "),
    ],
)
def test_an_invalid_file_is_reported_with_its_line(text: str, message: str, config: Callable[[str], str]) -> None:
    file = config(text)
    found = faults({"config": [file]})
    assert f"{file}{message}" in "; ".join(found)


def test_an_unreadable_file_is_reported_with_the_source_of_its_name(tmp_path: Path) -> None:
    (missing,) = faults({"config": ["/nowhere/operator.yaml"]})
    assert missing == '--config: "/nowhere/operator.yaml" can\'t be read: No such file or directory'
    (tmp_path / "latin").write_bytes(b"instance: \xe9\n")
    (encoded,) = faults(environment={"SJOB_CONFIG": str(tmp_path / "latin")})
    assert encoded.startswith("SJOB_CONFIG: ")
    (tmp_path / "huge").write_bytes(b"#" * ((1 << 20) + 1))
    (huge,) = faults({"config": [str(tmp_path / "huge")]})
    assert "larger than 1 MiB" in huge


def test_inline_shell_in_an_unwatched_namespace_is_a_conflict(config: Callable[[str], str]) -> None:
    file = config("namespaces: [team-a]\ninlineShellNamespaces: [team-a, team-b]\n")
    (found,) = faults({"config": [file]})
    assert found.startswith(f"{file}:2: inlineShellNamespaces: team-b would have no jobs to run")
    with pytest.raises(SettingsConflict, match="--inline-shell-namespaces: team-b"):
        OperatorSettings(namespaces=("team-a",), inline_shell_namespaces=("team-b",))
    assert OperatorSettings(namespaces=("team-a",), inline_shell_namespaces=("*",)).may_run_shell_inline("team-a")
    assert OperatorSettings(inline_shell_namespaces=("team-b",)).may_run_shell_inline("team-b")
    assert not OperatorSettings(inline_shell_namespaces=("team-b",)).may_run_shell_inline("team-a")
    assert not OperatorSettings().may_run_shell_inline("team-a")


def test_surprising_settings_are_warned_about() -> None:
    memory, image = OperatorSettings().warnings()
    assert "only one replica" in memory
    assert "--pod-image" in image
    calm = OperatorSettings(store="postgresql://db/jobs", pod_image="scheduledjob:1")
    assert calm.warnings() == []
    (idle,) = OperatorSettings(store="postgresql://db/jobs", pod_image="a", accept_unconfined_shell=True).warnings()
    assert "has no effect" in idle
    (risk,) = OperatorSettings(
        store="postgresql://db/jobs", pod_image="a", accept_unconfined_shell=True, inline_shell_namespaces=("a",)
    ).warnings()
    assert "unconfined" in risk


SECRETS = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=6, max_size=20)


@given(SECRETS, st.sampled_from(["postgresql", "postgres", "mysql", "http", "memory", "firestore"]))
def test_the_password_of_the_store_is_never_shown(password: str, scheme: str) -> None:
    password = f"hunter{password}"
    for url in (
        f"{scheme}://me:{password}@db.example.com/jobs",
        f"{scheme}://db/jobs?user=me&password={password}",
        f"{scheme}:me:{password}@db.example.com/jobs",
    ):
        try:
            found = read_settings({}, {"SJOB_STORE": url})
        except SettingsError as error:
            assert "hunter" not in str(error)  # noqa: PT017  # refused or not: both are good ends
        else:
            assert found.store == url
            assert "hunter" not in repr(found)
            assert "hunter" not in str(found.shown())


def test_text_after_a_password_may_belong_to_it() -> None:
    (found,) = faults(environment={"SJOB_STORE": "postgresql://db/jobs?password=ab&hunter2=1"})
    assert "hunter2" not in found


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_is_refused_with_advice(text: str) -> None:
    try:
        found = parse_listen(text)
    except ValueError as error:
        assert "write" in str(error)  # noqa: PT017  # refused or not: both are good ends
    else:
        assert parse_listen(str(found)) == found


@pytest.mark.parametrize("text", ["[::1]:8080", ":0", "0.0.0.0:80", "my-host.example:65535"])
def test_addresses_are_shown_as_they_are_written(text: str) -> None:
    assert str(parse_listen(text)) == text


def test_the_page_of_settings_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_page(), "stale: run make docs"


def test_every_setting_is_described() -> None:
    page = settings_page()
    for setting in SETTINGS.values():
        assert setting.description.endswith(".")
        assert setting.type.allowed
        for name in (setting.key, setting.flag, setting.variable):
            assert name in page
