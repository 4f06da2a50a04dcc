"""What people read: one line for each thing done, one for each thing wrong."""

import sys
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

# soft_wrap: a terminal wraps a long line; a pipe or a log gets it whole.
out = Console(highlight=False, soft_wrap=True, markup=False)
err = Console(highlight=False, soft_wrap=True, markup=False, stderr=True)

REFUSED = 2  # exit status for what the user must change, as the server's own check gives it


class CommandError(Exception):
    """Ends a command: each line says what is wrong and what to do.

    `status` is the exit status: 2 where the user's input is refused, 1 where something did not work.
    """

    def __init__(self, *lines: str, status: int = 1) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.status = status


def run(command: Callable[[], object]) -> None:
    """Run a program's `command`; a CommandError becomes its lines on stderr and its exit status."""
    try:
        command()
    except CommandError as failure:
        for line in failure.lines:
            err.print(line)
        sys.exit(failure.status)


def say(text: str) -> None:
    """Print what happens, on stdout."""
    out.print(text)


def show(table: Table) -> None:
    """Print a table with every cell whole: folded on a narrow terminal, a line a row elsewhere."""
    for column in table.columns:
        column.overflow = "fold"
    if not out.is_terminal:
        table.width = out.measure(table, options=out.options.update(max_width=sys.maxsize)).maximum
    out.print(table, soft_wrap=False, crop=False)
