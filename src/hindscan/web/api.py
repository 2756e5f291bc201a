"""The HTTP API: paths and methods of `docs/design.md` section 5, each a translation of one call to the `Desk`.

Events are durable before the answer is sent (promise 4): 202 says that they and their runs are in the store. What cannot be
parsed is refused with every fault, a batch as a whole, and not stored (promise 5). Every error is a problem document. No user code runs here (promise 12).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from fastapi import Body, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from hindscan.errors import HindscanError
from hindscan.events import wire
from hindscan.runs.run import FINAL
from hindscan.web import media
from hindscan.web.desk import Desk
from hindscan.web.guard import Guard
from hindscan.web.problem import problem_bytes, problem_of

__all__ = ["build_api"]

#: The longest that GET /runs/ID?wait= holds a request.
MAX_WAIT_SECONDS = 60.0
#: How often the stream of a run looks for new facts.
STREAM_SECONDS = 0.25

_PROBLEM = "application/problem+json"


class _Json(Response):
    """JSON by the same encoder as everywhere."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


def build_api(desk: Desk, version: str) -> Any:
    """Build the ASGI application.

    Parameters
    ----------
    desk : Desk
        The dispatcher.
    version : str
        Of hindscan, for the OpenAPI document.
    """
    app = FastAPI(title="hindscan", version=version, docs_url=None, redoc_url=None, default_response_class=_Json)
    _add_errors(app)
    _add_events(app, desk)
    _add_declared(app, desk)
    _add_runs(app, desk)
    _add_results(app, desk)
    _add_health(app, desk)
    return Guard(app)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(HindscanError)
    async def hindscan_error(_: Request, error: HindscanError) -> Response:
        return Response(problem_of(error), error.status, media_type=_PROBLEM)

    @app.exception_handler(RequestValidationError)
    async def invalid_request(_: Request, error: RequestValidationError) -> Response:
        faults = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        return Response(problem_bytes(422, "; ".join(faults), faults=faults), 422, media_type=_PROBLEM)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        body = problem_bytes(error.status_code, str(error.detail))
        return Response(body, error.status_code, media_type=_PROBLEM, headers=error.headers)

    @app.exception_handler(Exception)
    async def bug(_: Request, __: Exception) -> Response:
        return Response(problem_bytes(500, "An internal error; the log has it."), 500, media_type=_PROBLEM)


def _add_events(app: FastAPI, desk: Desk) -> None:
    @app.post("/events", status_code=202, tags=["events"])
    async def receive(request: Request) -> Response:
        """Take CloudEvents: binary, structured or batched."""
        events = wire.parse_http(request.headers.raw, await request.body())
        # The store is synchronous: a thread waits for it, never the loop.
        return _Json(await run_in_threadpool(desk.receive, events), 202)

    @app.post("/events/{trigger}", status_code=202, tags=["events"])
    async def receive_body(trigger: str, request: Request) -> Response:
        """Take a body that is no CloudEvent, as this trigger declares it."""
        return _Json(await run_in_threadpool(desk.receive_body, trigger, await request.body()), 202)

    @app.options("/events", tags=["events"])
    def handshake(
        origin: Annotated[str | None, Header(alias="WebHook-Request-Origin")] = None,
        rate: Annotated[str | None, Header(alias="WebHook-Request-Rate")] = None,
    ) -> Response:
        """Answer the webhook validation handshake."""
        if origin is None:
            return Response(status_code=204, headers={"Allow": "OPTIONS, POST"})
        headers = {"Allow": "OPTIONS, POST", "WebHook-Allowed-Origin": origin}
        if rate is not None:
            headers["WebHook-Allowed-Rate"] = "*"
        return Response(status_code=200, headers=headers)

    @app.get("/events", tags=["events"])
    def list_events(quarantined: bool = False, limit: Annotated[int, Query(ge=1, le=10_000)] = 100) -> Response:
        """List received events, what matched and why not."""
        return _Json({"events": desk.events(quarantined, limit)})


def _add_declared(app: FastAPI, desk: Desk) -> None:
    @app.get("/jobs", tags=["jobs"])
    def jobs() -> Response:
        """List the declared jobs."""
        return _Json({"jobs": desk.jobs()})

    @app.get("/jobs/{name}", tags=["jobs"])
    def job(name: str) -> Response:
        """Show one job with the JSON Schema of its parameters."""
        return _Json(desk.job(name))

    @app.get("/histories", tags=["histories"])
    def histories() -> Response:
        """List the declared histories."""
        return _Json({"histories": desk.histories()})

    @app.get("/triggers", tags=["triggers"])
    def triggers() -> Response:
        """List the declared triggers."""
        return _Json({"triggers": desk.triggers()})


def _add_runs(app: FastAPI, desk: Desk) -> None:
    @app.post("/jobs/{name}/runs", status_code=201, tags=["runs"])
    def submit(
        name: str,
        body: Annotated[dict[str, Any] | None, Body()] = None,
        key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)] = None,
    ) -> Response:
        """Open a run; the same Idempotency-Key gives the same run."""
        run, new = desk.submit(name, body or {}, key)
        return _Json(run, 201 if new else 200, headers={"Location": f"/runs/{run['id']}"})

    @app.get("/runs", tags=["runs"])
    def runs(
        job: str | None = None, state: str | None = None, limit: Annotated[int, Query(ge=1, le=10_000)] = 100
    ) -> Response:
        """List runs, newest first."""
        return _Json({"runs": desk.runs(job, state, limit)})

    @app.get("/runs/{run}", tags=["runs"])
    def show(run: str, wait: Annotated[float, Query(ge=0)] = 0.0) -> Response:
        """Show one run; with `wait`, when it is final or after so many seconds."""
        return _Json(desk.wait(run, min(wait, MAX_WAIT_SECONDS)) if wait else desk.run(run))

    @app.post("/runs/{run}/cancel", status_code=202, tags=["runs"])
    def cancel(run: str) -> Response:
        """Ask for a run to be stopped."""
        return _Json(desk.cancel(run), 202)

    @app.post("/runs/{run}/retry", status_code=202, tags=["runs"])
    def retry(run: str) -> Response:
        """Open a new attempt of a failed or cancelled run."""
        return _Json(desk.retry(run), 202)

    @app.post("/runs/{run}/rerun", status_code=201, tags=["runs"])
    def rerun(run: str, body: Annotated[dict[str, Any] | None, Body()] = None) -> Response:
        """Open a new run on the same snapshot, linked to this one."""
        opened = desk.rerun(run, body or {})
        return _Json(opened, 201, headers={"Location": f"/runs/{opened['id']}"})

    @app.get("/runs/{run}/stream", tags=["runs"])
    def stream(run: str) -> StreamingResponse:
        """Follow a run as server-sent events, until it is final."""
        desk.run(run)
        return StreamingResponse(_facts(desk, run), media_type="text/event-stream")


def _facts(desk: Desk, run: str) -> Iterator[bytes]:
    after = 0
    while True:
        final = desk.run(run)["state"] in FINAL
        for fact in desk.facts(run, after):
            after = int(fact["number"])
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (after, str(fact["fact"]).encode(), msgspec.json.encode(fact))
        if final:
            return
        time.sleep(STREAM_SECONDS)


def _add_results(app: FastAPI, desk: Desk) -> None:
    @app.get("/runs/{run}/result", tags=["results"])
    def result(run: str, accept: Annotated[str, Header()] = "*/*", partial: bool = False) -> Response:
        """Download the result: JSON, CSV, Parquet or Arrow stream, by Accept; with `partial` what is done so far, which the header Hindscan-Incomplete tells."""
        name = media.choose(accept)
        if name is None:
            offered = ", ".join(media.MEDIA_TYPES.values())
            return Response(problem_bytes(406, f"Accept must allow one of {offered}."), 406, media_type=_PROBLEM)
        extension = "arrows" if name == "arrow" else name
        headers = {"Content-Disposition": f'attachment; filename="{run}.{extension}"'}
        if not partial:
            return StreamingResponse(
                media.encode(desk.result(run), name), media_type=media.MEDIA_TYPES[name], headers=headers
            )
        path, coverage = desk.partial(run)
        headers = {"Content-Disposition": f'attachment; filename="{run}.partial.{extension}"'}
        if coverage["incomplete"]:
            headers["Hindscan-Incomplete"] = ", ".join(
                f"{what}={coverage[f'{what}_done']}/{coverage[what]}" for what in ("slices", "rows")
            )
        return StreamingResponse(
            media.encode(path, name),
            media_type=media.MEDIA_TYPES[name],
            headers=headers,
            background=BackgroundTask(path.unlink, missing_ok=True),
        )

    @app.get("/runs/{run}/manifest", tags=["results"])
    def manifest(run: str) -> Response:
        """Show the manifest of the result."""
        return _Json(desk.manifest(run))


def _add_health(app: FastAPI, desk: Desk) -> None:
    @app.get("/healthz", tags=["health"])
    def healthz() -> Response:
        """Answer as long as the process lives."""
        return _Json({"status": "alive"})

    @app.get("/readyz", tags=["health"])
    def readyz() -> Response:
        """Tell whether events are taken and runs are worked on; 503 names what is wrong."""
        faults = desk.faults()
        return _Json({"status": "not ready" if faults else "ready", "faults": faults}, 503 if faults else 200)
