"""Instances of the app come and go, and nginx follows the folder of their sockets by itself.

With processes here; with containers and the stack's own commands in test_containers.py.
"""

import signal
from itertools import count

import pytest

from tests.chaos.conftest import Pick, Running, Verdict
from tests.chaos.load import Load, until
from tests.chaos.stack import App, Stack

names = (f"app-{number}" for number in count(2))


def add(stack: Stack) -> App:
    """Start one more instance and wait until nginx uses it."""
    app = stack.start_app(next(names))
    until(lambda: stack.uses(app.socket), 10, "nginx uses the new instance")
    return app


def remove(stack: Stack, app: App) -> None:
    """Stop an instance as `docker stop` does."""
    app.signal(signal.SIGTERM)
    assert app.wait(30) == 0
    assert not app.socket.exists()


def test_deploy(running: Running, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((3, 1_000), (10, 20_000))
    with running(KEEP_ALIVE=pick("1", "5")) as stack:
        with Load(stack.address) as load:
            for _ in range(times):
                old = stack.app
                add(stack)
                remove(stack, old)
            load.wait_for(requests)
        verdict(f"{times} deploys, processes", stack, load.result)


def test_scale(running: Running, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((1, 1_000), (5, 20_000))
    with running(KEEP_ALIVE=pick("1", "5"), MAX_WORKERS="1") as stack:
        with Load(stack.address) as load:
            for _ in range(times):
                more = [add(stack), add(stack)]
                for app in more:
                    remove(stack, app)
            load.wait_for(requests)
        verdict(f"scaling 1→3→1, {times} times, processes", stack, load.result)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
@pytest.mark.parametrize("name", ["app-1", "another"], ids=["same-name", "new-name"])
def test_recreated_by_hand(running: Running, sig: signal.Signals, name: str) -> None:
    with running(KEEP_ALIVE="1") as stack:
        old = stack.app
        if sig == signal.SIGKILL:
            old.kill()  # with its workers, as when a container is killed: the socket stays behind
            assert old.socket.exists()
        else:
            remove(stack, old)
        until(lambda: stack.status("/echo") == 503, 15, "nginx says that there is no app")
        stack.start_app(name)  # returns when it answers on its socket
        until(lambda: stack.status("/echo") == 200, 2, "nginx has found the new instance")
