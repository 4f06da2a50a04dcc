"""A result as an experiment would give it, with figures that are made up but plausible."""

import math
import random

from loadtest import evidence, schedule
from loadtest.histogram import HIGHEST, histogram
from loadtest.results import (
    Ceiling,
    FindingResult,
    GeneratorResult,
    Limits,
    Machine,
    Pilot,
    Results,
    RouteResult,
    Run,
    Setup,
    WorkerResult,
)

MIB = 2**20


def results(  # noqa: PLR0917 - all have defaults
    mode="full",
    workers=(1, 2, 3, 4, 5),
    capacity=lambda n: 3000 * min(n, 2.1) ** 0.95,
    seed=1,
    noise=0.012,
    rounds=None,
    invalid=(),
    **setup,
):
    """Give a whole result; `invalid` are numbers of runs that are marked so."""
    rng = random.Random(seed)  # noqa: S311 - repeatable
    plan = schedule.plan(mode, len(workers), "containers")
    plan = schedule.Plan(rounds or plan.rounds, plan.capacity, plan.latency, plan.warm_up)
    made = Results(
        created="2026-02-03T14:05:06+01:00",
        versions={"python": "3.14.0", "gunicorn": "27.0.1", "locust": "2.47.0"},
        revision="0123456789ab",
        scenario="abcdef012345",
        shares_cpus=True,
        machine=Machine(
            cpu="A Processor @ 3.0 GHz",
            cpus=4,
            memory=16 * 1024 * MIB,
            kernel="6.12.1",
            system="Debian 13",
            virtual=True,
        ),
        limits=Limits(cpus=2.0, usable_cpus=2, memory=1024 * MIB),
        setup=Setup(
            **{
                "mode": mode,
                "target": "containers",
                "url": "http://172.18.0.3:8080",
                "profile": "loadtest",
                "seed": 42,
                "generators": 1,
                "workers": list(workers),
                "current": 5,
                "current_is_set": False,
                "rounds": plan.rounds,
                "capacity_seconds": plan.capacity,
                "latency_seconds": plan.latency,
                "warm_up_seconds": plan.warm_up,
                "slo_p99_ms": 50.0,
                "commands": ["make loadtest MODE=full SEED=42"],
                **setup,
            }
        ),
        ceiling=Ceiling(server="nginx", throughput=11800, busy=0.99),
        pilot=Pilot(
            workers=max(workers, default=None),
            users={4: 2100.0, 16: 4700.0, 64: 5900.0, 256: 5750.0},
            chosen=64,
            rising=False,
        ),
        state="complete",
    )
    clock = 1_770_000_000.0
    counts = workers or (0,)  # 0: whatever runs there
    best = max(capacity(count or 1) for count in counts)
    steps = schedule.capacity_steps(counts, plan.rounds, 42)
    if plan.latency:
        made.rates = schedule.ladder(best)
        steps += schedule.latency_steps(counts, plan.rounds, 42, made.rates)
    for step in steps:
        clock += 14
        limit = capacity(step.workers or 1) * math.exp(rng.gauss(0, noise))
        made.runs.append(run(step, limit, clock, rng))
    for number in invalid:
        made.runs[number].state = "invalid"
        made.runs[number].findings = [
            FindingResult(state="invalid", blame="generator", reason="the load generator's CPU was 99 % busy")
        ]
    made.verdict = evidence.verdict(made)
    return made


def run(step, limit, clock, rng):
    """Give one run of an application that can do `limit` requests a second."""
    if step.offered is None:
        rate, base = limit, 64 / limit * 1000 * 0.8
    else:
        rate = min(step.offered, limit)
        base = 1.6 / max(1 - step.offered / limit, 0.004)
    count = int(rate * 10)
    latencies = histogram()
    for _ in range(4000):
        value = int(1000 * base * rng.lognormvariate(0, 0.38)) + 100
        latencies.record_value(min(value, HIGHEST), max(1, count // 4000))
    percentiles = {f"{p:g}": latencies.get_value_at_percentile(p) / 1000 for p in (50, 95, 99, 99.9)}
    encoded = latencies.encode().decode()
    share = [1 + rng.gauss(0, 0.1) for _ in range(step.workers or 1)]
    cpu = min(2.0, 2.0 * rate / 5800)
    return Run(
        round=step.round,
        phase=step.phase,
        workers=step.workers or None,
        offered=step.offered,
        users=64,
        started=clock,
        elapsed=10.0,
        settled=True,
        throughput=rate,
        answers=count,
        failed={},
        percentiles=percentiles,
        routes={
            "GET /items/[item_id]": RouteResult(answers=count, failed={}, percentiles=percentiles, histogram=encoded)
        },
        per_second=[rate] * 10,
        generator=GeneratorResult(
            cpu=0.5, busy=0.55, lag_p99_ms=3.1, late_p99_ms=1.2, sent=int(step.offered or 0) * 10, dropped=0
        ),
        app_cpu=cpu,
        throttled=max(0.0, 0.02 * step.workers * rate / 5800),
        memory=int((22 + 31.5 * step.workers) * MIB),
        workers_seen=[
            WorkerResult(cpu=cpu * part / sum(share), memory=36 * MIB) for part in sorted(share, reverse=True)
        ],
        workers_replaced=0,
        others=0.02,
        steal=0.0,
        state="valid",
        findings=[],
    )
