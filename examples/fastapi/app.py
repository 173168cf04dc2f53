"""Uploads in a FastAPI app: drop files, watch them, cancel one, ask a question over the rest."""

import logging
import os
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_urlsafe
from typing import Annotated

from fastapi import Cookie, FastAPI, Form, Header, Query, Response, UploadFile
from fastapi.responses import FileResponse, StreamingResponse

from provider_uploads import AsyncUploadQueue, ProviderUploadsError
from provider_uploads.errors import UnknownTicketError
from provider_uploads.web import SSE_HEADERS, problem, public, sse

MAX_BYTES = int(os.environ.get("MAX_BYTES", 100_000_000))

log = logging.getLogger("uvicorn.error")
queue = AsyncUploadQueue()

#: Who somebody is, your login knows; here every browser is somebody of its own.
User = Annotated[str, Cookie()]
Tickets = Annotated[list[str], Query(alias="ticket")]


@asynccontextmanager
async def lifespan(app):
    """Close the queue with the app."""
    yield
    await queue.close()


app = FastAPI(lifespan=lifespan)


@app.exception_handler(ProviderUploadsError)
async def explain(request, error):
    """Answer with what went wrong, in words; what users cannot mend is for the log."""
    answer = problem(error)
    if answer.status >= 500:
        log.error("%s", error)
    return Response(*answer)


async def own(tickets, user):
    """Return the statuses of a user's uploads; those of others are not there."""
    statuses = await queue.statuses(tickets)
    for status in statuses:
        if status.owner != user:
            raise UnknownTicketError(status.ticket)
    return statuses


@app.get("/")
async def page(user: Annotated[str | None, Cookie()] = None):
    """Send the page, and a name for whoever has none."""
    response = FileResponse(Path(__file__).with_name("index.html"))
    if user is None:
        response.set_cookie("user", token_urlsafe(16), httponly=True, samesite="strict")
    return response


@app.post("/uploads", status_code=202)
async def upload(file: UploadFile, user: User):
    """Take a file."""
    ticket = await queue.submit_stream(file, owner=user, max_bytes=MAX_BYTES, poll_s=0.5)
    return public(await queue.status(ticket))


@app.get("/uploads")
async def uploads(user: User):
    """List what a user has uploaded, the oldest first."""
    found = await queue.list(owner=user)
    return [public(status) for status in reversed(found.uploads)]


@app.delete("/uploads/{ticket}")
async def cancel(ticket: str, user: User):
    """Stop an upload."""
    await own([ticket], user)
    await queue.cancel(ticket)
    return public(await queue.status(ticket))


@app.get("/events")
async def events(
    tickets: Tickets, user: User, last_event_id: Annotated[str | None, Header()] = None
):
    """Tell of every change."""
    await own(tickets, user)
    changes = queue.events(tickets, heartbeat_s=15)
    return StreamingResponse(sse(changes, last_event_id=last_event_id), headers=SSE_HEADERS)


@app.post("/questions", status_code=202)
async def ask(prompt: Annotated[str, Form()], ticket: Annotated[list[str], Form()], user: User):
    """Ask a question over a user's uploads."""
    await own(ticket, user)
    return {"question": await queue.ask(prompt, tickets=ticket)}


@app.get("/questions/{question}")
async def answer(question: str, user: User):
    """Wait a while for the answer; a 504 says to ask again."""
    await own((await queue.question(question)).uploads, user)
    return {"text": (await queue.answer(question, timeout_s=20)).text}
