"""A plain form, and a page that follows what it sent."""

import secrets

from django.http import StreamingHttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from provider_uploads import AsyncUploadQueue
from provider_uploads.errors import UnknownTicketError
from provider_uploads.web import SSE_HEADERS, public, sse

queue = AsyncUploadQueue()


def user(request):
    """Return who this is: your login knows; here every browser is somebody of its own."""
    return request.session.setdefault("user", secrets.token_urlsafe(16))


async def own(tickets, request):
    """Return the statuses of the user's uploads; those of others are not there."""
    statuses = await queue.statuses(tickets)
    for status in statuses:
        if status.owner != user(request):
            raise UnknownTicketError(status.ticket)
    return statuses


@require_GET
async def page(request):
    """Show the form, and what the user has uploaded."""
    found = [public(one) for one in (await queue.list(owner=user(request))).uploads]
    living = [one["ticket"] for one in found if not one["ended"]]
    return render(request, "index.html", {"uploads": found, "living": living})


@require_POST
async def upload(request):
    """Take the form's files."""
    for file in request.FILES.getlist("file"):
        await queue.submit_stream(file, owner=user(request), max_bytes=100_000_000, poll_s=0.5)
    return redirect("/")


@require_POST
async def cancel(request, ticket):
    """Stop an upload."""
    await own([ticket], request)
    await queue.cancel(ticket)
    return redirect("/")


@require_GET
async def events(request):
    """Tell of every change; no thread waits meanwhile."""
    tickets = request.GET.getlist("ticket")
    await own(tickets, request)
    changes = queue.events(tickets, heartbeat_s=15)
    frames = sse(changes, last_event_id=request.headers.get("Last-Event-ID"))
    return StreamingHttpResponse(frames, headers=SSE_HEADERS)
