r"""Access logs of web servers: Common and Combined Log Format, as Apache and nginx write them.

The formats are `LogFormat` of Apache's mod_log_config and `log_format` of nginx's
ngx_http_log_module. A line is `client ident user [time] "request" status bytes`, with or
without `"referer" "agent"` and more fields behind them, with or without the virtual host in
front. Both servers escape quotation marks (Apache as \", nginx as \x22), so that no client
can end a field of its own accord.
"""

from __future__ import annotations

from ringstats_ts.model import JSON, BadLine, Batch, Context, Events, Log
from ringstats_ts.sources.accesslog.lines import COLUMNS, Reader, Row, Unreadable, is_log
from ringstats_ts.sources.logs import log_batch


class AccessLogSource:
    """The source `accesslog`."""

    name = "accesslog"
    title = "Access logs of web servers, in Common or Combined Log Format"
    tables = ("http_requests",)
    example = "curl --data-binary @/var/log/nginx/access.log 'localhost:8000/?host=web1'"
    looks = "an access log of a web server"

    def detect(self, document: JSON | Log) -> bool:
        """Whether one of its first lines is a request."""
        return isinstance(document, Log) and is_log(document.text)

    def parse(self, document: JSON | Log, context: Context) -> Batch:
        """Turn an access log into a batch: see `ringstats_ts.model.Source`."""
        rows, bad_lines = _read(document, context)
        events = [Events("http_requests", COLUMNS, rows)]
        return log_batch(self.name, document, context, events, bad_lines)


def _read(log: Log, context: Context) -> tuple[list[Row], list[BadLine]]:
    rows: list[Row] = []
    bad_lines: list[BadLine] = []
    reader = Reader(context)
    *lines, last = log.text.split(b"\n")
    for number, ended in enumerate(lines, log.first_line):
        line = ended.removesuffix(b"\r")
        try:
            rows.append(reader.row(line))
        except Unreadable as error:
            if line.strip():
                bad_lines.append(BadLine(number, line, str(error)))
    if last.strip():
        # The number of its bytes may lack digits then: nothing in a line tells that it is whole.
        reason = "It has no line end, so that it may be cut off."
        bad_lines.append(BadLine(log.first_line + len(lines), last, reason, cut=True))
    return rows, bad_lines


ACCESSLOG = AccessLogSource()
