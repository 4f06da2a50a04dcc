"""Every fault at once, in one line each: variable, value, what is allowed."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenstack.server import check
from greenstack.server.check import bind_problem, import_problem, log_problem, memory_problem, problems
from greenstack.server.settings import Settings


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("MAX_WORKERS", "0", "MAX_WORKERS=0: too small; allowed: 1 to 1024"),
        ("MAX_WORKERS", "two", "MAX_WORKERS=two: not a whole number; allowed: 1 to 1024"),
        ("WEB_CONCURRENCY", "1025", "WEB_CONCURRENCY=1025: too large; allowed: 1 to 1024"),
        ("PORT", "99999", "PORT=99999: too large; allowed: 1 to 65535"),
        ("HOST", "a b", "HOST=a b: not a host name or address; allowed: a host name or an IP address"),
        (
            "BIND",
            "unix:x",
            "BIND=unix:x: the socket's path is not absolute; allowed: host:port or unix:/path (at most 107 bytes)",
        ),
        ("LOG_LEVEL", "bogus", "LOG_LEVEL=bogus: no such choice; allowed: debug, info, warning, error, critical"),
        ("LOG_FORMAT", "xml", "LOG_FORMAT=xml: no such choice; allowed: text, json"),
        ("TIMEOUT", "-1", "TIMEOUT=-1: too small; allowed: 0 to 3600"),
        ("PRELOAD_APP", "maybe", "PRELOAD_APP=maybe: neither true nor false; allowed: true or false"),
        (
            "APP_MODULE",
            "main",
            "APP_MODULE=main: not of the form module:attribute; allowed: module:attribute, e.g. app.main:app",
        ),
        (
            "WORKER_MEMORY",
            "0",
            "WORKER_MEMORY=0: less than 1m, too little for a process; allowed: a size like 64m, at least 1m",
        ),
        ("STOP_GRACE_PERIOD", "250", "STOP_GRACE_PERIOD=250: not a duration; allowed: a duration like 250s"),
        ("CPUS", "-1", "CPUS=-1: not a number; allowed: a number like 1.5"),
        ("TLS", "on", "TLS=on: no such choice; allowed: off, files, acme"),
        (
            "TLS_KEY",
            "../key.pem",
            "TLS_KEY=../key.pem: not a path, or one that leads elsewhere; allowed: a path of letters, digits and "
            ". _ - /",
        ),
        ("STATIC_PATH", "/", "STATIC_PATH=/: not a path; allowed: a path like /static"),
        ("HTTP_HOST", "here", "HTTP_HOST=here: not an IP address; allowed: an IP address, IPv6 in brackets"),
    ],
)
def test_a_bad_value(name: str, value: str, line: str) -> None:
    assert problems({name: value}) == [line]


def test_a_setting_may_stand_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "module"
    file.write_text("shop.main:app\n")
    assert check.with_files({"APP_MODULE_FILE": str(file), "A": "b"}) == {"APP_MODULE": "shop.main:app", "A": "b"}
    assert problems({"FORWARDED_ALLOW_IPS_FILE": str(file)}) == [], "no misspelt name"
    with pytest.raises(SystemExit):
        check.with_files({"APP_MODULE_FILE": "/none"})
    line = "APP_MODULE_FILE=/none: cannot be read: No such file or directory; allowed: a readable file\n"
    assert capsys.readouterr().err == line


def test_no_file_for_what_others_read_too() -> None:
    line = "BIND_FILE=/x: the server is not alone in reading BIND; allowed: BIND itself"
    assert problems({"BIND_FILE": "/x"}) == [line]
    line = "APP_MODULE_FILE=/x: APP_MODULE is set as well; allowed: one of the two"
    assert problems({"APP_MODULE_FILE": "/x", "APP_MODULE": "a:b"}) == [line]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEEP_ALIVE", "5s"), ("KEEP_ALIVE", "010"), ("KEEP_ALIVE", "99999999999"), ("GRACEFUL_TIMEOUT", "1.5"),
        ("GRACEFUL_TIMEOUT", " 12"), ("CONNECTION_LIMIT", "many"), ("RATE_LIMIT_BURST", "x"),
        ("CLIENT_MAX_BODY_SIZE", "m"), ("CLIENT_MAX_BODY_SIZE", "1;"), ("SERVER_NAME", "a.example;"),
        ("SERVER_NAME", "a\nb"), ("SERVER_NAME", "~^x"), ("TRUSTED_PROXIES", "proxy.example"),
        ("TRUSTED_PROXIES", "10.0.0.1;"), ("TRUSTED_PROXIES", "10.0.0.999"), ("CLIENT_KEEP_ALIVE", "1m"),
        ("BIND", "unix:/run/app/no-ending"), ("BIND", "unix:/a b/c.sock"), ("BIND", "unix:/run/{hostname}/app.sock"),
        ("BIND", "unix:/run;}/a.sock"), ("BIND", "unix:/run/{host}.sock"), ("BIND", ":8080"), ("BIND", "a:b"),
    ],
)  # fmt: skip
def test_nginx_is_spared_what_it_cannot_take(name: str, value: str) -> None:
    (line,) = problems({name: value}, compose=True)
    assert line.startswith(f"{name}=")
    assert "; allowed: " in line
    assert line.isprintable()


@pytest.mark.parametrize(
    "bind", ["unix:/a.sock", "unix:/run/app/{hostname}.sock", "unix:/x/a-{hostname}_1.sock", "a:80"]
)
def test_sockets_that_nginx_finds(bind: str) -> None:
    assert problems({"BIND": bind}, compose=True) == []


def test_a_socket_without_nginx_may_have_any_name() -> None:
    assert problems({"BIND": "unix:/a b/{hostname}/c"}) == []


def test_defaults_are_good() -> None:
    assert problems({}) == []
    assert problems({}, compose=True) == []


def test_all_at_once() -> None:
    lines = problems(
        {
            "MAX_WORKER": "3", "MAX_WORKERS": "none", "PORT": "0", "LOG_LEVEL": "loud", "BIND": "nowhere",
            "KEEP_ALIVE": "5\r", "GRACEFUL_TIMEOUT": "300", "STOP_GRACE_PERIOD": "200s", "MAX_REQUESTS_JITTER": "5",
        },
    )  # fmt: skip
    assert [line.partition("=")[0] for line in lines] == [
        "MAX_WORKER", "KEEP_ALIVE", "MAX_WORKERS", "PORT", "BIND", "LOG_LEVEL", "STOP_GRACE_PERIOD",
        "MAX_REQUESTS_JITTER",
    ]  # fmt: skip


def test_a_bad_value_in_the_processs_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    assert len(problems({**os.environ, "GRACEFUL_TIMEOUT": "2"})) == 2
    assert os.environ["PORT"] == "x", "what was looked at stays as it was"


@given(st.dictionaries(st.sampled_from(sorted(check.NAMES)), st.text(max_size=12), max_size=6))
def test_whatever_the_values_each_fault_is_one_line(environ: dict[str, str]) -> None:
    lines = problems(environ, compose=True)
    for line in lines:
        assert len(line.splitlines()) == 1
        assert "=" in line
        assert "; " in line
    assert len({line.partition("=")[0] for line in lines}) == len(lines), "one line a variable"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("MAX_WORKER", "MAX_WORKERS"),
        ("MAXWORKERS", "MAX_WORKERS"),
        ("WEB_CONCURENCY", "WEB_CONCURRENCY"),
        ("KEEPALIVE", "KEEP_ALIVE"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("GRACEFULL_TIMEOUT", "GRACEFUL_TIMEOUT"),
        ("TIMOUT", "TIMEOUT"),
        ("BAKLOG", "BACKLOG"),
        ("APP_MODUL", "APP_MODULE"),
        ("PRELOADAPP", "PRELOAD_APP"),
        ("MAX_REQUEST", "MAX_REQUESTS"),
        ("FORWARDED_ALLOWED_IPS", "FORWARDED_ALLOW_IPS"),
        ("LOG_FROMAT", "LOG_FORMAT"),
        ("STOP_GRACE_PERIODE", "STOP_GRACE_PERIOD"),
        ("SERVER_NAMES", "SERVER_NAME"),
        ("ACCESSLOG", "ACCESS_LOG"),
    ],
)
def test_misspelt(wrong: str, right: str) -> None:
    assert problems({wrong: "7"}) == [f"{wrong}=7: no such setting; did you mean {right}?"]


@pytest.mark.parametrize(
    "name",
    [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "HOSTNAME",
        "HOSTTYPE",
        "LOGNAME",
        "DB_HOST",
        "DB_PORT",
        "REDIS_PORT",
        "SERVER_PORT",
        "SERVER_SOFTWARE",
        "DOCKER_HOST",
        "SMTP_HOST",
        "SMTP_PORT",
        "READ_TIMEOUT",
        "WORKERS",
        "TAG",
        "APP_IMAGE",
        "NGINX_IMAGE",
        "PYTHON_VERSION",
        "GUNICORN_CMD_ARGS",
        "WORKER_ID",
        "WORKER_SLOT",
        "CA_BUNDLE",
        "NGINX_MEMORY_LIMIT",
        "LOG_MAX_SIZE",
        "http_port",
        "PATH",
        "HOME",
        "LANG",
        "MAIL",
        "TERM",
    ],
)
def test_not_misspelt(name: str) -> None:
    assert problems({name: "x"}) == []


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("8080\r", "PORT=8080: has a carriage return (a file with Windows line ends?); allowed: the bare value"),
        (" 8080", "PORT=8080: has space around it; allowed: the bare value"),
        ("8080\t", "PORT=8080: has space around it; allowed: the bare value"),
        (" ", "PORT=: has space around it; allowed: the bare value"),
    ],
)
def test_stray_characters(value: str, complaint: str) -> None:
    assert problems({"PORT": value}) == [complaint]


def test_line_breaks_in_a_value_stay_in_its_line() -> None:
    assert problems({"LOG_LEVEL": "in\nfo\x1b"}) == [
        "LOG_LEVEL=in\\nfo\\x1b: no such choice; allowed: debug, info, warning, error, critical"
    ]


@pytest.mark.parametrize(
    ("environ", "compose", "fault"),
    [
        ({"KEEP_ALIVE": "5", "GRACEFUL_TIMEOUT": "7"}, False, None),
        (
            {"KEEP_ALIVE": "5", "GRACEFUL_TIMEOUT": "6"},
            False,
            "GRACEFUL_TIMEOUT=6: too short to drain with KEEP_ALIVE=5",
        ),
        ({"KEEP_ALIVE": "1", "GRACEFUL_TIMEOUT": "4"}, False, "KEEP_ALIVE=1; allowed: at least 5"),
        ({"GRACEFUL_TIMEOUT": "300"}, False, None),
        (
            {"GRACEFUL_TIMEOUT": "300"},
            True,
            "STOP_GRACE_PERIOD=250s: Docker would kill the app before GRACEFUL_TIMEOUT=300",
        ),
        ({"STOP_GRACE_PERIOD": "124s"}, False, "allowed: at least 125s"),
        ({"STOP_GRACE_PERIOD": "2m5s"}, True, None),
        ({"MAX_REQUESTS_JITTER": "9"}, False, "MAX_REQUESTS_JITTER=9: has no effect without MAX_REQUESTS"),
        ({"MAX_REQUESTS_JITTER": "9", "MAX_REQUESTS": "9"}, False, None),
        ({"MAX_WORKER_MEMORY": "63m"}, False, "MAX_WORKER_MEMORY=63m: less than a worker needs, WORKER_MEMORY=64m"),
        ({"MAX_WORKER_MEMORY": "64m"}, False, None),
        ({"RATE_LIMIT_BURST": "9"}, False, "RATE_LIMIT_BURST=9: has no effect without RATE_LIMIT"),
        (
            {"CLIENT_KEEP_ALIVE": "120"},
            False,
            "CLIENT_KEEP_ALIVE=120: a stop would cut off idle clients after GRACEFUL_TIMEOUT=120; allowed: at most "
            "119, or a higher GRACEFUL_TIMEOUT",
        ),
        ({"CLIENT_KEEP_ALIVE": "75"}, True, None),
        ({"GRACEFUL_TIMEOUT": "10"}, True, None),
        (
            {"FORWARDED_ALLOW_IPS": "10.0.0.1", "BIND": "unix:/run/app/{hostname}.sock"},
            True,
            "FORWARDED_ALLOW_IPS=10.0.0.1: a unix socket's peer has no address, so nobody would be believed; allowed: "
            "*, and for proxies in front of nginx TRUSTED_PROXIES",
        ),
        ({"FORWARDED_ALLOW_IPS": "::1", "BIND": "unix:/run/a.sock"}, False, "FORWARDED_ALLOW_IPS=::1: "),
        ({"FORWARDED_ALLOW_IPS": "10.0.0.1", "BIND": "0.0.0.0:8080"}, True, None),
        ({"FORWARDED_ALLOW_IPS": "10.0.0.1"}, True, None),  # without nginx the app itself listens
        (
            {"TRUSTED_PROXIES": "10.0.0.1, host", "HTTP_HOST": "0.0.0.0"},
            True,
            "TRUSTED_PROXIES=10.0.0.1, host: at HTTP_HOST=0.0.0.0 others can connect as well",
        ),
        ({"TRUSTED_PROXIES": "10.0.0.1", "HTTP_HOST": "0.0.0.0"}, True, None),
        ({"TRUSTED_PROXIES": "host", "HTTP_HOST": "[::1]"}, True, None),
        ({"FORWARDED_ALLOW_IPS": "*"}, True, None),
        ({"HTTP3": "on"}, False, "HTTP3=on: has no effect without TLS"),
        ({"TLS": "files", "HTTP3": "on", "TLS_FOLDER": "./tls"}, True, None),
        ({"TLS": "files"}, True, "TLS=files: needs TLS_FOLDER, the folder in which fullchain.pem and privkey.pem are"),
        ({"TLS": "files", "TLS_FOLDER": "/tls", "HTTPS_PORT": "80"}, True, "HTTPS_PORT=80: is HTTP_PORT as well"),
        ({"TLS": "files", "TLS_FOLDER": "/tls", "TRUSTED_PROXIES": "host"}, True, "at HTTP_HOST=0.0.0.0 others can"),
        ({"TLS": "acme", "ACME_EMAIL": "a@b"}, True, "TLS=acme: needs SERVER_NAME"),
        ({"TLS": "acme", "SERVER_NAME": "a.b"}, True, "TLS=acme: needs ACME_EMAIL"),
        ({"TLS": "acme", "SERVER_NAME": "*.b", "ACME_EMAIL": "a@b"}, True, "SERVER_NAME=*.b: no certificate for a"),
        ({"TLS": "acme", "SERVER_NAME": "a.b .b", "ACME_EMAIL": "a@b"}, True, "SERVER_NAME=a.b .b: no certificate"),
        ({"TLS": "acme", "SERVER_NAME": "a.b c.d", "ACME_EMAIL": "a@b"}, True, None),
        ({"MAX_WORKERS": "15"}, True, None),
        (
            {"MAX_WORKERS": "16"},
            True,
            "MAX_WORKERS=16: more than the memory limit of 1024 MiB holds at WORKER_MEMORY=64m",
        ),
        ({"MAX_WORKERS": "16"}, False, None),
        ({"MAX_WORKERS": "16", "MEMORY_LIMIT": "0"}, True, None),
        ({"MAX_WORKERS": "3", "MEMORY_LIMIT": "128m"}, False, "allowed: at most 1, or a higher MEMORY_LIMIT"),
        ({"WEB_CONCURRENCY": "16"}, True, "WEB_CONCURRENCY=16: more than the memory limit"),
        ({"WEB_CONCURRENCY": "16", "MAX_WORKERS": "2"}, True, None),
        ({"MAX_WORKERS": "3", "WORKER_MEMORY": "400m"}, True, "WORKER_MEMORY=400m; allowed: at most 1"),
    ],
)
def test_settings_that_contradict_each_other(environ: dict[str, str], compose: bool, fault: str | None) -> None:
    lines = problems(environ, compose=compose)
    assert len(lines) == (fault is not None)
    assert fault is None or fault in lines[0]


def test_compose_files_that_tls_needs_are_named() -> None:
    def problem(present: dict[str, str], **settings: str) -> str | None:
        return check.overlay_problem(Settings.from_environ(settings), present)

    assert problem({}) is None
    assert problem({"COMPOSE_TLS": "acme"}, TLS="acme") is None
    assert problem({}, TLS="acme") == (
        "TLS=acme: needs other Compose files; set COMPOSE_FILE=compose.yaml:compose.tls-acme.yaml, or start it with "
        "make up"
    )
    assert "COMPOSE_FILE=compose.yaml, " in str(problem({"COMPOSE_TLS": "acme"}))
    three = "COMPOSE_FILE=compose.yaml:compose.tls-acme.yaml:compose.http3.yaml, "
    assert three in str(problem({"COMPOSE_TLS": "acme"}, TLS="acme", HTTP3="on"))
    assert problem({"COMPOSE_TLS": "acme", "COMPOSE_HTTP3": "on"}, TLS="acme", HTTP3="on") is None


def test_a_contradiction_with_a_bad_value_is_not_said_twice() -> None:
    assert len(problems({"KEEP_ALIVE": "x", "GRACEFUL_TIMEOUT": "2"})) == 1
    assert len(problems({"GRACEFUL_TIMEOUT": "x", "STOP_GRACE_PERIOD": "1s"})) == 1


def test_memory() -> None:
    assert memory_problem("MAX_WORKERS", 100, "64m", None) is None
    assert memory_problem("MAX_WORKERS", 1, "64m", 1) is None
    assert memory_problem("WEB_CONCURRENCY", 8, "64m", 512 << 20) == (
        "WEB_CONCURRENCY=8: more than the memory limit of 512 MiB holds at WORKER_MEMORY=64m; "
        "allowed: at most 7, or a higher MEMORY_LIMIT"
    )


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_bind_to_a_port(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert bind_problem(f"127.0.0.1:{port}") == (
        f"BIND=127.0.0.1:{port}: cannot listen there: Address already in use; allowed: a free address of this machine"
    )
    listener.close()
    assert bind_problem(f"127.0.0.1:{port}") is None
    assert bind_problem(f"localhost:{port}") is None


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a..b", "a" * 70, "\udc80", "[2001:db8::1]"])
def test_bind_to_what_is_not_here(host: str) -> None:
    line = bind_problem(f"{host}:8080")
    assert line is not None
    assert line.startswith(f"BIND={host}:8080: cannot listen there: ")


def test_bind_to_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    assert bind_problem(f"unix:{path}") is None
    assert not path.exists()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    assert "another server listens there" in str(bind_problem(f"unix:{path}"))
    assert bind_problem(f"unix:{path}", taken=False) is None
    listening.close()
    assert bind_problem(f"unix:{path}") is None, "a dead server left it behind"


def test_bind_to_no_socket(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is there and is no socket" in str(bind_problem(f"unix:{tmp_path}/file"))
    assert "is there and is no socket" in str(bind_problem(f"unix:{tmp_path}"))
    assert f"no folder {tmp_path}/none" in str(bind_problem(f"unix:{tmp_path}/none/app.sock"))
    assert "cannot listen there" in str(bind_problem(f"unix:{tmp_path}/file/app.sock"))


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root, as whom tests may run, may write everywhere
    assert f"no permission to write to {tmp_path}" in str(bind_problem(f"unix:{tmp_path}/app.sock"))
    assert log_problem("ACCESS_LOG", f"{tmp_path}/access.log")


def test_log_files(tmp_path: Path) -> None:
    assert log_problem("ACCESS_LOG", "-") is None
    assert log_problem("ACCESS_LOG", "") is None
    assert log_problem("ACCESS_LOG", f"{tmp_path}/new.log") is None
    assert not (tmp_path / "new.log").exists()
    (tmp_path / "old.log").touch()
    assert log_problem("ERROR_LOG", f"{tmp_path}/old.log") is None
    assert log_problem("ERROR_LOG", "/dev/null") is None
    for bad in (f"{tmp_path}/none/x.log", str(tmp_path), f"{tmp_path}/old.log/x.log"):
        assert log_problem("ERROR_LOG", bad) == (
            f"ERROR_LOG={bad}: cannot be written; allowed: a path, - for stderr, empty for none"
        )


@pytest.mark.parametrize(
    ("source", "module", "reason"),
    [
        ("app = print", "MODULE:app", None),
        ("app = print", "MODULE:nope", "AppImportError: Failed to find attribute 'nope' in 'MODULE'."),
        ("app = 3", "MODULE:app", "AppImportError: Application object must be callable."),
        ("app = print", "MODULE_missing:app", "ModuleNotFoundError: No module named 'MODULE_missing'"),
        ("\nimport not_there", "MODULE:app", "ModuleNotFoundError: No module named 'not_there' (PATH:2)"),
        ("\n\nraise ValueError('a\\n b')", "MODULE:app", "ValueError: a b (PATH:3)"),
        ("raise ValueError", "MODULE:app", "ValueError: no message (PATH:1)"),
        ("import json\njson.loads('{')", "MODULE:app", "(PATH:2)"),
        ("def", "MODULE:app", "SyntaxError: invalid syntax (MODULE.py, line 1)"),
        ("import sys\nsys.exit('no database')", "MODULE:app", "SystemExit: no database (PATH:2)"),
    ],
)
def test_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, module: str, reason: str | None) -> None:
    name = f"imported_{tmp_path.name}"  # one each, as Python remembers what it imported
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    line = import_problem(module.replace("MODULE", name))
    sys.modules.pop(name, None)
    if reason is None:
        assert line is None
    else:
        assert line is not None
        assert line.startswith(f"APP_MODULE={module.replace('MODULE', name)}: cannot be imported: ")
        assert line.endswith(reason.replace("MODULE", name).replace("PATH", f"{name}.py"))
        assert "\n" not in line


@pytest.mark.parametrize(
    ("largest", "limit", "noted"),
    [("10m", 1 << 30, False), ("2g", 1 << 30, True), ("0", 1 << 30, True), ("2g", None, False)],
)
def test_a_body_larger_than_the_memory_is_noted(largest: str, limit: int | None, noted: bool) -> None:
    assert bool(check.body_note(largest, limit)) == noted


def test_a_time_zone_must_exist() -> None:
    line = "TZ=Mars/Olympus: no such time zone; allowed: a time zone like Europe/Berlin"
    assert check.time_zone_problem("Mars/Olympus") == line
    for name in ("UTC", ":/etc/localtime", "CET-1CEST,M3.5.0,M10.5.0/3"):
        assert check.time_zone_problem(name) is None


def test_sticky_needs_replicas_of_one_worker() -> None:
    line = "STICKY=cookie: a replica must be one process; set MAX_WORKERS=1, and scale the replicas"
    assert problems({"STICKY": "cookie"}, compose=True) == [line]
    assert problems({"STICKY": "cookie", "MAX_WORKERS": "1"}, compose=True) == []
    line = "STICKY=address: needs unix sockets between nginx and the app; leave BIND unset"
    environ = {"STICKY": "address", "WEB_CONCURRENCY": "1", "BIND": "0.0.0.0:8080"}
    assert problems(environ, compose=True) == [line]


def test_metrics_need_replicas_that_can_be_told_apart() -> None:
    line = "METRICS=on: needs unix sockets between nginx and the app, which tell replicas apart; leave BIND unset"
    assert problems({"METRICS": "on", "BIND": "0.0.0.0:8080"}, compose=True) == [line]
    assert problems({"METRICS": "on"}, compose=True) == []
    assert problems({"METRICS": "on", "BIND": "0.0.0.0:8080"}) == [], "without nginx there is one"
