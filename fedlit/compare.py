"""Compare two runs: `python -m fedlit.compare RUN_A RUN_B`."""

from fedlit.reports.compare import main

if __name__ == "__main__":
    main()
