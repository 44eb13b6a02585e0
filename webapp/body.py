"""The body of a request: read whole or refused, decompressed, never more than the limits.

`request.get_data()` cuts a chunked body off at the limit without a word, so the
stream is read here, in a loop. The Content-Type plays no part.
"""

from __future__ import annotations

from collections.abc import Iterator

from flask import Request, g
from gunicorn.http.errors import ParseException

from ringstats_ts.config import Config
from ringstats_ts.decode import GZIP_MAGIC, inflate
from ringstats_ts.errors import BodyTimeout, PayloadTooLarge, TruncatedPayload, UnsupportedEncoding

READ_BYTES = 64 * 1024
# Small, because each gzip member makes zlib copy the rest of its chunk.
INFLATE_BYTES = 4 * 1024


class Body:
    """The body of one request. `raw` is what has arrived of it, also after an error."""

    def __init__(self, request: Request, config: Config) -> None:
        self._request = request
        self._config = config
        self.raw = bytearray()

    def receive(self) -> None:
        """Take the whole body in, as it was sent.

        Raises
        ------
        PayloadTooLarge, TruncatedPayload, BodyTimeout
        """
        limit = self._config.max_body_bytes
        expected = self._request.content_length
        if expected is not None and expected > limit:
            raise PayloadTooLarge(f"The body has {expected} bytes; the limit is {limit}.")
        try:
            while chunk := self._request.stream.read(READ_BYTES):
                self.raw += chunk
                g.received_bytes = len(self.raw)
                if len(self.raw) > limit:
                    raise PayloadTooLarge(f"The body has more than {limit} bytes.")
        except TimeoutError:
            seconds = self._config.body_timeout.total_seconds()
            raise BodyTimeout(f"The body did not arrive within {seconds:g} s.") from None
        except ParseException:
            raise TruncatedPayload(
                "The chunks of the body, or the trailers after them, are not as HTTP has them.",
                "Send the whole body again, with its Content-Length or in whole chunks.",
            ) from None
        except OSError:
            self._cut()
        if expected is not None and len(self.raw) < expected:
            self._cut()

    def document(self) -> bytes:
        """What was received, with one layer of gzip taken off.

        gzip is known by its first bytes too, since few tools name it.

        Raises
        ------
        PayloadTooLarge, TruncatedPayload, MalformedPayload, UnsupportedEncoding
        """
        encoding = self._request.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip"):
            raise UnsupportedEncoding
        raw = bytes(self.raw)
        if raw and (encoding.endswith("gzip") or raw.startswith(GZIP_MAGIC)):
            return self._inflated(raw)
        return raw

    def _cut(self) -> None:
        raise TruncatedPayload(
            f"The connection ended after {len(self.raw)} bytes, before the end of the body.",
            "Send the whole body again.",
        ) from None

    def _inflated(self, raw: bytes) -> bytes:
        body = inflate(_slices(raw), self._config.max_document_bytes)
        if body.startswith(GZIP_MAGIC):
            raise UnsupportedEncoding("The body is compressed twice.", "Send it with one layer of gzip.")
        return body


def _slices(raw: bytes) -> Iterator[bytes]:
    return (raw[start : start + INFLATE_BYTES] for start in range(0, len(raw), INFLATE_BYTES))
