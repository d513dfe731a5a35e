"""`python -m skyward` is `skyward`."""

from skyward.cli import main

if __name__ == "__main__":
    main()
