"""Where a setting comes from: the flag, then the variable `JOBWIRE_…`, then what is said here."""

import os
from collections.abc import Mapping
from urllib.parse import quote

DEFAULT_STORE = "redis://127.0.0.1:6379"


def store_url(flag: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The store: `--store`, JOBWIRE_STORE, REDIS_URL, then REDIS_HOST with REDIS_PORT and REDIS_PASSWORD, then redis://127.0.0.1:6379."""
    given = flag or environment.get("JOBWIRE_STORE") or environment.get("REDIS_URL")
    if given:
        return given
    host = environment.get("REDIS_HOST")
    if not host:
        return DEFAULT_STORE
    password = environment.get("REDIS_PASSWORD", "")
    credentials = f":{quote(password, safe='')}@" if password else ""
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"redis://{credentials}{host}:{environment.get('REDIS_PORT') or 6379}"


def without_password(url: str) -> str:
    """The URL as it may be shown: without user, password and query. Read loosely, so that a password which should have been quoted is not shown either."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "***"
    shown = rest.rpartition("@")[2].partition("?")[0].partition("#")[0]
    return f"{scheme}://{shown}"
