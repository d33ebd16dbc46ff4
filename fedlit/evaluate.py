"""Evaluate a finished run again: `python -m fedlit.evaluate RUN`."""

from fedlit.cli.arguments import evaluate_command

if __name__ == "__main__":
    evaluate_command()
