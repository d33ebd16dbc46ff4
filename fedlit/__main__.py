"""Print the commands of fedlit: `python -m fedlit`."""

from fedlit.cli.arguments import print_commands

if __name__ == "__main__":
    print_commands()
