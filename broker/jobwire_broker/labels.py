"""Labels: what they may be."""

from __future__ import annotations

import re
from collections.abc import Mapping

from jobwire_broker.errors import InvalidField

MAX_LABELS = 16
MAX_REQUIRED_LABELS = 8
MAX_VALUE_BYTES = 128
_KEY = re.compile(r"[A-Za-z0-9._/-]{1,63}")


def check_labels(labels: Mapping[str, str], field: str, most: int) -> Mapping[str, str]:
    """Return the labels. Raises InvalidField."""
    if len(labels) > most:
        raise InvalidField(f"{field} may hold {most} labels; it holds {len(labels)}", field=field)
    for key, value in labels.items():
        if not _KEY.fullmatch(key):
            shown = key if len(key) <= 64 else key[:61] + "..."
            raise InvalidField(f"{field} must have keys of 1 to 63 of [A-Za-z0-9._/-]; one is {shown!r}", field=field)
        if len(value.encode()) > MAX_VALUE_BYTES:
            size = len(value.encode())
            raise InvalidField(f"{field}[{key}] may have {MAX_VALUE_BYTES} bytes; it has {size}", field=f"{field}[{key}]")
    return labels
