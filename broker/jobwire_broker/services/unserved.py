"""RPCs that the contract names and this version does not serve."""

from __future__ import annotations

from typing import Any

import grpc

from jobwire_broker.errors import NotServed
from jobwire_broker.services.answers import abort


async def unserved(self: Any, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
    """Answer UNIMPLEMENTED."""
    await abort(context, NotServed("this call is not served yet"))
