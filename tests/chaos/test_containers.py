"""The same promises where they count: containers that are deployed, scaled, recreated, killed and stopped."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from tests.chaos import containers
from tests.chaos.conftest import FIGURES, Pick, Verdict
from tests.chaos.containers import Containers
from tests.chaos.load import Load, Request, ask, until
from tests.chaos.report import Figure, latencies
from tests.container.conftest import bases, built, engine  # noqa: F401 - fixtures
from tests.container.project import docker

# Prints the most memory that the container has had in use, in bytes, and how often the kernel killed for it.
MEMORY_PEAK = """
from pathlib import Path
v1 = Path("/sys/fs/cgroup/memory")
folder, peak, events = (v1, "memory.max_usage_in_bytes", "memory.oom_control") if v1.exists() else (
    v1.parent, "memory.peak", "memory.events")
counts = dict(line.split() for line in (folder / events).read_text().splitlines())
print([int((folder / peak).read_text()), int(counts.get("oom_kill", 0))])
"""
Running = Callable[..., AbstractContextManager[Containers]]


@pytest.fixture
def running(request: pytest.FixtureRequest, built: dict[str, str]) -> Running:  # noqa: F811 - a fixture
    """Start the stack under the settings given by name; a failed test shows its logs."""

    @contextmanager
    def start(**settings: str) -> Iterator[Containers]:
        with containers.running(built, **settings) as stack:
            try:
                yield stack
            except BaseException:
                request.node.add_report_section("call", "containers", stack.project.logs("app", "nginx"))
                raise

    return start


def test_deploy(running: Running, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((1, 1_000), (10, 20_000))
    with running(KEEP_ALIVE=pick("1", "5")) as stack:
        with Load(stack.address) as load:
            for number in range(times):
                stack.command("deploy", PROBE_VERSION=f"v{number}")
                assert stack.journal("startup")[-1]["version"] == f"v{number}"
            load.wait_for(requests)
        verdict(f"{times} deploys", stack, load.result)


def test_scale(running: Running, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((1, 1_000), (5, 20_000))
    with running(KEEP_ALIVE=pick("1", "5"), MAX_WORKERS="1") as stack:
        with Load(stack.address) as load:
            for _ in range(times):
                for number in (3, 1):
                    stack.command("scale", str(number))
                    assert len(stack.ids("app")) == number
            load.wait_for(requests)
        verdict(f"scaling 1→3→1, {times} times", stack, load.result)


@pytest.mark.parametrize("broken", [{"PROBE_FAIL": "1"}, {"APP_MODULE": "nothing:app"}], ids=["startup", "import"])
def test_a_broken_version_is_not_deployed(running: Running, verdict: Verdict, broken: dict[str, str]) -> None:
    with running(KEEP_ALIVE="1") as stack:
        before = stack.ids("app")
        with Load(stack.address) as load:
            said = stack.command("deploy", check=False, **broken)
        assert stack.ids("app") == before
        assert "goes on" in said
        assert "Traceback" not in said
        verdict(f"deploy of a broken version ({', '.join(broken)})", stack, load.result)


def test_reload_command(running: Running, pick: Pick, verdict: Verdict) -> None:
    with running(KEEP_ALIVE=pick("1", "5")) as stack:
        with Load(stack.address) as load:
            for _ in range(pick(1, 10)):
                stack.command("reload")
            load.wait_for(pick(1_000, 20_000))
        verdict(f"{pick(1, 10)} × make reload", stack, load.result)


def test_a_broken_application_is_not_reloaded(running: Running, verdict: Verdict) -> None:
    with running(KEEP_ALIVE="1", PRELOAD_APP="false") as stack:
        workers = {entry["pid"] for entry in stack.journal("startup")}
        (stack.folder / "broken").touch()
        with Load(stack.address) as load:
            said = stack.command("reload", check=False)
            load.wait_for(load.result.total + 200)
        assert "the file broken is there" in said
        assert "Traceback" not in said
        assert {entry["pid"] for entry in stack.journal("startup")} == workers
        assert not stack.journal("shutdown")
        verdict("reload of a broken application", stack, load.result)
        (stack.folder / "broken").unlink()
        stack.command("reload")
        until(lambda: len(stack.journal("shutdown")) == len(workers), 30, "repaired, it is reloaded")


def test_a_reload_whose_workers_cannot_start_says_so(running: Running, verdict: Verdict) -> None:
    with running(KEEP_ALIVE="1") as stack:
        (stack.folder / "failing").touch()
        with Load(stack.address) as load:
            said = stack.command("reload", check=False)
            load.wait_for(load.result.total + 200)
        assert "the old ones go on" in said
        assert not stack.journal("shutdown")
        verdict("reload, workers cannot start", stack, load.result)


def test_scale_over_tcp(running: Running) -> None:
    with running(BIND="0.0.0.0:8080", KEEP_ALIVE="1") as stack:
        for number in (2, 1):
            stack.command("scale", str(number))
            assert len(stack.ids("app")) == number
            # nginx knows the address of one that has gone until it asks DNS again.
            until(lambda: stack.status("/echo") == 200, 15, "the others serve")


def test_a_deploy_leaves_nothing_of_the_old_version(running: Running) -> None:
    with running(KEEP_ALIVE="1", MAX_WORKERS="1") as stack:
        stack.command("scale", "2")
        docker("stop", stack.ids("app")[1])
        stack.command("deploy", PROBE_VERSION="new")
        assert len(stack.project.containers("app")) == 1
        assert [entry["version"] for entry in stack.journal("startup")] == ["", "", "new"]


def test_overload_stays_below_the_memory_limit(running: Running, pick: Pick, pytestconfig: pytest.Config) -> None:
    """Every client has the address of the network's gateway, so their limit alone would turn most of them away."""
    limit = 256 * 2**20
    with running(
        CONNECTION_LIMIT="0", CPUS="1", WORKER_MEMORY="64m", MEMORY_LIMIT=str(limit), NGINX_MEMORY_LIMIT="256m"
    ) as stack:
        # A worker computes 20 ms for each request, so two on one CPU serve 50 a second.
        requests = [Request("GET", "/block?seconds=0.02"), Request("POST", "/echo", {}, b"x" * 200_000)]
        with Load(stack.address, rate=250, connections=3_000, make=lambda number: requests[number % 2]) as load:
            load.wait_for(pick(3_000, 20_000))
        end = time.monotonic()
        until(lambda: all(stack.status("/echo", timeout=0.5) == 200 for _ in range(10)), 5, "all is normal again")
        recovered = time.monotonic() - end
        peak, killed = stack.project.python(MEMORY_PEAK)
        statuses = {what for _, what in load.result.counts}
        passed = statuses <= {"200", "429", "503"} and peak < limit and not killed
        row = Figure(
            "five times the capacity, container of 256 MiB",
            f"{load.result.total:,} requests, half 200 kB bodies",
            f"only {', '.join(sorted(statuses))}; peak {peak / 2**20:.0f} MiB; normal after {recovered:.1f} s",
            "200, 429, 503; below the limit; 5 s",
            latencies(load.result),
            passed,
        )
        pytestconfig.stash.setdefault(FIGURES, []).append(row)
        assert passed, f"{row} {load.result}"
        assert len(stack.journal("startup")) == 2, "no worker was lost"


def test_nginx_reload(running: Running, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((3, 1_000), (10, 20_000))
    with running() as stack:
        with Load(stack.address) as load:
            for number in range(times):
                load.wait_for(requests * number // times)
                docker("kill", "--signal=HUP", *stack.ids("nginx"))
            load.wait_for(requests)
        verdict(f"{times} nginx reloads in its container, keep-alive clients", stack, load.result)


def recovery(stack: Containers, load: Load, starts: int, gone: float) -> float:
    """Wait until requests are served again, and give the seconds from the first worker's readiness to that.

    `starts` are the workers that had started before, `gone` is when nobody was left.
    """
    until(lambda: len(stack.journal("startup")) > starts, 60, "a worker is ready")

    def served_since() -> list[float]:
        return [when for when, status, _ in load.result.answered if status == 200 and when > gone]

    until(served_since, 30, "requests are served")
    ready = float(stack.journal("startup")[starts]["t"]) - time.time() + time.monotonic()
    return max(0.0, min(served_since()) - ready)


def test_recreated_by_hand(running: Running, pick: Pick, pytestconfig: pytest.Config) -> None:
    times = pick(2, 5)
    took = []
    with running(KEEP_ALIVE="1") as stack:
        with Load(stack.address, rate=20, connections=50, make=lambda _: Request("GET", "/echo")) as load:
            for number in range(times):
                starts = len(stack.journal("startup"))
                # Stopped, or killed so that its socket stays behind.
                docker(*(["rm", "--force"] if number % 2 else ["stop"]), *stack.ids("app"))
                until(lambda: stack.status("/echo") == 503, 15, "the app is gone")
                gone = time.monotonic()
                stack.project.compose("up", "--detach", "--no-build", "--no-deps", "--force-recreate", "app")
                took.append(recovery(stack, load, starts, gone))
        row = Figure(
            f"app container recreated by hand, {times} times",
            f"{load.result.total:,} probes at 20/s",
            f"recovered after {max(took):.1f} s at most",
            "2 s",
            latencies(load.result),
            max(took) <= 2,
        )
        pytestconfig.stash.setdefault(FIGURES, []).append(row)
        assert max(took) <= 2, took


def exit_status(container: str) -> Any:
    return docker("inspect", "--format", "{{.State.ExitCode}}", container).stdout.strip()


def test_the_whole_stack_stops_in_the_middle_of_a_request(
    running: Running, pick: Pick, pytestconfig: pytest.Config
) -> None:
    seconds = pick(4, 10)
    with running(KEEP_ALIVE=pick("1", "5")) as stack, ThreadPoolExecutor() as pool:
        ids = stack.ids("app") + stack.ids("nginx")
        answer = pool.submit(stack.status, f"/slow?seconds={seconds}", 60)
        until(lambda: stack.journal("slow"), 10, "the request is under way")
        start = time.monotonic()
        stack.project.compose("stop")
        took = time.monotonic() - start
        statuses = [exit_status(container) for container in ids]
        passed = answer.result() == 200 and set(statuses) == {"0"}
        row = Figure(
            f"stop of the whole stack during a {seconds} s request",
            "1 request",
            f"{int(answer.result() != 200)}, exit statuses {', '.join(statuses)}",
            "0, exit 0",
            f"stopped after {took:.0f} s",
            passed,
        )
        pytestconfig.stash.setdefault(FIGURES, []).append(row)
        assert passed, row
        assert took < 250


def test_a_worker_killed_for_its_memory_is_replaced(running: Running) -> None:
    with running(MEMORY_LIMIT="256m", WORKER_MEMORY="64m") as stack:
        starts = len(stack.journal("startup"))
        with pytest.raises(AssertionError, match="502"):
            assert ask(stack.address, Request("POST", "/eat?megabytes=1000")).status == 200, "502"
        eaten = stack.journal("eat")[-1]["t"]
        until(lambda: len(stack.journal("startup")) > starts, 10, "another worker is ready")
        assert stack.journal("startup")[-1]["t"] - eaten < 3 + 1  # s; the kernel needs its time to give up, too
        assert stack.status("/echo") == 200
