"""The file for `docker stack deploy`, made of what `docker compose config` says.

What Swarm refuses is put in its words. What it does not have is left out, and said in a line. Each node gets one app
and one nginx, joined by the node's own volume of sockets: the single machine's design, once a node.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greenstack.cli.console import REFUSED, CommandError

Service = dict[str, Any]

# Swarm runs services alone: the check is run before, and nothing is built on a node.
LEFT_OUT = {"check", "prometheus"}
IMAGES = {"app": "IMAGE", "nginx": "EDGE_IMAGE"}  # the variables that name the images in a registry
ONCE = "prepare"  # the service that runs `PRE_DEPLOY`
# The keys of a service that `docker stack deploy` takes (Compose file format 3.13), but for those translated below.
KNOWN = {
    *("cap_add", "cap_drop", "command", "configs", "credential_spec", "dns", "dns_search", "entrypoint", "extra_hosts"),
    *("healthcheck", "hostname", "init", "labels", "logging", "networks", "read_only", "secrets", "stdin_open"),
    *("stop_grace_period", "stop_signal", "sysctls", "tty", "ulimits", "user", "working_dir"),
}
# Those that become something else, or that say nothing in Swarm: nginx finds the app by itself, nodes build nothing.
TRANSLATED = {
    *("build", "container_name", "cpus", "depends_on", "deploy", "environment", "image", "mem_limit", "pids_limit"),
    *("ports", "profiles", "pull_policy", "restart", "scale", "tmpfs", "volumes"),
}
INSTEAD = {
    "security_opt": "`no-new-privileges: true` in each node's daemon.json does the same",
    "cpu_shares": "when CPUs are short, nginx and the app get the same share",
}
# s; Swarm stops the old replica as soon as the new one is healthy, and nginx may need this long to find that one.
FOUND = 3
RESTARTS = {"no": "none", "on-failure": "on-failure"}


@dataclass
class StackFile:
    """What is deployed, and a line for each thing that is otherwise than with Compose."""

    name: str
    content: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def derive(config: Mapping[str, Any], images: Mapping[str, str], root: Path) -> StackFile:
    """Return the file for the stack that `config` describes, which is what `docker compose config` prints as JSON.

    `images` gives the image in a registry for each that is built here; `root` is the folder of compose.yaml, which no
    other node has. CommandError where a service needs what only this machine has.
    """
    services = {name: each for name, each in config["services"].items() if name not in LEFT_OUT}
    secrets = _secret_files(root / "secrets", config["name"])
    content: dict[str, Any] = {
        "services": {name: _service(name, each, images, root, secrets) for name, each in services.items()},
        "networks": {name: _network(each) for name, each in config.get("networks", {}).items()},
    }
    for kind in ("volumes", "secrets", "configs"):
        used = {name for each in content["services"].values() for name in _named(each, kind)}
        declared = {name: _declared(name, each, config["name"]) for name, each in config.get(kind, {}).items()}
        if kind == "secrets":
            declared |= secrets
        content[kind] = {name: each for name, each in declared.items() if name in used}
    content = {key: value for key, value in content.items() if value}
    return StackFile(config["name"], content, list(_notes(config, root)))


def running_once(content: Mapping[str, Any], command: list[str]) -> dict[str, Any]:
    """Return a file that has a job in the place of the app and nginx: it runs `command` once, as the app would run."""
    services = content["services"]
    kept = {key: value for key, value in services["app"]["deploy"].items() if key in ("placement", "resources")}
    program, *arguments = (word.replace("$", "$$") for word in command)  # else the shell's that deploys is put in
    job = {
        **services["app"],
        "entrypoint": [program],
        "command": arguments,
        "healthcheck": {"disable": True},
        "deploy": {**kept, "mode": "replicated-job", "restart_policy": {"condition": "none"}},
    }
    others = {name: each for name, each in services.items() if name not in ("app", "nginx")}
    return {**content, "services": {**others, ONCE: job}}


def _service(
    name: str, service: Service, images: Mapping[str, str], root: Path, secrets: Mapping[str, dict[str, str]]
) -> Service:
    result = {key: value for key, value in service.items() if key in KNOWN and value is not None}
    result["image"] = images.get(service["image"], service["image"])
    if "build" in service and service["image"] not in images:
        raise CommandError(
            f"{name}: its image is built here, and nodes have theirs from a registry; allowed: `image` without `build`",
            status=REFUSED,
        )
    # A name without a value would take the one of the shell that deploys. And nobody inside needs an image's name: with
    # it, another image of nginx would update the app.
    given = {key: value for key, value in service.get("environment", {}).items() if value is not None}
    result["environment"] = {key: value for key, value in given.items() if key not in IMAGES.values()}
    result["ports"] = [_port(each) for each in service.get("ports", ()) if not _is_private(name, each)]
    result["volumes"] = list(_volumes(name, service, root))
    if any(Path(each.get("source", "")) == root / "secrets" for each in service.get("volumes", ())):
        result["secrets"] = [*result.get("secrets", ()), *({"source": each, "target": each} for each in secrets)]
    if name == "app":
        check = {"test": ["CMD", "python3", "-I", "-S", "greenstack/server/healthcheck.py", str(FOUND)]}
        result["healthcheck"] = {**check, "timeout": "10s", **result.get("healthcheck", {})}
    result["deploy"] = _merged(_deploy(name, service), service.get("deploy", {}))
    return {key: value for key, value in result.items() if value not in ([], {})}


def _deploy(name: str, service: Service) -> dict[str, Any]:
    """Return how Swarm runs a service; what the Compose files say under `deploy` goes above it."""
    limits = {
        "memory": service.get("mem_limit"),
        "cpus": str(service["cpus"]) if float(service.get("cpus", 0)) else None,
        "pids": service.get("pids_limit"),
    }
    deploy: dict[str, Any] = {
        "resources": {"limits": {key: value for key, value in limits.items() if value is not None}},
        # The engine's own pause is 5 s.
        "restart_policy": {"condition": RESTARTS.get(service.get("restart", ""), "any"), "delay": "1s"},
    }
    if name in ("app", "nginx"):
        # Two nginx cannot have the same port of a node: the old one goes first.
        order = {"order": "start-first" if name == "app" else "stop-first", "parallelism": 1}
        deploy |= {
            "mode": "global",
            # nginx is told every address of the app where it asks for its name (BIND with a port), as with Compose.
            "endpoint_mode": "dnsrr",
            "update_config": {**order, "failure_action": "rollback"},
            "rollback_config": order,
        }
    return deploy


def _merged(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        result[key] = _merged(below[key], value) if both else value
    return result


def _port(port: Mapping[str, Any]) -> dict[str, Any]:
    # By the node's own port, so that a client's address stays what it is, and a load balancer sees each node.
    result: dict[str, Any] = {"mode": "host", "target": port["target"], "protocol": port.get("protocol", "tcp")}
    if published := str(port.get("published", "")):  # else the node chooses one
        result["published"] = int(published) if published.isdecimal() else published
    return result


def _is_private(name: str, port: Mapping[str, Any]) -> bool:
    """Return whether a port is for its own machine alone: a database's, say. Nobody would reach a node's nginx then."""
    return name != "nginx" and str(port.get("host_ip", "")).startswith(("127.", "::1"))


def _volumes(name: str, service: Service, root: Path) -> Iterator[dict[str, Any]]:
    for volume in service.get("volumes", ()):
        source = Path(volume.get("source", ""))
        if volume["type"] != "bind":
            yield {key: value for key, value in volume.items() if value != {}}
        elif not source.is_relative_to(root):
            yield {key: value for key, value in volume.items() if key != "bind"}
        elif source != root / "secrets":
            raise CommandError(
                f"{name} mounts {source}, which no other node has; allowed: what is in the image, or on each node",
                status=REFUSED,
            )
    # `tmpfs:` of a service is ignored without a word.
    for target in service.get("tmpfs", ()):
        yield {"type": "tmpfs", "target": target.partition(":")[0]}


def _network(network: Mapping[str, Any]) -> dict[str, Any]:
    kept = {"driver", "driver_opts", "internal", "attachable", "labels", "external"}
    kept |= {"name"} if network.get("external") else set()
    return {key: value for key, value in network.items() if key in kept and value}


def _declared(name: str, entry: Mapping[str, Any], project: str) -> dict[str, Any]:
    """Return what is declared of a volume, secret or configuration, without the name that Swarm makes by itself."""
    result = {key: value for key, value in entry.items() if value not in (None, f"{project}_{name}")}
    return {**result, **_by_content(name, Path(result["file"]), project)} if "file" in result else result


def _secret_files(folder: Path, project: str) -> dict[str, dict[str, str]]:
    files = sorted(file for file in folder.glob("*") if file.is_file() and not file.name.startswith("."))
    return {file.name: _by_content(file.name, file, project) for file in files}


def _by_content(name: str, file: Path, project: str) -> dict[str, str]:
    # Swarm's secrets cannot be changed: another content is another name, and an update of the services that have it.
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    return {"file": str(file), "name": f"{project}-{name}-{digest}"}


def _named(service: Service, kind: str) -> Iterator[str]:
    for each in service.get(kind, ()):
        if isinstance(each, str):
            yield each
        elif kind != "volumes" or each["type"] == "volume":
            yield each.get("source", "")


def _notes(config: Mapping[str, Any], root: Path) -> Iterator[str]:
    """Yield a line for each thing that Swarm does otherwise, or not at all."""
    services = {name: each for name, each in config["services"].items() if name not in LEFT_OUT}
    unknown = sorted({key for each in services.values() for key, value in each.items() if value} - KNOWN - TRANSLATED)
    for key in unknown:
        names = ", ".join(name for name, each in services.items() if each.get(key))
        instead = f"; {INSTEAD[key]}" if key in INSTEAD else ""
        yield f"{key} ({names}): Swarm has no such thing, it is left out{instead}"
    for name, service in services.items():
        private = [each["target"] for each in service.get("ports", ()) if _is_private(name, each)]
        if private:
            yield f"{name} is not published: Swarm would open its port {private[0]} at every address of its node"
        public = [each for each in service.get("ports", ()) if not _is_private(name, each)]
        for address in sorted({each["host_ip"] for each in public if each.get("host_ip")}):
            yield (
                f"{name} is published at every address of each node, not at {address} alone: Swarm has no such choice; "
                "let a firewall admit those who may connect"
            )
        for options in (each for each in service.get("tmpfs", ()) if ":" in each):
            yield f"tmpfs {options} ({name}): its options are left out, so its size has no limit"
        for volume in service.get("volumes", ()):
            if volume["type"] == "bind" and not Path(volume["source"]).is_relative_to(root):
                yield f"{name} mounts {volume['source']}: each node must have it"
    if "prometheus" in config["services"]:
        yield "Prometheus is left out, its image is built here; each nginx tells the numbers of its node at port 9113"
