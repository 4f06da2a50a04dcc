"""Side-by-side comparison of this stack with what a user would pick instead."""

import stack  # noqa: F401 - makes docker/server importable
