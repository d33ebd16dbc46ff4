"""Write docs/configuration_reference.md: every group, choice and key of conf/, with defaults, ranges and meanings.

    python scripts/configuration_reference.py

A meaning is the comment of the key in its yaml file, or else that of the constructor's argument. Types and ranges are those of
the constructor. A test compares the page with the output of this script.
"""

import ast
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from hydra.utils import get_object

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
PAGE = ROOT / "docs" / "configuration_reference.md"

CONSTRUCTORS = {
    "data": "fedlit.Loading",
    "schedule": "fedlit.Schedule",
    "faults": "fedlit.simulation.FailurePolicy",
    "compression": "fedlit.Channel.of",
    "clock": "fedlit.simulation.VirtualClock",
    "checkpoint": "fedlit.Retention",
    "monitor": "fedlit.Monitor",
}
"""The callable that receives a group's keys in addition to the one that `_target_` names."""
WHOLE = ("experiment", "hparams_search", "debug")
"""Groups whose choices override keys of other groups."""
TYPES = {"int": "whole number", "float": "number", "str": "text", "bool": "true, false", "None": "null"}
RANGE = re.compile(r">=? -?\d+(?:\.\d+)?(?: and <=? \d+(?:\.\d+)?)?|in [\[(][^\])]+[\])]")

HEAD = """# Configuration reference

<!-- written by scripts/configuration_reference.py; do not edit -->

This page is generated from the files in `conf/`. [Configuration](configuration.md) explains how to use them. A key is set
on the command line, as `KEY=VALUE`. `null` stands for no value. `+KEY=VALUE` adds a key that a choice does not have.
"""


@dataclass(frozen=True)
class Row:
    """A key of one choice."""

    key: str
    default: str
    allowed: str
    meaning: str


def comments(path):
    """The comment at the head of a file, without commands, as one line."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith(("# @package", "#   ")):
            lines.append(line[1:].strip())
    return " ".join(lines)


def comment_of(lines, node):
    """The comment after a value, with its continuation lines."""
    line, column = node.end_mark.line, node.end_mark.column
    match = re.match(r"\s*#\s*(.*)", lines[line][column:]) if line < len(lines) else None
    if match is None:
        return ""
    parts = [match[1]]
    while line + 1 < len(lines) and (more := re.match(r"\s{12,}#\s*(.*)", lines[line + 1])):
        parts, line = [*parts, more[1]], line + 1
    return " ".join(parts)


def leaves(node, lines, prefix=""):
    """Triples (key, node, comment) of a mapping; a mapping in braces is one value."""
    for key, value in node.value:
        name = prefix + key.value
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            after = re.match(r"\s*#\s*(.*)", lines[key.end_mark.line][key.end_mark.column + 1 :])
            if after:
                yield name, None, after[1]
            yield from leaves(value, lines, f"{name}.")
        else:
            yield name, value, comment_of(lines, value)


def text_of(node, source):
    """A value as it stands in the file."""
    return source[node.start_mark.index : node.end_mark.index].strip()


def arguments(path):
    """Pairs (annotation, meaning) of a callable's arguments by name; a class inherits those of its bases."""
    target = get_object(path)
    found = {}
    for owner in reversed(inspect.getmro(target)[:-1]) if inspect.isclass(target) else [target]:
        doc = inspect.cleandoc(owner.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
        meanings = dict(re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", doc, re.MULTILINE))
        parameters = inspect.signature(owner).parameters if callable(owner) else {}
        for name in {**meanings, **parameters}:
            annotation = parameters[name].annotation if name in parameters else None
            known = annotation if isinstance(annotation, str) else found.get(name, ("", ""))[0]
            found[name] = known, " ".join(meanings.get(name, found.get(name, ("", ""))[1]).split())
    return found


def allowed(annotation, meaning):
    """The values that a type and a range in the text allow; empty if neither is known."""
    parts = []
    for node in _alternatives(ast.parse(annotation or "Any", mode="eval").body):
        if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "Literal":
            values = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            parts += [f"`{value.value}`" for value in values]
        elif isinstance(node, ast.Subscript):
            parts += [
                {"Sequence": "list", "tuple": "list", "Mapping": "mapping"}.get(getattr(node.value, "id", ""), "")
            ]
        else:
            parts += [TYPES.get(ast.unparse(node), "")]
    limit = RANGE.search(meaning)
    words = [part for part in parts if part and part != "null"]
    if limit:
        words = [f"{word} {limit[0]}" if "number" in word else word for word in words or ["number"]]
    return ", ".join(words + ["null"] * (bool(words) and "null" in parts))


def _alternatives(node):
    if isinstance(node, ast.BinOp):
        return [*_alternatives(node.left), *_alternatives(node.right)]
    return [node]


def parts(content, prefix=""):
    """Pairs (key, mapping) of the mappings below the top that name a class."""
    for key, value in content.items():
        if isinstance(value, dict):
            if "_target_" in value:
                yield prefix + key, value
            yield from parts(value, f"{prefix}{key}.")


def summary(path):
    """The first line of a class's docstring."""
    return inspect.getdoc(get_object(path)).partition("\n")[0]


def rows_of(group, path):
    """The class and the rows of a choice, those of the choices that it extends included."""
    source, lines = path.read_text(), path.read_text().splitlines()
    root = yaml.compose(source)
    content, rows, target = yaml.safe_load(source) or {}, {}, None
    for parent in content.get("defaults", ()):
        if isinstance(parent, str) and parent != "_self_":
            target, rows = rows_of(group, path.with_name(f"{parent}.yaml"))
    target = content.get("_target_", target)
    known = {}
    for name in (CONSTRUCTORS.get(group.partition("/")[0]), content.get("network"), target):
        known |= arguments(name) if name and name != "???" else {}
    for name, part in parts(content):
        known |= {f"{name}.{key}": value for key, value in arguments(part["_target_"]).items()}
    for key, node, comment in leaves(root, lines):
        parent, _, name = key.rpartition(".")
        if parent and name == "_target_":
            key, comment = parent, comment or (rows[parent].meaning if parent in rows else "") or summary(node.value)
        elif name.startswith("_") or key.startswith("defaults"):
            continue
        annotation, meaning = known.get(key, ("", ""))
        default = "" if node is None else text_of(node, source)
        old = rows.get(key, Row(key, "", "", ""))
        values = allowed(annotation, f"{meaning} {comment}") or old.allowed
        values = "mapping" if values == "list" and default.startswith("{") else values
        rows[key] = Row(key, default, values, (comment or old.meaning or meaning).removesuffix("."))
    return target, rows


def _escape_sign(match):
    return "&lt;" if match[0] else "\\"


def escape(text):
    """A text for a cell of a table: Markdown's signs stand for themselves, except those in code."""
    spans = text.replace("|", "\\|").strip().split("`")
    return "`".join(
        span if number % 2 else re.sub(r"(?=\*)|(?<!\w)(?=_)|(?=_(?!\w))|<(?=[\w/!?])", _escape_sign, span)
        for number, span in enumerate(spans)
    )


def code(value):
    """A value as code, or a word for a value that must be given."""
    return "required" if value == "???" else f"`{value}`".replace("``", "") if value else ""


def by_choice(values, choices):
    """One value if all choices have it, otherwise each value with its choices."""
    several = {}
    for choice, value in values.items():
        several.setdefault(value, []).append(choice)
    if len(several) == 1:
        return code(next(iter(several)))
    common = max(several, key=lambda value: len(several[value]))
    parts = [code(common)] + [
        f"{code(value)} with {', '.join(names)}" for value, names in several.items() if value != common
    ]
    return "; ".join(part for part in parts if part)


def chosen(choices, every):
    """The choices that have a key, in the shorter way."""
    others = [choice for choice in every if choice not in choices]
    if len(others) < min(4, len(choices)):
        return "all" + (f" but {', '.join(f'`{choice}`' for choice in others)}" if others else "")
    return ", ".join(f"`{choice}`" for choice in choices)


def group_lines(group, default):
    """The section of a group."""
    paths = {path.stem: path for path in sorted((CONF / group).glob("*.yaml"))}
    yield f"## {group}\n"
    yield f"`{group}=CHOICE`; the default is `{default}`.\n" if default else f"`{group}=CHOICE`; there is no default.\n"
    parsed = {choice: ((None, {}) if group in WHOLE else rows_of(group, path)) for choice, path in paths.items()}
    yield "| choice | meaning | class |\n|---|---|---|"
    for choice, path in paths.items():
        target = parsed[choice][0]
        yield f"| `{choice}` | {escape(comments(path))} | {f'`{target}`' if target and target != '???' else ''} |"
    yield ""
    merged = {}
    for choice, (_, rows) in parsed.items():
        for row in rows.values():
            merged.setdefault((row.key, row.meaning, row.allowed), {})[choice] = row.default
    if merged:
        yield "| key | default | values | meaning | choices |\n|---|---|---|---|---|"
    order = list(dict.fromkeys(key for key, *_ in merged))
    most = {name: max(len(defaults) for (key, *_), defaults in merged.items() if key == name) for name in order}
    for (key, meaning, values), defaults in sorted(
        merged.items(), key=lambda item: (-most[item[0][0]], order.index(item[0][0]), -len(item[1]))
    ):
        if not meaning:
            raise SystemExit(
                f"{group}.{key} has no meaning: write a comment in conf/ or a line in the constructor's Args"
            )
        choices = chosen(defaults, paths)
        name = f"{group.replace('/', '.')}.{key}"
        yield f"| `{name}` | {escape(by_choice(defaults, paths))} | {escape(values)} | {escape(meaning)} | {choices} |"
    yield ""
    if group in WHOLE:
        yield from whole_lines(group, paths)


def whole_lines(group, paths):
    """What each choice of a group of whole configurations overrides."""
    for choice, path in paths.items():
        yield f"`{group}={choice}` sets:\n"
        yield "```yaml"
        yield from (line for line in path.read_text().splitlines() if not line.startswith("#"))
        yield "```\n"


def page():
    """The whole page."""
    source = (CONF / "config.yaml").read_text()
    content = yaml.safe_load(source)
    groups = {
        key.removeprefix("override "): value
        for item in content["defaults"]
        if item != "_self_"
        for key, value in item.items()
    }
    out = [
        HEAD,
        "## Single keys\n",
        "| key | default | values | meaning |\n|---|---|---|---|",
    ]
    for key, node, comment in leaves(yaml.compose(source), source.splitlines()):
        if key.partition(".")[0] in ("defaults", "hydra"):
            continue
        top, _, name = key.partition(".")
        annotation, meaning = arguments(CONSTRUCTORS[top]).get(name, ("", "")) if top in CONSTRUCTORS else ("", "")
        default = "" if node is None else text_of(node, source)
        text = escape((comment or meaning).removesuffix("."))
        out.append(f"| `{key}` | {code(default)} | {escape(allowed(annotation, meaning))} | {text} |")
    out.append("")
    for group, default in groups.items():
        if not group.startswith("hydra/"):
            out += group_lines(group, default)
    return "\n".join(out).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
