"""A Google Cloud Storage of the tests' own: what its XML API documents of objects, lists and uploads in parts.

No ready-made fake serves what our library sends. This one does, in memory and on loopback, and is as strict as
the service: what is not there is a 404 even to delete, conditions go by generation, parts have a least size and
know no conditions, lists come in pages. Not in it: access control, checksums, older generations, limits of rate.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from enum import Enum, auto
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from uuid import uuid4
from xml.etree import ElementTree
from xml.sax.saxutils import escape

__all__ = ["PAGE_NAMES", "SECRET", "Fault", "GcsServer", "Request", "server", "write_key"]

SECRET = "hush-hush-private-key"
"""No message may show it."""
PAGE_NAMES = 3
"""Names in one answer to a list; the service's 1000 would never be seen."""
LEAST_PART_BYTES, MOST_PARTS = 5 << 20, 10_000


class Fault(Enum):
    """What may go wrong with a request."""

    UNAVAILABLE = auto()
    TOO_OFTEN = auto()
    CUT = auto()
    """The connection ends in the middle of what is sent; nothing is done."""
    DEAF = auto()
    """It is done, and the connection ends before the answer."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object's one generation."""

    content: bytes
    generation: int
    e_tag: str
    modified_at: float = field(default_factory=time.time)

    @property
    def headers(self) -> dict[str, str]:
        """What names it."""
        return {"ETag": self.e_tag, "x-goog-generation": str(self.generation), "x-goog-metageneration": "1"}


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: of a bucket, if there is no key."""

    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """An error, by the service's own name."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.answer = Answer(status, f"<Error><Code>{code}</Code><Message>{code}.</Message></Error>".encode())


_REFUSED = {Fault.UNAVAILABLE: Refusal(503, "ServiceUnavailable"), Fault.TOO_OFTEN: Refusal(429, "SlowDown")}


class GcsServer(ThreadingHTTPServer):
    """A server with its buckets: objects by name."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.buckets: dict[str, dict[str, Stored]] = {}
        self.uploads: dict[tuple[str, str, str], dict[int, bytes]] = {}
        """The parts of what is not complete, by bucket, key and the upload's id."""
        self.requests: list[Request] = []
        self.fault: Callable[[Request], Fault | None] = lambda request: None
        """Asked before a request is done; it may do something itself."""
        self._generation = 0
        self._lock = threading.RLock()

    def put(self, bucket: str, key: str, content: bytes, e_tag: str = "") -> Stored:
        """Make an object, as somebody else would."""
        with self._lock:
            self._generation = max(self._generation + 1, time.time_ns() // 1000)
            stored = Stored(content, self._generation, e_tag or _tag(content))
            self.buckets[bucket][key] = stored
            return stored

    def unfinished_uploads(self, bucket: str) -> list[str]:
        """The names of objects that have been begun in parts, and which nobody has completed or given up."""
        with self._lock:
            return [key for in_bucket, key, _ in self.uploads if in_bucket == bucket]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def perform(self, asked: Request) -> Answer:
        """Do what is asked.

        Raises:
            Refusal: If it cannot be done; then nothing was.
        """
        what = "part" if "uploadId" in asked.query else "object" if asked.key else "bucket"
        does = {
            "GET bucket": self._list,
            "GET object": self._get,
            "HEAD object": self._get,
            "PUT object": self._put,
            "DELETE object": self._delete,
            "POST object": self._begin,
            "PUT part": self._put_part,
            "POST part": self._complete,
            "DELETE part": self._abort,
        }[f"{asked.method} {what}"]
        with self._lock:
            if asked.bucket not in self.buckets:
                raise Refusal(404, "NoSuchBucket")
            return does(asked)

    def _found(self, asked: Request) -> Stored | None:
        """The object, if the request's condition allows."""
        stored = self.buckets[asked.bucket].get(asked.key)
        wanted = asked.headers.get("x-goog-if-generation-match")
        if wanted is not None and int(wanted) != (stored.generation if stored else 0):
            raise Refusal(412, "PreconditionFailed")
        return stored

    def _get(self, asked: Request) -> Answer:
        stored = self._found(asked)
        if stored is None or asked.query.get("generation") not in (None, str(stored.generation)):
            raise Refusal(404, "NoSuchKey")
        headers = {**stored.headers, "Last-Modified": formatdate(stored.modified_at, usegmt=True)}
        if (part := re.fullmatch(r"bytes=(\d*)-(\d*)", asked.headers.get("range", ""))) is None:
            return Answer(200, stored.content, headers)
        size = len(stored.content)
        start, end = (int(part[1]), int(part[2] or size)) if part[1] else (max(size - int(part[2]), 0), size)
        if start >= size:
            raise Refusal(416, "InvalidRange")
        content = stored.content[start : end + 1]
        return Answer(206, content, {**headers, "Content-Range": f"bytes {start}-{start + len(content) - 1}/{size}"})

    def _put(self, asked: Request) -> Answer:
        self._found(asked)
        return Answer(200, b"", self.put(asked.bucket, asked.key, asked.body).headers)

    def _delete(self, asked: Request) -> Answer:
        if self._found(asked) is None:
            raise Refusal(404, "NoSuchKey")
        del self.buckets[asked.bucket][asked.key]
        return Answer(204)

    def _list(self, asked: Request) -> Answer:
        assert asked.query["list-type"] == "2"
        prefix, delimiter = asked.query.get("prefix", ""), asked.query.get("delimiter", "\0")
        after, texts = asked.query.get("continuation-token", ""), dict[str, str]()
        for key, stored in sorted(self.buckets[asked.bucket].items()):
            inner, separator, _ = key.removeprefix(prefix).partition(delimiter)
            name = prefix + inner + separator
            if key.startswith(prefix) and name > after:
                folder = f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
                texts[name] = folder if separator else _listed(key, stored)
        page = list(texts)[:PAGE_NAMES]
        rest = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(page) < len(texts) else ""
        return _xml("ListBucketResult", "".join(texts[name] for name in page) + rest)

    def _begin(self, asked: Request) -> Answer:
        assert "uploads" in asked.query
        upload = uuid4().hex
        self.uploads[asked.bucket, asked.key, upload] = {}
        return _xml("InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>")

    def _parts(self, asked: Request, *, over: bool) -> dict[int, bytes]:
        upload = asked.bucket, asked.key, asked.query["uploadId"]
        if upload not in self.uploads:
            raise Refusal(404, "NoSuchUpload")
        return self.uploads.pop(upload) if over else self.uploads[upload]

    def _put_part(self, asked: Request) -> Answer:
        number = int(asked.query["partNumber"])
        if not 1 <= number <= MOST_PARTS or "x-goog-if-generation-match" in asked.headers:
            raise Refusal(400, "InvalidArgument")
        self._parts(asked, over=False)[number] = asked.body
        return Answer(200, b"", {"ETag": _tag(asked.body)})

    def _complete(self, asked: Request) -> Answer:
        parts = self._parts(asked, over=False)
        root = ElementTree.fromstring(asked.body)
        named = {int(part.findtext("PartNumber", "0")): part.findtext("ETag") for part in root.iter("Part")}
        if not named or list(named) != sorted(named):
            raise Refusal(400, "InvalidPartOrder")
        if any(number not in parts or _tag(parts[number]) != e_tag for number, e_tag in named.items()):
            raise Refusal(400, "InvalidPart")
        if any(len(parts[number]) < LEAST_PART_BYTES for number in list(named)[:-1]):
            raise Refusal(400, "EntityTooSmall")
        content = b"".join(parts[number] for number in named)
        # Not the hash of the content: so it is documented.
        stored = self.put(asked.bucket, asked.key, content, f'{_tag(repr(named).encode())[:-1]}-{len(named)}"')
        self._parts(asked, over=True)
        answer = _xml("CompleteMultipartUploadResult", f"<ETag>{escape(stored.e_tag)}</ETag>")
        return replace(answer, headers={"x-goog-generation": str(stored.generation)})

    def _abort(self, asked: Request) -> Answer:
        self._parts(asked, over=True)
        return Answer(204)


def _tag(content: bytes) -> str:
    return f'"{md5(content).hexdigest()}"'


def _listed(key: str, stored: Stored) -> str:
    modified_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stored.modified_at))
    return (
        f"<Contents><Key>{escape(key)}</Key><Generation>{stored.generation}</Generation><MetaGeneration>1"
        f"</MetaGeneration><LastModified>{modified_at}</LastModified><ETag>{escape(stored.e_tag)}</ETag>"
        f"<Size>{len(stored.content)}</Size></Contents>"
    )


def _xml(name: str, text: str) -> Answer:
    return Answer(200, f"<{name} xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>{text}</{name}>".encode())


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet, or the second waits until the first is acknowledged
    server: GcsServer

    def log_message(self, *words: object) -> None:
        """Nothing is logged."""

    def _serve(self) -> None:
        address = urlsplit(self.path)
        bucket, _, key = (unquote(part) for part in address.path[1:].partition("/"))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Request(self.command, bucket, key, dict(parse_qsl(address.query, True)), headers)
        self.server.requests.append(asked)
        fault, num_bytes = self.server.fault(asked), int(headers.get("content-length", 0))
        body = self.rfile.read(num_bytes // 2 if fault is Fault.CUT else num_bytes)
        self.close_connection = fault in (Fault.CUT, Fault.DEAF)
        if fault is Fault.CUT:
            return
        try:
            answer = _REFUSED[fault].answer if fault in _REFUSED else self.server.perform(replace(asked, body=body))
        except Refusal as refusal:
            answer = refusal.answer
        if fault is Fault.DEAF:
            return
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - http.server's names


@contextmanager
def server() -> Iterator[GcsServer]:
    """A server without buckets."""
    with GcsServer() as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield service
        finally:
            service.shutdown()
            thread.join()


def write_key(file: Path, address: str) -> None:
    """Write the key of a service account that leads the library here; it is shown to nobody."""
    key = {"private_key": SECRET, "private_key_id": "1", "client_email": "tester", "disable_oauth": True}
    file.write_text(json.dumps({**key, "gcs_base_url": address}))
