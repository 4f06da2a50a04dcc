"""What is said when containers do not start."""

import contextlib
import functools
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from greenstack.cli import ROOT, containers, docker, environment, local, main, rollout, versions
from greenstack.cli.console import CommandError
from greenstack.cli.docker import Compose, Container
from greenstack.cli.environment import Environment


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of our own: other tests run beside these."""
    monkeypatch.setattr(main, "RUN", tmp_path)


def container(service: str, state: str, health: str = "", code: int = 0) -> Container:
    return Container(f"id-{service}", f"x-{service}-1", service, state, health, code)


CHECKED = container("check", "exited")
APP, NGINX = container("app", "running", "healthy"), container("nginx", "running", "healthy")


class Fake:
    """A `docker compose` with these containers."""

    environment = Environment("", (), {"HTTP_PORT": "81"}, {}, {}, [])

    def __init__(self, *existing: Container) -> None:
        self.existing = existing

    def containers(self, *services: str) -> list[Container]:
        return [container for container in self.existing if not services or container.service in services]


def why(monkeypatch: pytest.MonkeyPatch, complaint: str, *existing: Container) -> CommandError:
    monkeypatch.setattr(docker, "last_words", lambda name: [f"log of {name}"])
    return containers.why(cast(Compose, Fake(*existing)), complaint)


def test_refused_settings_are_shown_as_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = why(monkeypatch, "dependency failed", container("check", "exited", code=2), container("app", "created"))
    assert (failure.lines, failure.status) == (("log of id-check",), 2)


def test_a_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    complaint = "failed to bind host port: address already in use"
    app = container("app", "running", "starting")
    failure = why(monkeypatch, complaint, CHECKED, app, container("nginx", "created"))
    assert (failure.lines, failure.status) == (("HTTP_PORT=81: is in use already; allowed: a free port",), 2)


def test_the_other_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"HTTP_PORT": "81", "METRICS": "on", "METRICS_PORT": "82"}
    monkeypatch.setattr(Fake, "environment", Environment("", (), values, {}, {}, []))
    for port, name in ((81, "HTTP_PORT"), (82, "METRICS_PORT")):
        complaint = f"failed to bind host port 127.0.0.1:{port}/tcp: address already in use"
        assert why(monkeypatch, complaint, CHECKED).lines[0].startswith(f"{name}={port}: is in use already")


@pytest.mark.parametrize(
    ("complaint", "line"),
    [
        ("Bind for 0.0.0.0:8443 failed: port is already allocated", "HTTPS_PORT=8443: is in use already"),
        ("failed to bind host port 0.0.0.0:84430/tcp: address already in use", "HTTP_PORT=81: is in use already"),
    ],
)
def test_the_port_that_is_in_use_is_the_one_named(monkeypatch: pytest.MonkeyPatch, complaint: str, line: str) -> None:
    values = {"HTTP_PORT": "81", "TLS": "files", "HTTPS_PORT": "8443"}
    monkeypatch.setattr(Fake, "environment", Environment("", (), values, {}, {}, []))
    failure = why(monkeypatch, complaint, CHECKED, container("nginx", "created"))
    assert failure.lines == (f"{line}; allowed: a free port",)


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
@pytest.mark.parametrize("remote", [None, "ssh://server"])
def test_a_port_in_use_is_found_before_the_build(
    monkeypatch: pytest.MonkeyPatch, host: str, remote: str | None
) -> None:
    class BuildingError(Exception):
        pass

    def build(_: object) -> None:
        raise BuildingError

    monkeypatch.setattr(docker, "remote", lambda: remote)
    monkeypatch.setattr(containers, "require_ours", lambda _: None)
    monkeypatch.setattr(containers, "_get_images", build)
    monkeypatch.setattr(versions, "or_back", contextlib.nullcontext)
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = str(server.getsockname()[1])
        ports = [{"host_ip": host, "published": number, "target": 8080, "protocol": "tcp"}]
        compose = Fake()
        monkeypatch.setattr(compose, "services", lambda: {"app": {}, "nginx": {"ports": ports}}, raising=False)
        monkeypatch.setattr(Fake, "environment", Environment("", (), {"HTTP_PORT": number}, {}, {}, []))
        with pytest.raises(BuildingError if remote else CommandError) as refused:
            containers.up(cast(Compose, compose))
        if isinstance(refused.value, CommandError):
            assert refused.value.lines == (f"HTTP_PORT={number}: is in use already; allowed: a free port",)
        # One that this stack has itself is no fault.
        monkeypatch.setattr(compose, "existing", (APP, NGINX))
        monkeypatch.setattr(docker, "published", lambda _: [(number, "tcp")])
        containers._require_ports(cast(Compose, compose))


@pytest.mark.parametrize(
    ("complaint", "app"),
    [
        ("x-app-1 exited (3)", container("app", "exited", code=3)),
        ("container is unhealthy", container("app", "running", "unhealthy")),
        ("container is unhealthy", container("app", "running", "starting")),
        ("application not healthy after 3m0s", container("app", "running", "starting")),
    ],
)
def test_the_apps_log_is_shown_before_nginxs(monkeypatch: pytest.MonkeyPatch, complaint: str, app: Container) -> None:
    nginx = container("nginx", "running", "unhealthy" if "unhealthy" in complaint else "starting")
    failure = why(monkeypatch, complaint, CHECKED, app, nginx)
    assert failure.lines[0] == "log of id-app"
    assert failure.lines[-1].startswith("x-app-1 is not well (")
    assert failure.status == 1


def test_nginx_is_shown_where_the_app_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = why(monkeypatch, "unhealthy", CHECKED, APP, container("nginx", "restarting", code=2))
    assert failure.lines[0] == "log of id-nginx"


def test_else_composes_own_words_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why(monkeypatch, "no space left\n", CHECKED, container("app", "created")).lines == ("no space left",)


class Growing(Fake):
    """A stack that runs, and whose Compose files have a database as well."""

    def __init__(self, *existing: Container) -> None:
        super().__init__(*existing)
        self.commands: list[tuple[str, ...]] = []

    def services(self) -> dict[str, Any]:
        return {"check": {}, "app": {}, "nginx": {}, "db": {}}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        self.commands.append(arguments)
        return subprocess.CompletedProcess(arguments, 0, "", "")


@pytest.mark.parametrize("command", [containers._converge, containers.deploy], ids=["up", "deploy"])
@pytest.mark.parametrize(("there", "commands"), [((), 1), ((container("db", "running", "healthy"),), 0)])
def test_new_services_start_before_new_replicas(
    monkeypatch: pytest.MonkeyPatch,
    there: tuple[Container, ...],
    commands: int,
    command: Callable[[Compose], None],
) -> None:
    compose = Growing(CHECKED, APP, NGINX, *there)
    before: list[int] = []
    monkeypatch.setattr(containers, "_run_check", lambda _: None)
    monkeypatch.setattr(containers, "_is_old", lambda _, service: service == "app")
    monkeypatch.setattr(containers, "_nginx_changes", lambda *_: [])
    monkeypatch.setattr(rollout, "replace", lambda *_: before.append(len(compose.commands)))
    monkeypatch.setattr(containers, "require_ours", lambda _: None)
    monkeypatch.setattr(containers, "require_nginx", lambda _: None)
    monkeypatch.setattr(containers, "build", lambda _: None)
    monkeypatch.setattr(containers, "_renew_others", lambda *_: None)
    monkeypatch.setattr(versions, "renew", lambda _: None)
    monkeypatch.setattr(versions, "keep", lambda _: None)
    command(cast(Compose, compose))
    assert before == [commands]
    assert all(words[-1] == "db" and "--wait" in words for words in compose.commands)


@pytest.mark.parametrize(
    ("ended", "refused"),
    [
        (container("migrate", "exited", code=0), None),
        (container("migrate", "exited", code=1), "x-migrate-1 is not well"),
        (container("migrate", "running", "unhealthy"), "x-migrate-1 is not well"),
    ],
)
@pytest.mark.parametrize("command", [containers._start_new_services, containers.up], ids=["new", "up"])
def test_a_service_may_end_with_its_work(
    monkeypatch: pytest.MonkeyPatch, ended: Container, refused: str | None, command: Callable[[Compose], None]
) -> None:
    """As a migration does; `docker compose up --wait` fails all the same."""

    class Migrating(Growing):
        def services(self) -> dict[str, Any]:
            return {"app": {}, "nginx": {}, "migrate": {}}

        def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
            self.existing += (ended,)
            return subprocess.CompletedProcess(arguments, 1, "", "container x-migrate-1 exited (0)")

    monkeypatch.setattr(docker, "last_words", lambda _: ["its log"])
    for name in ("require_ours", "_require_networks", "_require_ports", "_get_images", "_converge"):
        monkeypatch.setattr(containers, name, lambda *_: None)
    monkeypatch.setattr(containers, "_oldest_first", list)
    monkeypatch.setattr(versions, "or_back", contextlib.nullcontext)
    monkeypatch.setattr(versions, "keep", lambda _: None)
    with pytest.raises(CommandError, match=refused) if refused else contextlib.nullcontext():
        command(cast(Compose, Migrating(APP, NGINX)))


def test_a_new_service_without_a_container_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where its image cannot be pulled."""
    failed = subprocess.CompletedProcess[str]([], 1, "", "db Error: manifest unknown")
    monkeypatch.setattr(Growing, "run", lambda *_: failed)
    with pytest.raises(CommandError) as told:
        containers._start_new_services(cast(Compose, Growing(APP, NGINX)))
    assert told.value.lines == ("db Error: manifest unknown", containers.UNCHANGED)


def test_a_version_whose_other_services_fail_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise CommandError("worker is broken")

    kept: list[Compose] = []
    for name in ("require_ours", "require_nginx", "build", "_run_check", "_start_new_services", "prepare"):
        monkeypatch.setattr(containers, name, lambda *_: None)
    monkeypatch.setattr(rollout, "replace", lambda _: None)
    monkeypatch.setattr(containers, "_renew_others", fail)
    monkeypatch.setattr(versions, "renew", lambda _: None)
    monkeypatch.setattr(versions, "keep", kept.append)
    compose = cast(Compose, Growing(APP, NGINX))
    with pytest.raises(CommandError, match="worker is broken"):
        containers.deploy(compose)
    assert kept == [compose]


@pytest.mark.parametrize(("source", "refused"), [("env", True), ("secrets", False), ("/etc/tls", False)])
def test_another_machine_has_no_files_of_this_one(source: str, refused: bool) -> None:
    class Mounted(Fake):
        def services(self) -> dict[str, Any]:
            return {
                "app": {"volumes": [{"type": "bind", "source": str(ROOT / source)}, {"type": "volume", "source": "x"}]}
            }

    with pytest.raises(CommandError, match="ssh://x: app mounts ") if refused else contextlib.nullcontext():
        containers._require_no_files(cast(Compose, Mounted()), "ssh://x")


def test_a_worker_that_does_not_follow_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shared(Fake):
        def services(self) -> dict[str, Any]:
            return {"app": {"image": "x"}, "check": {"image": "x"}, "worker": {"image": "x"}, "db": {"image": "y"}}

        def quiet(self, *_: str) -> None:
            raise CommandError("no space left on device")

    with pytest.raises(CommandError) as told:
        containers._renew_others(
            cast(Compose, Shared(CHECKED, APP, container("worker", "running"), container("db", "running"))),
            "make deploy",
        )
    assert told.value.lines == (
        "no space left on device",
        "the new version serves, but worker did not follow; to try again: make deploy",
    )


@pytest.mark.parametrize(
    ("lacking", "outcome"),
    [
        ("", None),
        (
            "new.test",
            "SERVER_NAME: the stack runs, but its certificate is not for new.test: certbot tries again by itself",
        ),
    ],
)
def test_a_name_without_a_certificate_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lacking: str, outcome: str | None
) -> None:
    said = {"/tmp/tried": "the authority is down", "/tmp/lacking": lacking}  # noqa: S108
    monkeypatch.setattr(docker, "output", lambda *words: said[words[-1]])
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, ""))  # nginx has one
    compose = Fake(NGINX, container("certbot", "running", "healthy"))
    kept: list[str] = []
    monkeypatch.setattr(Fake, "environment", Environment("", (), {"TLS": "acme"}, {}, {}, []))
    monkeypatch.setattr(docker, "why_none", lambda: None)
    monkeypatch.setattr(local, "running", list)
    monkeypatch.setattr(containers, "checked", lambda _: compose)
    monkeypatch.setattr(containers, "up", lambda _: None)
    monkeypatch.setattr(environment, "remember", kept.append)
    with pytest.raises(CommandError, match=outcome) if outcome else contextlib.nullcontext():
        main.up("prod")
    assert kept == ["prod"], "what runs is what the commands after this are for"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "TLS=acme: the authority is down"
    assert ("the certificate of before serves on" in lines) == (outcome is None)


@pytest.mark.parametrize(
    ("held", "tried"),
    [
        ({"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "80"}]}, ["443:8443/tcp", "443:8443/udp"]),
        ({"8443/tcp": [{"HostIp": "", "HostPort": "443"}], "9113/tcp": None}, ["80:8080/tcp", "443:8443/udp"]),
    ],
)
def test_ports_that_nginx_has_not_are_tried(
    monkeypatch: pytest.MonkeyPatch, held: dict[str, Any], tried: list[str]
) -> None:
    class Published(Growing):
        def services(self) -> dict[str, Any]:
            ports = [("80", 8080, "tcp"), ("443", 8443, "tcp"), ("443", 8443, "udp")]
            return {
                "nginx": {
                    "ports": [dict(zip(("published", "target", "protocol"), each, strict=True)) for each in ports]
                }
            }

    monkeypatch.setattr(docker, "inspect", lambda _: {"NetworkSettings": {"Ports": held}})
    compose = Published(NGINX)
    containers._try_nginx(cast(Compose, compose))
    asked = [word.removeprefix("--publish=") for word in compose.commands[0] if word.startswith("--publish=")]
    assert asked == tried


def test_a_certificate_without_its_chain_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Warned(Growing):
        def services(self) -> dict[str, Any]:
            return {"nginx": {"ports": []}}

        def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
            words = "nginx: 1 worker(s)\nnginx: the certificate in x.pem comes without its chain: only clients\n"
            return subprocess.CompletedProcess(arguments, 0, "", words)

    containers._try_nginx(cast(Compose, Warned()))
    assert capsys.readouterr().out == "the certificate in x.pem comes without its chain: only clients\n"


def test_services_that_change_are_named_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(containers, "_run_check", lambda _: None)
    monkeypatch.setattr(containers, "_is_old", lambda _, service: service == "db")
    containers._converge(cast(Compose, Growing(APP, NGINX, container("db", "running"), container("mail", "running"))))
    assert capsys.readouterr().out.splitlines() == [
        "db has another image or settings: Compose stops it, and starts it anew",
        "mail is in no Compose file of this call any more: it is removed",
    ]


class Running(Fake):
    """The same, whose nginx has other settings than the present ones."""

    def __init__(self, **settings: str) -> None:
        super().__init__(CHECKED, APP, NGINX)
        self.settings = {"BIND": "x", "KEEP_ALIVE": "", "GRACEFUL_TIMEOUT": "60"} | settings

    def services(self) -> dict[str, Any]:
        return {"nginx": {"environment": self.settings}}


@pytest.mark.parametrize(
    ("count", "settings", "refused"),
    [
        (2, {}, None),
        (2, {"KEEP_ALIVE": "1"}, "KEEP_ALIVE: nginx would have to change with the app"),
        (1, {"KEEP_ALIVE": "1"}, None),
    ],
)
def test_more_replicas_need_an_nginx_that_fits_them(
    monkeypatch: pytest.MonkeyPatch, count: int, settings: dict[str, str], refused: str | None
) -> None:
    scaled: list[int] = []
    monkeypatch.setattr(local, "running", list)
    monkeypatch.setattr(containers, "checked", lambda _, building: Running(**settings))
    monkeypatch.setattr(containers, "require_ours", lambda _: None)
    monkeypatch.setattr(docker, "environ", lambda _: {"BIND": "x", "GRACEFUL_TIMEOUT": "60"})
    monkeypatch.setattr(main, "_replicas", lambda _: containers.Containers(cast(Compose, Running())))
    monkeypatch.setattr(containers, "_oldest_first", list)
    monkeypatch.setattr(rollout, "scale", lambda _, number: scaled.append(number))
    monkeypatch.setattr(versions, "give_back", lambda _: scaled.append(0))
    with pytest.raises(CommandError, match=refused) if refused else contextlib.nullcontext():
        main.scale(str(count))
    assert scaled == ([] if refused else [0, 2] if count == 2 else [1]), "new ones are of the version in service"


@pytest.mark.parametrize(("internal", "refused"), [(True, None), (False, "x_internal would become one with a way out")])
def test_a_network_is_not_changed_under_a_running_stack(
    monkeypatch: pytest.MonkeyPatch, internal: bool, refused: str | None
) -> None:
    class Networked(Running):
        def networks(self) -> list[dict[str, Any]]:
            return [
                {"name": "x_default"},
                {"name": "x_internal", "internal": internal},
                {"name": "others", "external": True},
            ]

    theirs = {"name=^x_internal$", "name=^others$"}
    monkeypatch.setattr(docker, "output", lambda *words: "true\n" if theirs & {*words} else "false\n")
    monkeypatch.setattr(containers, "_oldest_first", list)
    monkeypatch.setattr(containers, "require_ours", lambda _: None)
    monkeypatch.setattr(containers, "_require_ports", lambda _: None)
    begun: list[str] = []
    monkeypatch.setattr(containers, "_get_images", lambda _: begun.append("build"))
    monkeypatch.setattr(containers, "_converge", lambda _: begun.append("converge"))
    monkeypatch.setattr(versions, "or_back", contextlib.nullcontext)
    monkeypatch.setattr(versions, "keep", lambda _: None)
    monkeypatch.setattr(Networked, "run", lambda *_: subprocess.CompletedProcess([], 0), raising=False)
    with pytest.raises(CommandError, match=refused) if refused else contextlib.nullcontext():
        containers.up(cast(Compose, Networked()))
    assert begun == ([] if refused else ["build", "converge"])


def test_what_lasts_ends_once_the_old_nginx_accepts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    accepts, leaves = "nginx: worker process", "nginx: worker process is shutting down"
    before, told = {7: accepts}, {7: accepts, 8: accepts}
    reloaded, alone = {7: leaves, 8: accepts}, {8: accepts}
    looks = iter([before, told, reloaded, reloaded, alone])
    done: list[object] = []

    def output(*words: str) -> str:
        if words[0] == "exec":
            done.append({containers.LET_GO: "reload", containers.END_WHAT_LASTS: "end what lasts"}[words[-1]])
            return ""
        done.append(processes := next(looks))
        return "\n".join(["PID COMMAND", "1 nginx: master process", *(f"{pid} {processes[pid]}" for pid in processes)])

    class Replaced(Fake):
        def quiet(self, *words: str) -> None:
            done.append(words[0])

    monkeypatch.setattr(docker, "output", output)
    monkeypatch.setattr(docker, "environ", lambda _: {})
    monkeypatch.setattr(rollout, "POLL", 0.0)
    containers._replace_nginx(cast(Compose, Replaced(NGINX)))
    assert done == [before, "reload", told, reloaded, "end what lasts", reloaded, alone, "up"]


def test_an_nginx_that_starts_uses_no_replica_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bound(Fake):
        def services(self) -> dict[str, Any]:
            return {"app": {"environment": {"BIND": "unix:/run/app/{hostname}.sock"}}}

    missing = subprocess.CompletedProcess([], 1, "", "cat: /tmp/nginx/in-use: No such file or directory\n")
    looks = iter([missing, subprocess.CompletedProcess([], 0, "/run/app/abc.sock\n")])
    monkeypatch.setattr(docker, "inspect", lambda _: {"Config": {"Hostname": "abc"}})
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: next(looks))
    replicas = containers.Containers(cast(Compose, Bound(APP, NGINX)))
    assert [replicas.listed("x-app-1"), replicas.listed("x-app-1")] == [False, True]


def test_compose_asks_no_question_that_nobody_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal it does, where a volume's options have changed, and would wait for ever."""
    given: list[object] = []

    def run(*_: object, **options: object) -> subprocess.CompletedProcess[str]:
        given.append(options.get("stdin"))
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(Environment, "pass_on", lambda _: None)
    compose = Compose(Fake.environment, {})
    compose.run("up")
    compose.quiet("up")
    compose.show("run")
    assert given == [subprocess.DEVNULL] * 3


@pytest.mark.parametrize(
    "command",
    [main.up, main.deploy, main.rollback, functools.partial(main.scale, "2")],
    ids=["up", "deploy", "rollback", "scale"],
)
def test_two_commands_do_not_change_one_stack(monkeypatch: pytest.MonkeyPatch, command: Callable[[], None]) -> None:
    def begin(*_: object, **__: object) -> None:
        raise LookupError

    monkeypatch.setattr(docker, "why_none", lambda: None)
    monkeypatch.setattr(local, "running", list)
    monkeypatch.setattr(main, "_replicas", begin)
    monkeypatch.setattr(containers, "checked", begin)
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "first")
    with main._alone(environment.resolve("")):
        with pytest.raises(CommandError, match="another command changes the stack: wait for its end, or stop it"):
            command()
        monkeypatch.setenv("COMPOSE_PROJECT_NAME", "second")
        with pytest.raises(LookupError):
            command()


def test_local_processes_end_only_for_images_that_can_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise CommandError("the build failed")

    ended: list[object] = []
    monkeypatch.setattr(docker, "why_none", lambda: None)
    monkeypatch.setattr(local, "running", lambda: ["app-1"])
    monkeypatch.setattr(local, "down", ended.append)
    monkeypatch.setattr(containers, "checked", lambda _: Fake())
    monkeypatch.setattr(containers, "_get_images", fail)
    with pytest.raises(CommandError, match="the build failed"):
        main.up()
    assert not ended


@pytest.mark.parametrize("number", ["", "0", "13", "-1", "two", "1.5"])
def test_a_replica_count_out_of_bounds_is_refused(number: str) -> None:
    with pytest.raises(CommandError) as refused:
        main.scale(number)
    assert refused.value.lines == (f"N={number}: not a number of replicas; allowed: 1 to 12",)
    assert refused.value.status == 2


@pytest.mark.parametrize(("status", "last"), [(1, ["its health check said last: answered with 503"]), (0, [])])
def test_a_failing_health_checks_last_answer_is_told(
    monkeypatch: pytest.MonkeyPatch, status: int, last: list[str]
) -> None:
    checks = [{"ExitCode": 1, "Output": "older"}, {"ExitCode": status, "Output": "answered with 503\n"}]
    monkeypatch.setattr(docker, "inspect", lambda _: {"State": {"Health": {"Log": checks}}})
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "a line\n"))
    assert docker.last_words("x") == ["a line", *last]


@pytest.mark.parametrize(
    ("values", "profiles"),
    [
        ({}, ""),
        ({"METRICS": "off"}, ""),
        ({"METRICS": "on"}, "metrics"),
        ({"METRICS": "on", "COMPOSE_PROFILES": "debug,metrics"}, "debug,metrics"),
        ({"METRICS": "on", "COMPOSE_PROFILES": "debug"}, "debug,metrics"),
    ],
)
def test_prometheus_is_a_profile_of_compose(
    values: dict[str, str], profiles: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "RUN", tmp_path)
    compose = Compose(Environment("", (), values, {}, {}, []), {})
    assert compose.environ["COMPOSE_PROFILES"] == profiles


def test_logs_are_those_of_all_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Prometheus and certbot as well, which Compose knows by its environment alone."""
    given: list[dict[str, str]] = []
    monkeypatch.setattr(Environment, "pass_on", lambda _: None)
    monkeypatch.setattr(os, "chdir", lambda _: None)
    monkeypatch.setattr(os, "execvpe", lambda *words: given.append(words[-1]))
    monkeypatch.setattr(local, "running", list)
    monkeypatch.setattr(docker, "why_none", lambda: None)
    monkeypatch.setenv("METRICS", "on")
    monkeypatch.setenv("TLS", "acme")
    main.logs()
    assert given[0]["COMPOSE_PROFILES"] == "metrics"
    assert "compose.tls-acme.yaml" in given[0]["COMPOSE_FILE"]


def test_prometheus_ends_where_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(docker, "output", lambda *arguments: ran.append(arguments))
    prometheus = container("prometheus", "running")
    fake = Fake(APP, NGINX, prometheus)
    monkeypatch.setattr(fake, "services", lambda: {"app": {}, "nginx": {}}, raising=False)
    containers._end_prometheus(cast(Compose, fake))
    assert ran == [("stop", prometheus.id), ("rm", prometheus.id)]
    monkeypatch.setattr(fake, "environment", Environment("", (), {"METRICS": "on"}, {}, {}, []))
    containers._end_prometheus(cast(Compose, fake))
    assert len(ran) == 2, "it belongs to the stack"
