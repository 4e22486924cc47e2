"""The gateway's own key. Where callers must say who they are, `jobwire up` makes one that lives as long as it does, so that nobody has to."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

_KNOWS_CALLERS = ("JOBWIRE_KEYS", "JOBWIRE_KEYS_FILE", "JOBWIRE_JWT_JWKS", "JOBWIRE_JWT_KEY_FILE", "JOBWIRE_JWT_SECRET")
_HAS_A_KEY = ("JOBWIRE_API_KEY", "JOBWIRE_API_KEY_FILE")


@dataclass(frozen=True)
class OwnKeys:
    """What broker and gateway get in their environment beside the rest."""

    for_broker: Mapping[str, str] = field(default_factory=dict, repr=False)
    for_gateway: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def made(cls, environment: Mapping[str, str] = os.environ) -> "OwnKeys":
        """Nothing where nobody is asked, or where the gateway has a key already."""
        if not any(environment.get(name) for name in _KNOWS_CALLERS) or any(environment.get(name) for name in _HAS_A_KEY):
            return cls()
        from jobwire_broker.auth.keys import make_key

        key, line = make_key("gateway", "watch:* read:*")
        return cls({"JOBWIRE_KEYS": f"{environment.get('JOBWIRE_KEYS', '')}\n{line}"}, {"JOBWIRE_API_KEY": key})
