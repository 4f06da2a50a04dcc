"""Side-by-side comparison of this stack with what a user would pick instead."""
