"""`python -m greenstack.cli`, the same as the console script `greenstack`."""

from greenstack.cli.main import main

if __name__ == "__main__":
    main()
