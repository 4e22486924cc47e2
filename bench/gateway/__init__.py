"""One gateway process under many event streams, beside a bare ASGI app that writes the same bytes."""
