"""The `jobwire` command."""


def main() -> None:
    """Run the command line."""
