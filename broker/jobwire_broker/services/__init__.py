"""gRPC in and out: each handler checks, calls the rules, and translates. No rule lives here."""
