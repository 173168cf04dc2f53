"""A shop's own Celery app: uploads are steps of its chains and chords.

Its broker is database 1 of the Redis at SHOP_REDIS (redis://127.0.0.1:6379); ours are untouched.
"""

import os

from celery import Celery, chain, chord

from provider_uploads import canvas

redis = os.environ.get("SHOP_REDIS", "redis://127.0.0.1:6379")
app = Celery(
    "shop",
    broker=f"{redis}/1",
    backend=f"{redis}/1",
    include=["provider_uploads.canvas"],
)
app.conf.task_default_queue = "shop"


@app.task
def receipt(path):
    """Make a file, and return where it is: what stands before an upload in a chain."""
    return path


@app.task
def describe(upload):
    """Say what came of one upload: an UploadResult as a dictionary."""
    return f"{upload['display_name']} is {upload['state']} as {upload['id'].split('-')[0]}…"


@app.task
def total(uploads):
    """Add up a chord of uploads."""
    return f"{len(uploads)} files, {sum(upload['size_bytes'] for upload in uploads)} bytes"


@app.task
def failed(request, error, traceback):
    """What an upload raised: Celery's way to call a link_error."""
    print(f"{request.id}: {type(error).__name__}: {error}", flush=True)


@app.task
def told(outcome, order):
    """A callback of an upload that nobody waits for."""
    return f"order {order}: {outcome['display_name']} is {outcome.get('state', 'not ACTIVE')}"


def upload_and_describe(path):
    """A chain: our worker uploads, the shop's worker describes."""
    return chain(canvas.upload(path, broker="shop"), describe.s()).apply_async(
        link_error=failed.s()
    )


def upload_all(paths):
    """A chord: the shop's worker adds up once all files are ACTIVE."""
    return chord(canvas.upload(path, broker="shop") for path in paths)(total.s())


def ask_about(paths, prompt):
    """A chord whose body is a question over all of its files."""
    return chord(canvas.upload(path, broker="shop") for path in paths)(
        canvas.ask(prompt, None, broker="shop")
    )
