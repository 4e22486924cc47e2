"""`python -m jobwire_cli` is the `jobwire` command; `jobwire up` starts its servers this way."""

from jobwire_cli.main import main

if __name__ == "__main__":
    main()
