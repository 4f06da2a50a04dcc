"""`make scenario`: begins a scenario from the application's OpenAPI document and the access log of nginx.

The document has the routes, the log their mix and rate. Of the log nothing is copied that may be secret: no query, no
header, and of a path without a known route plain words only. Bodies and logins are marked TODO, to be filled in.
"""

import http.client
import json
import keyword
import re
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from greenstack.cli import ROOT, RUN, docker
from greenstack.cli.console import REFUSED, CommandError
from greenstack.cli.environment import Environment
from loadtest.results import replace

DRAFT = ROOT / "loadtest/locustfile.draft.py"
METHODS = ("get", "post", "put", "patch", "delete", "head")
NOT_ASKED = ("/openapi.json", "/docs", "/redoc", "/favicon.ico")
SHARES = 100  # weights add up to about that many
# A segment of a path that is copied from the log: a plain word. All else may be somebody's name, number or token.
WORD = re.compile(r"[a-z][a-z_-]{0,30}|v[0-9]")
FIXED = re.compile(r"\{[^}]*\}")


@dataclass
class Operation:
    """One route with its method: what is known of it."""

    method: str
    template: str
    parameters: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # schema by name, of the path
    body: Any = None
    status: int = 200
    secured: bool = False
    count: int = 0  # requests in the log

    def matches(self, path: str) -> bool:
        """Return whether `path` is one of this route."""
        parts = map(re.escape, FIXED.split(self.template))
        return re.fullmatch("[^/]+".join(parts), path) is not None


@dataclass
class Log:
    """What the access log says: (method, path, status) with its count, and over how many seconds."""

    requests: Counter[tuple[str, str, int]]
    seconds: float


def operations(document: Mapping[str, Any]) -> list[Operation]:
    """Return the operations of an OpenAPI document."""
    return [
        _operation(document, method.upper(), template, {**item, **item[method]})
        for template, item in document.get("paths", {}).items()
        for method in METHODS
        if method in item
    ]


def _operation(document: Mapping[str, Any], method: str, template: str, details: Mapping[str, Any]) -> Operation:
    parameters = [_resolve(document, parameter) for parameter in details.get("parameters", [])]
    content = _resolve(document, details.get("requestBody", {})).get("content", {})
    schema = content.get("application/json", {}).get("schema")
    statuses = [int(status) for status in details.get("responses", {}) if re.fullmatch("2[0-9][0-9]", str(status))]
    return Operation(
        method,
        template,
        {item["name"]: item.get("schema", {}) for item in parameters if item.get("in") == "path"},
        body=_example(document, schema) if schema is not None else None,
        status=min(statuses, default=200),
        secured=bool(details.get("security", document.get("security"))),
    )


def _resolve(document: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    while reference := part.get("$ref"):
        part = document
        for name in reference.removeprefix("#/").split("/"):
            part = part[name.replace("~1", "/").replace("~0", "~")]
    return part


def _example(document: Mapping[str, Any], schema: Mapping[str, Any], depth: int = 5) -> Any:
    """Return a value of the type that `schema` wants; required properties only."""
    schema = _resolve(document, schema)
    for name in ("example", "default", "const"):
        if name in schema:
            return schema[name]
    for several in ("examples", "enum"):
        if schema.get(several):
            return schema[several][0]
    choices = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if choices and depth:
        return _example(document, choices[0], depth - 1)
    if schema.get("type") == "object" or "properties" in schema:
        required = schema.get("required", []) if depth else []
        return {name: _example(document, schema["properties"][name], depth - 1) for name in required}
    plain: dict[str, Any] = {"integer": 1, "number": 1.0, "boolean": True, "array": [], "null": None}
    return plain.get(str(schema.get("type")), "text")


def read_log(lines: Iterable[str]) -> Log:
    """Read nginx's JSON access log; what is no such line is left out, and so are requests that failed."""
    requests: Counter[tuple[str, str, int]] = Counter()
    times = []
    for line in lines:
        try:
            entry = json.loads(line)
            method, path, status = entry["method"], entry["uri"].partition("?")[0], int(entry["status"])
            time = datetime.fromisoformat(entry["time"]).timestamp()
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if status < 400 and method.lower() in METHODS and path not in NOT_ASKED:
            requests[method, path, status] += 1
            times.append(time)
    return Log(requests, max(times) - min(times) + 1 if times else 0.0)


def combine(known: Sequence[Operation], log: Log) -> list[Operation]:
    """Return the operations in the log with their counts, by the templates of `known`; without a log all of these."""
    if not log.requests:
        return [operation for operation in known if operation.template not in NOT_ASKED]
    asked = {(operation.method, operation.template): operation for operation in known}
    for (method, path, status), count in log.requests.items():
        # A fixed route goes before one with a parameter, as in the application.
        fitting = sorted(
            (operation for operation in known if operation.method == method and operation.matches(path)),
            key=lambda operation: operation.template.count("{"),
        )
        template = fitting[0].template if fitting else generalized(path)
        operation = asked.setdefault((method, template), Operation(method, template, _names(template), status=status))
        operation.count += count
    return sorted((one for one in asked.values() if one.count), key=lambda operation: -operation.count)


def generalized(path: str) -> str:
    """Return `path` with `{id}` for every segment that is not a plain word."""
    segments = [segment if not segment or WORD.fullmatch(segment) else "{id}" for segment in path.split("/")]
    return "/".join(segments)


def _names(template: str) -> dict[str, Mapping[str, Any]]:
    return {name[1:-1]: {"type": "integer"} for name in FIXED.findall(template)}


def text(drafted: Sequence[Operation], log: Log) -> str:
    """Return the scenario as the text of a locustfile."""
    total = sum(operation.count for operation in drafted)
    origin = "Every route of the OpenAPI document is as likely as the others: TODO, set the weights."
    if total:
        rate = f"{total / log.seconds:,.1f} a second"
        origin = f"The mix is that of {total:,} requests in the access log ({rate} over {log.seconds:,.0f} s)."
    names: dict[str, Operation] = {}
    for operation in drafted:
        words = re.sub(r"\W+", "_", f"{operation.method.lower()}{operation.template}").strip("_").lower()
        name = words if words not in names and not keyword.iskeyword(words) else f"{words}_{len(names)}"
        names[name] = operation
    weights = [(max(1, round(SHARES * one.count / total)) if total else 1, name) for name, one in names.items()]
    routes = "".join(f"    ({weight}, {name}),\n" for weight, name in weights)
    login = _LOGIN if any(operation.secured for operation in drafted) else ""
    functions = "\n\n".join(_function(name, operation) for name, operation in names.items())
    return f'''"""The scenario, begun by `make scenario`. Look through it, and for TODO.

{origin}
"""

import random

from loadtest.generator.scenario import Call
from loadtest.generator.users import Requests, Route


{functions}

# (weight, what to ask)
ROUTES: list[Route] = [
{routes}]


class Application(Requests):
    """A user of the application."""

    routes = ROUTES
{login}'''


_LOGIN = '''
    def login(self, send):
        """Return the headers that a user sends with every request."""
        # TODO: an account that is meant for load tests.
        answer = send(Call("/login", method="POST", json={"username": "TODO", "password": "TODO"}))
        return {"Authorization": f"Bearer {answer.json()['access_token']}"}
'''


def _function(name: str, operation: Operation) -> str:
    template = path = quote(operation.template, safe="/{}-._~:@!$&()*+,;=")
    todo = ""
    for parameter in FIXED.findall(template):
        is_number = operation.parameters.get(unquote(parameter[1:-1]), {}).get("type") == "integer"
        todo = "    # TODO: values that the application knows.\n"
        path = path.replace(parameter, "{rng.randrange(1, 1000)}" if is_number else "text")
    prefix = "f" if "{rng" in path else ""
    arguments = [f'{prefix}"{path}"', f'"{template}"']
    arguments += [f'method="{operation.method}"'] if operation.method != "GET" else []
    if operation.body is not None:
        todo += "    # TODO: a body that the application takes.\n"
        arguments.append(f"json={operation.body!r}")
    elif operation.method in ("POST", "PUT", "PATCH"):
        todo += "    # TODO: json=… or body=…, if it takes one.\n"
    arguments += [f"status={operation.status}"] if operation.status != 200 else []
    return f'''def {name}(rng: random.Random) -> Call:
    """{operation.method} {template}."""
{todo}    return Call({", ".join(arguments)})
'''


def fetch_document(url: str) -> Mapping[str, Any]:
    """Return the OpenAPI document of the application at `url`; empty where it has none."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/openapi.json", timeout=10) as response:
            document: Mapping[str, Any] = json.load(response)
            return document
    except (OSError, ValueError, http.client.HTTPException):
        return {}


def log_lines(environment: Environment) -> list[str]:
    """Return what nginx of the running stack has logged, in containers or as a process; empty where none runs."""
    if docker.why_none() is None:
        for container in docker.Compose(environment, {}).containers("nginx"):
            done = subprocess.run(["docker", "logs", container.id], check=False, capture_output=True, text=True)
            return done.stdout.splitlines()
    file = RUN / "nginx.log"
    return file.read_text(errors="replace").splitlines() if file.is_file() else []


def draft(source: str, environment: Environment, url: str) -> list[str]:
    """Write the draft from `source` ("openapi", "log", a file of either kind, "" for both); return lines to print."""
    document: Mapping[str, Any] = {}
    lines: list[str] = []
    if source not in ("", "openapi", "log"):
        document, lines = _read(Path(source))
    else:
        document = fetch_document(url)  # of the log, too: it has the templates
        lines = log_lines(environment) if source != "openapi" else []
    log = read_log(lines)
    try:
        known = operations(document)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CommandError(
            f"FROM={source}: not an OpenAPI document that can be read; allowed: one without other files",
            status=REFUSED,
        ) from None
    drafted = combine(known, log)
    if not drafted or (source == "log" and not log.requests):
        raise CommandError(
            f"FROM={source}: no routes: {url}/openapi.json and the access log have none; start the stack (make up), or "
            "name a file: an OpenAPI document, or an access log of nginx",
            status=REFUSED,
        )
    replace(DRAFT, text(drafted, log))
    name = DRAFT.relative_to(ROOT)
    return [
        f"{len(drafted)} routes, {log.requests.total():,} requests of the access log: {name}",
        f"look for TODO in it, then: mv {name} loadtest/locustfile.py && make loadtest",
    ]


def _read(file: Path) -> tuple[Mapping[str, Any], list[str]]:
    try:
        content = file.read_text(errors="replace")
    except OSError as error:
        raise CommandError(
            f"FROM={file}: {error.strerror}; allowed: openapi, log, or a file of either kind", status=REFUSED
        ) from None
    try:
        document = json.loads(content)
    except ValueError:
        return {}, content.splitlines()
    return (document, []) if isinstance(document, dict) and "paths" in document else ({}, content.splitlines())
