"""Evaluate a finished run again: `python -m fedlit.evaluate RUN`."""

from fedlit.cli.evaluate import main

if __name__ == "__main__":
    main()
