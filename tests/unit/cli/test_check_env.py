"""`make check-env`: the table, and all faults at once."""

import re
from pathlib import Path

import pytest
from rich.console import Console

from greenstack.cli import ROOT, check_env, console
from greenstack.cli.console import CommandError
from greenstack.cli.environment import Environment, profiles, resolve
from greenstack.server.check import NAMES

SIX_MISTAKES = """\
MAX_WORKER=2
KEEP_ALIVE=many
LOG_LEVEL = debug
GRACEFUL_TIMEOUT 30
HTTP_PORT=8080\r
APP_MODULE=app.nope:app
"""


def profile(tmp_path: Path, text: str, **shell: str) -> Environment:
    (tmp_path / "env").mkdir(exist_ok=True)
    (tmp_path / "env/x.env").write_bytes(text.encode())
    return resolve("x", shell, tmp_path)


def refusal(environment: Environment) -> tuple[str, ...]:
    with pytest.raises(CommandError) as refused:
        check_env.require(environment, importing=True)
    assert refused.value.status == 2
    return refused.value.lines


def test_what_compose_passes_on_is_known() -> None:
    assert {"MAX_REQUESTS", "GUNICORN_CMD_ARGS", "HTTP_PORT"} <= check_env.compose_knobs().keys()


def test_names_that_others_use_are_no_slips(tmp_path: Path) -> None:
    assert check_env.faults(profile(tmp_path, "", HTTPS_PORT="443", APP_MODE="live")) == []


def test_a_file_with_six_mistakes_names_all_six(tmp_path: Path) -> None:
    lines = refusal(profile(tmp_path, SIX_MISTAKES))
    assert lines == (
        "env/x.env:1: MAX_WORKER=2: no such setting; did you mean MAX_WORKERS?",
        "env/x.env:2: KEEP_ALIVE=many: not a whole number; allowed: 0 to 600",
        "env/x.env:3: LOG_LEVEL=debug: stray space; allowed: LOG_LEVEL=debug",
        "env/x.env:4: not an assignment: GRACEFUL_TIMEOUT…; allowed: NAME=value, or # and a comment",
        "env/x.env:5: a carriage return in the line (saved with Windows line ends?); allowed: Unix line ends",
        "env/x.env:6: APP_MODULE=app.nope:app: cannot be imported: ModuleNotFoundError: No module named 'app.nope'",
    )


def test_each_mistake_is_named_once(tmp_path: Path) -> None:
    assert len(refusal(profile(tmp_path, "MAX_WORKER=2\n"))) == 1
    assert len(refusal(profile(tmp_path, "KEEP_ALIVE=many\n"))) == 1


def test_a_fault_of_the_shell_has_no_place(tmp_path: Path) -> None:
    (line,) = refusal(profile(tmp_path, "KEEP_ALIVE=5\n", KEEP_ALIVE="many"))
    assert line.startswith("KEEP_ALIVE=many: ")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("NGINX_MEMORY_LIMITS", "NGINX_MEMORY_LIMIT"), ("PYTHON_IMAG", "PYTHON_IMAGE"), ("keep_alive", "KEEP_ALIVE")],
)
def test_names_that_compose_reads_are_known_too(tmp_path: Path, name: str, meant: str) -> None:
    (line,) = refusal(profile(tmp_path, f"{name}=x\n"))
    assert line.endswith(f"did you mean {meant}?")


@pytest.mark.parametrize("name", ["COMPOSE_PROJECT_NAME", "DATABASE_URL", "PYTHONWARNINGS", "TAG", "HTTPS_PROXY"])
def test_names_of_others_are_left_alone(tmp_path: Path, name: str) -> None:
    assert not check_env.faults(profile(tmp_path, f"{name}=x\n"))


def test_more_workers_than_memory_holds_are_refused(tmp_path: Path) -> None:
    (line,) = refusal(profile(tmp_path, "MAX_WORKERS=40\nMEMORY_LIMIT=512m\n"))
    assert "more than the memory limit of 512 MiB holds" in line
    assert "at most 7" in line


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "import os; os._exit(3)", "print('APP_MODULE=noise')\n1/0"])
def test_an_application_that_ends_python_is_one_line(
    tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker").symlink_to(ROOT / "docker")
    (tmp_path / "odd.py").write_text(code)
    monkeypatch.setattr(check_env, "ROOT", tmp_path)
    line = check_env.import_fault(profile(tmp_path, "APP_MODULE=odd:app\n"))
    assert line
    assert line.startswith("APP_MODULE=odd:app: ")
    assert "\n" not in line


def test_an_endless_import_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docker").symlink_to(ROOT / "docker")
    (tmp_path / "odd.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(check_env, "ROOT", tmp_path)
    monkeypatch.setattr(check_env, "IMPORT_DEADLINE", 0.1)
    line = check_env.import_fault(profile(tmp_path, "APP_MODULE=odd:app\n"))
    assert line == "APP_MODULE=odd:app: still importing after 0.1 s; allowed: what imports sooner"


def table(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    narrow = Console(width=40, soft_wrap=True)
    monkeypatch.setattr(console, "out", narrow)
    with narrow.capture() as capture:
        check_env.show(environment)
    rows = [line.split() for line in capture.get().splitlines()]
    return {row[0]: row[1:] for row in rows if row}


def test_the_table_has_every_setting_with_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table(profile(tmp_path, "KEEP_ALIVE=6\nACCESS_LOG=\nERROR_LOG=/x\nTAG=t\n", ERROR_LOG="-"), monkeypatch)
    assert rows["KEEP_ALIVE"] == ["6", "env/x.env:1"]
    assert rows["ACCESS_LOG"] == ["env/x.env:2"]
    assert rows["ERROR_LOG"] == ["-", "shell"]
    assert rows["TAG"] == ["t", "env/x.env:4"]
    assert rows["TIMEOUT"] == ["120", "default"]
    assert rows["PRELOAD_APP"] == ["false", "default"]
    assert rows["BIND"] == ["unix:/run/app/{hostname}.sock", "compose.yaml"]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_long_value_is_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    value = "0123456789" * 20
    narrow = Console(width=80, soft_wrap=True, force_terminal=terminal, color_system=None)
    monkeypatch.setattr(console, "out", narrow)
    with narrow.capture() as capture:
        check_env.show(profile(tmp_path, f"LONG={value}\n"))
    shown = capture.get()
    assert value in (re.sub(r"env:1|\D", "", shown) if terminal else shown)
    assert not terminal or max(map(len, shown.splitlines())) == 80


def test_the_applications_variables_are_shown_secrets_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table(
        profile(tmp_path, "GREETING=hello\nDB_PASSWORD=abc\nTAG=t\nCOMPOSE_FILE=x\nDSN=password=abc\n"), monkeypatch
    )
    assert rows["GREETING"] == ["hello", "env/x.env:1,", "for", "the", "application"]
    assert rows["DB_PASSWORD"][0] == "********"
    assert rows["TAG"] == ["t", "env/x.env:3"]
    assert rows["COMPOSE_FILE"] == ["x", "env/x.env:4"]
    assert rows["DSN"][0] == "password=********"


def test_a_fault_does_not_show_a_secret(tmp_path: Path) -> None:
    written = ["TOKEN: abc", "TAGG=postgresql://me:abc@db/x", "DSN = host=db password=abc", "API_KEY=abc$def"]
    lines = refusal(profile(tmp_path, "\n".join(written)))
    assert len(lines) == 4
    assert [line for line in lines if "abc" in line] == []


def test_a_dollar_sign_in_a_password_is_a_fault(tmp_path: Path) -> None:
    (line,) = refusal(profile(tmp_path, "DB_PASSWORD=abc$def\n"))
    assert line.startswith("env/x.env:1: DB_PASSWORD=********: def is not set; allowed: $$ for a dollar sign")


def test_compose_and_the_settings_agree_on_every_default() -> None:
    knobs = check_env.compose_knobs()
    for name, info in NAMES.items():
        # These two have no default of their own: the server derives it, Compose knows what surrounds the server.
        if knobs.get(name) and name not in ("BIND", "FORWARDED_ALLOW_IPS"):
            assert knobs[name] == str(info.default).lower(), name


@pytest.mark.parametrize("name", profiles())
def test_the_profiles_of_the_repository_are_in_order(name: str) -> None:
    environment = resolve(name, {})
    assert not check_env.faults(environment)
    read_by_compose = {"COMPOSE_FILE", "COMPOSE_PATH_SEPARATOR"}
    assert environment.written.keys() <= NAMES.keys() | check_env.compose_knobs().keys() | read_by_compose
