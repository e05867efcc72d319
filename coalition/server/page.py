"""Serve the built web page: / and the files that it fetches. What it shows comes from the API like everybody's.

The files' names in assets/ hold a hash of their content, so browsers may keep them for good; index.html is asked for
each time. The policy allows scripts, styles and fonts from this server alone, and nothing inline; pictures also from where
`[server] pictures_from` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from mimetypes import guess_type
from pathlib import Path

from flask import Blueprint, Flask, Response, current_app, make_response, request, send_from_directory
from werkzeug.exceptions import NotFound
from werkzeug.security import safe_join

blueprint = Blueprint("page", __name__)

HERE = Path(__file__).resolve().parent
INSTALLED = HERE / "static"  # in a wheel
SOURCES = HERE.parent.parent / "webui" / "dist"  # in a work tree
FOREVER_S = 365 * 86_400
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src {pictures}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY.format(pictures="'self'"),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
}
MISSING = """\
Coalition runs, but its web page was not built.

Build it with:  python scripts/build_page.py    (or: make install)
The API is at /api/v1/server, and the command line shows the same: coalition jobs, coalition workers, coalition budget.
"""


def folder() -> Path | None:
    """Where the built page is, None if there is none."""
    return next((place for place in (INSTALLED, SOURCES) if (place / "index.html").is_file()), None)


def register(app: Flask, pictures_from: Sequence[str] = ()) -> None:
    """Add the page's routes to `app`. They need no token: the page asks for one when the API does.

    The page may show pictures of this server and of the origins `pictures_from`, which were checked: they go into a header.
    """
    policy = POLICY.format(pictures=" ".join(("'self'", *pictures_from)))
    app.config["PAGE_HEADERS"] = {**HEADERS, "Content-Security-Policy": policy}
    app.register_blueprint(blueprint)


@blueprint.get("/")
def index() -> Response:
    if folder() is None:
        return _guarded(make_response(MISSING, 503, {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}))
    return _file("", "index.html", 0)


@blueprint.get("/assets/<path:asset>", endpoint="static")
@blueprint.get("/<any('favicon.svg', 'licences.txt'):name>", endpoint="static")
def static(name: str = "", asset: str = "") -> Response:
    return _file("assets", asset, FOREVER_S) if asset else _file("", name, 0)


def _file(within: str, name: str, max_age_s: int) -> Response:
    """One file of a folder of the page, packed if the browser can unpack it; NotFound if there is none of this name."""
    root = folder()
    if root is None:
        raise NotFound
    place = root / within
    packed = safe_join(str(place), f"{name}.gz")
    has_packed = packed is not None and Path(packed).is_file()
    if has_packed and request.accept_encodings["gzip"] > 0:
        response = send_from_directory(place, f"{name}.gz", mimetype=guess_type(name)[0])
        response.headers["Content-Encoding"] = "gzip"
    else:
        response = send_from_directory(place, name)
    if has_packed:
        response.vary.add("Accept-Encoding")
    response.headers["Cache-Control"] = f"public, max-age={max_age_s}, immutable" if max_age_s else "no-cache"
    return _guarded(response)


def _guarded(response: Response) -> Response:
    response.headers.update(current_app.config["PAGE_HEADERS"])
    return response
