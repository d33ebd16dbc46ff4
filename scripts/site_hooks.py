"""Hooks of mkdocs: documents at the root of the repository are pages of the site, too."""

import re
from pathlib import Path

from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md")
FOLDER = "project"


def on_files(files, config):
    """Add the documents as pages of the folder `project`; links into docs/ leave it again."""
    for name in filter(lambda name: (ROOT / name).is_file(), DOCUMENTS):
        content = re.sub(r"\]\(docs/", "](../", (ROOT / name).read_text())
        inclusion = InclusionLevel.NOT_IN_NAV  # pages link to them
        files.append(File.generated(config, f"{FOLDER}/{name}", content=content, inclusion=inclusion))
    return files


def on_page_markdown(markdown, page, **_):
    """Lead links from a page to a document of the root to its page of the site; the site has no source files to link to."""
    depth = page.file.src_uri.count("/")
    if page.file.src_uri.startswith(f"{FOLDER}/"):
        return markdown
    markdown = re.sub(r"\[(`fedlit/[^`]*`)\]\([^)]*\)", r"\1", markdown)
    return markdown.replace(f"]({'../' * (depth + 1)}", f"]({'../' * depth}{FOLDER}/")
