"""What the fault tests found, in one line each, for the end of the run: numbers are worth more than a dot."""

lines: list[str] = []
kills = 0


def tell(test: str, found: object) -> None:
    """Print a line now, and again at the end of the run."""
    line = f"{test}: {found}"
    lines.append(line)
    print(line, flush=True)


def count_kill() -> None:
    """One more process was killed with -9 while it had work."""
    global kills
    kills += 1
