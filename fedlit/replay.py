"""Repeat one client's local training.

Usage: `python -m fedlit.replay RUN --round R --client C`.
"""

from fedlit.cli.arguments import replay_command

if __name__ == "__main__":
    replay_command()
