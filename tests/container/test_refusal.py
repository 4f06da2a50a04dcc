"""Bad settings end before anything serves: exit status 2, one line each, no restarts."""

import pytest

from tests.conftest import Start
from tests.support.compose import Stack, docker

NEVER = "0001-01-01T00:00:00Z"  # Docker's StartedAt of a container that was created only
BAD = {
    "MAX_WORKERS": "0", "KEEP_ALIVE": "often", "LOG_LEVEL": "loud", "APP_MODULE": "main", "BIND": "8080",
    "CLIENT_MAX_BODY_SIZE": "lots", "RATE_LIMIT": "-1", "TIMEOUT": "5 ",
}  # fmt: skip


def test_nothing_starts_with_bad_settings(start: Start) -> None:
    stack = start(BAD, up=False)
    done = stack.compose("up", "--detach", "--no-build", "--wait", check=False)
    assert done.returncode
    check = stack.container("check")
    assert (check["State"]["ExitCode"], check["RestartCount"]) == (2, 0)
    lines = stack.log("check")
    assert sorted(line.partition("=")[0] for line in lines) == sorted(BAD), "\n".join(lines)
    assert all("allowed: " in line for line in lines)
    for service in ("app", "nginx"):
        assert stack.container(service)["State"]["StartedAt"] == NEVER, service


@pytest.fixture(scope="module")
def stack(start_shared: Start) -> Stack:
    return start_shared(up=False)


@pytest.mark.parametrize(("settings", "expected"), [
    ({"APP_MODULE": "app.nowhere:app"}, "APP_MODULE=app.nowhere:app: cannot be imported: ModuleNotFoundError: "),
    ({"APP_MODULE": "app.main:application"}, "APP_MODULE=app.main:application: "),
    ({"STOP_GRACE_PERIOD": "60s"}, "STOP_GRACE_PERIOD=60s: "),
    ({"GRACEFUL_TIMEOUT": "3"}, "GRACEFUL_TIMEOUT=3: "),
    ({"MAX_REQUESTS_JITTER": "5"}, "MAX_REQUESTS_JITTER=5: "),
    ({"RATE_LIMIT_BURST": "5"}, "RATE_LIMIT_BURST=5: "),
    ({"MAX_WORKERS": "20", "MEMORY_LIMIT": "128m"}, "MAX_WORKERS=20: "),
    ({"BIND": "unix:/srv/{hostname}.sock"}, "BIND=unix:/srv/"),
    ({"BIND": "192.0.2.1:8080"}, "BIND=192.0.2.1:8080: "),
    ({"LOG_LEVEL": "info\r"}, "LOG_LEVEL=info: has a carriage return"),
], ids=lambda value: " ".join(f"{k}={v!r}" for k, v in value.items()) if isinstance(value, dict) else "")  # fmt: skip
def test_check_says_each_in_one_line(stack: Stack, settings: dict[str, str], expected: str) -> None:
    options = [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]
    done = stack.compose("run", "--rm", "--no-deps", "-T", *options, "check", check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line]
    assert done.returncode == 2, lines
    assert [line.startswith(expected) for line in lines] == [True], lines


def test_a_host_that_cannot_be_told(nginx_image: str) -> None:
    options = ["--rm", "--network=none", "--env=TRUSTED_PROXIES=host"]
    done = docker("run", *options, nginx_image, "-t", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "nginx: TRUSTED_PROXIES=host: no default gateway here to stand for host; allowed: addresses\n"
    )


def test_check_passes_what_is_right(stack: Stack) -> None:
    done = stack.compose("run", "--rm", "--no-deps", "-T", "check")
    assert done.stdout.startswith("settings ok: ")


def test_no_container_is_left_by_the_checks(stack: Stack) -> None:
    assert docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={stack.name}").stdout == ""
