"""The application: settings in, routes and handlers on. Nothing happens at import."""

from __future__ import annotations

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from ringstats_ts.config import Config
from webapp import auth, callers, errors, health, ingest, metrics, pages, trace
from webapp.service import Service


def create_app(config: Config | None = None) -> Flask:
    """Make the application; without `config`, from the environment.

    No connection is opened here: each thread opens its own with its first request,
    which in gunicorn is after the fork.

    Raises
    ------
    ConfigError
        where a setting cannot be used, or no database is named.
    """
    config = config or Config.from_env()
    app = Flask(__name__)
    app.url_map.strict_slashes = False
    app.jinja_env.trim_blocks = app.jinja_env.keep_trailing_newline = True
    Service(config).attach(app)
    metrics.register(app)
    auth.register(app, config)
    trace.register(app)
    callers.register(app, config)
    errors.register(app)
    for routes in (ingest.routes, health.routes, pages.routes, errors.routes):
        app.register_blueprint(routes)
    if config.proxy_hops:
        hops = config.proxy_hops
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
    return app
