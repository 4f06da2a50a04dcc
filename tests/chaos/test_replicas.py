"""Instances of the app come and go, and nginx follows the folder of their sockets by itself.

With processes here; with containers and the stack's own commands in test_containers.py.
"""

import signal
from itertools import count

import pytest

from tests.chaos.conftest import Pick, Running, Verdict
from tests.chaos.load import Load
from tests.chaos.stack import Stack
from tests.support.processes import Gunicorn
from tests.support.programs import needs
from tests.support.wait import until

pytestmark = [needs("nginx"), pytest.mark.slow]
names = (f"app-{number}" for number in count(2))


def add(stack: Stack) -> Gunicorn:
    """Start one more instance and wait until nginx uses it."""
    app = stack.start_app(next(names))
    until(lambda: stack.nginx.uses(app.socket), "nginx uses the new instance")
    return app


def remove(app: Gunicorn) -> None:
    """Stop an instance as `docker stop` does."""
    assert app.stop() == 0
    assert not app.socket.exists()


def test_a_deploy_loses_no_request(running: Running, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((2, 600), (10, 20_000))
    with running() as stack:
        with Load(stack.address) as load:
            for _ in range(times):
                old = stack.app
                add(stack)
                remove(old)
            load.wait_for(requests)
        verdict(f"{times} deploys, processes", stack, load.result)


def test_scaling_loses_no_request(running: Running, pick: Pick, verdict: Verdict) -> None:
    times, requests = pick((1, 600), (5, 20_000))
    with running(MAX_WORKERS="1") as stack:
        with Load(stack.address) as load:
            for _ in range(times):
                for app in [add(stack), add(stack)]:
                    remove(app)
            load.wait_for(requests)
        verdict(f"scaling 1→3→1, {times} times, processes", stack, load.result)


@pytest.mark.parametrize(("sig", "name"), [(signal.SIGTERM, "another"), (signal.SIGKILL, "app-1")])
def test_an_instance_recreated_by_hand_serves(running: Running, sig: signal.Signals, name: str) -> None:
    with running(KEEP_ALIVE="1") as stack:
        old = stack.app
        if sig == signal.SIGKILL:
            old.kill()  # with its workers, as when a container is killed: the socket stays behind
            assert old.socket.exists()
        else:
            remove(old)
        until(lambda: stack.status("/echo") == 503, "nginx says that there is no app")
        stack.start_app(name)  # returns when it answers on its socket
        until(lambda: stack.status("/echo") == 200, "nginx has found the new instance")
