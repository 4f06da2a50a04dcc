"""The worker-count experiment: it measures how many workers an application needs on this machine.

`python -m loadtest` (or `make loadtest`) runs it. `schedule` says what is run, `measure` runs it with the load of
`generator` on one of `targets`, `rules` say which runs count and what follows, `report` shows it.
`checkouts` does that for two revisions, before and after a change.
"""

REGRESSION, CANNOT, INTERRUPTED = 1, 3, 130  # exit statuses
