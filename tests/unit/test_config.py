import json
import os
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenement.config import Config, Credential, InvalidConfig, fill, load, load_directory, parse, warnings
from tenement.config.checks import file_complaints
from tenement.config.durations import format_duration, parse_duration
from tenement.config.effective import as_document, as_toml
from tenement.config.settings import Routing, Service, Settings
from tenement.errors import Denied
from tenement.names import TenantName

# Machines are busy at times: how long an example takes says nothing.
unhurried = settings(deadline=None)
NOTES = '[service.notes]\ncommand = "/usr/bin/notes"\n'


def problems(*texts: str) -> list[str]:
    """Every problem of some texts, the files being called a.toml, b.toml and so on."""
    with pytest.raises(InvalidConfig) as caught:
        parse({f"{chr(97 + number)}.toml": text for number, text in enumerate(texts)})
    return [str(problem) for problem in caught.value.problems]


def service(lines: str) -> list[str]:
    """The problems of a service with some settings, less their place."""
    return [line.partition("service.notes.")[2] for line in problems(NOTES + lines)]


def test_nothing_is_a_configuration() -> None:
    assert parse({}) == parse({"a.toml": ""}) == Config()


def test_six_lines_make_a_service() -> None:
    config = parse(
        {
            "a.toml": """
[service.notes]
command = "./notes.py --port {port} 'two words'"
workdir = "/srv/notes"
health = "/health"
idle_timeout = "1h 30s"
env = { DATABASE = "{data_dir}/{id}/notes.db", WORKERS = 2 }
"""
        }
    )
    notes = config.services["notes"]
    assert notes.name == "notes"
    assert notes.command == ("./notes.py", "--port", "{port}", "two words")
    assert notes.idle_timeout_s == 3630.0
    assert notes.env == {"DATABASE": "{data_dir}/{id}/notes.db", "WORKERS": "2"}
    assert (notes.listen, notes.startup_timeout_s, notes.isolation) == ("port", 30.0, "namespace")


def test_files_are_merged_table_by_table() -> None:
    config = parse(
        {
            "a.toml": NOTES + "env = { A = '1' }\n[settings]\narmed_max = 3\n[instances]\nnotes = ['alice']",
            "b.toml": "[service.notes]\nmemory_limit_mb = 64\n[service.notes.env]\nB = '2'",
            "c.toml": "[service.blog]\ncommand = ['/usr/bin/blog', 'a b']\n[routing]\ndefault = 'blog'",
        }
    )
    assert config.services["notes"].env == {"A": "1", "B": "2"}
    assert config.services["notes"].memory_limit_mb == 64
    assert config.services["blog"].command == ("/usr/bin/blog", "a b")
    assert config.instances == (TenantName("notes", "alice"),)
    assert config.settings.armed_max == 3
    assert config.routing.default == "blog"


@pytest.mark.parametrize("second", ["'/usr/bin/notes'", "'/other'"])
def test_a_setting_in_two_files_is_refused_naming_both(second: str) -> None:
    assert problems(NOTES, f"\n\n[service.notes]\ncommand = {second}\n") == [
        "b.toml:4: service.notes.command: is set already in a.toml:2"
    ]


def test_an_equal_number_in_two_files_is_refused_too() -> None:
    # Small integers are one object in Python.
    assert problems("settings.armed_max = 3", "settings.armed_max = 3") == [
        "b.toml:1: settings.armed_max: is set already in a.toml:1"
    ]


def test_a_table_and_a_value_of_the_same_name_are_refused() -> None:
    assert "a.toml:1" in problems(NOTES.replace("\n", "\n", 1), "[service]\nnotes = 1")[0]


def test_every_problem_is_reported_with_its_line() -> None:
    text = """[settings]
armed_max = -1
max_runing = 3

[service.notes]
comand = "x"
listen = "ports"
cpu_shares = 0
env = { PORT = "1", "a b" = "x", GOOD = "y" }

[service.My_App]
command = "/bin/app"

[services.x]

[instances]
nots = ["alice"]
notes = ["Bob", 3, "a", "a"]
"""
    assert problems(text) == [
        "a.toml:2: settings.armed_max: must be a whole number from 0 to 100000, not -1",
        "a.toml:3: settings.max_runing: unknown setting. Did you mean max_running?",
        "a.toml:6: service.notes.comand: unknown setting. Did you mean command?",
        'a.toml:7: service.notes.listen: must be "port", "socket" or "fd", not "ports"',
        "a.toml:8: service.notes.cpu_shares: must be a whole number from 1 to 10000, not 0",
        "a.toml:9: service.notes.env.PORT: is set by tenement itself",
        "a.toml:9: service.notes.env.\"a b\": is no name for a variable: only letters, digits and '_', no "
        "digit first",
        "a.toml:11: service.My_App: may hold only a-z, 0-9 and '-', not 'M'",
        "a.toml:14: services: unknown section. Did you mean [service]?",
        "a.toml:17: instances.nots: there is no such service. Did you mean notes?",
        "a.toml:18: instances.notes: has the id \"Bob\", which must be lower case: write 'bob'",
        "a.toml:18: instances.notes: must hold tenants' ids in quotes, not 3",
        'a.toml:18: instances.notes: has "a" twice',
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[service.notes\n", "a.toml:1: not valid TOML: "),
        ("\n\na = \n", "a.toml:3: not valid TOML: "),
        ("a = 1\na = 2\n", "a.toml:2: not valid TOML: "),
        ('a = """\nx', "a.toml:2: not valid TOML: "),
    ],
)
def test_what_is_no_toml_is_reported_at_its_line(text: str, line: str) -> None:
    assert problems(text)[0].startswith(line)


def test_a_syntax_error_does_not_hide_problems_of_other_files() -> None:
    found = problems("a = ", "[settings]\ndomian = 'x'")
    assert found[0].startswith("a.toml:1: not valid TOML")
    assert found[1] == "b.toml:2: settings.domian: unknown setting. Did you mean domain?"


def test_a_setting_in_the_wrong_section_is_sent_to_the_right_one() -> None:
    assert problems("[settings]\nidle_timeout = 3") == [
        "a.toml:2: settings.idle_timeout: unknown setting. It belongs in [service.NAME]."
    ]
    assert problems("domain = 'x.example'") == [
        "a.toml:1: domain: unknown setting. It belongs in [settings]."
    ]
    assert service("domain = 'x'") == ["domain: unknown setting. It belongs in [settings]."]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("startup_timeout = 0", "startup_timeout: must be a span of time from 100ms up to 1h"),
        ("stop_timeout = '5 parsecs'", "stop_timeout: must be a span of time"),
        ("idle_timeout = inf", "idle_timeout: must be a span of time"),
        ("idle_timeout = nan", "idle_timeout: must be a span of time"),
        ("idle_timeout = true", "idle_timeout: must be a span of time"),
        ("idle_timeout = -1", "idle_timeout: must be a span of time"),
        ("idle_timeout = 5\nfreeze_timeout = 5", "freeze_timeout: must be shorter than idle_timeout"),
        ("network = 'none'", 'listen: must be "socket" or "fd"'),
        ("network = 'none'\nlisten = 'fd'\nisolation = 'process'", 'network: "none" needs isolation'),
        ("memory_limit_mb = 10\nmemory_high_mb = 11", "memory_high_mb: must not be above memory_limit_mb"),
        ("memory_limit_mb = 1.5", "memory_limit_mb: must be a whole number"),
        ("memory_limit_mb = '1'", "memory_limit_mb: must be a whole number"),
        ("memory_limit_mb = true", "memory_limit_mb: must be a whole number from 0 to 16777216, not true"),
        ("waiting_page = 1", "waiting_page: must be true or false, not 1"),
        ("backoff_base_ms = 20000", "backoff_base_ms: must not be above backoff_max_ms"),
        ("min_running = 3\nmax_running = 2", "min_running: must not be above max_running"),
        ("storage_quota_mb = 3\nstorage_persist = false", "storage_quota_mb: needs storage_persist = true"),
        ("overlap = true\nstorage_persist = false", "overlap: needs storage_persist = true"),
        ('overlap = true\npre_release = "/bin/true"', "overlap: cannot be together with pre_release"),
        ("workdir = 'srv'", "workdir: must be an absolute path"),
        ("workdir = '/srv/../etc'", "workdir: must not hold '..'"),
        ("workdir = '/srv/{tenant}'", "workdir: has the unknown placeholder {tenant}"),
        ("health = 'up'", "health: must be a path that begins with '/'"),
        ("health = '/a b'", "health: must be written as in a URL"),
        ("args = 3", "args: must be a string or a list of strings, not 3"),
        ("args = ['a', 3]", "args: must be a string or a list of strings, not a list"),
        ('args = "it\'s"', "args: has a quote that is not closed"),
        ('args = "a\\u0000b"', "args: must not hold control characters"),
        ("env = 'A=1'", "env: must be a table"),
        ("env = { A = 1.5 }", "env.A: must be a string: write it in quotes"),
        ("env = { LISTEN_FDS = '1' }", "env.LISTEN_FDS: is set by tenement itself"),
        ("env = { A = '{nope}' }", "env.A: has the unknown placeholder {nope} (known: {name}"),
        ("credentials = { 'a/b' = '/x' }", 'credentials."a/b": is no name for a credential'),
        ("credentials = { a = 'x' }", "credentials.a: must be an absolute path"),
        (
            "credentials = { a = { path = '/x', encrypted_path = '/y' } }",
            "credentials.a: must be an absolute path",
        ),
        ("credentials = { a = '/x/{port}' }", "credentials.a: has the placeholder {port}"),
        ("max_header_kb = 1", "max_header_kb: must be a whole number from 4"),
    ],
)
def test_impossible_values_are_refused(lines: str, problem: str) -> None:
    found = service(lines)
    assert len(found) == 1
    assert found[0].startswith(problem)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("''", "must name a program"),
        ("[]", "must name a program"),
        ("['', 'x']", "must name a program"),
        ("3", "must be a string or a list of strings, not 3"),
        ("'./notes.py'", "is relative, but there is no workdir"),
    ],
)
def test_a_command_must_be_one(command: str, problem: str) -> None:
    (found,) = problems(f"[service.notes]\ncommand = {command}")
    assert problem in found


def test_a_service_needs_a_command() -> None:
    assert problems("[service.notes]\n") == [
        'a.toml:1: service.notes.command: is missing. For example: command = "./notes.py"'
    ]


def test_a_value_of_an_environment_variable_is_never_shown() -> None:
    assert "hunter2" not in "".join(service('env = { A = ["hunter2"], "B C" = "hunter2" }'))


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("domain = []", "settings.domain: must name at least one domain"),
        ("domain = ['a.example', 'A.example.']", 'settings.domain: has "A.example." twice'),
        (f"domain = '{'a' * 63}.{'b' * 63}'", "settings.domain: has a domain longer than 125"),
        ("trusted_proxies = ['10.0.0.1/8']", 'an address inside a network: write "10.0.0.0/8"'),
        ("trusted_proxies = ['x', 3]", 'settings.trusted_proxies: has "x", which is no address'),
        ("access_log = 'some'", 'settings.access_log: must be "off", "errors" or "all", not "some"'),
    ],
)
def test_settings_of_the_host_are_checked(lines: str, problem: str) -> None:
    assert problem in problems("[settings]\n" + lines)[0]


def test_domains_and_networks_are_stored_in_one_form() -> None:
    settings = parse(
        {"a": "[settings]\ndomain = 'Bücher.Example.'\ntrusted_proxies = ['10.0.0.1', '2001:DB8::/32']"}
    ).settings
    assert settings.domains == ("xn--bcher-kva.example",)
    assert settings.trusted_proxies == ("10.0.0.1/32", "2001:db8::/32")


def test_routes_lead_to_what_exists() -> None:
    text = """
[routing]
default = "notes:alice"
[routing.hosts]
"Bücher.example" = "notes"
[routing.paths]
"/blog/" = "notes:bob"
"""
    routing = parse({"a": NOTES + text}).routing
    assert routing.default == "notes:alice"
    assert routing.hosts == {"xn--bcher-kva.example": "notes"}
    assert routing.paths == {"/blog": "notes:bob"}


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("default = 'blog'", 'routing.default: leads to "blog", but there is no service blog'),
        ("default = 'notes:'", "routing.default: has an invalid target: tenant id '' must not be empty"),
        (
            "hosts = { 'a.example' = 3 }",
            'routing.hosts."a.example": must be a tenant (SERVICE:ID) or a service',
        ),
        ("hosts = { 'a_b.example' = 'notes' }", 'routing.hosts."a_b.example": has the invalid domain'),
        ("hosts = { 'localhost' = 'notes' }", "routing.hosts.localhost: is the base domain"),
        (
            "hosts = { 'a.b' = 'notes', 'A.b' = 'notes' }",
            'routing.hosts."A.b": is there already, in another spelling',
        ),
        ("paths = { 'blog' = 'notes' }", "routing.paths.blog: must begin with '/'"),
        ("paths = { '/' = 'notes' }", 'routing.paths."/": must be longer'),
    ],
)
def test_routes_that_lead_nowhere_are_refused(lines: str, problem: str) -> None:
    (found,) = problems(NOTES + "[routing]\n" + lines)
    assert problem in found


def test_min_running_of_all_services_must_fit_the_limit() -> None:
    assert problems(NOTES + "min_running = 5\n[settings]\nmax_running = 4") == [
        "a.toml:5: settings.max_running: must be at least 5, the sum of min_running of all services"
    ]


def test_credentials_come_from_files_or_encrypted() -> None:
    credentials = (
        parse(
            {
                "a": NOTES
                + "[service.notes.credentials]\na = '/etc/a/{id}'\nb = { encrypted_path = '/etc/b' }\n"
                + "c = { encrypted_value = 'AB CD\\n' }".replace("'", '"')
            }
        )
        .services["notes"]
        .credentials
    )
    assert credentials == {
        "a": Credential(path="/etc/a/{id}"),
        "b": Credential(encrypted_path="/etc/b"),
        "c": Credential(encrypted_value="ABCD"),
    }


def test_what_works_but_is_dangerous_is_a_warning() -> None:
    config = parse({"a": NOTES + "isolation = 'process'\nauto_spawn = true"})
    assert [line.partition(":")[0] for line in warnings(config)] == [
        "service.notes.isolation",
        "service.notes.auto_spawn",
    ]
    assert warnings(parse({"a": NOTES})) == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0),
        (1.5, 1.5),
        ("90", 90),
        ("5min", 300),
        ("1h 30s", 3630),
        ("1h30s", 3630),
        ("250ms", 0.25),
        ("2d", 172800),
        ("1.5 hours ", 5400),
    ],
)
def test_spans_of_time_are_read_as_systemd_writes_them(value: object, seconds: float) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize(
    "value", ["", "", "min", "5 parsecs", "-5", "5;", "1h -3", None, [], True, float("inf")]
)
def test_other_values_are_no_spans_of_time(value: object) -> None:
    with pytest.raises(ValueError, match="not a span of time"):
        parse_duration(value)


@unhurried
@given(st.integers(0, 10**8))
def test_a_span_of_time_is_read_back(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{data_dir}/{id}/x", "/d/alice/x"),
        ("{{id}}", "{id}"),
        ('{"a":{"b":1}}', '{"a":{"b":1}}'),
        ("{ id }", "{ id }"),
        ("{}", "{}"),
        ("{{{id}}}", "{{id}}"),
    ],
)
def test_only_names_in_braces_are_placeholders(text: str, filled: str) -> None:
    assert fill(text, {"data_dir": "/d", "id": "alice"}) == filled


@unhurried
@given(st.text(), st.text())
def test_what_a_placeholder_stands_for_is_not_filled_again(value: str, around: str) -> None:
    around = around.replace("{", "").replace("}", "")
    assert fill(f"{around}{{id}}", {"id": value}) == around + value


def test_the_configuration_in_force_is_a_configuration_again() -> None:
    text = r"""
[service.notes]
command = "/usr/bin/notes"
env = { A = 'x"\y', B = "1\n2" }
idle_timeout = 0.5
health = "/up"
[instances]
notes = ["a", "b"]
[routing]
default = "notes"
hosts = { "a.example" = "notes:a" }
"""
    config = parse({"a": text})
    again = parse({"b": as_toml(as_document(config))})
    assert again == config


def test_the_configuration_in_force_does_not_show_secrets() -> None:
    config = parse({"a": NOTES + "credentials = { a = { encrypted_value = 'hunter2' } }"})
    assert "hunter2" not in as_toml(as_document(config))


def test_a_directory_is_read_in_order(tmp_path: Path) -> None:
    assert load_directory(tmp_path) == Config()
    drop_ins = tmp_path / "tenement.d"
    drop_ins.mkdir()
    (drop_ins / "10-notes.toml").write_text(NOTES)
    (drop_ins / "20.toml.bak").write_text("not toml at all")
    (drop_ins / ".hidden.toml").write_text("not toml at all")
    (tmp_path / "tenement.toml").write_text("[settings]\narmed_max = 1\n")
    config = load_directory(tmp_path)
    assert list(config.services) == ["notes"]
    assert config.settings.armed_max == 1
    (drop_ins / "05.toml").write_text("[settings]\narmed_max = 1\n")
    with pytest.raises(
        InvalidConfig, match=re.escape(f"05.toml:2: settings.armed_max: is set already in {tmp_path}")
    ):
        load_directory(tmp_path)


def test_files_that_cannot_be_read_are_problems_among_others(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"[settings]\n# caf\xe9\n")
    (tmp_path / "wrong.toml").write_text("x = 1")
    with pytest.raises(InvalidConfig) as caught:
        load([tmp_path / "latin.toml", tmp_path / "absent.toml", tmp_path / "wrong.toml"])
    assert [(p.line, p.message) for p in caught.value.problems] == [
        (2, "not valid UTF-8"),
        (None, "cannot be read: No such file or directory"),
        (1, "unknown setting"),
    ]


def test_a_file_that_is_kept_from_us_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(Denied, match="group 'tenement'"):
        load([tmp_path / "tenement.toml"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small file system."""
    tmp_path.chmod(0o755)
    for directory in ("srv/notes", "usr/bin", "home/notes", "secret/notes", "etc"):
        (tmp_path / directory).mkdir(parents=True, mode=0o755)
    (tmp_path / "secret").chmod(0o700)
    for file, mode in (
        ("srv/notes/notes.py", 0o755),
        ("srv/notes/plain.py", 0o644),
        ("srv/notes/closed.py", 0o750),
        ("usr/bin/python3", 0o755),
        ("home/notes/notes.py", 0o755),
        ("secret/notes/notes.py", 0o755),
        ("etc/open", 0o644),
        ("etc/closed", 0o600),
    ):
        (tmp_path / file).touch()
        (tmp_path / file).chmod(mode)
    (tmp_path / "srv/pages").mkdir()
    (tmp_path / "srv/pages/404.html").write_text("<p>Nobody of that name.")
    (tmp_path / "srv/pages/style.css").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("command = 'python3 notes.py'\nworkdir = '/srv/notes'", None),
        ("command = './notes.py'\nworkdir = '/srv/notes'", None),
        ("command = '/srv/notes/notes.py'", None),
        ("command = '{data_dir}/{id}/app'\nworkdir = '{data_dir}/{id}'", None),
        ("command = 'perl'", "perl: not found in /usr/local/sbin, "),
        ("command = 'notes.py'\nworkdir = '/srv/notes'", "notes.py: not found in /usr/local/sbin, "),
        ("command = './absent.py'\nworkdir = '/srv/notes'", "/srv/notes/absent.py: does not exist"),
        ("command = './plain.py'\nworkdir = '/srv/notes'", "/srv/notes/plain.py: is not executable"),
        (
            "command = './closed.py'\nworkdir = '/srv/notes'",
            "/srv/notes/closed.py: is closed to tenants (its mode",
        ),
        ("command = '/srv/notes'", "/srv/notes: is not a file"),
        ("command = 'python3'\nworkdir = '/srv/notes/notes.py'", "/srv/notes/notes.py: is not a directory"),
        ("command = 'python3'\nworkdir = '/absent'", "/absent: does not exist"),
        ("command = './notes.py'\nworkdir = '/home/notes'", "/home/notes: homes are hidden from tenants"),
        ("command = './notes.py'\nworkdir = '/home/notes'\nisolation = 'process'", None),
        ("command = 'python3'\nworkdir = '/secret/notes'", "/secret/notes: tenants cannot enter /secret"),
        ("command = 'python3'\ncredentials = { a = '/etc/closed' }", None),
        ("command = 'python3'\ncredentials = { a = '/etc/open' }", "/etc/open: is open to every user"),
        ("command = 'python3'\ncredentials = { a = '/etc/absent' }", "/etc/absent: does not exist"),
        ("command = 'python3'\ncredentials = { a = '/etc/{id}' }", None),
        ("command = 'python3'\nerror_pages = '/srv/pages'", None),
        ("command = 'python3'\nerror_pages = '/absent'", "/absent: does not exist"),
        ("command = 'python3'\nerror_pages = '/secret'", "/secret: is closed to the proxy (its mode"),
        ("command = 'python3'\nerror_pages = '/home/notes'", "/home/notes: the proxy does not see /home"),
    ],
)
def test_files_that_the_configuration_names_are_looked_at(
    root: Path, lines: str, complaint: str | None
) -> None:
    found = list(file_complaints(parse({"a": "[service.notes]\n" + lines}), root))
    if complaint is None:
        assert found == []
    else:
        assert len(found) == 1
        assert found[0].message.startswith(complaint)


def test_every_page_that_would_not_be_used_is_told(root: Path) -> None:
    pages = root / "srv/pages"
    for name, content, mode in (
        ("405.html", b"", 0o644),
        ("429.html", b"secret", 0o640),
        ("502.html", b"x" * 65537, 0o644),
        ("503.html", b"\xff", 0o644),
    ):
        (pages / name).write_bytes(content)
        (pages / name).chmod(mode)
    os.mkfifo(pages / "504.html", 0o644)
    (pages / "waiting.html").symlink_to("nowhere")
    config = parse({"a": "[service.notes]\ncommand = 'python3'\nerror_pages = '/srv/pages'"})
    unknown, *others = (each.message.removeprefix(f"{pages}/") for each in file_complaints(config, root))
    assert unknown.startswith("405.html: is no page of the proxy; these are: 400, 404, ")
    assert others == [
        "429.html: is not for everybody (its mode 0640 lacks o+r)",
        "502.html: is larger than 64 KiB",
        "503.html: is not UTF-8",
        "504.html: is not a file",
        "waiting.html: cannot be read: No such file or directory",
    ]


def test_a_program_in_workdir_without_a_slash_gets_a_hint(root: Path) -> None:
    config = parse({"a": "[service.notes]\ncommand = 'notes.py'\nworkdir = '/srv/notes'"})
    (complaint,) = file_complaints(config, root)
    assert complaint.hint == "For the one in workdir write ./notes.py."


KEYS = [field.encode_name for cls in (Settings, Service, Routing) for field in msgspec.structs.fields(cls)]
scalars = st.integers() | st.floats() | st.booleans() | st.text(st.characters(codec="ascii"), max_size=8)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("aB_.é", max_size=5), inner, max_size=3)
    ),
)


def written(value: object) -> str:
    """A value as TOML."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value).replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(map(written, value))}]"
        case dict():
            return f"{{ {', '.join(f'{written(key)} = {written(item)}' for key, item in value.items())} }}"
        case _:
            return repr(value)


@unhurried
@given(st.sampled_from(["settings", "service.notes", "routing", "instances"]), st.sampled_from(KEYS), values)
def test_any_value_of_any_setting_is_taken_or_refused_at_its_line(
    section: str, key: str, value: object
) -> None:
    try:
        parse({"a.toml": f"[{section}]\n{key} = {written(value)}\n"})
    except InvalidConfig as error:
        assert all(problem.line in (1, 2) for problem in error.problems)
