"""A schema registry on loopback, speaking the part of Confluent's REST protocol that readers and producers use.

Endpoints: ``POST /subjects/S/versions``, ``GET /subjects/S/versions/V`` (or ``latest``), ``GET /schemas/ids/N``; basic authentication where a user is given; media types,
statuses and error codes as documented for Confluent's Schema Registry. Like the real one it gives Protobuf schemas as descriptors only to those who ask for
``format=serialized``, and as text otherwise.
"""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit


class RegistryServer:
    """Runs while it is entered: `.url`, and `.requests` as (method, path)."""

    def __init__(self, user: str | None = None) -> None:
        self.requests: list[tuple[str, str]] = []
        #: Statuses to answer the next requests with, whatever they ask for.
        self.broken: list[int] = []
        self._user = user
        self._schemas: list[dict[str, Any]] = []
        self._subjects: dict[str, list[int]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, method: str, target: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        split = urlsplit(target)
        serialized = parse_qs(split.query).get("format") == ["serialized"]
        match [unquote(part) for part in split.path.strip("/").split("/")]:
            case ["subjects", subject, "versions"] if method == "POST" and body is not None:
                return 200, {"id": self.register(subject, body)}
            case ["subjects", subject, "versions", version] if method == "GET":
                ids = self._subjects.get(subject)
                if ids is None:
                    return 404, {"error_code": 40401, "message": f"Subject '{subject}' not found."}
                number = len(ids) if version == "latest" else int(version)
                if not 1 <= number <= len(ids):
                    return 404, {"error_code": 40402, "message": f"Version {number} not found."}
                found = {"subject": subject, "version": number, "id": ids[number - 1]}
                return 200, {**found, **self._shown(ids[number - 1], serialized)}
            case ["schemas", "ids", number] if method == "GET":
                if not 1 <= int(number) <= len(self._schemas):
                    return 404, {"error_code": 40403, "message": f"Schema {number} not found"}
                return 200, self._shown(int(number), serialized)
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def register(self, subject: str, body: dict[str, Any]) -> int:
        """Register a schema as `POST /subjects/S/versions` does."""
        schema = {
            "schema": body["schema"],
            "schemaType": body.get("schemaType", "AVRO"),
            "references": body.get("references", []),
        }
        if schema not in self._schemas:
            self._schemas.append(schema)
        number = self._schemas.index(schema) + 1
        versions = self._subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number

    def latest(self, subject: str) -> tuple[int, str]:
        """Give number and text of the newest schema of a subject."""
        number = self._subjects[subject][-1]
        return number, self._schemas[number - 1]["schema"]

    def _shown(self, number: int, serialized: bool) -> dict[str, Any]:
        schema = self._schemas[number - 1]
        if schema["schemaType"] == "PROTOBUF" and not serialized:
            return {**schema, "schema": 'syntax = "proto3";'}
        # As the real one: Avro is what is meant where nothing is said.
        return {key: value for key, value in schema.items() if value not in ("AVRO", [])}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._serve("GET")

            def do_POST(self) -> None:
                self._serve("POST")

            def _serve(self, method: str) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                server.requests.append((method, self.path))
                wanted = None if server._user is None else base64.b64encode(server._user.encode()).decode()
                if server.broken:
                    status, answer = server.broken.pop(0), {"error_code": 50001, "message": "Error in the backend"}
                elif wanted is not None and self.headers.get("Authorization") != f"Basic {wanted}":
                    status, answer = 401, {"error_code": 401, "message": "Unauthorized"}
                else:
                    status, answer = server._answer(method, self.path, body)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        return Handler
