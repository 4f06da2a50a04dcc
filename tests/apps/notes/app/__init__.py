"""Notes: the application of docs/tutorial.md."""
