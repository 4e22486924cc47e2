"""The function library: the Lua files joined into one, named by what is in them.

The name of the library and of each of its functions carries a hash of the whole source. So brokers of different versions run side by side on one store,
each calling its own functions, and nothing is ever replaced under a running broker (RULES 7).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

#: In the order in which each may use those before it.
LIB_FILES = (
    *("codec", "context", "rules", "failures", "times", "ring", "retention", "completed", "jobs", "history", "kept", "contents", "identity", "moves"),
    *("lines", "groups", "limits", "leases", "choosing", "finishes", "runs"),
)
#: Those of them whose local names are their own, but for these: Lua allows 200 in one block.
CLOSED_FILES: Mapping[str, tuple[str, ...]] = {
    "identity": ("identity",),
    "lines": (),
    "groups": (),
    "limits": (),
    "choosing": (),
    "finishes": ("item_ids", "settle_all", "fail"),
    "runs": ("runs",),
}
VERB_FILES = (
    *("enqueue", "turn", "attach", "detach", "pulse", "verbs", "bulk_runs", "clean", "purge", "pause", "policy"),
    *("group_rules", "reads", "logs", "dead_letters", "explain"),
)


def source_files() -> list[tuple[str, str]]:
    """The files by name, in the order in which they are joined."""
    root = files("jobwire_broker.store") / "lua"
    texts = {name: (root / "lib" / f"{name}.lua").read_text() for name in LIB_FILES}
    lib = [(f"lib/{name}.lua", _closed(text, CLOSED_FILES[name]) if name in CLOSED_FILES else text) for name, text in texts.items()]
    # Lua allows 200 local names in one block: those of lib are seen by all, and each verb's are its own.
    return lib + [(f"{name}.lua", f"do\n{(root / f'{name}.lua').read_text()}end") for name in VERB_FILES]


def _closed(text: str, shown: tuple[str, ...]) -> str:
    """A block around a file, out of which only the names that are `shown` can be seen."""
    if not shown:
        return f"do\n{text}end"
    names = ", ".join(shown)
    inner = ", ".join(f"shown_{name}" for name in shown)
    return f"local {names}\ndo\nlocal function show({inner}) {names} = {inner} end\n{text}show({names})\nend"


def _prelude(version: str) -> str:
    return (
        f"#!lua name=jobwire_{version}\n"
        "local function register(name, callback, flags)\n"
        f"  redis.register_function{{ function_name = 'jobwire_{version}_' .. name, callback = callback, flags = flags }}\n"
        "end\n"
    )


@cache
def library() -> tuple[str, str]:
    """The version (8 hexadecimal digits) and the source of the library."""
    body = "".join(f"-- {name}\n{text}\n" for name, text in source_files())
    version = hashlib.sha256(body.encode()).hexdigest()[:8]
    return version, _prelude(version) + body
