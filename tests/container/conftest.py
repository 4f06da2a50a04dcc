"""Tests with real containers."""

# Quick to stop, whatever a stop has to wait for: 2.2 s of drain, 8 s in all.
QUICK = {"KEEP_ALIVE": "2", "GRACEFUL_TIMEOUT": "8", "STOP_GRACE_PERIOD": "20s"}
