"""The web service: takes documents over HTTP and shows a first page.

`tsstats serve` starts it under gunicorn, with gunicorn.conf.py of this package.
"""

from webapp.app import create_app

__all__ = ["create_app"]
