"""RPCs that the contract names and this version does not serve."""

from __future__ import annotations

from typing import Any

import grpc


async def unserved(self: Any, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
    """Answer UNIMPLEMENTED."""
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this call is not served yet")
