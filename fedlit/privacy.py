"""Print epsilon of a configuration: `python -m fedlit.privacy KEY=VALUE...`."""

from fedlit.cli.privacy import privacy_command

if __name__ == "__main__":
    privacy_command()
