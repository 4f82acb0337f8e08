"""`python -m hollowbone` is the command."""

from hollowbone.cli import main

if __name__ == "__main__":
    main()
