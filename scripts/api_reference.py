"""Write the pages of docs/api: heading, signature, docstring and source file of each name, as plain Markdown.

    python scripts/api_reference.py

A page is written by hand up to its first marker, `<!-- api: fedlit.NAME -->`. Below a marker, up to the next marker or heading
of level 2, stands the text of that name. The table of index.md is written, too. A test compares the pages with the output of
this script. Docstrings are parsed by griffe, and nothing of fedlit is imported.
"""

import logging
import re
from functools import partial
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "api"
MARKER = re.compile(r"(<!-- api: (\S+) -->\n).*?(?=<!-- api: |^## |\Z)", re.DOTALL | re.MULTILINE)
TABLE = re.compile(r"(\| page \| names \|\n\|---\|---\|\n).*?(?=\n\n|\Z)", re.DOTALL)
WIDTH = 88
"""Columns of a signature; a longer one has one argument a line."""
LABELS = {"parameters": "Arguments", "attributes": "Attributes", "returns": "Returns", "raises": "Raises"}
"""Headings of the sections of a docstring, by griffe's names, in the order of the page."""


class Complaints(logging.Handler):
    """Collects griffe's warnings, for example about an argument that the signature lacks."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.found = []

    def emit(self, record):
        """Keep the text of a warning."""
        self.found.append(record.getMessage())


def load(root=ROOT):
    """The package as griffe reads it; imported names lead to their definitions."""
    loader = griffe.GriffeLoader(search_paths=[root], docstring_parser=griffe.Parser.google)
    package = loader.load("fedlit", try_relative_path=False)
    loader.resolve_aliases(implicit=False, external=False)
    return package


def escape(text):
    """A text in which Markdown's signs stand for themselves, except in code."""
    spans = text.split("`")
    signs = r"(?<!\s)(?=\*)|(?=\*\S)|(?<!\w)(?=_\S)|(?=_(?!\w))|(?<=\])(?=\()"
    for number in range(0, len(spans), 2):
        spans[number] = re.sub(r"<(?=[\w/!?])", "&lt;", re.sub(signs, r"\\", spans[number]))
    return "`".join(spans)


def one_line(text):
    """A text as one line of a list."""
    return escape(" ".join(text.split()))


def item(name, text):
    """An item of a list; the name stands before its meaning."""
    return f"- {name}: {one_line(text)}" if name else f"- {one_line(text)}"


def signature(name, parameters, returns=None, decorators=()):
    """A block with the arguments, on one line if they fit."""
    parts, kinds = [], griffe.ParameterKind
    stars = {kinds.var_positional: "*", kinds.var_keyword: "**"}
    for parameter in parameters:
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is kinds.keyword_only and not any(part.startswith("*") for part in parts):
            parts.append("*")
        text = stars.get(parameter.kind, "") + parameter.name
        text += f": {parameter.annotation}" if parameter.annotation is not None else ""
        if parameter.default is not None and parameter.kind not in stars:
            text += f" = {parameter.default}" if parameter.annotation is not None else f"={parameter.default}"
        parts.append(text)
    after = f" -> {returns}" if returns is not None else ""
    line = f"{name}({', '.join(parts)}){after}"
    if len(line) > WIDTH:
        line = f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){after}"
    return ["```python", *decorators, line, "```", ""]


def entries(section):
    """Pairs (name, meaning) of a section's list."""
    for value in section.value:
        name = str(value.annotation) if section.kind.value == "raises" else getattr(value, "name", "")
        yield name, item(f"`{name}`" if name else "", value.description)


def sections(found):
    """The texts of a docstring, and its lists by griffe's names for the sections."""
    texts, lists = [], {kind: [] for kind in LABELS}
    for section in found.docstring.parsed if found.docstring else ():
        if section.kind.value == "text":
            texts.append(section.value)
        elif section.kind.value in LABELS:
            lists[section.kind.value] += entries(section)
        else:
            raise SystemExit(
                f"{found.path}: the section {section.kind.value} of the docstring has no place on the page"
            )
    return texts, lists


def with_bases(found, lists):
    """The lists of a class with the meanings that its bases give, its arguments in the order of the signature."""
    meanings = {"parameters": {}, "attributes": {}}
    for owner in [base for base in reversed(found.mro()) if base.path.startswith("fedlit.")] + [found]:
        _, own = sections(owner)
        for kind, known in meanings.items():
            known.update(own[kind])
    arguments = [parameter.name for parameter in found.parameters]
    ordered = [(name, meanings["parameters"][name]) for name in arguments if name in meanings["parameters"]]
    return {**lists, "parameters": ordered, "attributes": list(meanings["attributes"].items())}


def body(found):
    """Text and lists of a docstring."""
    texts, lists = sections(found)
    if found.is_class:
        lists = with_bases(found, lists)
    for text in texts:
        yield from (escape(text), "")
    for kind, label in LABELS.items():
        if lists[kind]:
            yield from (f"**{label}**", "", *(line for _, line in lists[kind]), "")


def is_public(member):
    """True for a documented member that is not private, and for __call__."""
    is_named = not member.name.startswith("_") or member.name == "__call__"
    return is_named and not member.is_alias and member.docstring is not None


def members(found):
    """Properties and values of a class as lists, then its methods."""
    public = [member for member in found.members.values() if is_public(member)]
    attributes = [member for member in public if member.is_attribute]
    if attributes:
        yield from ("**Properties**", "")
        for member in attributes:
            kind = f"`{member.name}` (`{member.annotation}`)" if member.annotation is not None else f"`{member.name}`"
            yield item(kind, member.docstring.value)
        yield ""
    if any(str(base).endswith("Enum") for base in found.bases):
        values = [f"`{member.name} = {member.value}`" for member in found.members.values() if member.is_attribute]
        yield from (f"**Values**: {', '.join(values)}", "")
    for member in public:
        if member.is_function:
            yield from (f"#### `{found.name}.{member.name}`", "")
            decorators = [
                f"@{label}" for label in ("classmethod", "staticmethod", "abstractmethod") if label in member.labels
            ]
            yield from signature(member.name, member.parameters, member.returns, decorators)
            yield from body(member)


def anchor(name):
    """The anchor of a name's heading, as repository pages and the site make it."""
    return re.sub(r"[^\w\- ]", "", name.lower())


def link(page, path, pages):
    """The name of a definition, as a link if a page has its text."""
    name = f"`{path.rpartition('.')[2]}`"
    if path not in pages:
        return name
    target, full = pages[path]
    return f"[{name}]({'' if target == page else target}#{anchor(full)})"


def entry(name, package, page, pages):
    """The lines below a marker."""
    found = package[name.removeprefix("fedlit.")]
    if found.is_alias:
        found = found.final_target
    yield from (f"### `{name}`", "")
    file = found.relative_package_filepath.as_posix()
    kind = "Class" if found.is_class else "Function" if found.is_function else f"Alias of `{found.value}`,"
    facts = f"{kind} in [`{file}`](../../{file})"
    if found.is_class:
        bases = [base for base in found.bases if str(base) not in ("ABC", "Protocol")]
        abstract = len(bases) < len(found.bases) or any(
            "abstractmethod" in one.labels for one in found.members.values()
        )
        facts = f"Abstract {facts[0].lower()}{facts[1:]}" if abstract else facts
        names = [link(page, base.canonical_path, pages) if not isinstance(base, str) else f"`{base}`" for base in bases]
        facts += f"; base class {', '.join(names)}" if names else ""
    yield from (f"{facts}.", "")
    if found.is_function or (found.is_class and found.parameters):
        yield from signature(found.name, found.parameters, found.returns if found.is_function else None)
    yield from body(found)
    if found.is_class:
        yield from members(found)


def index(text, names):
    """The table of the pages and their names, in the order of the site."""
    rows = []
    for page in re.findall(r"- .*: api/(\w+\.md)", (ROOT / "mkdocs.yml").read_text()):
        title = (PAGES / page).read_text().partition("\n")[0].removeprefix("# ")
        links = [f"[`{name.rpartition('.')[2]}`]({page}#{anchor(name)})" for name in names[page]]
        rows.append(f"| [{title}]({page}) | {', '.join(links)} |")
    return TABLE.sub(lambda match: match[1] + "\n".join(rows), text)


def make_pages():
    """The text of each page by its name."""
    complaints = Complaints()
    logging.getLogger("griffe").addHandler(complaints)
    old = {path.name: path.read_text() for path in sorted(PAGES.glob("*.md"))}
    names = {page: [match[2] for match in MARKER.finditer(text)] for page, text in old.items()}
    package = load()
    pages = {
        package[name.removeprefix("fedlit.")].canonical_path: (page, name)
        for page, listed in names.items()
        for name in listed
    }

    def renew(page, match):
        return "\n".join([match[1], *entry(match[2], package, page, pages), ""])

    new = {page: MARKER.sub(partial(renew, page), text).rstrip() + "\n" for page, text in old.items()}
    new["index.md"] = index(new["index.md"], names)
    if complaints.found:
        raise SystemExit("\n".join(complaints.found))
    return new


if __name__ == "__main__":
    for page, text in make_pages().items():
        (PAGES / page).write_text(text)
