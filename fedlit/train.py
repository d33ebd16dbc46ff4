"""Train a federated model: `python -m fedlit.train`."""

from fedlit.cli.train import main

if __name__ == "__main__":
    main()
