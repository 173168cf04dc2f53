"""A message whose successor cannot be published is kept."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.nodes import ROOT, RedisProcess, free_port


def run(code: str, redis_url: str) -> None:
    """Run ``code`` where ``tasks`` can be imported, in a process of its own as a worker is."""
    env = {**os.environ, "PROVIDER_UPLOADS_REDIS_URL": redis_url}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("task", ["poll.poll_until_active", "delete.delete_on_timeout"])
def test_coming_back_without_redis_keeps_the_message(task: str) -> None:
    """Celery rejects a message whose retry it could not publish, and drops it."""
    module, name = task.split(".")
    run(
        "from celery.exceptions import Reject\n"
        f"from tasks.{module} import {name} as task\n"
        "from tasks.outcomes import retry_later\n"
        "task.push_request(id='one', args=('one',), kwargs={}, called_directly=False)\n"
        "try:\n"
        "    retry_later(task, 1.0)\n"
        "except Reject as error:\n"
        "    assert error.requeue\n"
        "else:\n"
        "    raise AssertionError('published without Redis')\n",
        f"redis://127.0.0.1:{free_port()}/0",
    )


def test_a_connection_closed_under_a_publication_is_an_operational_error(
    shared_redis: RedisProcess,
) -> None:
    """kombu raises AttributeError there, which ended the upload as a fault of ours."""
    run(
        "from kombu.exceptions import OperationalError\n"
        "from provider_uploads import messages\n"
        "from tasks.celery import app\n"
        "producer = app.amqp.Producer(app.connection_for_write(), auto_declare=False)\n"
        "producer.channel.connection = None  # as kombu leaves it\n"
        "message = messages.delete_signature(app, 'one')\n"
        "try:\n"
        "    message.apply_async(producer=producer)\n"
        "except OperationalError:\n"
        "    pass\n"
        "else:\n"
        "    raise AssertionError('published on a closed connection')\n",
        shared_redis.url,
    )
