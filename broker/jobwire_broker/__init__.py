"""The broker: the only part of Jobwire that knows the store.

Layers, top to bottom, each importing only what is below it:
    server      wiring and the process's life
    services    gRPC in and out
    rules       partition (group commit), session (the Work stream's logic), watching, registry
    store       all of Redis and Valkey
    config, errors, names   what every layer may use
"""

__version__ = "0.1.0"
