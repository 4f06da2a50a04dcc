"""The same promises where they count: containers that are deployed, scaled, recreated, killed and stopped."""

import socket
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.chaos.conftest import AddFigure, Pick, Verdict
from tests.chaos.load import Load, half_posts
from tests.chaos.report import Figure, latencies
from tests.conftest import Start
from tests.support.compose import Stack, build_image, docker
from tests.support.http import Request, ask
from tests.support.wait import until

# Prints the most memory that the container has had in use, in bytes, and how often the kernel killed for it.
MEMORY_PEAK = """
from pathlib import Path
v1 = Path("/sys/fs/cgroup/memory")
folder, peak, events = (v1, "memory.max_usage_in_bytes", "memory.oom_control") if v1.exists() else (
    v1.parent, "memory.peak", "memory.events")
counts = dict(line.split() for line in (folder / events).read_text().splitlines())
print([int((folder / peak).read_text()), int(counts.get("oom_kill", 0))])
"""
USUAL = {"MAX_WORKERS": "2", "ACCESS_LOG": ""}


@pytest.fixture(scope="module")
def shared(start_shared: Start, built: dict[str, str]) -> Stack:
    """One stack for the tests that leave it as they found it: one replica, two workers, of any version."""
    # Names of its own: another test's `up` would label the images with another project, which for Compose is a change.
    own = {name: f"{built[name]}-chaos" for name in ("APP_IMAGE", "NGINX_IMAGE")}
    for name, image in own.items():
        docker("tag", f"{built[name]}:{built['TAG']}", f"{image}:{built['TAG']}")
    return start_shared({**USUAL, "PRELOAD_APP": "false"}, probe=True, images=built | own)


@pytest.fixture
def stack(shared: Stack) -> Iterator[Stack]:
    """The same, repaired after the test."""
    yield shared
    for name in ("broken", "failing"):
        (shared.folder / name).unlink(missing_ok=True)


def test_a_deploy_loses_no_request(stack: Stack, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((1, 600), (10, 20_000))
    with Load(stack.address) as load:
        for number in range(times):
            stack.command("deploy", PROBE_VERSION=f"v{number}")
            assert stack.journal("startup")[-1]["version"] == f"v{number}"
        load.wait_for(requests)
    verdict(f"{times} deploys", stack, load.result)


def test_up_changes_settings_without_loss(stack: Stack, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((1, 600), (10, 20_000))
    stack.command("up")  # images that are labelled with this project's name
    nginx = stack.ids("nginx")
    with Load(stack.address) as load:
        for number in range(times):
            stack.command("up", MAX_REQUESTS="1000000", PROBE_VERSION=f"up{number}")
            assert stack.journal("startup")[-1]["version"] == f"up{number}"
        replica = stack.ids("app")
        stack.command("up", MAX_REQUESTS="1000000", PROBE_VERSION=f"up{number}")
        assert stack.ids("app") == replica, "nothing has changed"
        load.wait_for(requests)
    assert stack.ids("nginx") == nginx
    verdict(f"make up with other settings, {times} times", stack, load.result)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"SERVER_NAME": "127.0.0.1"}, {"KEEP_ALIVE": "4", "BIND": "unix:/run/app/a-{hostname}.sock"}]
)
def test_up_replaces_nginx_with_a_short_gap(
    start: Start, pick: Pick, verdict: Verdict, changes: dict[str, str]
) -> None:
    stack = start({**USUAL, "CLIENT_KEEP_ALIVE": "3"}, probe=True)
    nginx = stack.ids("nginx")
    with Load(stack.address, make=half_posts("gap", longest=0.05)) as load:
        load.wait_for(200)
        assert "refuses connections for a second" in stack.command("up", check=True, **changes)
        load.wait_for_more(400)
    assert stack.ids("nginx") != nginx
    sent = [failure.sent for failure in load.result.failures]
    gap = max(sent) - min(sent) if sent else 0.0
    allowed = "3 s, nothing that nginx had accepted"
    case = f"make up with another nginx ({', '.join(changes)}), {gap:.1f} s without"
    # The engine's proxy takes connections a moment longer than nginx does.
    verdict(case, stack, load.result, allowed, lambda failure: not failure.reused)
    assert not set(stack.executed()) & {failure.request.id for failure in load.result.failures}
    assert gap < pick(10, 3)


@pytest.mark.slow
@pytest.mark.parametrize("command", [("up", {"SERVER_NAME": "127.0.0.1"}), ("down", {})], ids=["up", "down"])
def test_websockets_of_an_nginx_that_leaves_are_told(start: Start, command: tuple[str, dict[str, str]]) -> None:
    stack = start({**USUAL, "GRACEFUL_TIMEOUT": "60", "STOP_GRACE_PERIOD": "70s"}, probe=True)
    name, changes = command
    with connect(f"ws://127.0.0.1:{stack.address[1]}/ws") as websocket, ThreadPoolExecutor(1) as pool:
        websocket.recv(60)
        done = pool.submit(stack.command, name, check=True, **changes)
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(300)  # most of it is what the command does before
        told = time.monotonic()
        done.result()
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 1012
    assert time.monotonic() - told < 55, "it ended before GRACEFUL_TIMEOUT"


@pytest.mark.slow
def test_an_nginx_that_cannot_start_is_refused(stack: Stack, verdict: Verdict) -> None:
    before = stack.ids("nginx") + stack.ids("app")
    with Load(stack.address) as load, socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        output = stack.command("up", check=False, HTTP_PORT=taken)
        assert output.splitlines()[-1] == f"HTTP_PORT={taken}: is in use already; allowed: a free port"
    assert stack.ids("nginx") + stack.ids("app") == before
    verdict("make up with a port that is taken", stack, load.result)


@pytest.mark.slow
def test_scaling_loses_no_request(stack: Stack, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((1, 600), (5, 20_000))
    with Load(stack.address) as load:
        for _ in range(times):
            for number in (3, 1):
                stack.command("scale", str(number))
                assert len(stack.ids("app")) == number
        load.wait_for(requests)
    verdict(f"scaling 1→3→1, {times} times", stack, load.result)


@pytest.mark.slow
@pytest.mark.parametrize("broken", [{"PROBE_FAIL": "1"}, {"APP_MODULE": "nothing:app"}], ids=["startup", "import"])
@pytest.mark.parametrize("command", ["deploy", "up"])
def test_a_broken_version_is_refused(stack: Stack, verdict: Verdict, command: str, broken: dict[str, str]) -> None:
    before = stack.ids("app")
    with Load(stack.address) as load:
        output = stack.command(command, check=False, **broken)
        load.wait_for_more(50)
    assert [container["Id"] for container in stack.containers("app")] == before, "and nothing else is left"
    assert "goes on" in output
    assert "PROBE_FAIL" in broken or "Traceback" not in output, "but the application's own, in its log"
    verdict(f"make {command} of a broken version ({', '.join(broken)})", stack, load.result)


@pytest.fixture
def versioned(start: Start, built: dict[str, str]) -> Iterator[tuple[Stack, list[str]]]:
    """A stack that serves the first of three images, and their names; the last one cannot start."""
    repository = f"localhost:9/{built['TAG']}-{uuid.uuid4().hex[:8]}"
    lines = [["ENV BUILT_AS=1"], ["ENV BUILT_AS=2"], ['CMD ["-c", "raise SystemExit(3)"]']]
    base = f"FROM {built['APP_IMAGE']}:{built['TAG']}"
    images = [build_image(f"{repository}:{number}", base, *each) for number, each in enumerate(lines)]
    # The project's own name for the image: the versions are of this stack alone.
    stack = start({**USUAL, "APP_IMAGE": repository}, probe=True, up=False)
    stack.command("up", IMAGE=images[0])
    yield stack, images
    stack.down()
    names = docker("image", "ls", "--filter", f"reference={repository}", "--format", "{{.Repository}}:{{.Tag}}")
    docker("image", "rm", "--force", *names.stdout.split())


@pytest.mark.slow
def test_a_rollback_loses_no_request(versioned: tuple[Stack, list[str]], pick: Pick, verdict: Verdict) -> None:
    stack, images = versioned
    times, requests = pick((1, 600), (5, 20_000))
    with Load(stack.address) as load:
        for _ in range(times):
            stack.command("deploy", IMAGE=images[1])
            stack.command("rollback")
        load.wait_for(requests)
    assert stack.python("import json, os; print(json.dumps(os.environ['BUILT_AS']))") == "1"
    verdict(f"{times} deploys of an image, {times} rollbacks", stack, load.result)


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["image", "command"])
def test_a_version_that_fails_is_not_served(versioned: tuple[Stack, list[str]], verdict: Verdict, trouble: str) -> None:
    stack, images = versioned
    before = stack.ids("app")
    given = {"IMAGE": images[2]} if trouble == "image" else {"IMAGE": images[1], "PRE_DEPLOY": "python3 -c 1/0"}
    with Load(stack.address) as load:
        output = stack.command("deploy", check=False, **given)
        load.wait_for_more(50)
    assert "goes on" in output
    assert [container["Id"] for container in stack.containers("app")] == before
    what = "a broken image" if trouble == "image" else "an image whose PRE_DEPLOY fails"
    verdict(f"make deploy of {what}", stack, load.result)


@pytest.mark.slow
def test_a_reload_loses_no_request(stack: Stack, pick: Pick, verdict: Verdict) -> None:
    with Load(stack.address) as load:
        for _ in range(pick(1, 10)):
            stack.command("reload")
        load.wait_for(pick(600, 20_000))
    verdict(f"{pick(1, 10)} × make reload", stack, load.result)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "reason"),
    [("broken", "the file broken is there"), ("failing", "the old ones go on")],
    ids=["import", "startup"],
)
def test_a_reload_of_broken_code_changes_nothing(stack: Stack, verdict: Verdict, file: str, reason: str) -> None:
    starts, ends = len(stack.journal("startup")), len(stack.journal("shutdown"))
    (stack.folder / file).touch()
    with Load(stack.address) as load:
        output = stack.command("reload", check=False)
        load.wait_for_more(200)
    assert reason in output
    assert file == "failing" or "Traceback" not in output
    assert (len(stack.journal("startup")), len(stack.journal("shutdown"))) == (starts, ends)
    verdict(f"reload of a broken application ({file})", stack, load.result)
    (stack.folder / file).unlink()
    stack.command("reload")
    assert len(stack.journal("shutdown")) > ends, "repaired, it is reloaded"
    until(lambda: len(stack.journal("startup")) >= starts + 2, "both new workers have started, and not one alone")


@pytest.mark.slow
def test_nginx_reloads_lose_no_request(stack: Stack, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((3, 600), (10, 20_000))
    with Load(stack.address) as load:
        for number in range(times):
            load.wait_for(requests * number // times)
            docker("kill", "--signal=HUP", *stack.ids("nginx"))
        load.wait_for(requests)
    verdict(f"{times} nginx reloads in its container, keep-alive clients", stack, load.result)


def recovery(stack: Stack, load: Load, starts: int, gone: float) -> float:
    """Wait until requests are served again, and return the seconds from the first worker's readiness to that.

    `starts` are the workers that had started before, `gone` is when nobody was left.
    """
    until(lambda: len(stack.journal("startup")) > starts, "a worker is ready")

    def served_since() -> list[float]:
        return [when for when, status, _ in load.result.answered if status == 200 and when > gone]

    until(served_since, "requests are served")
    ready = float(stack.journal("startup")[starts]["t"]) - time.time() + time.monotonic()
    return max(0.0, min(served_since()) - ready)


@pytest.mark.slow
def test_a_container_recreated_by_hand_serves_soon(stack: Stack, pick: Pick, figure: AddFigure) -> None:
    times, allowed = pick((2, 10), (5, 2))
    took = []
    with Load(stack.address, rate=20, connections=50, make=lambda _: Request("GET", "/echo")) as load:
        for number in range(times):
            starts = len(stack.journal("startup"))
            # Stopped, or killed so that its socket stays behind.
            docker(*(["rm", "--force"] if number % 2 else ["stop"]), *stack.ids("app"))
            until(lambda: stack.status("/echo") == 503, "the app is gone")
            gone = time.monotonic()
            stack.compose("up", "--detach", "--no-build", "--no-deps", "--force-recreate", "app")
            took.append(recovery(stack, load, starts, gone))
    case, outcome = f"app container recreated by hand, {times} times", f"recovered after {max(took):.1f} s at most"
    probes = f"{load.result.total:,} probes at 20/s"
    figure(Figure(case, probes, outcome, f"{allowed} s", latencies(load.result), max(took) <= allowed))


@pytest.mark.slow
def test_a_deploy_leaves_nothing_of_the_old_version(stack: Stack) -> None:
    stack.command("scale", "2")
    docker("stop", stack.ids("app")[1])
    starts = len(stack.journal("startup"))
    stack.command("deploy", PROBE_VERSION="new")
    assert len(stack.containers("app")) == 1
    until(lambda: len(stack.journal("startup")) >= starts + 2, "both workers are ready")
    assert [entry["version"] for entry in stack.journal("startup")[starts:]] == ["new", "new"]


def test_a_stop_of_the_stack_finishes_requests(stack: Stack, pick: Pick, figure: AddFigure) -> None:
    seconds = pick(2, 10)
    slow = len(stack.journal("slow"))
    with ThreadPoolExecutor() as pool:
        ids = stack.ids("app") + stack.ids("nginx")
        answer = pool.submit(stack.status, f"/slow?seconds={seconds}", 60)
        until(lambda: len(stack.journal("slow")) > slow, "the request is under way")
        start = time.monotonic()
        stack.compose("stop")
        took = time.monotonic() - start
    failed = int(answer.result() != 200)
    statuses = docker("inspect", "--format", "{{.State.ExitCode}}", *ids).stdout.split()
    case, outcome = (
        f"stop of the whole stack during a {seconds} s request",
        f"{failed}, exit statuses {', '.join(statuses)}",
    )
    reached = not failed and set(statuses) == {"0"}
    figure(Figure(case, "1 request", outcome, "0, exit 0", f"stopped after {took:.0f} s", reached))
    assert took < 250
    assert stack.status("/echo") == 0
    stack.up("--no-recreate")
    assert stack.status("/echo") == 200


@pytest.mark.slow
def test_scaling_over_tcp_is_followed(start: Start) -> None:
    stack = start({**USUAL, "BIND": "0.0.0.0:8080"}, probe=True)
    for number in (2, 1):
        stack.command("scale", str(number))
        assert len(stack.ids("app")) == number
        # nginx knows the address of one that has gone until it asks DNS again.
        until(lambda: stack.status("/echo") == 200, "the others serve")


@pytest.mark.slow
def test_overload_stays_below_the_memory_limit(start: Start, pick: Pick, figure: AddFigure) -> None:
    """Every client has the address of the network's gateway, so their limit alone would turn most of them away."""
    limit = 256 * 2**20
    limits = {"MEMORY_LIMIT": str(limit), "NGINX_MEMORY_LIMIT": "256m", "WORKER_MEMORY": "64m", "CPUS": "1"}
    stack = start({**USUAL, **limits, "CONNECTION_LIMIT": "0"}, probe=True)
    # A worker computes 20 ms for each request, so two on one CPU serve 50 a second.
    requests = [Request("GET", "/block?seconds=0.02"), Request("POST", "/echo", {}, b"x" * 200_000)]
    # `timeout`: longer than nginx waits for an answer.
    with Load(stack.address, rate=250, connections=3_000, timeout=70, make=lambda number: requests[number % 2]) as load:
        load.wait_for(pick(3_000, 20_000))
    end = time.monotonic()
    normal = pick(30, 5)
    until(lambda: all(stack.status("/echo", timeout=0.5) == 200 for _ in range(10)), "all is normal again", normal)
    recovered = time.monotonic() - end
    peak, killed = stack.python(MEMORY_PEAK)
    statuses = {status for _, status in load.result.counts}
    row = Figure(
        "five times the capacity, container of 256 MiB",
        f"{load.result.total:,} requests, half 200 kB bodies",
        f"only {', '.join(sorted(statuses))}; peak {peak / 2**20:.0f} MiB; normal after {recovered:.1f} s",
        f"200, 429, 503; below the limit; {normal} s",
        latencies(load.result),
        statuses <= {"200", "429", "503"} and peak < limit and not killed,
    )
    figure(row, load.result)
    assert len(stack.journal("startup")) == 2, "no worker was lost"


@pytest.mark.slow
def test_a_worker_killed_for_memory_is_replaced(start: Start) -> None:
    stack = start({**USUAL, "MEMORY_LIMIT": "256m", "WORKER_MEMORY": "64m"}, probe=True)
    starts = len(stack.journal("startup"))
    assert ask(stack.address, Request("POST", "/eat?megabytes=1000")).status == 502
    until(lambda: len(stack.journal("startup")) > starts, "another worker is ready")
    assert stack.status("/echo") == 200
