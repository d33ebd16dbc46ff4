"""Draw docs/overview.png: the terminal of a run and of a report, beside the report's page.

    python -m fedlit.train -m algorithm=fedavg,fedadam,scaffold seed=1,2,3,4,5,6 sweep.name=mine
    python scripts/plot_overview.py outputs/sweeps/mine

It trains once in a terminal, writes the report of the sweep into a temporary folder, and photographs both in a headless
Chromium. It needs fedlit[browser], and Chromium on PATH.
"""

import argparse
import fcntl
import io
import os
import pty
import re
import shutil
import struct
import sys
import tempfile
import termios
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
COLUMNS, LINES = 84, 60
PLAN = ("fedlit.train", "algorithm=scaffold", "seed=1", "check=true")
TRAIN = PLAN[:-1]
PAGE = """<style>
  body {{ margin: 0; padding: 24px; width: 1640px; display: flex; gap: 24px; align-items: flex-start; background: #fff }}
  div {{ width: 800px; display: flex; flex-direction: column; gap: 12px }}
  img {{ width: 816px; border: 1px solid #bbb; border-radius: 8px }}
</style>
<body><div>{terminals}</div><img src="{page}"></body>"""


def in_terminal(command, folder):
    """What a command prints in a terminal, the last state of each line."""
    process, descriptor = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(LINES))
        os.execv(sys.executable, [sys.executable, "-m", *command])
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    output = b""
    while True:
        try:
            output += (chunk := os.read(descriptor, 65536))
        except OSError:  # the terminal is closed
            break
        if not chunk:
            break
    if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        raise SystemExit(output.decode())
    text = re.sub(r"\x1b\[\?25[lh]", "", output.decode())
    return [line.rstrip("\r").rpartition("\x1b[2K")[2] for line in text.rstrip().split("\n")]


def picture(command, lines, title):
    """An SVG of a terminal that loads no font."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(f"\x1b[1m$ python -m {' '.join(command)}\x1b[0m\n" + "\n".join(lines)))
    svg = console.export_svg(title=title, theme=DIMMED_MONOKAI, unique_id=title.replace(" ", "-"))
    return re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code", "DejaVu Sans Mono")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of a sweep")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "overview.png", help="image file to write")
    arguments = parser.parse_args()
    sweep = arguments.sweep.resolve()
    executable = next(filter(None, map(shutil.which, BROWSERS)))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        place = Path(folder) / "outputs" / "sweeps"
        place.mkdir(parents=True)
        (place / sweep.name).symlink_to(sweep)
        report = ("fedlit.report", f"outputs/sweeps/{sweep.name}", "--baseline", "algorithm=fedavg", "--target", "0.9")
        planned, trained = in_terminal(PLAN, folder), in_terminal(TRAIN, folder)
        compared = in_terminal((*report, "--out", "report"), folder)
        end = next(number for number, line in enumerate(compared) if "whole runs" in line)
        start = next(number for number, line in enumerate(planned) if "plan:" in line)
        terminals = [picture(PLAN, planned[start:], "the plan"), picture(TRAIN, trained, "a run")]
        terminals += [picture(report, compared[: end - 1], "a report")]
        browser = playwright.chromium.launch(executable_path=executable)
        page = browser.new_page(viewport={"width": 1000, "height": 900}, color_scheme="light")
        page.goto(f"file://{folder}/report/report.html")
        height = page.get_by_role("heading", name="Trade-off").bounding_box()["y"] - 8
        page.screenshot(
            path=f"{folder}/page.png", clip={"x": 0, "y": 0, "width": 1000, "height": height}, full_page=True
        )
        (Path(folder) / "overview.html").write_text(PAGE.format(terminals="".join(terminals), page="page.png"))
        page.set_viewport_size({"width": 1688, "height": 900})
        page.goto(f"file://{folder}/overview.html")
        page.screenshot(path=arguments.out, full_page=True)
        browser.close()
    Image.open(arguments.out).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(
        arguments.out, optimize=True
    )


if __name__ == "__main__":
    main()
