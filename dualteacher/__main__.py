"""`python -m dualteacher`."""

from dualteacher.cli import main

if __name__ == "__main__":
    main()
