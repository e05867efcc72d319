"""The API's description as a page at /api/docs, made by the server: no script, nothing from elsewhere."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, current_app, render_template_string

import coalition
from coalition.model import MAX_INT
from coalition.server.openapi import Schema, document
from coalition.server.page import HEADERS

blueprint = Blueprint("docs", __name__)


@blueprint.get("/api/docs")
def page() -> Response:
    whole = document(current_app)
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, methods in whole["paths"].items():
        for method, one in methods.items():
            groups.setdefault(one["tags"][0], []).append({"path": path, "method": method.upper(), **one})
    schemas = whole["components"]["schemas"]
    page = render_template_string(
        PAGE, version=coalition.__version__, groups=sorted(groups.items()), schemas=schemas, words=words
    )
    return Response(page, mimetype="text/html")


@blueprint.get("/api/docs.css")
def style() -> Response:
    return Response(STYLE, mimetype="text/css", headers=HEADERS)


def words(schema: Schema) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(words(part) for part in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {words(schema['items'])}"
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if schema.get("properties"):
        return "{" + ", ".join(f"{name}: {words(part)}" for name, part in schema["properties"].items()) + "}"
    low, high = schema.get("minimum"), schema.get("maximum")
    bounds = f" from {low:,}" if low else ""
    bounds += f" to {high:,}" if high and high < MAX_INT else ""
    bounds += f" of at most {schema['maxLength']:,} characters" if "maxLength" in schema else ""
    return str(schema.get("type", "anything")) + bounds


STYLE = """\
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; } h3 { margin: 1.5rem 0 .25rem; font: 600 15px/1.5 ui-monospace, monospace; }
code { font-family: ui-monospace, monospace; } p { margin: .25rem 0; }
table { border-collapse: collapse; margin: .5rem 0; }
td, th { text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0; }
.who { opacity: .7; }
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Coalition API</title><link rel="stylesheet" href="docs.css"></head><body>
<h1>Coalition API {{ version }}</h1>
<p>JSON over HTTP. Machines read <a href="openapi.json">openapi.json</a>. Wrong input is answered with a problem body
that names the fields; it changes nothing.</p>
<nav>{% for tag, _ in groups %}<a href="#{{ tag }}">{{ tag }}</a> {% endfor %}<a href="#schemas">objects</a></nav>
{% for tag, operations in groups %}<h2 id="{{ tag }}">{{ tag }}</h2>
{% for one in operations %}<section><h3 id="{{ one.operationId }}">{{ one.method }} {{ one.path }}</h3>
<p>{{ one.summary }} <span class="who">({{ one["x-who"] | join(", ") }})</span></p>
{% if one.parameters %}<table>{% for it in one.parameters %}<tr><td><code>{{ it.name }}</code></td><td>{{ words(it.schema) }}</td>
<td>{{ it.schema.description }}</td></tr>{% endfor %}</table>{% endif %}
{% if one.requestBody %}{% for kind, it in one.requestBody.content.items() %}<p>Body: {% if it.schema %}{{ words(it.schema) }}
{% else %}{{ kind }}{% endif %}</p>{% endfor %}{% endif %}
{% for status, it in one.responses.items() if it.content and status != "default" %}{% for kind, content in it.content.items() %}
<p>Answer {{ status }}: {% if content.schema %}{{ words(content.schema) }}
{% else %}{{ kind }}{% endif %}</p>{% endfor %}{% endfor %}
</section>{% endfor %}{% endfor %}
<h2 id="schemas">objects</h2>
{% for name, schema in schemas.items() %}<section><h3 id="{{ name }}">{{ name }}</h3><p>{{ schema.description }}</p>
<table>{% for field, it in (schema.properties or {}).items() %}<tr><td><code>{{ field }}</code></td><td>{{ words(it) }}</td>
<td>{{ it.description }}</td></tr>{% endfor %}</table></section>{% endfor %}
</body></html>
"""
