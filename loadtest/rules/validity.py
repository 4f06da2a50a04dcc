"""Which runs count. Pure rules over what was measured; each bound has its reason beside it."""

import math
from statistics import fmean

from loadtest.results import Blame, Finding, Run, change_text, percent
from loadtest.rules.objective import ERRORS_MAX, HELD

BUSY = (0.90, 0.97)  # of one CPU, running or waiting for one: at 1 the generator could not have sent more
SHARE = (0.5, 0.7)  # of the CPU that the experiment used: above half the generator is measured, not the application
LAG = (25.0, 50.0)  # ms; much more than a turn of the loop for all users, so they wait for the generator
# ms; the 99th percentile of all arrivals of a run, so that one bad second shows. Latency contains it: it can only make
# a rate look worse. Quiet machines have 1 to 3; at half of the usual objective it would decide.
LATE = (3.0, 50.0)
OTHERS = (0.10, 0.25)  # of all CPUs, used by programs that do not belong to the experiment
STEAL = (0.03, 0.10)  # of all CPUs, taken by the hypervisor
ERRORS = (ERRORS_MAX, 0.01)  # of the requests; a failure is often faster than an answer
DRIFT = 0.15  # between the two halves of a run; above, it was not steady
SATURATED = 0.93  # of the CPUs the application may use: then it is the limit, however busy the generator is
FULL = 0.85  # of all CPUs: then the generator waits for a CPU because the application has it
ANSWERS_MIN = 100  # below, the count alone scatters by 10 % (1/√100)


def judge(run: Run, cpus: float | None) -> list[Finding]:
    """Return what speaks against a run of an application that may use `cpus` CPUs; nothing means it is valid."""
    # What its workers could use at most: no more than one CPU each, no more than its limit.
    usable = min(run.workers or math.inf, cpus or math.inf)
    saturated = (run.app_cpu or 0.0) / usable >= SATURATED or (run.ours >= FULL and run.generator.cpu < BUSY[0])
    return [*_generator(run, saturated), *_target(run), *_host(run)]


def _bound(value: float | None, bounds: tuple[float, float], blame: Blame, reason: str) -> list[Finding]:
    if value is None or value < bounds[0]:
        return []
    return [Finding("invalid" if value >= bounds[1] else "suspect", blame, reason)]


def _generator(run: Run, saturated: bool) -> list[Finding]:
    generator = run.generator
    findings = _bound(generator.busy, BUSY, "generator", f"the load generator's CPU was {percent(generator.busy)} busy")
    if run.offered:
        late = f"arrivals were sent {generator.late_p99_ms:.1f} ms late"
        findings += _bound(generator.late_p99_ms, LATE, "generator", late)
    else:
        lag = f"the load generator lagged {generator.lag_p99_ms:.0f} ms behind"
        findings += _bound(generator.lag_p99_ms, LAG, "generator", lag)
    if saturated and (not run.offered or _overloaded(run)):
        # More could not have been answered, and that is the result, however late the rest was sent.
        findings = _excused(findings)
    if run.ours and run.stack_cpu:
        share = generator.cpu * generator.count / (generator.cpu * generator.count + run.stack_cpu)
        cost = f"the load generator took {percent(share)} of the CPU, {generator.cpu_us:.0f} µs a request"
        findings += _bound(share, SHARE, "generator", cost)
    if generator.dropped:
        share_text = f"{generator.dropped} of {generator.sent + generator.dropped} arrivals"
        if any(finding.state == "invalid" for finding in findings):
            return [*findings, Finding("invalid", "generator", f"{share_text} were dropped")]
        # The generator was fine, so the application is what filled the pool: a result, not a fault.
        return [*findings, Finding("suspect", "target", f"{share_text} met too many in flight")]
    return findings


def _excused(findings: list[Finding]) -> list[Finding]:
    return [Finding("suspect", finding.blame, finding.reason) for finding in findings]


def _overloaded(run: Run) -> bool:
    return run.offered is not None and run.throughput < HELD * run.came


def _target(run: Run) -> list[Finding]:
    findings = []
    if run.workers and run.workers_running not in (None, run.workers):
        reason = f"{run.workers_running} workers ran instead of {run.workers}"
        findings.append(Finding("invalid", "target", reason))
    if run.workers_replaced:
        findings.append(Finding("invalid", "target", f"{run.workers_replaced} workers were replaced meanwhile"))
    if run.failed:
        kinds = ", ".join(sorted(run.failed, key=lambda kind: -run.failed[kind])[:3])
        # In the open loop they are a result: that rate is more than it bears.
        bounds = (ERRORS[0], math.inf) if run.offered else ERRORS
        reason = f"{percent(run.errors, 2)} of the requests failed ({kinds})"
        findings += _bound(run.errors, bounds, "target", reason)
    if _overloaded(run) or (run.offered and run.failed):
        return findings  # an overload is never steady, and has few answers
    if run.answers < ANSWERS_MIN:
        findings.append(Finding("invalid", "", f"only {run.answers} answers"))
    elif run.offered and run.p99 is None:
        findings.append(Finding("invalid", "", f"only {run.answers} answers, too few for a p99"))
    if not run.settled:
        findings.append(Finding("suspect", "target", "throughput had not settled when the measurement began"))
    half = len(run.per_second) // 2
    if half and (first := fmean(run.per_second[:half])):
        moved = fmean(run.per_second[half:]) / first
        if abs(moved - 1) > DRIFT:
            findings.append(Finding("suspect", "target", f"throughput moved by {change_text(moved)} within the run"))
    return findings


def _host(run: Run) -> list[Finding]:
    who = f" ({run.loudest})" if run.loudest else ""
    others, steal = run.others or 0.0, run.steal or 0.0
    return [
        *_bound(others, OTHERS, "host", f"other programs{who} used {percent(others)} of the machine"),
        *_bound(steal, STEAL, "host", f"the hypervisor took {percent(steal)} of the machine"),
    ]
