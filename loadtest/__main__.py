"""`python -m loadtest`."""

from greenstack.cli.console import run
from loadtest.cli import app

if __name__ == "__main__":
    run(app)
