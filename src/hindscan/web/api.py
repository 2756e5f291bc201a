"""The HTTP API: paths and methods of `docs/design.md` section 5, each a translation of one call to the `Desk`.

Events are durable before the answer is sent (promise 4): 202 says that they and their runs are in the store. What cannot be
parsed is refused with every fault, a batch as a whole, and not stored (promise 5). Every error is a problem document. No user code runs here (promise 12).
Whoever waits for a run or follows it takes no thread from those who send events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec
from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from hindscan.errors import HindscanError
from hindscan.runs.run import FINAL
from hindscan.web import media, metrics
from hindscan.web.body import ANYTHING, AUDIT, DOCUMENT, EVENTS, REPLAY, json_object
from hindscan.web.desk import Desk
from hindscan.web.front import refused_origin
from hindscan.web.problem import SCHEMA, challenge_of, problem_bytes, problem_of
from hindscan.web.webhook import Webhooks

__all__ = ["build_api"]

#: The longest that GET /runs/ID?wait= holds a request.
MAX_WAIT_SECONDS = 60.0
#: How often a request that waits for a run looks at it, and the stream of a run for new facts.
LOOK_SECONDS = 0.05
STREAM_SECONDS = 0.25

_PROBLEM: Final = "application/problem+json"
#: What every path may answer besides what it says itself.
_REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    "default": {"description": "A problem document (RFC 9457).", "content": {_PROBLEM: {"schema": SCHEMA}}}
}
_Document = Annotated[dict[str, Any], Depends(json_object)]


def _content(*media_types: str) -> dict[str, Any]:
    return {"description": "As asked for.", "content": {media_type: {} for media_type in media_types}}


_SAME: Final = {"description": "The run that this key opened before.", "content": {"application/json": {}}}


class _Json(JSONResponse):
    """JSON by the same encoder as everywhere."""

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


def build_api(desk: Desk, version: str, webhooks: Webhooks | None = None) -> FastAPI:
    """Build the API: what the front hands on.

    Parameters
    ----------
    desk : Desk
        The dispatcher.
    version : str
        Of hindscan, for the OpenAPI document.
    webhooks : Webhooks, optional
        Who may send events. Default: whoever reaches this server.
    """
    app = FastAPI(
        title="hindscan",
        version=version,
        docs_url=None,
        redoc_url=None,
        default_response_class=_Json,
        responses=_REFUSALS,
    )
    _add_errors(app)
    _add_events(app, desk, webhooks or Webhooks())
    _add_past(app, desk)
    _add_declared(app, desk)
    _add_runs(app, desk)
    _add_results(app, desk)
    _add_health(app, desk)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(HindscanError)
    async def hindscan_error(_: Request, error: HindscanError) -> Response:
        challenge = challenge_of(error)
        headers = None if challenge is None else {"WWW-Authenticate": challenge}
        return Response(problem_of(error), error.status, media_type=_PROBLEM, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid_request(_: Request, error: RequestValidationError) -> Response:
        faults = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        return Response(
            problem_bytes(422, "; ".join(faults), faults=faults, error="UsageError"), 422, media_type=_PROBLEM
        )

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        body = problem_bytes(error.status_code, str(error.detail))
        return Response(body, error.status_code, media_type=_PROBLEM, headers=error.headers)

    @app.exception_handler(Exception)
    async def bug(_: Request, __: Exception) -> Response:
        return Response(problem_bytes(500, "An internal error; the log has it."), 500, media_type=_PROBLEM)


_Origin = Annotated[str | None, Header(alias="WebHook-Request-Origin")]


def _add_events(app: FastAPI, desk: Desk, webhooks: Webhooks) -> None:
    @app.post("/events", status_code=202, tags=["events"], openapi_extra=EVENTS)
    async def receive(_origin: _Origin = None) -> Response:
        """Take CloudEvents: binary, structured or batched; signed, where webhook secrets are set."""
        raise AssertionError("the front has taken it; here it is described only")

    @app.post("/triggers/{trigger}/events", status_code=202, tags=["events"], openapi_extra=ANYTHING)
    async def receive_body(trigger: str, request: Request, _origin: _Origin = None) -> Response:
        """Take a body that is no CloudEvent, as this trigger declares it; signed, where webhook secrets are set."""
        refusal = refused_origin(webhooks, request.headers.raw)
        if refusal is not None:
            raise HTTPException(403, refusal)
        body = await request.body()
        webhooks.check(request.headers.raw, body, time.time(), cloudevents=False)
        return _Json(await run_in_threadpool(desk.receive_body, trigger, body), 202)

    @app.options("/events", tags=["events"], response_class=Response)
    def handshake(origin: Annotated[str | None, Header(alias="WebHook-Request-Origin")] = None) -> Response:
        """Answer the validation handshake of CloudEvents webhooks: a sender that is let in is named in WebHook-Allowed-Origin."""
        headers = {"Allow": "GET, OPTIONS, POST"}
        if origin is not None and webhooks.allows(origin):
            # "If and only if the delivery target does allow delivery of the events, it MUST reply to the request by including the
            # `WebHook-Allowed-Origin` and `WebHook-Allowed-Rate` headers." The asterisk: no limit of the rate.
            headers |= {"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": "*"}
        return Response(headers=headers)

    @app.get("/events", tags=["events"])
    def list_events(quarantined: bool = False, limit: Annotated[int, Query(ge=1, le=10_000)] = 100) -> Response:
        """List received events, what matched and why not."""
        return _Json({"events": desk.events(quarantined, limit)})

    @app.post("/events/redrive", status_code=202, tags=["events"])
    def redrive_all(trigger: str | None = None) -> Response:
        """Decide once more about all that is in quarantine, or all that one trigger could not decide."""
        return _Json({"redriven": desk.redrive(None, None, trigger)}, 202)

    @app.post("/events/{event:path}/redrive", status_code=202, tags=["events"])
    def redrive(event: str, source: str | None = None) -> Response:
        """Decide once more about one event in quarantine, by its handle (event:12, record:5), id, or place in a topic."""
        return _Json({"redriven": desk.redrive(event, source, None)}, 202)


def _add_past(app: FastAPI, desk: Desk) -> None:
    @app.post("/triggers/{trigger}/replays", status_code=202, tags=["events"], openapi_extra=REPLAY)
    def begin_replay(trigger: str, body: _Document) -> Response:
        """Begin to put past events through a trigger again; Location shows how far it is. Of one name each event is replayed once."""
        begun = desk.begin_replay(trigger, body)
        place = f"/triggers/{quote(trigger, safe='')}/replays/{quote(begun['replay'], safe='')}"
        return _Json(begun, 202, headers={"Location": place})

    @app.get("/triggers/{trigger}/replays/{name}", tags=["events"])
    def replay(trigger: str, name: str) -> Response:
        """Show a replay: whether it is under way, and what it has decided."""
        return _Json(desk.replay(trigger, name))

    @app.post("/triggers/{trigger}/audits", status_code=202, tags=["events"], openapi_extra=AUDIT)
    def begin_audit(trigger: str, body: _Document) -> Response:
        """Begin to hold a trigger's sources against the store; Location shows what is found. With `repair` what is missing is submitted."""
        begun = desk.begin_audit(trigger, body)
        place = f"/triggers/{quote(trigger, safe='')}/audits/{begun['audit']}"
        return _Json(begun, 202, headers={"Location": place})

    @app.get("/triggers/{trigger}/audits/{name}", tags=["events"])
    def audit(trigger: str, name: str) -> Response:
        """Show an audit: whether it is under way, and what it found."""
        return _Json(desk.audit(trigger, name))


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
    @app.post("/jobs/{name}/runs", status_code=201, tags=["runs"], responses={200: _SAME}, openapi_extra=DOCUMENT)
    def submit(
        name: str,
        body: _Document,
        request: Request,
        key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)] = None,
    ) -> Response:
        """Open a run; the same Idempotency-Key with the same body gives the same run (200), with another body it is refused (409)."""
        run, new = desk.submit(name, body, key, _asker(request))
        return _Json(run, 201 if new else 200, headers={"Location": f"/runs/{run['id']}"})

    @app.get("/runs", tags=["runs"])
    def runs(
        job: str | None = None, state: str | None = None, limit: Annotated[int, Query(ge=1, le=10_000)] = 100
    ) -> Response:
        """List runs, newest first."""
        return _Json({"runs": desk.runs(job, state, limit)})

    @app.get("/runs/{run}", tags=["runs"])
    async def show(
        request: Request, run: str, wait: Annotated[float, Query(ge=0, allow_inf_nan=False)] = 0.0
    ) -> Response:
        """Show one run; with `wait`, when it is final or after so many seconds, 60 at most."""
        deadline = time.monotonic() + min(wait, MAX_WAIT_SECONDS)
        while (found := await run_in_threadpool(desk.run, run))["state"] not in FINAL and time.monotonic() < deadline:
            if await request.is_disconnected():
                break
            await asyncio.sleep(LOOK_SECONDS)
        return _Json(found)

    @app.post("/runs/{run}/cancel", status_code=202, tags=["runs"])
    def cancel(run: str) -> Response:
        """Ask for a run to be stopped."""
        return _Json(desk.cancel(run), 202)

    @app.post("/runs/{run}/retry", status_code=202, tags=["runs"])
    def retry(run: str) -> Response:
        """Open a new attempt of a failed or cancelled run."""
        return _Json(desk.retry(run), 202)

    @app.post("/runs/{run}/rerun", status_code=201, tags=["runs"], openapi_extra=DOCUMENT)
    def rerun(run: str, body: _Document, request: Request) -> Response:
        """Open a new run on the same snapshot, linked to this one."""
        opened = desk.rerun(run, body, _asker(request))
        return _Json(opened, 201, headers={"Location": f"/runs/{opened['id']}"})

    @app.get(
        "/runs/{run}/stream",
        tags=["runs"],
        response_class=StreamingResponse,
        responses={200: _content("text/event-stream")},
    )
    async def stream(run: str) -> StreamingResponse:
        """Follow a run as server-sent events, until it is final."""
        await run_in_threadpool(desk.run, run)
        return StreamingResponse(_facts(desk, run), media_type="text/event-stream")


def _asker(request: Request) -> str:
    """Say who asked: the address at the other end of the connection, whatever headers say."""
    return f"http:{request.client.host if request.client else 'unknown'}"


async def _facts(desk: Desk, run: str) -> AsyncIterator[bytes]:
    after = 0
    while True:
        final = (await run_in_threadpool(desk.run, run))["state"] in FINAL
        for fact in await run_in_threadpool(desk.facts, run, after):
            after = int(fact["number"])
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (after, str(fact["fact"]).encode(), msgspec.json.encode(fact))
        if final:
            return
        await asyncio.sleep(STREAM_SECONDS)


def _add_results(app: FastAPI, desk: Desk) -> None:
    @app.get(
        "/runs/{run}/result",
        tags=["results"],
        response_class=StreamingResponse,
        responses={200: _content(*media.MEDIA_TYPES.values())},
    )
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

    @app.get("/metrics", tags=["health"], response_class=Response, responses={200: _content(*metrics.MEDIA_TYPES)})
    def measured(accept: Annotated[str, Header()] = "*/*") -> Response:
        """Give the figures to Prometheus: its text format, or OpenMetrics, by Accept."""
        text, media_type = metrics.exposition(desk.figures(), accept)
        return Response(text, headers={"Content-Type": media_type})

    @app.get("/readyz", tags=["health"], responses={503: _content("application/json")})
    def readyz() -> Response:
        """Tell whether events are taken and runs are worked on; 503 names what is wrong."""
        faults = desk.faults()
        return _Json(
            {"status": "not ready" if faults else "ready", "faults": faults, "notes": desk.notes()},
            503 if faults else 200,
        )
