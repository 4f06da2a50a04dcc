"""`greenstack COMMAND`: the commands that the Makefile calls."""

import contextlib
import json
import os
import re
import sys
from typing import Annotated, NoReturn

import typer
from rich.table import Table

from greenstack.cli import (
    ROOT,
    RUN,
    check_env,
    containers,
    daemon,
    docker,
    environment,
    kubernetes,
    local,
    reference,
    rollout,
    swarm,
    top,
    versions,
)
from greenstack.cli.console import REFUSED, CommandError, out, run, say, show
from greenstack.cli.docker import Compose
from greenstack.cli.environment import Environment
from greenstack.cli.lock import alone
from greenstack.cli.masking import masked_yaml
from greenstack.server import old_images

REPLICAS_MAX = 12  # as many slots as nginx has (nginx/derive.sh)

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Profile = Annotated[str, typer.Option(envvar="PROFILE", help="env/<profile>.env below the shell's settings")]


@app.command()
def up(profile: Profile = "") -> None:
    """Build and start the stack, wait until it is healthy."""
    chosen = environment.resolve(profile)
    with _alone(chosen):
        if reason := docker.why_none():
            _require_no_image(chosen)
            check_env.require(chosen, importing=True)
            say(f"no Docker Engine ({reason}): running the stack as local processes")
            local.up(chosen)
            environment.remember(profile)
        else:
            compose = containers.checked(chosen)
            if local.running():
                containers.try_out(compose)  # before what serves is ended
                say("ending the local processes")
                local.down(chosen)
            containers.up(compose)
            environment.remember(profile)  # it runs, with or without a certificate
            containers.await_certificate(compose)
    _say_where(chosen)


@app.command()
def down(profile: Profile = "") -> None:
    """Stop the stack and remove its containers and networks; images and volumes stay."""
    chosen = _current(profile)
    if local.running():
        local.down(chosen)
    if not docker.why_none():
        containers.down(chosen)
    environment.forget()
    say("nothing of the stack runs any more")


@app.command()
def logs(profile: Profile = "") -> None:
    """Show the last log lines; on a terminal, follow them."""
    if local.running():
        files = sorted(str(file.relative_to(ROOT)) for file in RUN.glob("*.log"))
        _become("tail", "--lines=100", *(["-F"] if out.is_terminal else []), *files)
    _require_engine()
    _become_compose(profile, "logs", "--tail=100", *(["--follow"] if out.is_terminal else []))


@app.command()
def ps(profile: Profile = "") -> None:
    """Show what runs."""
    if not (processes := local.running()):
        _require_engine()
        _become_compose(profile, "ps", "--all")
    for process in processes:
        children = len(process.members()) - 1
        say(f"{process.name}: process {process.pid} and {children} of its own, log {process.log.relative_to(ROOT)}")
    _say_where(_current(profile))


@app.command("top")
def show_numbers(profile: Profile = "") -> None:
    """Show what the stack does now: requests, latencies, workers, memory. `q` leaves."""
    source = _numbers(_current(profile))
    with contextlib.closing(source):
        top.show(source)


@app.command()
def url(profile: Profile = "") -> None:
    """Print where the stack answers."""
    print(_current(profile).url.rstrip("/"))


@app.command()
def build(profile: Profile = "") -> None:
    """Build the images."""
    docker.require()
    containers.build(containers.checked(environment.resolve(profile)))


@app.command()
def config(profile: Profile = "") -> None:
    """Print the configuration in force: Compose's, or where there is none Gunicorn's."""
    if docker.has_compose():
        compose = Compose(_current(profile), {})
        compose.require_valid()
        print(masked_yaml(compose.output("config")), end="")
        return
    _become(sys.executable, "docker/gunicorn_conf.py", environ=_current(profile).values)


@app.command("check-env")
def check_settings(profile: Profile = "") -> None:
    """Show every setting, its value and source, and all faults."""
    chosen = environment.resolve(profile)
    check_env.show(chosen)
    check_env.require(chosen, importing=True)
    if note := old_images.note(chosen.values):
        say(note)
    say("all settings are in order")


@app.command()
def reload(profile: Profile = "") -> None:
    """Start new workers with the code that is there, let the old ones finish."""
    replicas = _replicas(_current(profile))
    names = replicas.running()
    if not names:
        raise CommandError("nothing runs: make up")
    rollout.reload(replicas)
    say(f"reloaded {', '.join(names)}: changed code that workers import by themselves is in service")
    say("not picked up: settings, code inside an image, code loaded before the workers (PRELOAD_APP=true): make deploy")


@app.command()
def deploy(profile: Profile = "") -> None:
    """Build and start new replicas beside the old ones, then stop those; IMAGE names one that is built elsewhere."""
    chosen = _current(profile)
    with _alone(chosen):
        if local.running():
            _require_no_image(chosen)
            replicas = local.checked(chosen)
            local.prepare(chosen)
            rollout.replace(replicas)
        else:
            _require_engine()
            containers.deploy(containers.checked(chosen, building=not chosen.values.get("IMAGE")))
        environment.remember(environment.current(profile))
    say("the new version is in service")


@app.command()
def rollback(to: Annotated[str, typer.Option(envvar="TO")] = "", profile: Profile = "") -> None:
    """Bring back the version before the one in service, or the one that TO names, as a deploy does."""
    _require_versions()
    chosen = _current(profile)
    with _alone(chosen):
        version = containers.rollback(containers.checked(chosen, building=False), to)
        environment.remember(environment.current(profile))
    say(f"version {version.tag} is in service again")


@app.command("versions")
def show_versions(profile: Profile = "") -> None:
    """List the versions that are here, oldest first, and which is in service."""
    _require_versions()
    compose = Compose(_current(profile), {})
    serving = versions.in_service(compose)
    table = Table("version", "in service since", "revision", "", box=None, pad_edge=False, header_style="bold")
    table.columns[0].no_wrap = True  # for TO=
    for version in versions.kept(compose):
        table.add_row(version.tag, version.since, version.revision, "now" if version.image == serving else "")
    show(table)


@app.command()
def scale(number: Annotated[str, typer.Argument(metavar="N")] = "", profile: Profile = "") -> None:
    """Run N replicas of the application."""
    count = int(number) if number.isdecimal() else 0
    if not 1 <= count <= REPLICAS_MAX:
        raise CommandError(f"N={number}: not a number of replicas; allowed: 1 to {REPLICAS_MAX}", status=REFUSED)
    chosen = _current(profile)
    with _alone(chosen):
        replicas = _replicas(chosen)
        running = len(replicas.running())
        if not running:
            raise CommandError("nothing runs: make up")
        if count > running:  # new ones get the settings of now
            _require_fit(chosen)
        rollout.scale(replicas, count)
    say(f"replicas: {', '.join(replicas.running())}")


@app.command("swarm")
def deploy_to_swarm(
    dry_run: Annotated[bool, typer.Option(envvar="DRY_RUN", help="print the file for docker stack deploy")] = False,
    profile: Profile = "",
) -> None:
    """Deploy the stack to a Swarm: an app and an nginx on each node."""
    chosen = environment.resolve(profile)
    if dry_run:
        print(json.dumps(swarm.derived(chosen).content, indent=2))
        return
    with _alone(chosen):
        swarm.deploy(chosen)
    say(f"every node serves it, at port {chosen.http_port}")


@app.command()
def k8s(profile: Profile = "") -> None:
    """Apply a profile and its images to the Kubernetes cluster of KUBECONFIG, wait until the new pods serve."""
    chosen = environment.resolve(profile)
    with _alone(chosen):
        kubernetes.apply(chosen)


@app.command()
def docs() -> None:
    """Write docs/settings.md and nginx/defaults.env."""
    (ROOT / "docs/settings.md").write_text(reference.page())
    (ROOT / "nginx/defaults.env").write_text(reference.nginx_defaults())


def _say_where(chosen: Environment) -> None:
    engine = docker.remote()
    seen = f", as {engine} sees it" if engine else ""
    say(f"the stack answers at {chosen.url}{seen}")
    if chosen.metrics and (not local.running() or local.has_prometheus()):
        say(f"its numbers are drawn at {chosen.metrics_url}{seen}")


def _alone(chosen: Environment) -> contextlib.AbstractContextManager[None]:
    """Refuse to change a stack beside another command: each would remove what the other starts."""
    # Those of other names, or on other machines, are other stacks.
    named = [chosen.values.get(name) for name in ("COMPOSE_PROJECT_NAME", "DOCKER_HOST", "DOCKER_CONTEXT")]
    file = re.sub(r"\W+", "-", "-".join(["stack", *filter(None, named)]))
    return alone(RUN / f"{file}.lock", "another command changes the stack: wait for its end, or stop it")


def _current(profile: str) -> Environment:
    return environment.resolve(environment.current(profile))


def _replicas(chosen: Environment) -> rollout.Replicas:
    if local.running():
        return local.Processes(chosen)
    _require_engine()
    compose = Compose(chosen, {})
    containers.require_ours(compose)
    return containers.Containers(compose)


def _numbers(chosen: Environment) -> top.Source:
    """Return where the numbers of the stack that runs come from; CommandError where nobody tells them."""
    if local.running():
        if not daemon.running("nginx"):
            raise CommandError("the numbers come through nginx, which is not installed here")
        return top.OverSocket(local.socket_home() / "nginx")
    _require_engine()
    compose = Compose(chosen, {})
    containers.require_ours(compose)
    for container in compose.containers("nginx"):
        if container.state == "running":
            return top.InContainer(container.id)
    raise CommandError("nothing runs: make up")


def _require_engine() -> None:
    """Raise CommandError where neither local processes nor containers can be running."""
    if docker.why_none():
        raise CommandError("nothing runs: make up")


def _require_versions() -> None:
    """Raise CommandError where the stack is no containers: images are what versions are made of."""
    if local.running():
        raise CommandError("local processes run the code of this folder: check out what you want, then make deploy")
    _require_engine()


def _require_no_image(chosen: Environment) -> None:
    """Raise CommandError where local processes are to serve an image."""
    if image := chosen.values.get("IMAGE"):
        raise CommandError(
            f"IMAGE={image}: local processes run the code of this folder; allowed: unset, or a Docker Engine",
            status=REFUSED,
        )


def _require_fit(chosen: Environment) -> None:
    """Raise CommandError where new replicas would be refused, or not fit the nginx that runs."""
    if local.running():
        local.checked(chosen)
    else:
        compose = containers.checked(chosen, building=False)
        containers.require_nginx(compose)
        versions.give_back(compose)  # `make build` may have made another


def _become_compose(profile: str, *arguments: str) -> NoReturn:
    compose = Compose(_current(profile), {})
    _become(*compose.command(*arguments), environ=compose.environ)


def _become(*command: str, environ: dict[str, str] | None = None) -> NoReturn:
    """Let this process become `command`, so that its exit status and Ctrl-C are that one's own."""
    os.chdir(ROOT)
    sys.stdout.flush()
    os.execvpe(command[0], command, environ or os.environ)  # noqa: S606 - a shell is what is not wanted


def main() -> None:
    """Run the command line."""
    run(app)
