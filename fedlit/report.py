"""Report on finished runs: `python -m fedlit.report PATH...`."""

from fedlit.reports.report import main

if __name__ == "__main__":
    main()
