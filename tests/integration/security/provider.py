"""A provider of OpenID Connect tokens on loopback, and the file of keys by which a broker verifies them."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

AUDIENCE = "kafka"
#: A client that is known, and given tokens that have expired.
STALE = "stale"


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _number(value: int) -> str:
    return _text(value.to_bytes((value.bit_length() + 7) // 8, "big"))


class TokenProvider:
    """Gives each client that proves its secret a token in its own name."""

    def __init__(self, folder: Path, secrets: Mapping[str, str]) -> None:
        self._secrets = secrets
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = self._key.public_key().public_numbers()
        self.keys = folder / "keys.json"
        key = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "one", "n": _number(public.n), "e": _number(public.e)}
        self.keys.write_text(json.dumps({"keys": [key]}))
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                status, answer = provider._answer(self.headers.get("Authorization", ""))
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, authorization: str) -> tuple[int, dict[str, object]]:
        client, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        if self._secrets.get(client) != secret:
            return 401, {"error": "invalid_client"}
        return 200, {"access_token": self._token(client, -100 if client == STALE else 300), "expires_in": 300}

    def _token(self, client: str, seconds: int) -> str:
        now = int(time.time())
        claims = {"sub": client, "aud": AUDIENCE, "iss": "test", "iat": now - 200, "exp": now + seconds}
        head = {"alg": "RS256", "kid": "one", "typ": "JWT"}
        signed = ".".join(_text(json.dumps(part).encode()) for part in (head, claims))
        return f"{signed}.{_text(self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"
