"""Uploads in a Flask app: a plain form, and a page that follows what it sent."""

import os
import secrets

from flask import Flask, Response, redirect, render_template, request, session, url_for

from provider_uploads import ProviderUploadsError, UploadQueue
from provider_uploads.errors import UnknownTicketError
from provider_uploads.web import SSE_HEADERS, problem, public, sse

app = Flask(__name__, template_folder=".")
app.secret_key = os.environ.get("SECRET_KEY") or secrets.token_bytes(32)
app.config["MAX_CONTENT_LENGTH"] = 500_000_000

queue = UploadQueue()


@app.errorhandler(ProviderUploadsError)
def explain(error):
    """Answer with what went wrong, in words; what users cannot mend is for the log."""
    answer = problem(error)
    if answer.status >= 500:
        app.logger.error("%s", error)
    return answer


def user():
    """Return who this is: your login knows; here every browser is somebody of its own."""
    return session.setdefault("user", secrets.token_urlsafe(16))


def own(tickets):
    """Return the statuses of the user's uploads; those of others are not there."""
    statuses = queue.statuses(tickets)
    for status in statuses:
        if status.owner != user():
            raise UnknownTicketError(status.ticket)
    return statuses


@app.get("/")
def page():
    """Show the form, and what the user has uploaded."""
    found = [public(status) for status in queue.list(owner=user()).uploads]
    living = [one["ticket"] for one in found if not one["ended"]]
    return render_template("index.html", uploads=found, living=living)


@app.post("/uploads")
def upload():
    """Take the form's files."""
    for file in request.files.getlist("file"):
        if file.filename:
            queue.submit_stream(file, owner=user(), max_bytes=100_000_000, poll_s=0.5)
    return redirect(url_for("page"), 303)


@app.post("/uploads/<ticket>/cancel")
def cancel(ticket):
    """Stop an upload."""
    own([ticket])
    queue.cancel(ticket)
    return redirect(url_for("page"), 303)


@app.get("/events")
def events():
    """Tell of every change; a thread of the server waits until the browser leaves."""
    tickets = request.args.getlist("ticket")
    own(tickets)
    changes = queue.events(tickets, heartbeat_s=5)
    frames = sse(changes, last_event_id=request.headers.get("Last-Event-ID"))
    return Response(frames, headers=SSE_HEADERS)
