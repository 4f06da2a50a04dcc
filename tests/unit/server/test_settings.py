"""The settings class: defaults, bounds, what is empty, and what is derived."""

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from greenstack.server import check
from greenstack.server.settings import Settings, allowed, group, parse_duration, parse_size

# The seed's, with its defaults.
SEED = {
    "host": "0.0.0.0", "port": 8080, "bind": None, "log_level": "info", "access_log": "-", "error_log": "-",
    "graceful_timeout": 120, "timeout": 120, "keep_alive": 5, "backlog": 2048, "max_workers": None,
    "web_concurrency": None,
}  # fmt: skip


def settings(**variables: str) -> Settings:
    return Settings.from_environ(variables)


def test_defaults_are_those_of_the_seed() -> None:
    assert {name: getattr(settings(), name) for name in SEED} == SEED


@pytest.mark.parametrize("name", check.NAMES)
def test_empty_is_unset(name: str) -> None:
    expected = settings().model_dump()
    if name in ("ACCESS_LOG", "ERROR_LOG"):
        expected[name.lower()] = ""  # no log
    assert settings(**{name: ""}).model_dump() == expected


@pytest.mark.parametrize("name", check.NAMES)
def test_each_says_what_it_is_and_what_it_allows(name: str) -> None:
    info = check.NAMES[name]
    assert info.description
    assert group(info) in ("server", "application", "nginx", "compose")
    assert len(allowed(info)) > 3


@pytest.mark.parametrize("name", ["port", "Port", "pOrT"])
def test_only_capitals_count(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1234")
    assert Settings.from_environ(os.environ).port == 8080
    monkeypatch.setenv("PORT", "4321")
    assert Settings.from_environ(os.environ).port == 4321


def test_what_is_not_ours_does_not_matter() -> None:
    assert settings(PATH="/bin", SHELL="x", DATABASE_URL="y") == settings()


NUMBERS = {
    "MAX_WORKERS": (1, 1024), "WEB_CONCURRENCY": (1, 1024), "PORT": (1, 65535), "GRACEFUL_TIMEOUT": (1, 3600),
    "TIMEOUT": (0, 3600), "KEEP_ALIVE": (0, 600), "BACKLOG": (1, 65535), "MAX_REQUESTS": (0, 10**9),
    "MAX_REQUESTS_JITTER": (0, 10**9), "LIMIT_CONCURRENCY": (0, 10**6), "RATE_LIMIT": (0, 10**6),
    "REQUEST_TIMEOUT": (1, 86400), "SHED_DELAY": (0, 60000),
    "RATE_LIMIT_BURST": (0, 10**6), "CONNECTION_LIMIT": (0, 65535), "CONCURRENCY_LIMIT": (0, 65535),
    "CLIENT_KEEP_ALIVE": (1, 3600), "HTTP_PORT": (1, 65535), "PIDS_LIMIT": (16, 10**6),
}  # fmt: skip


@pytest.mark.parametrize(("name", "least", "most"), [(name, *bounds) for name, bounds in NUMBERS.items()])
def test_numbers(name: str, least: int, most: int) -> None:
    for good in (least, most):
        assert getattr(settings(**{name: str(good)}), name.lower()) == good
    for bad in (
        str(least - 1),
        str(most + 1),
        "5.0",
        "1_000",
        "0x10",
        "010",
        "1e3",
        "+5",
        "five",
        "٣",
        "5s",
        "-",
        "5 5",
    ):
        with pytest.raises(ValidationError):
            settings(**{name: bad})


@given(st.text(max_size=8))
def test_a_number_is_what_a_shell_would_take_for_one(text: str) -> None:
    try:
        port = settings(PORT=text).port
    except ValidationError:
        return
    assert text == "" or (text.isascii() and text.isdigit() and text == str(port))


@pytest.mark.parametrize(
    ("bind", "address"),
    [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("[::]:8080", "[::]:8080"),
        ("my-host.example:65535", "my-host.example:65535"),
        ("unix:/run/app.sock", "unix:/run/app.sock"),
        ("unix:/run/{hostname}.sock", f"unix:/run/{socket.gethostname()}.sock"),
        (f"unix:/{'a' * 106}", f"unix:/{'a' * 106}"),
    ],
)
def test_bind(bind: str, address: str) -> None:
    assert settings(BIND=bind, HOST="1.2.3.4", PORT="5").address == address


@pytest.mark.parametrize(
    "bind",
    [
        "8080",
        ":8080",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:http",
        "::1:80",
        "a b:80",
        "http://host:80",
        "a,b:80",
        "127.0.0.1:80,127.0.0.1:81",
        "unix:app.sock",
        "unix:",
        "unix:/run/a,b.sock",
        f"unix:/{'a' * 107}",
        f"unix:/{'ü' * 54}",
        "fd://3",
        "host:80\n",
    ],
)
def test_bad_bind(bind: str) -> None:
    with pytest.raises(ValidationError):
        settings(BIND=bind)


@pytest.mark.parametrize(
    ("host", "address"),
    [("::1", "[::1]:8080"), ("[::1]", "[::1]:8080"), ("0.0.0.0", "0.0.0.0:8080"), ("localhost", "localhost:8080")],
)
def test_host_and_port_make_the_address(host: str, address: str) -> None:
    assert settings(HOST=host).address == address
    assert settings(HOST=host, PORT="9").address == address.replace("8080", "9")


@pytest.mark.parametrize(
    "module", ["main:app", "app.main:app", "_a.b2:create_app()", "app.main:make('x', y=1)", "müll:app", "server:app"]
)
def test_app_module(module: str) -> None:
    assert settings(APP_MODULE=module).app_module == module


@pytest.mark.parametrize(
    "module",
    [
        "main",
        "main:",
        ":app",
        "app/main.py:app",
        "app.main.app",
        "2a:app",
        "a..b:app",
        "a:b c",
    ],
)
def test_bad_app_module(module: str) -> None:
    with pytest.raises(ValidationError):
        settings(APP_MODULE=module)


@pytest.mark.parametrize("value", ["true", "false", "1", "0", "yes", "no", "on", "off", "TRUE"])
def test_switches(value: str) -> None:
    assert settings(PRELOAD_APP=value).preload_app == (value.lower() in ("true", "1", "yes", "on"))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("LOG_LEVEL", ["debug", "info", "warning", "error", "critical"], ["bogus", "INFO", "notset", "10"]),
        ("LOG_FORMAT", ["text", "json"], ["JSON", "xml"]),
        ("PRELOAD_APP", ["true"], ["maybe", "2", "truee"]),
        ("HOST", ["a.b", "::", "a_b"], ["a b", "a/b", "http://x", "ü"]),
        (
            "HTTP_HOST",
            ["127.0.0.1", "[::1]", "[::]"],
            ["localhost", "a b", "::1", "[127.0.0.1]", "[::1", "1.2.3", "[]"],
        ),
        (
            "FORWARDED_ALLOW_IPS",
            ["*", "10.0.0.1", "10.0.0.0/8, ::1", "fd00::/8"],
            ["10.0.0", "10.0.0.1/8", "x", "1.2.3.4,*", ","],
        ),
        (
            "TRUSTED_PROXIES",
            ["10.0.0.1", "10.0.0.0/8, ::1", "fd00::/8,192.168.0.0/16", "0.0.0.0/0", "host", "10.0.0.7, host"],
            [
                "hosts",
                "HOST",
                "host/8",
                "host 10.0.0.7",
                "host,",
                "*",
                "10.0.0",
                "10.0.0.1/8",
                "proxy",
                "10.0.0.0/255.0.0.0",
                "fe80::1%eth0",
                "1.2.3.4 5.6.7.8",
                ",",
                "1.2.3.4,",
            ],
        ),
        ("WORKER_MEMORY", ["64m", "1g", "1048576", "2048k", "64M"], ["0", "1", "1023k", "64mb", "1.5g", "-1m", "m"]),
        ("MAX_WORKER_MEMORY", ["64m", "1g"], ["0", "1023k", "64mb"]),
        ("MEMORY_LIMIT", ["0", "512m", "1G", "1b"], ["512mb", "half", "-1"]),
        ("CLIENT_MAX_BODY_SIZE", ["0", "10m", "1G", "512k", "77"], ["10b", "10mb", "-1", "1.5m"]),
        ("STOP_GRACE_PERIOD", ["250s", "4m10s", "1h", "0s"], ["250", "4 m", "1d", "s", "-1s", "1.5m"]),
        ("CPUS", ["0", "1", "1.5", "0.25"], ["-1", ".5", "one", "1,5"]),
        ("HEALTH_PATH", ["/", "/health", "/api/v1/health"], ["health", "http://x/", "/a b", "/ü"]),
        ("SERVER_NAME", ["a.example", "a.example *.b.example"], ["a.example;", "a/b", "$host"]),
    ],
)
def test_other_values(name: str, good: list[str], bad: list[str]) -> None:
    for value in good:
        settings(**{name: value})
    for value in bad:
        with pytest.raises(ValidationError):
            settings(**{name: value})


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("1b", 1), ("2k", 2048), ("3m", 3 << 20), ("4G", 4 << 30)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_durations(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds
    assert parse_duration(f"{minutes}m") == minutes * 60


@given(st.integers(0, 600), st.integers(1, 3600))
def test_the_timers_fit_into_each_other(keep_alive: int, graceful_timeout: int) -> None:
    """nginx closes idle connections first, and a stop ends in time."""
    s = settings(KEEP_ALIVE=str(keep_alive), GRACEFUL_TIMEOUT=str(graceful_timeout))
    assert s.upstream_keep_alive < max(s.keep_alive, 1e-9)
    assert s.drain >= s.upstream_keep_alive + 1
    assert s.drain + s.time_to_finish + 1.5 <= s.graceful_timeout or s.time_to_finish < 1
    # What the check says is the least one is the least one.
    least = check.problems({"KEEP_ALIVE": str(keep_alive), "GRACEFUL_TIMEOUT": str(graceful_timeout)})
    if least:
        number = least[0].rpartition(" ")[2]
        assert not check.problems({"KEEP_ALIVE": str(keep_alive), "GRACEFUL_TIMEOUT": number})
        assert check.problems({"KEEP_ALIVE": str(keep_alive), "GRACEFUL_TIMEOUT": str(int(number) - 1)})


def test_who_is_believed_about_clients() -> None:
    assert settings().trusted_peers == "127.0.0.1"
    assert settings(BIND="unix:/run/app.sock").trusted_peers == "*"
    assert settings(BIND="unix:/run/app.sock", FORWARDED_ALLOW_IPS="10.0.0.1").trusted_peers == "10.0.0.1"
    assert settings(FORWARDED_ALLOW_IPS="*").trusted_peers == "*"
