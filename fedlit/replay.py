"""Repeat one client's local training.

Usage: `python -m fedlit.replay RUN --round R --client C`.
"""

from fedlit.cli.replay import main

if __name__ == "__main__":
    main()
