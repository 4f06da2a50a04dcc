"""What a real Gunicorn refuses at its start: exit status 2, one line for each fault, no traceback."""

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import CONF, DEADLINE, GUNICORN, ROOT, Gunicorn, environment, free_port

Start = Callable[..., Gunicorn]


def refusal(gunicorn: Gunicorn) -> str:
    """Wait for its end with status 2, and give the one line that says why."""
    assert gunicorn.ended(DEADLINE) == 2  # several start at once, and look for a host that is not
    assert "Traceback" not in gunicorn.log
    # In the log a line begins with time, process and level.
    (line,) = set(re.findall(r"^(?:\[.*\[CRITICAL\] )?([A-Z_]+=.*)$", gunicorn.log, re.MULTILINE))
    return str(line)


def test_six_faults_at_once(start: Start) -> None:
    gunicorn = start(
        MAX_WORKER="4", PORT="99999", LOG_LEVEL="loud", KEEP_ALIVE="5\r", TIMEOUT="soon", GRACEFUL_TIMEOUT="1",
    )  # fmt: skip
    assert gunicorn.ended() == 2
    assert [line.partition("=")[0] for line in gunicorn.log.splitlines()] == [
        "MAX_WORKER", "KEEP_ALIVE", "PORT", "LOG_LEVEL", "TIMEOUT",
    ]  # fmt: skip
    # The sixth depends on KEEP_ALIVE, so it shows when that is mended.
    assert refusal(start(KEEP_ALIVE="5", GRACEFUL_TIMEOUT="1")) == (
        "GRACEFUL_TIMEOUT=1: too short to drain with KEEP_ALIVE=5; allowed: at least 7"
    )


@pytest.mark.parametrize(
    "command", [[CONF], ["-m", "greenstack.server.check"], ["-m", "gunicorn", "-c", CONF, "--check-config"]], ids=str
)
def test_every_way_in_refuses(command: list[object]) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False,
        env=environment({"PYTHONPATH": str(ROOT / "docker"), "PORT": "0", "BACKLOG": "x"}),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "PORT=0: too small; allowed: 1 to 65535",
        "BACKLOG=x: not a whole number; allowed: 1 to 65535",
    ]
    assert done.stdout == ""


@pytest.mark.parametrize("command", [[CONF], ["-m", "greenstack.server.check"]], ids=str)
def test_a_bad_web_concurrency_is_refused_in_one_line(command: list[object]) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False,
        env=environment({"WEB_CONCURRENCY": "1e3"}),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "WEB_CONCURRENCY=1e3: not a whole number; allowed: 1 to 1024\n"


def test_gunicorn_reads_web_concurrency_before_any_file(project: Path) -> None:
    """So nothing of ours can spare a bare Gunicorn its traceback. Where this fails, gunicorn_conf.py can."""
    (project / "conf.py").write_text("raise SystemExit('the configuration is read')")

    def said(value: str) -> str:
        return subprocess.run(
            [GUNICORN, "-c", "conf.py"], cwd=project, capture_output=True, text=True, check=False,
            env=environment({"WEB_CONCURRENCY": value}),
        ).stderr  # fmt: skip

    assert "the configuration is read" in said("3")
    assert "the configuration is read" not in said("1e3")


def checked(project: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the container's check in `project`."""
    return subprocess.run(
        [sys.executable, "-m", "greenstack.server.check"], cwd=project, capture_output=True, text=True, check=False,
        env=environment({"PYTHONPATH": str(ROOT / "docker"), **variables}),
    )  # fmt: skip


def test_the_containers_check(project: Path) -> None:
    good = {"APP_MODULE": "tiny.main:app", "BIND": f"unix:{project}/a.sock", "MAX_WORKERS": "2"}
    fine = checked(project, **good)
    assert (fine.returncode, fine.stderr) == (0, "")
    assert fine.stdout == f"settings ok: 2 workers (MAX_WORKERS), tiny.main:app on unix:{project}/a.sock\n"
    bad = checked(
        project, APP_MODULE="tiny.none:app", BIND=f"unix:{project}/none/a.sock", ACCESS_LOG=f"{project}/none/a.log"
    )
    assert bad.returncode == 2
    assert [line.partition("=")[0] for line in bad.stderr.splitlines()] == ["BIND", "ACCESS_LOG", "APP_MODULE"]
    # Gunicorn reads this variable before its configuration file, and refuses it without saying its name.
    peers = checked(project, **good, FORWARDED_ALLOW_IPS="10.0.0.1/8")
    assert (peers.returncode, peers.stderr) == (
        2,
        "FORWARDED_ALLOW_IPS=10.0.0.1/8: 10.0.0.1/8 has host bits set; "
        "allowed: addresses or networks separated by commas, or *\n",
    )


def test_an_address_that_cannot_be_listened_on(start: Start, project: Path) -> None:
    port = free_port()
    (project / "file").touch()
    with socket.create_server(("127.0.0.1", port)):
        cases = {
            f"127.0.0.1:{port}": "Address already in use",
            "192.0.2.1:80": "Cannot assign requested address",
            "no-such-host.invalid:80": "",
            f"unix:{project}/none/a.sock": f"no folder {project}/none",
            f"unix:{project}/file": f"{project}/file is there and is no socket",
            f"unix:{project}": f"{project} is there and is no socket",
        }
        refused = {bind: start(BIND=bind) for bind in cases}
        for bind, reason in cases.items():
            line = refusal(refused[bind])
            assert line.startswith(f"BIND={bind}: cannot listen there: {reason}")
            assert line.endswith("; allowed: a free address of this machine")


def test_a_socket_that_another_server_uses(start: Start) -> None:
    first = start().until_ready()
    second = start(BIND=first.variables["BIND"])
    assert refusal(second).startswith(
        f"BIND={first.variables['BIND']}: cannot listen there: another server listens there"
    )
    assert first.get().status_code == 200
    first.kill()  # which leaves its socket behind
    assert start(BIND=first.variables["BIND"]).until_ready().get().status_code == 200


MODULES = {
    "missing": (None, "ModuleNotFoundError: No module named 'tiny.missing'"),
    "attribute": ("", "AppImportError: Failed to find attribute 'app' in 'tiny.attribute'."),
    "raising": ("\nraise ValueError('no\\ndatabase')", "ValueError: no database (tiny/raising.py:2)"),
    "importing": ("import not_there", "ModuleNotFoundError: No module named 'not_there' (tiny/importing.py:1)"),
    "syntax": ("def", "SyntaxError: invalid syntax (syntax.py, line 1)"),
    "leaving": ("import sys; sys.exit('no database')", "SystemExit: no database (tiny/leaving.py:1)"),
}


@pytest.mark.parametrize("preload", ["false", "true"])
def test_an_application_that_cannot_be_imported(start: Start, project: Path, preload: str) -> None:
    for name, (source, _) in MODULES.items():
        if source is not None:
            (project / f"tiny/{name}.py").write_text(source)
    # Several workers all fail, and the line is there once all the same.
    started = {name: start(APP_MODULE=f"tiny.{name}:app", PRELOAD_APP=preload, MAX_WORKERS="3") for name in MODULES}
    for name, (_, reason) in MODULES.items():
        assert refusal(started[name]) == f"APP_MODULE=tiny.{name}:app: cannot be imported: {reason}"


def test_a_lifespan_that_fails_at_the_first_start(start: Start, project: Path) -> None:
    """Not a setting: whoever restarts the container may find the database there."""
    (project / "fail").touch()
    gunicorn = start(FAIL_FILE=str(project / "fail"), MAX_WORKERS="3")
    assert gunicorn.ended() == 3
    assert "no database" in gunicorn.log
    assert "Traceback" not in gunicorn.log


def test_logs_that_cannot_be_written(start: Start, project: Path) -> None:
    gunicorn = start(ACCESS_LOG=f"{project}/none/access.log", ERROR_LOG=str(project))
    assert gunicorn.ended() == 2
    assert gunicorn.log.splitlines() == [
        f"ACCESS_LOG={project}/none/access.log: cannot be written; allowed: a path, - for stdout, empty for none",
        f"ERROR_LOG={project}: cannot be written; allowed: a path, - for stderr, empty for none",
    ]


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"MAX_WORKERS": "0"}, "MAX_WORKERS=0: too small; allowed: 1 to 1024"),
        ({"LOGLEVEL": "info"}, "LOGLEVEL=info: no such setting; did you mean LOG_LEVEL?"),
        ({"STOP_GRACE_PERIOD": "5s"}, "STOP_GRACE_PERIOD=5s: Docker would kill the app before GRACEFUL_TIMEOUT=6"),
        ({"WORKER_MEMORY": "0"}, "WORKER_MEMORY=0: less than 1m"),
        ({"FORWARDED_ALLOW_IPS": "10.0.0.1"}, "FORWARDED_ALLOW_IPS=10.0.0.1: a unix socket's peer has no address"),
        ({"BIND": "a..b:80"}, "BIND=a..b:80: cannot listen there: "),
        ({"APP_MODULE": " tiny.main:app"}, "APP_MODULE=tiny.main:app: has space around it; allowed: the bare value"),
    ],
)  # fmt: skip
def test_single_faults(start: Start, variables: dict[str, str], line: str) -> None:
    assert refusal(start(**variables)).startswith(line)
