"""The page at /docs: every call, what it takes and gives, and a line for the shell. Made from the table of calls, once; without any script."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from jobwire_gateway.openapi import failures, path_names, title
from jobwire_gateway.operations import Operation, Parameter, Schema
from jobwire_gateway.requests import JSON
from jobwire_gateway.schemas import COMPONENTS

_EXAMPLES = {"queue": "thumbnails", "id": "photo-17", "group": "acme", "class": "high", "run": "0f1e2d3c4b5a6978"}
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Jobwire: the HTTP interface</title>
<link rel="icon" href="page/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="page/style.css">
<link rel="stylesheet" href="page/docs.css">
</head>
<body>
<header class="bar"><a class="brand" href="."><img src="page/icon.svg" alt="" width="22" height="22">Jobwire</a><nav>The HTTP interface</nav></header>
"""


def page(operations: Sequence[Operation]) -> bytes:
    """The whole page."""
    return "".join([_HEAD, *_contents(operations), "<main>", *_intro(), *_calls(operations), *_things(), "</main>\n</body>\n</html>\n"]).encode()


def _contents(operations: Sequence[Operation]) -> Iterator[str]:
    yield '<nav class="contents" aria-label="Calls">'
    for tag, group in groupby(operations, lambda operation: operation.tag):
        yield f"<h2>{escape(tag)}</h2><ul>"
        for operation in group:
            yield f'<li><a href="#{operation.id}">{_marked(operation.summary)}</a></li>'
        yield "</ul>"
    yield "<h2>Things</h2><ul>"
    for name in COMPONENTS:
        yield f'<li><a href="#{name}">{name}</a></li>'
    yield "</ul></nav>\n"


def _intro() -> Iterator[str]:
    yield "<h1>The HTTP interface</h1>"
    yield "<p>Names are those of proto JSON. State words are in lower case, dates are RFC 3339, lengths of time are seconds with an <code>s</code>: "
    yield '<code>"1.5s"</code>. Numbers are JSON numbers, also those of 64 bits. Unknown members and query parameters are refused. '
    yield 'For programs: <a href="openapi.json">openapi.json</a>, OpenAPI 3.1.</p>\n'


def _calls(operations: Sequence[Operation]) -> Iterator[str]:
    for tag, group in groupby(operations, lambda operation: operation.tag):
        yield f"<h2>{escape(tag)}</h2>\n"
        for operation in group:
            yield from _call(operation)


def _call(operation: Operation) -> Iterator[str]:
    yield f'<section class="call" id="{operation.id}"><h3>{_marked(operation.summary)}</h3>'
    yield f'<p class="address"><b class="{operation.method.lower()}">{operation.method}</b> <code>{escape(operation.path)}</code></p>'
    if operation.description:
        yield f"<p>{_marked(operation.description)}</p>"
    yield f"<pre>{escape(_curl(operation))}</pre>"
    yield from _parameters(operation.parameters)
    yield from _bodies(operation.body)
    yield from _answers(operation)
    yield "</section>\n"


def _sample(schema: Schema) -> str:
    """A value that a required parameter may have."""
    return str(schema["enum"][1] if "enum" in schema else _sample(schema["items"]) if "items" in schema else schema["examples"][0])


def _curl(operation: Operation) -> str:
    path = operation.path.format(**{name: _EXAMPLES[name] for name in path_names(operation)})
    query = "&".join(f"{parameter.name}={_sample(parameter.schema)}" for parameter in operation.parameters if parameter.required)
    method = [] if operation.method == "GET" else ["-X", operation.method]
    stream = ["-N"] if "text/event-stream" in [returns.media_type for returns in operation.returns.values()] else []
    body = ["--json", f"'{json.dumps(operation.example)}'"] if operation.example is not None else []
    by_itself = bool(body) and operation.method == "POST"
    return " ".join(["curl", *stream, *([] if by_itself else method), *body, f"'localhost:8080{path}{'?' + query if query else ''}'"])


def _parameters(parameters: Sequence[Parameter]) -> Iterator[str]:
    if not parameters:
        return
    yield "<h4>In the query or a header</h4><dl>"
    for parameter in parameters:
        where = "header, " if parameter.where == "header" else ""
        need = "required" if parameter.required else "optional"
        yield f"<dt><code>{escape(parameter.name)}</code> <small>{where}{_type(parameter.schema)}, {need}</small></dt><dd>{_marked(parameter.description)}</dd>"
    yield "</dl>"


def _bodies(bodies: Mapping[str, Schema]) -> Iterator[str]:
    for media_type, schema in bodies.items():
        if schema.get("properties") == {}:
            continue
        what = _marked(schema["description"]) if "description" in schema else _type(schema)
        yield f"<h4>Body, <code>{media_type}</code>: {what}</h4>"
        if "properties" in schema:
            yield from _members(schema)


def _answers(operation: Operation) -> Iterator[str]:
    yield "<h4>Answers</h4><dl>"
    for status, returns in sorted(operation.returns.items()):
        what = f": {_type(returns.schema)}" if returns.schema is not None else ""
        kind = "" if returns.schema is None or returns.media_type == JSON else f", <code>{returns.media_type}</code>"
        yield f"<dt>{status} {escape(title(status))}<small>{kind}{what}</small></dt><dd>{_marked(returns.description)}"
        for name, sentence in returns.headers.items():
            yield f" <code>{escape(name)}</code>: {_marked(sentence)}"
        yield "</dd>"
    yield '</dl><details><summary>Problems</summary><p>Each is a <a href="#Problem">Problem</a>.</p><dl>'
    for status, sentence in failures(operation).items():
        yield f"<dt>{status} {escape(title(status))}</dt><dd>{_marked(sentence)}</dd>"
    yield "</dl></details>"


def _things() -> Iterator[str]:
    yield "<h2>Things</h2>\n"
    for name, schema in COMPONENTS.items():
        yield f'<section class="thing" id="{name}"><h3>{name}</h3>'
        if description := schema.get("description"):
            yield f"<p>{_marked(description)}</p>"
        yield from _members(schema)
        yield "</section>\n"


def _members(schema: Schema) -> Iterator[str]:
    required = schema.get("required", ())
    yield "<dl>"
    for name, member in schema.get("properties", {}).items():
        need = ", required" if name in required and schema.get("additionalProperties") is False else ""
        yield f"<dt><code>{escape(name)}</code> <small>{_type(member)}{need}</small></dt><dd>{_marked(member.get('description', ''))}"
        if "properties" in member:
            yield from _members(member)
        yield "</dd>"
    yield "</dl>"


def _type(schema: Any) -> str:
    match schema:
        case {"$ref": str(target)}:
            name = target.rpartition("/")[2]
            return f'<a href="#{name}">{name}</a>'
        case {"anyOf": [choice, {}]}:
            return _type(choice)
        case {"oneOf": list(choices)}:
            return " or ".join(map(_type, choices))
        case {"enum": list(words)}:
            return " | ".join(f"<code>{escape(str(word))}</code>" for word in words)
        case {"type": "array", "items": item}:
            return f"array of {_type(item)}"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"object of {_type(values)}"
        case {"type": "integer" | "number" as kind}:
            return f"{kind}{_range(schema)}"
        case {"type": str(kind)}:
            return kind
        case _:
            return "any JSON"


def _range(bounds: Mapping[str, Any]) -> str:
    match bounds:
        case {"minimum": low, "maximum": high}:
            return f" from {low} to {high}"
        case {"minimum": low}:
            return f" from {low}"
        case _:
            return ""


def _marked(text: str) -> str:
    """Sentences with `code` in them."""
    parts = escape(text, quote=False).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
