"""The `jobwire` command line: servers, `jobwire up`, and everything that an operator asks of a broker."""
