"""Collects the numbers of the whole replica for prometheus_client, which knows Prometheus' text format.

Imported where somebody asks for numbers, and not before: the library takes 1 MB of each worker.
"""

import time
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from greenstack.server.cgroup import Cgroup
from greenstack.server.metrics.accept_queue import accept_queue
from greenstack.server.metrics.store import BOUNDS, TICK, Event, Field, Store
from greenstack.server.metrics.users import Shared, UsersCollector
from greenstack.server.scoreboard import Scoreboard, State

_LE = (*map(str, BOUNDS), "+Inf")


class ReplicaCollector(Collector):
    """Collects what the workers of this replica have stored, and what the kernel says of it."""

    def __init__(self, store: Store, scoreboard: Scoreboard, address: str) -> None:
        self.store = store
        self.scoreboard = scoreboard
        self.group = Cgroup.of()
        self.address = address  # what Gunicorn listens on: `host:port` or `unix:/path`

    def names(self) -> frozenset[str]:
        """Return the names of all that is told."""
        return frozenset(metric.name for metric in self.collect())

    def collect(self) -> Iterator[Metric]:
        """Return everything."""
        yield self._durations()
        yield from self._workers()
        yield from self._collector_pauses()
        yield from self._queue()
        yield from _container(self.group)
        numbers = self.store.numbers
        yield GaugeMetricFamily(
            "gunicorn_start_time_seconds", "When this replica was started, since the epoch.", numbers[Event.STARTED]
        )
        yield CounterMetricFamily(
            "gunicorn_worker_crashes", "Worker processes that ended without being told to.", numbers[Event.CRASHES]
        )
        yield CounterMetricFamily("gunicorn_reloads", "Reloads of all workers.", numbers[Event.RELOADS])
        yield GaugeMetricFamily(
            "gunicorn_reload_time_seconds", "When the last reload began; 0: never.", numbers[Event.RELOADED]
        )

    def _durations(self) -> Metric:
        family = HistogramMetricFamily(
            "http_request_duration_seconds", "Time in the application, by route.", labels=("method", "status", "route")
        )
        for method, status, route, seconds, counts in self.store.requests():
            family.add_metric((method, status, route), list(zip(_LE, accumulate(counts), strict=True)), seconds)
        return family

    def _workers(self) -> Iterator[Metric]:
        store, used = self.store, self.store.used()
        states = {slot: state for slot in used if (state := self.scoreboard.state(slot)) is not State.FREE}
        count = Counter[State](states.values())
        workers = GaugeMetricFamily("gunicorn_workers", "Worker processes by what they do.", labels=("state",))
        for state in (State.STARTING, State.READY, State.DRAINING):
            workers.add_metric((state.name.lower(),), count[state])
        yield workers
        for name, description, field in (
            ("gunicorn_worker_starts", "Worker processes that were started.", Field.STARTS),
            ("websocket_connections", "WebSockets that the application has accepted.", Field.WEBSOCKETS),
            ("http_requests_shed", "Requests answered 503 as their worker was overloaded: SHED_DELAY.", Field.SHED),
        ):
            yield CounterMetricFamily(name, description, sum(store.get(slot, field) for slot in used))
        serving = [slot for slot, state in states.items() if state is not State.STARTING]
        for name, description, values in (
            ("http_requests_in_flight", "Requests under way.", [store.get(slot, Field.IN_FLIGHT) for slot in serving]),
            ("websockets_open", "WebSockets under way.", [store.get(slot, Field.WEBSOCKETS_OPEN) for slot in serving]),
            ("gunicorn_worker_memory_bytes", "Resident memory.", [store.get(slot, Field.MEMORY) for slot in serving]),
            (
                "gunicorn_worker_event_loop_late_seconds",
                "The most that the event loop was late within the last ten seconds.",
                # One that stands still now does not say so itself.
                list(map(self._late, serving)),
            ),
        ):
            family = GaugeMetricFamily(name, description, labels=("slot",))
            for slot, value in zip(serving, values, strict=True):
                family.add_metric((str(slot),), value)
            yield family

    def _late(self, slot: int) -> float:
        silent = time.monotonic() - self.store.get(slot, Field.TICKED)
        return max(self.store.get(slot, Field.LATE), silent - TICK)

    def _collector_pauses(self) -> Iterator[Metric]:
        used = self.store.used()
        seconds = sum(self.store.get(slot, Field.PAUSED) for slot in used)
        pauses = sum(self.store.get(slot, Field.PAUSES) for slot in used)
        yield CounterMetricFamily("python_gc_pause_seconds", "Time that the garbage collector took.", seconds)
        yield CounterMetricFamily("python_gc_pauses", "Runs of the garbage collector.", pauses)

    def _queue(self) -> Iterator[Metric]:
        if not self.address.startswith("unix:") or not (queue := accept_queue(self.address.removeprefix("unix:"))):
            return
        yield GaugeMetricFamily("gunicorn_accept_queue", "Connections that wait to be accepted.", queue.waiting)
        yield GaugeMetricFamily("gunicorn_accept_queue_limit", "The most that may wait.", queue.limit)


def _container(group: Cgroup) -> Iterator[Metric]:
    for name, description, value in (
        ("container_memory_bytes", "Memory in use, without file pages that can be dropped.", group.memory_usage()),
        ("container_memory_limit_bytes", "Memory that may be used.", group.memory_limit()),
        ("container_cpu_limit", "CPUs that may be used.", group.cpu_quota()),
    ):
        if value is not None:
            yield GaugeMetricFamily(name, description, value)
    if (seconds := group.cpu_usage()) is not None:
        yield CounterMetricFamily("container_cpu_seconds", "CPU time used.", seconds)
    if throttling := group.throttling():
        yield CounterMetricFamily(
            "container_cpu_throttled_seconds", "Time that the CPU limit stopped it.", throttling.seconds
        )


def registry(replica: ReplicaCollector, shared: Shared | None) -> CollectorRegistry:
    """Return a registry of what the replica tells, and of the application's own metrics where they are `shared`."""
    both = CollectorRegistry()
    both.register(replica)
    if shared:
        both.register(UsersCollector(shared, replica.names()))
    return both
