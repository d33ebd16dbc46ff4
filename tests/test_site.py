"""The documentation: its links and anchors, and the site that is built from it, which loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *(path for name in ("docs", "examples") for path in sorted((ROOT / name).rglob("*.md"))),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(text):
    """The text without blocks and spans of code."""
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(path):
    """Anchors of the headings, as repository pages and the site make them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = (match[1].lower() for match in re.finditer(r"^#+ (.*)$", text, re.MULTILINE))
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "]", title)).strip().replace(" ", "-") for title in titles}


def broken_links(path, text):
    """Relative links of a document that lead nowhere."""
    broken = []
    for link in LINK.findall(without_code(text)):
        target, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        file = (path.parent / target).resolve() if target else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_each_relative_link_leads_to_a_file_and_an_anchor(path):
    assert broken_links(path, path.read_text()) == []


def test_a_missing_file_and_a_missing_anchor_are_broken_links():
    text = "[a](nowhere.md) [b](README.md#nowhere) [c](docs/index.md) [d](docs/index.md#next) [e](https://nowhere) `[f](g.md)`"
    assert broken_links(ROOT / "SECURITY.md", text) == ["nowhere.md", "README.md#nowhere"]


MOST_WORDS = 40
"""A limit for sentences with formulas, names and figures; plain ones have at most 30 words."""
SHOWN_FENCES = {"console", "bash", "python", "yaml"}
"""Languages of blocks that the site and a repository page both show; a diagram such as mermaid's would need a script."""


def sentences(text):
    """The sentences of a document, without its blocks of code; items of lists and cells of tables are by themselves."""
    text = re.sub(r"^```.*?^```", "\n", text, flags=re.DOTALL | re.MULTILINE)
    for block in re.split(r"\n\s*\n|\n(?=\s*[-*] |\s*\d+\. |[|#])|\|", text):
        plain = re.sub(r"\]\([^)]*\)", "]", " ".join(block.split()))
        yield from re.split(r"(?<=[.!?])[)*]* (?=[\"`\[(A-Z0-9*])", plain)


def long_sentences(text):
    return [sentence for sentence in sentences(text) if len(sentence.split()) > MOST_WORDS]


def test_no_sentence_of_the_documentation_is_long():
    read = [path for path in DOCUMENTS if path.name not in ("CHANGELOG.md", "configuration_reference.md")]
    found = {path.relative_to(ROOT).as_posix(): long_sentences(path.read_text()) for path in read}
    assert {name: long for name, long in found.items() if long} == {}


def test_a_long_sentence_is_found_in_a_paragraph_and_in_a_cell():
    long = " ".join(["Word"] * MOST_WORDS)
    assert long_sentences(f"Short. {long} end.\nNext.\n\n| a | {long} b |\n\n```\n{long} c\n```\n") == [
        f"{long} end.",
        f"{long} b",
    ]


def test_each_block_is_shown_on_the_site_as_on_a_repository_page():
    found = {
        path.name: re.findall(r"^```(\S+)\n.*?^```", path.read_text(), re.DOTALL | re.MULTILINE) for path in DOCUMENTS
    }
    assert {name: set(names) - SHOWN_FENCES for name, names in found.items() if set(names) - SHOWN_FENCES} == {}


DRAWINGS = sorted((ROOT / "docs").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: path.name)
def test_each_drawing_has_a_title_a_description_and_dark_colours_and_loads_nothing(path):
    root = ElementTree.parse(path).getroot()
    assert all(root.findtext(f"{SVG}{name}") for name in ("title", "desc"))
    assert "prefers-color-scheme: dark" in root.findtext(f"{SVG}style", "")
    assert {f"{SVG}script", f"{SVG}image", f"{SVG}foreignObject"} & {element.tag for element in root.iter()} == set()
    assert re.findall(r"@import|href=|url\((?!#)", path.read_text()) == []


def test_the_drawings_of_the_secure_sums_have_the_names_of_their_exchanges():
    pytest.importorskip("cryptography", reason="needs fedlit[secure]")
    pytest.importorskip("tenseal", reason="needs fedlit[he]")
    from fedlit.aggregation.secure.homomorphic.server import SUM_EXCHANGES
    from fedlit.aggregation.secure.protocol.server import EXCHANGES

    for name, exchanges in (("secagg", EXCHANGES), ("he", SUM_EXCHANGES)):
        texts = ElementTree.parse(ROOT / "docs" / f"{name}_exchanges.svg").getroot().iter(f"{SVG}text")
        assert tuple(text.text for text in texts if text.get("class") == "key") == exchanges


class Loads(HTMLParser):
    """The addresses from which a page loads scripts, styles, fonts and images."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "link" and not {"canonical", "next", "prev"} & set(values.get("rel", "").split()):
            self.found.append(values.get("href", ""))
        elif tag in ("script", "img", "iframe", "source", "object"):
            self.found += [values[key] for key in ("src", "srcset", "data") if values.get(key)]


def loads(html):
    parser = Loads()
    parser.feed(html)
    return parser.found


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs", reason="needs fedlit[docs]")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        str(tmp_path),
    ]  # --quiet ignores warnings
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    pages = {path: loads(path.read_text()) for path in tmp_path.rglob("*.html")}
    assert len(pages) > 40
    assert {address for found in pages.values() for address in found if re.match(r"(\w+:)?//", address)} == set()
    assert all(any(address.endswith(".css") for address in found) for found in pages.values())
    styles = "".join(path.read_text() for path in tmp_path.rglob("*.css"))
    assert set(re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]+)", styles)) == set()
    sources = re.compile(r"""href="[^"]*/fedlit/[^"]*\.py""")  # links of a repository page, which the site has not
    assert [path.name for path in pages if sources.search(path.read_text())] == []


def test_an_address_of_another_server_is_found():
    page = '<link rel="stylesheet" href="https://a/b.css"><script src="//c/d.js"></script><a href="https://e">e</a>'
    assert loads(page) == ["https://a/b.css", "//c/d.js"]
