"""One HTTP request on its way through the service: its body, its faults, its answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from provider_uploads.emulator.config import Operation
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import (
    ApiError,
    ClientGoneError,
    HangUpError,
    bad_key,
    error_reply,
    internal,
    invalid_argument,
    no_key,
)
from provider_uploads.emulator.fault_kinds import AtAnswer, AtBytes, FaultPoint, Moment, Trait
from provider_uploads.emulator.faults import Fault
from provider_uploads.emulator.files import StoredFile
from provider_uploads.emulator.json_text import parse_json
from provider_uploads.emulator.messages import Message
from provider_uploads.emulator.sessions import HangUp, UploadSession


def project_key_of(engine: Engine, request: Request) -> str:
    """The API key, which stands for its project; 403 without one, 400 if it is not known.

    Where any key will do, a bearer token will too: it stands for the project it names.
    """
    key = request.headers.get("x-goog-api-key") or request.query_params.get("key")
    accepted = engine.config.api_keys
    if key:
        if accepted and key not in accepted:
            raise bad_key()
        return key
    token = bearer_token(request)
    if token is None or accepted:
        raise no_key()
    return f"bearer:{request.headers.get('x-goog-user-project') or token}"


def bearer_token(request: Request) -> str | None:
    """The OAuth token a request carries; nobody here can tell whether it is a good one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return (token.strip() or None) if scheme.lower() == "bearer" else None


# Put into the ASGI state by server.py: the connection's way to be closed with a TCP reset, and
# the event that says it is closed.
HANG_UP = "hang_up"
CLOSED = "closed"

_MAX_JSON_BYTES = 1024 * 1024


def base_url_of(request: Request) -> str:
    """``scheme://host`` as the client, or the proxy in front of us, sees it."""
    scheme = request.headers.get("x-forwarded-proto", request.url.scheme)
    host = request.headers.get("host") or request.url.netloc
    return f"{scheme.split(',')[0].strip()}://{host}"


class Call:
    """A request for one operation."""

    def __init__(self, engine: Engine, request: Request, operation: Operation) -> None:
        self.engine = engine
        self.request = request
        self.operation = operation
        # What goes wrong with this request, and with the file it makes.
        self.fault: Fault | None = None
        self.file_fault: Fault | None = None
        # Whose quota a request uses that carries no key, but names a session.
        self.project: str | None = None
        self._body_ended = False
        self._arrived_bytes = 0
        self._session: UploadSession | None = None

    @property
    def base_url(self) -> str:
        """``scheme://host`` as the client, or the proxy in front of us, sees it."""
        return base_url_of(self.request)

    @property
    def hang_up(self) -> HangUp | None:
        """Closes the connection with a TCP reset; None under a server that is not ours."""
        return self._state.get(HANG_UP)

    @property
    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.request.scope.get("state", {})
        return state

    def owner(self) -> str:
        """The API key, which stands for its project; 403 without one, 400 if it is not known."""
        return project_key_of(self.engine, self.request)

    @property
    def content_length(self) -> int | None:
        """How long the body is, if the client says it beforehand."""
        value = self.request.headers.get("content-length")
        return None if value is None else int(value)

    async def apply_faults(self, labels: Sequence[str] = (), traits: Trait = Trait.NONE) -> None:
        """429 if the quota is used up; let strike what was ordered.

        What waits for bytes, for the file or for the answer stays with the call.

        Uploads stall only once they have their session to themselves: a client that has lost its
        patience then finds it as ``UploadSession.turn`` promises.
        """
        project = self.project
        if project is None:
            with contextlib.suppress(ApiError):
                project = self.owner()
        self.engine.use_quota(self.operation, project or "")
        fault_point = FaultPoint(
            operation=self.operation,
            labels=tuple(labels),
            traits=traits,
            length_bytes=self.content_length,
        )
        fault = self.fault = self.engine.strike(fault_point)
        if fault is None:
            return
        if fault.refusal is not None:
            raise fault.refusal
        if fault.rule.at_bytes is AtBytes.HANG_UP and not fault.after_bytes:
            raise HangUpError
        if fault.rule.at_bytes is AtBytes.STALL and self.operation is not Operation.UPLOAD:
            await self.stall(fault.pause_s)

    def apply_file_fault(self, labels: Sequence[str], named: bool) -> Fault | None:
        """What goes wrong with the file this request makes."""
        if self.fault is not None and self.fault.rule.moment is Moment.FILE:
            self.file_fault = self.fault  # a mix has chosen when the request came in
        else:
            traits = Trait.FINISHES | Trait.NAMED if named else Trait.FINISHES
            self.file_fault = self.engine.strike(
                FaultPoint(
                    operation=self.operation,
                    labels=tuple(labels),
                    traits=traits,
                    moment=Moment.FILE,
                )
            )
        return self.file_fault

    async def with_answer_faults(self, reply: Response) -> Response:
        """Let strike what was kept for the answer."""
        faults = [self.file_fault] if self.file_fault else []
        if self.fault is not None and self.fault.rule.moment is Moment.REQUEST:
            faults.append(self.fault)
        for fault in faults:
            rule = fault.rule
            if rule.at_answer is AtAnswer.HANG_UP:
                raise HangUpError
            if rule.at_answer is AtAnswer.STALL:
                await self.stall(fault.pause_s)
            if rule.corrupt is not None:
                reply.body = rule.corrupt(bytes(reply.body))
                reply.headers["content-length"] = str(len(reply.body))
        return reply

    def finish(self, session: UploadSession) -> StoredFile:
        """Make the file out of a complete session."""
        return self.engine.finish_session(session, apply_fault=self.apply_file_fault)

    def brings_bytes_for(self, session: UploadSession) -> None:
        """Count this request and its bytes, also those that are here already, for an upload."""
        self._session = session
        upload = self.engine.counters.upload(session)
        upload.requests += 1
        upload.received_bytes += self._arrived_bytes

    def _count(self, length_bytes: int) -> None:
        self._arrived_bytes += length_bytes
        counters = self.engine.counters
        counters.received_bytes += length_bytes
        if self._session is not None:
            counters.upload(self._session).received_bytes += length_bytes

    async def blocks(self) -> AsyncIterator[bytes]:
        """The body as it arrives; ClientGoneError if it ends too early."""
        bandwidth = self.engine.config.bandwidth_mib_s
        while not self._body_ended:
            message = await self.request.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            block: bytes = message.get("body", b"")
            self._body_ended = not message.get("more_body", False)
            if self.operation is Operation.UPLOAD:
                self._count(len(block))
            if block:
                yield block
            if bandwidth and self.operation is Operation.UPLOAD:
                # Not reading is what slows a sender down, once the buffers in between are full.
                await self.pause(len(block) / (bandwidth * 1024 * 1024))

    async def pause(self, seconds: float) -> None:
        """Let time pass, but not the end of the server."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.engine.stopping.wait(), seconds)

    async def stall(self, seconds: float) -> None:
        """Neither read nor answer for a while; ClientGoneError if the connection ends first."""
        closed: asyncio.Event | None = self._state.get(CLOSED)
        waits = [asyncio.ensure_future(self.engine.stopping.wait())]
        if closed is not None:
            waits.append(asyncio.ensure_future(closed.wait()))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if closed is not None and closed.is_set():
            raise ClientGoneError

    async def json(self, max_bytes: int = _MAX_JSON_BYTES) -> Any:
        """The body as JSON, ``{}`` if there is none; 400 if it is none the service reads."""
        body = bytearray()
        too_large = f"Request payload size exceeds the limit: {max_bytes} bytes."
        if (self.content_length or 0) > max_bytes:
            raise invalid_argument(too_large)
        async for block in self.blocks():
            body += block
            if len(body) > max_bytes:
                raise invalid_argument(too_large)
        return parse_json(body)

    async def parse(self, message: Message, max_bytes: int = _MAX_JSON_BYTES) -> dict[str, Any]:
        """The body as one of the API's messages; 400 with all that is wrong with it."""
        return message.parse(await self.json(max_bytes))

    async def drain(self) -> int:
        """Take what is left of the body, returned is how much that was.

        A client that still sends would not read the answer.
        """
        taken_bytes = 0
        async for block in self.blocks():
            taken_bytes += len(block)
            if taken_bytes > self.engine.config.max_file_bytes:
                break
        return taken_bytes

    def resource(self, file: StoredFile) -> dict[str, Any]:
        """The File resource for this client."""
        return self.engine.resource(file, self.base_url)


Handler = Callable[[Call], Awaitable[Response]]

# A path, an HTTP method, and what answers there.
Endpoint = tuple[str, str, Callable[[Engine, Request], Awaitable[Response]]]


async def answer(
    engine: Engine, request: Request, operation: Operation, handler: Handler
) -> Response:
    """Handle one request: count it, add the latency, turn refusals into answers."""
    call = Call(engine, request, operation)
    engine.counters.request(operation)
    try:
        try:
            reply = await handler(call)
        except ApiError as error:
            await call.drain()
            reply = error_reply(error)
        reply = await call.with_answer_faults(reply)
    except ClientGoneError:
        engine.counters.answers[operation]["disconnected"] += 1
        return Response(status_code=499)  # nobody reads it
    except HangUpError:
        engine.counters.answers[operation]["reset"] += 1
        return await _hang_up(call)
    except Exception:
        engine.counters.answers[operation]["500"] += 1
        raise
    engine.counters.answers[operation][str(reply.status_code)] += 1
    if engine.config.latency_ms:
        await call.pause(engine.config.latency_ms / 1000)
    return reply


async def _hang_up(call: Call) -> Response:
    if call.hang_up is None:
        # Any ASGI server can run the app, but only ours lends its connections.
        return error_reply(internal())
    call.hang_up()
    while (await call.request.receive())["type"] != "http.disconnect":
        pass
    return Response(status_code=499)  # nobody reads it
