"""`python -m comity`: the command line, also where the script is not on the path."""

from comity.cli import main

if __name__ == "__main__":
    main()
