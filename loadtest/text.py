"""How figures are written, everywhere alike."""


def percent(share: float, digits: int = 0) -> str:
    """Write a share: 0.05 is "5 %"."""
    return f"{100 * share:.{digits}f} %"


def change(ratio: float, digits: int = 0) -> str:
    """Write a ratio as a change: 0.95 is "-5 %"."""
    return f"{100 * (ratio - 1):+.{digits}f} %"


def workers(count: int | None) -> str:
    """Write a worker count; None is whatever runs there."""
    return f"{count} worker{'s' * (count != 1)}" if count else "as it runs"
