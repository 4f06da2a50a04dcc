"""The stack on a Swarm: checked as for one machine, deployed, and followed until it serves or is rolled back."""

import json
import math
import re
import shlex
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from greenstack.cli import ROOT, check_env, docker, stack_file
from greenstack.cli.console import REFUSED, CommandError, say
from greenstack.cli.docker import Compose
from greenstack.cli.environment import Environment
from greenstack.cli.masking import masked
from greenstack.cli.stack_file import IMAGES, StackFile
from greenstack.cli.wait import IMAGE_MARGIN, SilenceError, patiently, wait_until
from greenstack.server.settings import parse_duration

ENDED = ("rollback_completed", "rollback_paused", "paused")  # an update that failed
POLL = 1.0  # s; each look runs four docker commands
STOP_GRACE_PERIOD = 10_000_000_000  # ns; Swarm's own for a service that names none
# Tasks of a new service that fail, or of a job that are rejected, before it is given up: a network that a node does not
# know yet makes one fail, too.
FAILURES = 3
# What a task is before its program runs.
WAITING = ("New", "Allocated", "Pending", "Assigned", "Accepted", "Preparing", "Ready", "Starting")
# What managers say while they agree on who leads.
LEADERLESS = re.compile(r"does not have a leader|code = (Unavailable|DeadlineExceeded)|[Dd]eadline exceeded")
UNCHANGED = "the app and nginx are not changed"
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
        _prepare(stack, file, command, int(environment.value("START_TIMEOUT")) + IMAGE_MARGIN)
    # At the longest a node starts, and stops, as slowly as it may.
    longest = int(environment.value("START_TIMEOUT")) + parse_duration(environment.value("STOP_GRACE_PERIOD"))
    try:
        _update(stack, file, nodes * longest)
    except SilenceError as silence:
        outcome = "an update that has begun goes on by itself"
        raise CommandError(*silence.lines, f"{outcome}: docker stack ps {file.name}") from silence


def _update(stack: "Stack", file: StackFile, seconds: float) -> None:
    """Deploy the app and then nginx, each within `seconds`; CommandError where one of them does not come up.

    So an app that is rolled back still has the nginx of before.
    """
    before = stack.services()
    known = {task["ID"] for task in stack.tasks()}
    names = {f"{stack.name}_{name}": name for name in file.content["services"]}
    app, nginx = (f"{stack.name}_{name}" for name in ("app", "nginx"))
    first = names.keys() - {nginx}
    _apply(file, (names[each] for each in first))
    _follow(replace(stack, only=first), known, seconds)
    _apply(file, ["nginx"])
    after = stack.services()
    if _differs(before.get(nginx), after[nginx]):
        say("nginx has a new image or settings: one node after the other refuses connections for a second or two then,")
        say("or for as long as a request that began just before takes")
    try:
        _follow(replace(stack, only=names.keys()), known, seconds)
    except CommandError as failure:
        if isinstance(failure, SilenceError) or not _differs(before.get(app), after[app]):
            raise
        raise CommandError(*failure.lines, f"the app stays new: docker service rollback {app}") from failure
    if gone := before.keys() - names:
        docker.output("service", "rm", *gone)


def _differs(before: dict[str, Any] | None, after: dict[str, Any]) -> bool:
    """Return whether a service was there before, and runs something else now."""
    return before is not None and before["Spec"]["TaskTemplate"] != after["Spec"]["TaskTemplate"]


def _apply(file: StackFile, names: Iterable[str]) -> None:
    """Deploy these services, and leave the others as they are."""
    content = {**file.content, "services": {name: file.content["services"][name] for name in names}}
    options = ("--detach=true", "--with-registry-auth", "--compose-file", "-")
    text = json.dumps(content)
    patiently(lambda: docker.output("stack", "deploy", *options, file.name, stdin=text), LEADERLESS.search, POLL)


def _prepare(stack: "Stack", file: StackFile, command: str, seconds: float) -> None:
    """Run `PRE_DEPLOY` once, on any node and as the application would run; CommandError where it fails.

    It has `seconds` to begin, and may then take as long as it needs.

    The stack's other services come first: among them may be the database that it is for.
    """
    say(f"running {masked('PRE_DEPLOY', command)}")
    name = f"{stack.name}_{stack_file.ONCE}"
    if name in stack.services():  # of a run that was killed: its end is not this one's
        docker.output("service", "rm", name)
    job = StackFile(stack.name, stack_file.running_once(file.content, shlex.split(command)))
    said = f"PRE_DEPLOY={masked('PRE_DEPLOY', command)}"
    for _ in range(FAILURES):
        task = _run_once(stack, name, job, said, seconds)
        if not _is(task, "Rejected"):  # else the program has not been run
            break
    if _failed(task):
        output = "" if _is(task, "Rejected") else ": its output is above"
        raise CommandError(f"{said}: {_error(task)}{output}", UNCHANGED)


def _run_once(stack: "Stack", name: str, job: StackFile, said: str, seconds: float) -> dict[str, Any]:
    """Run the job `name` to its end, remove it, and return its task; CommandError where it has not begun in time."""
    _apply(job, job.content["services"])
    silent = False
    try:
        if not wait_until(lambda: stack.begun(name), seconds, POLL):
            reasons = [_error(task) for task in stack.tasks() if _service(task) == name and _error(task)]
            reason = next(iter(reasons), "no node has taken it")
            raise CommandError(f"{said}: it has not begun after {seconds:g} s: {reason}", UNCHANGED)
        wait_until(lambda: stack.ended(name), math.inf, POLL)
        task = stack.ended(name)[0]
        for line in docker.service_log(task["ID"]):
            say(line)
        return task
    except SilenceError as silence:
        silent = True
        outcome = f"PRE_DEPLOY goes on by itself, make swarm again once it has ended: docker service logs {name}"
        raise CommandError(*silence.lines, outcome) from silence
    finally:
        if not silent:  # else it may be half-way
            patiently(lambda: docker.output("service", "rm", name), LEADERLESS.search, POLL)


def _nodes() -> int:
    """Return how many nodes take tasks; CommandError where none does, or the engine is no manager of a Swarm."""
    if docker.output("info", "--format", "{{.Swarm.ControlAvailable}}").strip() != "true":
        raise CommandError(
            "this engine is no manager of a Swarm: docker swarm init makes it one, DOCKER_HOST=ssh://… names one",
            status=REFUSED,
        )
    lines = _ask("node", "ls", "--format", "{{.Status}} {{.Availability}}").splitlines()
    # A new leader calls a node `Unknown` until it has heard from it.
    if not (count := sum(line.endswith(" Active") and not line.startswith("Down ") for line in lines)):
        raise CommandError(
            "no node of the Swarm takes tasks: docker node update --availability active NODE", status=REFUSED
        )
    return count


def _ask(*arguments: str) -> str:
    """Return what a look of `docker` prints, asked until it answers; SilenceError where it does not."""
    return patiently(lambda: docker.output(*arguments), lambda reason: "no such" not in reason.lower(), POLL)


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
    only: Collection[str] | None = None  # the services that are looked at; None: all

    def services(self) -> dict[str, Any]:
        """Return all that Swarm knows about each service, by its name; none where there is no such stack."""
        listed = _ask("service", "ls", "--quiet", "--filter", f"label={STACK}={self.name}").split()
        found = json.loads(_ask("service", "inspect", *listed)) if listed else []
        return {each["Spec"]["Name"]: each for each in found if self._counts(each["Spec"]["Name"])}

    def _counts(self, service: str) -> bool:
        return self.only is None or service in self.only

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return for each service that is no job how many tasks run, and how many are to run."""
        form = ["--filter", f"label={STACK}={self.name}", "--format", "{{.Name}} {{.Mode}} {{.Replicas}}"]
        lines = _ask("service", "ls", *form).splitlines()
        found = [re.match(r"(\S+) (global|replicated) (\d+)/(\d+)", line) for line in lines]
        # A service of each node has no task yet in its first moment.
        least = {"global": 1, "replicated": 0}
        return {
            match[1]: (int(match[3]), max(int(match[4]), least[match[2]]))
            for match in found
            if match and self._counts(match[1])
        }

    def tasks(self) -> list[dict[str, Any]]:
        """Return a row of `docker service ps` for each task, newest first: ID, Node, CurrentState, Error and others."""
        if not (names := list(self.services())):
            return []
        lines = _ask("service", "ps", "--no-trunc", "--format", "json", *names).splitlines()
        return [json.loads(line) for line in lines]

    def begun(self, service: str) -> bool:
        """Return whether the program of a task runs, or has run."""
        return any(_service(task) == service and not _is(task, *WAITING) for task in self.tasks())

    def ended(self, service: str) -> list[dict[str, Any]]:
        """Return the tasks of a job that have ended, well or not."""
        tasks = [task for task in self.tasks() if _service(task) == service]
        return [task for task in tasks if _failed(task) or _is(task, "Complete")]

    def outdated(self, services: dict[str, Any]) -> bool:
        """Return whether a task runs, or is to run, that is not as its service says now."""
        ids = [task["ID"] for task in self.tasks() if task["DesiredState"] in ("Running", "Ready")]
        specs = {each["ID"]: _said(each["Spec"]["TaskTemplate"]) for each in services.values()}
        try:
            tasks = json.loads(docker.output("inspect", "--type", "task", *ids)) if ids else []
        except CommandError:  # one has gone meanwhile: the next look tells
            return True
        return any(_said(task["Spec"]) != specs.get(task["ServiceID"]) for task in tasks)


def _said(spec: dict[str, Any]) -> dict[str, Any]:
    """Return what makes Swarm replace a task, in the same words for a task and for its service.

    `docker service inspect` puts in what a task leaves out: the usual time to stop, and empty DNSConfig and Resources.
    A new placement (constraints) does not replace a task that may stay where it is.
    """
    container = {key: value for key, value in spec["ContainerSpec"].items() if value}
    resources = {key: value for key, value in (spec.get("Resources") or {}).items() if value}
    return {"StopGracePeriod": STOP_GRACE_PERIOD, **container, "Resources": resources}


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

    def stays() -> bool:
        # In its first moment an update that changes limits or ports is not told yet: all looks as if it were done.
        if not settled():
            return False
        time.sleep(POLL)
        return settled()

    if not wait_until(stays, seconds, POLL):
        short = [name for name, (running, wanted) in stack.counts().items() if running < wanted] or [stack.name]
        raise _failure(stack, known, short[0], f"not all of it runs after {seconds:g} s: docker stack ps {stack.name}")


def _service(task: dict[str, Any]) -> str:
    # NAME.SLOT, or NAME.NODE of a global service.
    return str(task["Name"]).rpartition(".")[0]


def _failed(task: dict[str, Any]) -> bool:
    return _is(task, "Failed", "Rejected")


def _is(task: dict[str, Any], *states: str) -> bool:
    return str(task["CurrentState"]).startswith(states)


def _failure(stack: Stack, known: set[str], service: str, outcome: str) -> CommandError:
    """Say why `service` failed: the last words of its newest task that did, and what Swarm says of it."""
    for task in stack.tasks():
        if task["ID"] not in known and _failed(task) and _service(task) == service:
            log = docker.service_log(task["ID"])
            return CommandError(*log, f"{service} on {task['Node']}: {_error(task)}", outcome)
    return CommandError(f"{service}: {outcome}")


def _error(task: dict[str, Any]) -> str:
    return str(task["Error"]).strip('"')
