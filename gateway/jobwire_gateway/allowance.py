"""How often something may happen: so many times a second in the long run, and so many at once. A plain object; the caller tells the time."""


class Allowance:
    """A bucket of tokens, full at first."""

    __slots__ = ("_at_once", "_left", "_per_s", "_told_s")

    def __init__(self, per_s: float, at_once: int) -> None:
        self._per_s = per_s
        self._at_once = at_once
        self._left = float(at_once)
        self._told_s: float | None = None

    def take(self, now_s: float) -> bool:
        """Say whether it may happen now, and count it if so."""
        if self._told_s is not None:
            self._left = min(self._at_once, self._left + (now_s - self._told_s) * self._per_s)
        self._told_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
