"""The bounds of numbers, to say them of one that a message has no room for. All others are sent: it is the broker that checks them."""

BOUNDS = {
    "JobSpec.attempts": (1, 1000),
    "JobSpec.units": (1, 1000),
    "QueuePolicy.priority": (-(2**31), 2**31 - 1),
    "QueuePolicy.attempts": (1, 1000),
    "QueuePolicy.max_payload_bytes": (1, 1 << 20),
    "QueuePolicy.max_depth": (1, 1_000_000_000),
    "QueuePolicy.worker_slots": (1, 10_000),
    "Retention.count": (0, 10_000_000),
    "Limit.concurrency": (1, 1_000_000),
    "RateLimit.count": (1, 1_000_000),
    "RateLimit.burst": (1, 1_000_000),
}


def fitting(value: int, message: str, field: str, shown: str) -> int:
    """The value of a field; `shown` is what its caller calls it. Raises ValueError."""
    if isinstance(value, int) and not -(2**31) <= value < 2**31 and f"{message}.{field}" in BOUNDS:
        least, most = BOUNDS[f"{message}.{field}"]
        raise ValueError(f"{shown} must be from {least} to {most}, not {value}")
    return value
