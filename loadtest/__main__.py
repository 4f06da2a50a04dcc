"""`python -m loadtest`."""

from loadtest.cli import app
from stack.console import run

if __name__ == "__main__":
    run(app)
