"""Tests with real containers. Those of a file share its stacks, so one worker process runs them (xdist_group)."""

# Quick to stop, whatever a stop has to wait for: 2.2 s of drain, 8 s in all.
QUICK = {"KEEP_ALIVE": "2", "GRACEFUL_TIMEOUT": "8", "STOP_GRACE_PERIOD": "20s"}
