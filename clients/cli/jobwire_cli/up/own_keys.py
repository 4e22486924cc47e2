"""The keys of the gateway and of webhooks. Where callers must say who they are, `jobwire up` makes them, for as long as it lives, so that nobody has to."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

_KNOWS_CALLERS = ("JOBWIRE_KEYS", "JOBWIRE_KEYS_FILE", "JOBWIRE_JWT_JWKS", "JOBWIRE_JWT_KEY_FILE", "JOBWIRE_JWT_SECRET")
_HAS_A_KEY = ("JOBWIRE_API_KEY", "JOBWIRE_API_KEY_FILE")


@dataclass(frozen=True)
class OwnKeys:
    """What broker, gateway and webhooks get in their environment beside the rest."""

    for_broker: Mapping[str, str] = field(default_factory=dict, repr=False)
    for_gateway: Mapping[str, str] = field(default_factory=dict, repr=False)
    for_webhooks: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def made(cls, environment: Mapping[str, str] = os.environ, webhooks_queue: str = "") -> "OwnKeys":
        """Nothing where nobody is asked, or where there is a key already. `webhooks_queue`: the queue of webhooks' deliveries; empty: there are none."""
        if not any(environment.get(name) for name in _KNOWS_CALLERS) or any(environment.get(name) for name in _HAS_A_KEY):
            return cls()
        from jobwire_broker.auth.keys import make_key

        key, line = make_key("gateway", "watch:* read:*")
        lines, for_webhooks = [environment.get("JOBWIRE_KEYS", ""), line], {}
        if webhooks_queue:
            scopes = ["watch:*", "read:*", *(f"{verb}:{webhooks_queue}" for verb in ("enqueue", "work", "manage"))]
            theirs, line = make_key("webhooks", " ".join(scopes))
            lines.append(line)
            for_webhooks = {"JOBWIRE_API_KEY": theirs}
        return cls({"JOBWIRE_KEYS": "\n".join(lines)}, {"JOBWIRE_API_KEY": key}, for_webhooks)
