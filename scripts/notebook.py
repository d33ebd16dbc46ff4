"""Write examples/tutorial.ipynb from examples/tutorial.py; --check compares them instead.

    python scripts/notebook.py
    python scripts/notebook.py --check     exit status 1 if the notebook is not that of the script

A line `# %%` begins a cell of code, `# %% [markdown]` one of text, of which each line is a comment. The notebook stores no
output, so none can be out of date.
"""

import argparse
import json
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPT, NOTEBOOK = EXAMPLES / "tutorial.py", EXAMPLES / "tutorial.ipynb"
TEXT, CODE = "# %% [markdown]\n", "# %%\n"


def read_cells(script):
    """Return pairs (kind, text) of a script in the percent format; kind is `markdown` or `code`."""
    cells = []
    for line in script.splitlines(keepends=True):
        if line in (TEXT, CODE):
            cells.append(("markdown" if line == TEXT else "code", ""))
        else:
            kind, text = cells.pop()
            cells.append((kind, text + (line.removeprefix("#").removeprefix(" ") if kind == "markdown" else line)))
    return [(kind, text.strip("\n")) for kind, text in cells]


def make_notebook(script):
    """Return the notebook of a script as JSON, in version 4.5 of the format."""
    cells = []
    for number, (kind, text) in enumerate(read_cells(script)):
        outputs = {"execution_count": None, "outputs": []} if kind == "code" else {}
        cells.append(
            {
                "cell_type": kind,
                "id": f"cell-{number}",
                "metadata": {},
                "source": text.splitlines(keepends=True),
                **outputs,
            }
        )
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    notebook = make_notebook(SCRIPT.read_text())
    if not parser.parse_args().check:
        NOTEBOOK.write_text(notebook)
    elif not NOTEBOOK.exists() or NOTEBOOK.read_text() != notebook:
        sys.exit("examples/tutorial.ipynb is not that of examples/tutorial.py: run python scripts/notebook.py")


if __name__ == "__main__":
    main()
