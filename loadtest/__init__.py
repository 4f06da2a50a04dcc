"""The worker-count experiment: it measures how many workers an application needs on this machine.

`python -m loadtest` (or `make loadtest`) runs it. The core is pure and small: `schedule` says what is
run in which order, `validity` which runs count, `decision` what follows. Everything else feeds them.
"""
