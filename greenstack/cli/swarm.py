"""The stack on a Swarm: checked as for one machine, deployed, and followed until it serves or is rolled back."""

import json
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from greenstack.cli import ROOT, check_env, docker, stack_file
from greenstack.cli.console import REFUSED, CommandError, say
from greenstack.cli.docker import Compose
from greenstack.cli.environment import Environment
from greenstack.cli.masking import masked
from greenstack.cli.stack_file import IMAGES, StackFile
from greenstack.cli.wait import wait_until
from greenstack.server.settings import parse_duration

ENDED = ("rollback_completed", "rollback_paused", "paused")  # an update that failed
POLL = 1.0  # s; each look runs four docker commands
# Tasks of a new service that fail before it is given up: a network that a node does not know yet makes one fail, too.
FAILURES = 3
STACK = "com.docker.stack.namespace"  # the label of what `docker stack deploy` makes


def derived(environment: Environment) -> StackFile:
    """Check all settings, and return the file for `docker stack deploy`."""
    check_env.require(environment, importing=False)
    if lines := list(_impossible(environment)):
        raise CommandError(*lines, status=REFUSED)
    compose = Compose(environment, {})
    compose.require_valid()
    config = compose.config()
    images = {config["services"][name]["image"]: environment.values[variable] for name, variable in IMAGES.items()}
    return stack_file.derive(config, images, ROOT)


def _impossible(environment: Environment) -> Iterator[str]:
    values = environment.values
    for name, variable in IMAGES.items():
        if not values.get(variable):
            yield f"{variable}: is not set; nodes take the image of {name} from a registry; allowed: its name there"
    if values.get("TLS") == "acme":
        yield "TLS=acme: certbot needs one machine that all requests reach; allowed: files, or off and a proxy"
    if "host" in values.get("TRUSTED_PROXIES", "").replace(",", " ").split():
        yield (
            f"TRUSTED_PROXIES={values['TRUSTED_PROXIES']}: a node is published at every address, so `host` would trust "
            "anybody; allowed: the addresses of the proxies"
        )


def deploy(environment: Environment) -> None:
    """Deploy the stack to the Swarm of the engine at hand, and wait until every node serves it.

    CommandError with the last words of what failed; Swarm has then brought back the version before by itself.
    """
    file = derived(environment)
    docker.require()
    nodes = _nodes()
    for name, variable in IMAGES.items():
        _get(variable, environment.values[variable], nodes, name)
    _try_out(environment, file.name)
    for note in file.notes:
        say(note)
    say(f"deploying {file.name} to {nodes} node{'s' if nodes > 1 else ''}")
    stack = Stack(file.name)
    if command := environment.values.get("PRE_DEPLOY"):
        _prepare(stack, file, command)
    before = stack.services()
    known = {task["ID"] for task in stack.tasks()}
    _apply(file.name, file.content, "--prune")
    old, new = (services.get(f"{file.name}_nginx", {}).get("Spec", {}) for services in (before, stack.services()))
    if old and old["TaskTemplate"] != new["TaskTemplate"]:
        say("nginx has a new image or settings: one node after the other refuses connections for a second or two then,")
        say("or for as long as a request that began just before takes")
    # At the longest a node starts, and stops, as slowly as it may.
    longest = int(environment.value("START_TIMEOUT")) + parse_duration(environment.value("STOP_GRACE_PERIOD"))
    _follow(stack, known, nodes * longest)


def _apply(name: str, content: dict[str, Any], *options: str) -> None:
    options = ("--detach=true", "--with-registry-auth", *options)
    docker.output("stack", "deploy", *options, "--compose-file", "-", name, stdin=json.dumps(content))


def _prepare(stack: "Stack", file: StackFile, command: str) -> None:
    """Run `PRE_DEPLOY` once, on any node and as the application would run; CommandError where it fails.

    The stack's other services come first: among them may be the database that it is for.
    """
    say(f"running {masked('PRE_DEPLOY', command)}")
    name = f"{stack.name}_{stack_file.ONCE}"
    if name in stack.services():  # of a run that was killed: its end is not this one's
        docker.output("service", "rm", name)
    _apply(stack.name, stack_file.running_once(file.content, shlex.split(command)))
    try:
        wait_until(lambda: stack.ended(name), math.inf, POLL)
        task = stack.ended(name)[0]
        for line in docker.service_log(task["ID"]):
            say(line)
    finally:
        docker.output("service", "rm", name)
    if _failed(task):
        line = f"PRE_DEPLOY={masked('PRE_DEPLOY', command)}: {_error(task)}: its output is above"
        raise CommandError(line, "the app and nginx are not changed")


def _nodes() -> int:
    """Return how many nodes take tasks; CommandError where the engine is no manager of a Swarm."""
    if docker.output("info", "--format", "{{.Swarm.ControlAvailable}}").strip() != "true":
        raise CommandError(
            "this engine is no manager of a Swarm: docker swarm init makes it one, DOCKER_HOST=ssh://… names one",
            status=REFUSED,
        )
    lines = docker.output("node", "ls", "--format", "{{.Status}} {{.Availability}}").splitlines()
    return lines.count("Ready Active")


def _get(variable: str, image: str, nodes: int, service: str) -> None:
    """Pull an image, as each node will do; CommandError where there is none for all of them."""
    say(f"pulling {image}")
    if not (reason := docker.pull(image)):
        return
    if nodes > 1 or not docker.has_image(image):
        raise CommandError(
            f"{variable}={image}: cannot be pulled: {reason}; allowed: an image of {service} that each node can pull",
            status=REFUSED,
        )
    say(f"it cannot be pulled ({reason}): the only node has it already")


def _try_out(environment: Environment, name: str) -> None:
    """Run the check in the image that is to be deployed; CommandError with its lines where it refuses."""
    image = environment.values[IMAGES["app"]]
    repository, tag = image.rsplit(":", 1) if ":" in image.rpartition("/")[2] else (image, "latest")
    # A project of its own: its networks would have the names of the stack's.
    trial = Compose(environment, {"COMPOSE_PROJECT_NAME": f"{name}-check", "APP_IMAGE": repository, "TAG": tag})
    try:
        done = trial.run("--progress", "quiet", "run", "--rm", "--no-deps", "--quiet", "-T", "check")
    finally:
        trial.run("down", "--volumes")
    if done.returncode:
        raise CommandError(*done.stderr.strip().splitlines(), "nothing is changed", status=REFUSED)


@dataclass(frozen=True)
class Stack:
    """What Swarm says of a stack that it runs."""

    name: str

    def services(self) -> dict[str, Any]:
        """Return all that Swarm knows about each service, by its name; none where there is no such stack."""
        listed = docker.output("service", "ls", "--quiet", "--filter", f"label={STACK}={self.name}").split()
        found = json.loads(docker.output("service", "inspect", *listed)) if listed else []
        return {each["Spec"]["Name"]: each for each in found}

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return for each service that is no job how many tasks run, and how many are to run."""
        form = ["--filter", f"label={STACK}={self.name}", "--format", "{{.Name}} {{.Mode}} {{.Replicas}}"]
        lines = docker.output("service", "ls", *form).splitlines()
        found = [re.match(r"(\S+) (global|replicated) (\d+)/(\d+)", line) for line in lines]
        # A service of each node has no task yet in its first moment.
        least = {"global": 1, "replicated": 0}
        return {match[1]: (int(match[3]), max(int(match[4]), least[match[2]])) for match in found if match}

    def tasks(self) -> list[dict[str, Any]]:
        """Return a row of `docker service ps` for each task, newest first: ID, Node, CurrentState, Error and others."""
        if not (names := list(self.services())):
            return []
        lines = docker.output("service", "ps", "--no-trunc", "--format", "json", *names).splitlines()
        return [json.loads(line) for line in lines]

    def ended(self, service: str) -> list[dict[str, Any]]:
        """Return the tasks of a job that have ended, well or not."""
        tasks = [task for task in self.tasks() if _service(task) == service]
        return [task for task in tasks if _failed(task) or str(task["CurrentState"]).startswith("Complete")]

    def outdated(self, services: dict[str, Any]) -> bool:
        """Return whether a task runs, or is to run, that is not as its service says now."""
        ids = [task["ID"] for task in self.tasks() if task["DesiredState"] in ("Running", "Ready")]
        specs = {each["ID"]: _said(each["Spec"]["TaskTemplate"]) for each in services.values()}
        tasks = json.loads(docker.output("inspect", "--type", "task", *ids)) if ids else []
        return any(_said(task["Spec"]) != specs.get(task["ServiceID"]) for task in tasks)


def _said(spec: dict[str, Any]) -> dict[str, Any]:
    # A task leaves out what is empty, as the service has it: DNSConfig.
    return {key: value for key, value in spec["ContainerSpec"].items() if value}


def _follow(stack: Stack, known: set[str], seconds: float) -> None:
    """Wait until every task is the new one and runs; CommandError where they do not, and a version before is back."""

    def settled() -> bool:
        services = stack.services()
        states = {name: each.get("UpdateStatus", {}).get("State", "") for name, each in services.items()}
        if ended := [name for name, state in states.items() if state in ENDED]:
            back = states[ended[0]] == "rollback_completed"
            stopped = f"Swarm has stopped its update half-way: docker service ps {ended[0]}"
            raise _failure(stack, known, ended[0], "Swarm has brought the version before back" if back else stopped)
        failures = [task for task in stack.tasks() if task["ID"] not in known and _failed(task)]
        for name in [name for name, each in services.items() if "PreviousSpec" not in each]:
            if sum(_service(task) == name for task in failures) >= FAILURES:
                raise _failure(stack, known, name, f"deploy again once it is mended, or: docker stack rm {stack.name}")
        busy = any(state in ("updating", "rollback_started") for state in states.values())
        short = any(running < wanted for running, wanted in stack.counts().values())
        return not busy and not short and not stack.outdated(services)

    if not wait_until(settled, seconds, POLL):
        short = [name for name, (running, wanted) in stack.counts().items() if running < wanted] or [stack.name]
        raise _failure(stack, known, short[0], f"not all of it runs after {seconds:g} s: docker stack ps {stack.name}")


def _service(task: dict[str, Any]) -> str:
    # NAME.SLOT, or NAME.NODE of a global service.
    return str(task["Name"]).rpartition(".")[0]


def _failed(task: dict[str, Any]) -> bool:
    return str(task["CurrentState"]).startswith(("Failed", "Rejected"))


def _failure(stack: Stack, known: set[str], service: str, outcome: str) -> CommandError:
    """Say why `service` failed: the last words of its newest task that did, and what Swarm says of it."""
    for task in stack.tasks():
        if task["ID"] not in known and _failed(task) and _service(task) == service:
            log = docker.service_log(task["ID"])
            return CommandError(*log, f"{service} on {task['Node']}: {_error(task)}", outcome)
    return CommandError(f"{service}: {outcome}")


def _error(task: dict[str, Any]) -> str:
    return str(task["Error"]).strip('"')
