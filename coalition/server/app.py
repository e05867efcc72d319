"""create_app(settings, store): the Flask application. Routes live in one module a noun; errors become problem bodies here."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException

from coalition.config import Settings
from coalition.errors import CoalitionError, TooLarge
from coalition.server import (
    auth,
    changes,
    cloud,
    docs,
    jobs,
    legacy,
    limits,
    log_keeping,
    logins,
    measures,
    openapi,
    package,
    page,
    request_ids,
    system,
    workers,
)
from coalition.server.changes import Changes
from coalition.server.dispatcher import Dispatcher
from coalition.server.proxies import Forwarded
from coalition.server.rows import Answers
from coalition.server.web import Farm, farm, problem
from coalition.store import Store

log = logging.getLogger("coalition.server")
API = "/api/v1"


def create_app(settings: Settings, store: Store, clock: Callable[[], float] = time.time) -> Flask:
    """The application. Whoever serves it starts and stops the dispatcher and the changes of its farm."""
    app = Flask("coalition.server", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.server.max_body_bytes
    logs, users = log_keeping.open_logs(settings), logins.Logins(settings, store)
    the_farm = Farm(settings, store, logs, Dispatcher(settings, store, clock), clock, Answers(), Changes(settings, store), users)
    the_farm.dispatcher.on_look = the_farm.changes.seen
    app.extensions["coalition"] = the_farm
    for module in (jobs, workers, limits, cloud, changes, package, logins):
        app.register_blueprint(module.blueprint, url_prefix=API)
    app.register_blueprint(system.blueprint)
    app.register_blueprint(measures.blueprint)
    app.register_blueprint(openapi.blueprint)
    app.register_blueprint(docs.blueprint)
    if settings.server.legacy:
        legacy.register(app, the_farm)
    page.register(app, settings.server.pictures_from)
    app.register_error_handler(CoalitionError, problem)
    app.register_error_handler(HTTPException, http_problem)
    app.register_error_handler(Exception, crash)
    if settings.server.proxies:
        app.wsgi_app = Forwarded(app.wsgi_app, settings.server.proxies)  # type: ignore[method-assign]
    request_ids.install(app)
    auth.install(app, the_farm)
    app.after_request(after_action)
    app.after_request(guard)
    return app


def after_action(response: Response) -> Response:
    """Whoever did something sees it in the next list, whatever age of it will do."""
    right = auth.RIGHTS.get(request.endpoint or "")
    if right and request.method not in auth.SAFE_METHODS and right.needs != auth.WORKER:
        farm().answers.forget()
    return response


GUARDS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def guard(response: Response) -> Response:
    """Whatever a job wrote into an answer is not taken for a page, nor shown inside of another; https stays https."""
    for name, value in GUARDS.items():
        response.headers.setdefault(name, value)
    if request.is_secure:
        response.headers.setdefault("Strict-Transport-Security", "max-age=2592000")
    return response


def http_problem(error: HTTPException) -> Response:
    """What Flask itself refuses: unknown addresses, methods, bodies that are too large."""
    if error.code == 413:
        limit = current_app.config["MAX_CONTENT_LENGTH"]
        return problem(TooLarge(f"the body is larger than {limit:,} bytes", fields={"body": "is too large"}))
    text = {"type": "about:blank", "title": error.name, "status": error.code, "detail": error.description}
    return Response(json.dumps(text), error.code or 500, mimetype="application/problem+json")


def crash(error: Exception) -> Response:
    """A fault of ours: logged with its trace, told without it."""
    log.exception("%s %s failed", request.method, request.path, exc_info=error)
    return problem(CoalitionError("the server failed; its log has the details"))
