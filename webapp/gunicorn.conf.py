# ruff: noqa: N999  # gunicorn looks for this name
"""Settings of gunicorn, from the same environment as everything else: `gunicorn --config THIS_FILE`.

`webapp.server.CONFIG_FILE` is its path where the package is installed.
"""

from ringstats_ts.config import Config
from webapp import heads, multiprocess, server

_config = Config.from_env()

wsgi_app = "webapp:create_app()"
proc_name = "tsstats"
bind = [_config.listen]
worker_class = "webapp.worker.Worker"
# One for each processor: Python runs one thread of a process at a time.
workers = _config.workers
# A thread mostly waits, for its client or the database. Of those of a worker, TSSTATS_WRITERS store at
# a time: more gain nothing (docs/operations.md), and the others answer health checks and pages.
threads = _config.threads
# Of a worker: half of the files that a process may have open where nobody has raised that (1,024).
worker_connections = 512

# Of the worker's heartbeat: a request may take longer, a stuck interpreter may not.
timeout = 30
# More than one document may take in the database, so that what was begun is answered.
graceful_timeout = int((_config.queue_timeout + _config.database_timeout).total_seconds()) + 5
# Above the usual 60 s of a collector would hold a connection for each; below saves no handshake.
keepalive = 5
backlog = 2048

# A bound on whatever leaks; the jitter keeps workers from restarting together.
max_requests = 10_000
max_requests_jitter = 1_000

# The heartbeat touches a file: on a disk that stalls, gunicorn would kill healthy workers.
worker_tmp_dir = str(multiprocess.parent_directory())

limit_request_line = heads.LINE_BYTES
limit_request_fields = 64
limit_request_field_size = 8190

# X-Forwarded headers are the application's business (TSSTATS_PROXY_HOPS). Who comes through a Unix
# socket would be believed all the same, and could name another path with SCRIPT_NAME.
forwarded_allow_ips = ""
forwarder_headers = ""
secure_scheme_headers: dict[str, str] = {}

# A second service of the same user would take the first one's socket.
control_socket_disable = True

# The application writes a line for each request itself.
accesslog = None
errorlog = "-"
loglevel = "info"

on_starting = server.on_starting
when_ready = server.when_ready
post_worker_init = server.post_worker_init
worker_exit = server.worker_exit
child_exit = server.child_exit
on_exit = server.on_exit
