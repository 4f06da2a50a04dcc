"""How workers stop, are replaced and reloaded. That no request is lost under load is for tests/chaos."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from .conftest import DEADLINE, TINY_APP, Gunicorn, until

Start = Callable[..., Gunicorn]
SIGNALS = [signal.SIGTERM, signal.SIGQUIT, signal.SIGINT]


def answers(gunicorn: Gunicorn) -> dict[str, object] | None:
    """What it answers now, None where nobody does."""
    try:
        answer = gunicorn.json(timeout=5)
    except httpx.HTTPError:
        return None
    assert isinstance(answer, dict)
    return answer


def connected(gunicorn: Gunicorn) -> int:
    """How many connections its workers have."""
    path = gunicorn.variables["BIND"].removeprefix("unix:")
    rows = Path("/proc/net/unix").read_text().splitlines()
    return sum(row.endswith(path) and row.split()[5] == "03" for row in rows)  # 03: connected


@pytest.mark.parametrize("target", ["arbiter", "worker"])
def test_a_stop_finishes_what_runs(start: Start, target: str) -> None:
    servers = {sig: start(ACCESS_LOG="").until_ready() for sig in SIGNALS}
    with ThreadPoolExecutor() as pool:
        running = {sig: pool.submit(gunicorn.get, "/sleep?1.5") for sig, gunicorn in servers.items()}
        for sig, gunicorn in servers.items():
            until(lambda gunicorn=gunicorn: connected(gunicorn), "the request is there")
            os.kill(gunicorn.process.pid if target == "arbiter" else gunicorn.workers()[0], sig)
        assert {sig: answer.result().status_code for sig, answer in running.items()} == dict.fromkeys(SIGNALS, 200)
    for gunicorn in servers.values():
        if target == "arbiter":
            assert gunicorn.ended() == 0
        else:
            gunicorn.until_logged("worker:WORKER_1 exited")
            assert until(lambda gunicorn=gunicorn: answers(gunicorn), "another worker answers")["id"] == "WORKER_2"
        assert "Traceback" not in gunicorn.log
        assert "Bad file descriptor" not in gunicorn.log


def test_the_graceful_timeout_is_kept(start: Start) -> None:
    """What does not end in time is cut off, by whichever name the time was set."""
    servers = [
        start(KEEP_ALIVE="5", GRACEFUL_TIMEOUT="12"),
        start(KEEP_ALIVE="5", GRACEFUL_TIMEOUT="60", GUNICORN_CMD_ARGS="--graceful-timeout 10"),
    ]
    with ThreadPoolExecutor() as pool:
        for gunicorn in servers:
            pool.submit(gunicorn.until_ready().get, "/sleep?60")
            until(lambda gunicorn=gunicorn: connected(gunicorn), "the request is there")
            gunicorn.signal(signal.SIGTERM)
        begun = time.monotonic()
        for gunicorn in servers:
            assert gunicorn.ended() == 0
            gunicorn.until_logged("Application shutdown complete")  # not killed: it ended by itself, and before
        assert time.monotonic() - begun < 30, "and not the 60 s of the requests, and of the setting"


def test_a_draining_worker_says_so(start: Start) -> None:
    gunicorn = start().until_ready()
    assert gunicorn.json("/healthz") == {"status": "ok"}
    assert gunicorn.json("/readyz") == {"status": "ready"}
    os.kill(gunicorn.workers()[0], signal.SIGTERM)

    def draining() -> httpx.Response | None:
        answer = gunicorn.get("/readyz", headers={"connection": "keep-alive"})
        return answer if answer.status_code == 503 else None

    answer = until(draining, "it drains")
    assert (answer.json(), answer.headers["connection"]) == ({"status": "draining"}, "close")
    until(lambda: (answers(gunicorn) or {}).get("draining") is False, "another worker answers")


def test_the_application_has_a_say_in_readyz(start: Start, project: Path) -> None:
    fail = project / "fail"
    gunicorn = start(HEALTH_PATH="/health", FAIL_FILE=str(fail)).until_ready()
    assert gunicorn.get("/readyz").status_code == 200
    fail.touch()
    answer = gunicorn.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "HEALTH_PATH=/health answers 503"})
    assert gunicorn.get("/healthz").status_code == gunicorn.get("/").status_code == 200


@pytest.mark.parametrize("sig", SIGNALS)
def test_what_the_application_does_at_its_end_is_done(start: Start, project: Path, sig: signal.Signals) -> None:
    (project / "tiny/hooks.py").write_text("def worker_exit(server, worker): worker.log.info('mine: worker_exit')")
    gunicorn = start(EXIT_FILE=str(project / "exits")).until_ready()
    worker = gunicorn.workers()[0]
    os.kill(worker, sig)
    gunicorn.until_logged("mine: worker_exit")
    gunicorn.until_logged("worker:WORKER_1 exited")
    assert f"atexit {worker}" in (project / "exits").read_text()
    assert gunicorn.log.count("Application shutdown complete") == 1
    assert "exited with code" not in gunicorn.log


def test_a_killed_worker_is_replaced(start: Start) -> None:
    gunicorn = start(MAX_WORKERS="2").until_ready(2)
    os.kill(gunicorn.workers()[0], signal.SIGKILL)
    begun = time.monotonic()
    gunicorn.until_logged("Booting worker", 3)
    assert time.monotonic() - begun < 10, "at once; how long the application takes to start is its affair"
    gunicorn.until_ready(3)
    assert len(gunicorn.workers()) == 2


def test_workers_leave_when_their_arbiter_was_killed(start: Start) -> None:
    gunicorn = start(MAX_WORKERS="2").until_ready(2)
    workers = [psutil.Process(pid) for pid in gunicorn.workers()]
    os.kill(gunicorn.process.pid, signal.SIGKILL)
    gunicorn.ended()
    gone, alive = psutil.wait_procs(workers, timeout=DEADLINE)
    for worker in alive:
        worker.kill()
    assert len(gone) == 2


def test_a_lifespan_that_fails_later_stops_nothing(start: Start, project: Path) -> None:
    fail = project / "fail"
    gunicorn = start(MAX_WORKERS="2", FAIL_FILE=str(fail)).until_ready(2)
    assert answers(gunicorn), "a worker has served"
    fail.touch()
    os.kill(gunicorn.workers()[0], signal.SIGKILL)
    gunicorn.until_logged("no database", 2)  # it is tried again
    assert gunicorn.process.poll() is None
    assert answers(gunicorn)
    fail.unlink()
    gunicorn.until_logged("Application startup complete", 3)
    assert gunicorn.stop() == 0


def test_a_repaired_reload_does_not_wait(start: Start, project: Path) -> None:
    fail = project / "fail"
    # Gunicorn would wait that long for the old workers of a reload, which go on.
    gunicorn = start(MAX_WORKERS="2", FAIL_FILE=str(fail), GRACEFUL_TIMEOUT="600").until_ready(2)
    fail.touch()
    gunicorn.signal(signal.SIGHUP)
    gunicorn.until_logged("exited with code 1", 2)
    assert answers(gunicorn), "the old ones go on"
    fail.unlink()
    gunicorn.signal(signal.SIGHUP)
    gunicorn.until_logged("Application startup complete", 4)
    gunicorn.until_logged(r"worker:WORKER_[12] exited", 2)
    assert gunicorn.stop() == 0


def test_a_hook_that_fails_later_stops_nothing(start: Start, project: Path) -> None:
    fail = project / "fail"
    (project / "tiny/hooks.py").write_text(
        f"import os\ndef post_worker_init(worker): assert not os.path.exists({str(fail)!r}), 'on purpose'\n"
    )
    gunicorn = start(MAX_WORKERS="2").until_ready(2)
    assert answers(gunicorn), "a worker has served"
    fail.touch()
    os.kill(gunicorn.workers()[0], signal.SIGKILL)
    gunicorn.until_logged("AssertionError: on purpose", 2)
    assert gunicorn.process.poll() is None
    assert answers(gunicorn)


def test_a_reload(start: Start, project: Path) -> None:
    gunicorn = start(MAX_WORKERS="2").until_ready(2)
    (project / "tiny/main.py").write_text(TINY_APP.replace('"draining":', '"new": True, "draining":'))
    gunicorn.signal(signal.SIGHUP)
    until(lambda: (answers(gunicorn) or {}).get("new"), "the new code answers")
    gunicorn.until_logged(r"worker:WORKER_\d exited", 2)
    assert len(gunicorn.workers()) == 2
    assert gunicorn.stop() == 0


def test_a_reload_of_something_broken(start: Start, project: Path) -> None:
    """The old workers go on, all of them and as good as new, until a reload that works."""
    gunicorn = start(MAX_WORKERS="2", GRACEFUL_TIMEOUT="5").until_ready(2)
    old = gunicorn.workers()
    (project / "tiny/main.py").write_text("1 / 0")
    for reload in (1, 2):  # an operator who does not read logs does it again
        gunicorn.signal(signal.SIGHUP)
        gunicorn.until_logged("APP_MODULE=tiny.main:app: cannot be imported: ZeroDivisionError", 2 * reload)
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            answer = answers(gunicorn)
            assert answer, "the service goes on"
            assert answer["pid"] in old
        assert set(old) <= set(gunicorn.workers())
        assert gunicorn.get("/readyz").status_code == 200
        until(lambda: gunicorn.workers() == old, "the failed ones are gone")
    (project / "tiny/main.py").write_text(TINY_APP)
    gunicorn.signal(signal.SIGHUP)
    until(lambda: (answers(gunicorn) or {}).get("pid") not in [None, *old], "new workers answer")
    until(lambda: not set(old) & set(gunicorn.workers()), "the old ones leave")
    assert gunicorn.stop() == 0


def test_a_stop_after_a_reload_of_something_broken(start: Start, project: Path) -> None:
    gunicorn = start(GRACEFUL_TIMEOUT="5").until_ready()
    (project / "tiny/main.py").write_text("1 / 0")
    gunicorn.signal(signal.SIGHUP)
    gunicorn.until_logged("cannot be imported")
    gunicorn.signal(signal.SIGTERM)
    assert gunicorn.ended() == 0
    assert "Application shutdown complete" in gunicorn.log


def test_gunicorns_reloader(start: Start, project: Path) -> None:
    """For development: `--reload` replaces workers when a file changes, and gets over a mistake."""
    gunicorn = start(GUNICORN_CMD_ARGS="--reload", MAX_REQUESTS="0").until_ready()
    main = project / "tiny/main.py"

    def save(source: str, seconds: int) -> None:
        main.write_text(source)
        os.utime(main, (time.time() + seconds,) * 2)  # the reloader compares times

    def looked() -> None:
        # It notes the time of each file when it first sees it, once a second from when the application is loaded.
        loaded = time.monotonic()
        until(lambda: time.monotonic() - loaded > 1.5, "it looked")

    first = gunicorn.json()["pid"]
    looked()
    save(TINY_APP.replace('"draining":', '"new": 1, "draining":'), 10)
    answer = until(lambda: a if (a := answers(gunicorn) or {}).get("new") == 1 else None, "the new code answers")
    assert answer["pid"] != first
    gunicorn.until_logged("Worker reloading: .*main.py modified")
    looked()
    save("1 / 0", 20)
    gunicorn.until_logged("cannot be imported: ZeroDivisionError", 2)
    save(TINY_APP.replace('"draining":', '"new": 2, "draining":'), 30)
    until(lambda: (answers(gunicorn) or {}).get("new") == 2, "the mended code answers")
