"""A result as an experiment would give it, with figures that are plausible."""

import math
import random
from dataclasses import replace

from loadtest import rules, schedule
from loadtest.generator.records import HIGHEST, Generator, encode, histogram, percentiles
from loadtest.results import Finding, Limits, Machine, Results, Run, Setup
from loadtest.schedule import Step

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
) -> Results:
    """Return a whole result; `invalid` are numbers of runs that do not count."""
    rng = random.Random(seed)  # noqa: S311 - repeatable
    plan = schedule.PLANS[mode]
    plan = replace(plan, rounds=(rounds or 5, rounds or 5), latency_rounds=(3, 3) if mode == "full" else (1, 1))
    defaults = {
        "mode": mode,
        "target": "containers",
        "url": "http://172.18.0.3:8080",
        "profile": "loadtest",
        "seed": 42,
        "generators": 1,
        "workers": list(workers),
        "current": 5,
        "current_is_set": False,
        "users": 64,
        "plan": plan,
        "slo_p99_ms": 50.0,
        "command": "make loadtest MODE=full SEED=42",
    }
    sample = Results(
        created="2026-02-03T14:05:06+01:00",
        versions={"python": "3.14.0", "gunicorn": "27.0.1", "locust": "2.47.0"},
        revision="0123456789ab",
        scenario="abcdef012345",
        shares_cpus=True,
        machine=Machine("A Processor @ 3.0 GHz", 4, 16 * 1024 * MIB, "6.12.1", "Debian 13", virtual=True),
        limits=Limits(cpus=2.0, usable_cpus=2, memory=1024 * MIB),
        setup=Setup(**{**defaults, **setup}),
        state="complete",
    )
    steps = [Step(n, "capacity", count) for n in range(plan.rounds[1]) for count in schedule.order(workers, n, 42)]
    sample.rates = schedule.ladder(max(capacity(count or 1) for count in workers), plan)
    steps += [
        Step(n, "latency", count, rate)
        for n in range(plan.latency_rounds[1])
        for count in schedule.order(workers, n, 42)
        for rate in sample.rates
    ]
    for number, step in enumerate(steps):
        limit = capacity(step.workers or 1) * math.exp(rng.gauss(0, noise))
        sample.runs.append(run(step, limit, 1_770_000_000.0 + 14 * number, rng))
    for number in invalid:
        sample.runs[number].findings = [Finding("invalid", "generator", "the load generator's CPU was 99 % busy")]
    sample.verdict = rules.verdict(sample)
    return sample


def run(step: Step, limit: float, started: float, rng: random.Random) -> Run:
    """Return one run of an application that can do `limit` requests/s."""
    if step.offered is None:
        rate, base = limit, 64 / limit * 1000 * 0.8
    else:
        rate = min(step.offered, limit)
        base = 1.6 / max(1 - step.offered / limit, 0.004)
    count = int(rate * 10)
    latencies = histogram()
    for _ in range(4000):
        microseconds = int(1000 * base * rng.lognormvariate(0, 0.38)) + 100
        latencies.record_value(min(microseconds, HIGHEST), max(1, count // 4000))
    return Run(
        **vars(step),
        started=started,
        elapsed=10.0,
        settled=True,
        throughput=rate,
        answers=count,
        percentiles=percentiles(latencies),
        p99s=[latencies.get_value_at_percentile(99) / 1000],
        histogram=encode(latencies),
        per_second=[rate] * 10,
        generator=Generator(
            1, 0.5, 0.55, lag_p99_ms=3.1, late_p99_ms=1.2, cpu_us=31.0, sent=int(step.offered or 0) * 10
        ),
        app_cpu=min(2.0, 2.0 * rate / 5800),
        stack_cpu=min(2.4, 2.4 * rate / 5800),
        ours=0.8,
        throttled=max(0.0, 0.02 * step.workers * rate / 5800),
        memory=int((22 + 31.5 * step.workers) * MIB),
        workers_running=step.workers,
        others=0.02,
        steal=0.0,
    )
