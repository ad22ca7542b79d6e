"""`python -m italic` is `italic`; launchers of several processes want a module."""

from italic.cli.main import main

if __name__ == "__main__":
    main()
