"""`python -m ssft` is the command `ssft`."""

from ssft.cli.main import main

if __name__ == "__main__":
    main()
