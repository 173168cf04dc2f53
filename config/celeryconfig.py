"""Celery's settings for our workers, each with its reason."""

from kombu import Exchange, Queue

from config.policy import policy
from config.tiers import TASKS, tier_of
from provider_uploads import protocol
from provider_uploads.fleet.queues import transfer_queues
from provider_uploads.profiles import DEFAULT_PROFILE
from provider_uploads.protocol import KEPT_S
from provider_uploads.settings import celery_url, settings

broker_url = celery_url(settings().redis_url)
# Celery's own, but for what it writes needlessly.
result_backend = f"provider_uploads.fleet.results:Results+{broker_url}"

# Results live as long as the provider keeps the file.
result_expires = KEPT_S

# JSON only; a message in anything else is refused.
accept_content = ["json"]
task_serializer = "json"
result_serializer = "json"
result_extended = False  # arguments stay out of the result rows

# A plain `celery -A tasks worker` serves all queues; a fleet runs `-Q transfer` and `-Q control`
# apart, because a pool full of long uploads makes a poll wait for a slot. With `-Q transfer` come
# the transfer queues of all profiles that a worker knows (tasks/fleet.py).
_profiles = {DEFAULT_PROFILE, *settings().profiles}
task_queues = [
    Queue(name, Exchange(name), routing_key=name)
    for name in (*transfer_queues(_profiles), protocol.CONTROL_QUEUE)
]
task_default_queue = protocol.CONTROL_QUEUE
task_create_missing_queues = False  # a misspelt queue is an error, not a queue that nobody serves
task_routes = {
    protocol.UPLOAD: {"queue": protocol.TRANSFER_QUEUE},
    protocol.GENERATE: {
        "queue": protocol.transfer_queue("default", protocol.PriorityQueue.QUESTIONS)
    },
    protocol.CREATE_BATCH: {"queue": protocol.TRANSFER_QUEUE},
    protocol.COLLECT_BATCH: {"queue": protocol.TRANSFER_QUEUE},
    protocol.POLL_BATCH: {"queue": protocol.CONTROL_QUEUE},
    protocol.CLEAN_UP_BATCH: {"queue": protocol.CONTROL_QUEUE},
    protocol.POLL: {"queue": protocol.CONTROL_QUEUE},
    protocol.DELETE: {"queue": protocol.CONTROL_QUEUE},
    protocol.INGEST: {"queue": protocol.CONTROL_QUEUE},
    protocol.UNSTAGE: {"queue": protocol.CONTROL_QUEUE},
    protocol.NOTIFY: {"queue": protocol.CONTROL_QUEUE},
    protocol.SWEEP: {"queue": protocol.CONTROL_QUEUE},
}

# `celery -A tasks beat`, once in a fleet; a second one does no harm. A sweep that no worker took
# before the next one is due is dropped.
beat_schedule = {
    "sweep": {
        "task": protocol.SWEEP,
        "schedule": policy.sweep_every_s,
        "options": {"expires": policy.sweep_every_s},
    },
    "sweep-at-provider": {
        "task": protocol.SWEEP,
        "schedule": policy.sweep_provider_every_s,
        "kwargs": {"at_provider": True},
        "options": {"expires": policy.sweep_provider_every_s},
    },
}

# The tier's rates, as Celery's own attribute: Flower and `inspect registered` show them, and
# `celery control rate_limit` changes them. provider_uploads.fleet.limits enforces them for the
# whole fleet. Celery's own enforcement is off: it is per worker, and under a backlog it collapses
# to about one task a second (celery#5927).
task_annotations = {
    name: {"rate_limit": tier_of(DEFAULT_PROFILE).rate(work)} for work, name in TASKS.items()
}
worker_disable_rate_limits = True

# A message is done when its work is done: a worker that dies gives it back.
task_acks_late = True
task_reject_on_worker_lost = True
# One message per slot in advance. Not worker_disable_prefetch: on threads a freed slot would be
# noticed only at the next poll (measured: up to four times slower).
worker_prefetch_multiplier = 1
# worker_eta_task_limit stays unset: at the limit a worker stops consuming altogether.

# The work is I/O: threads share one connection pool and one SDK client.
worker_pool = "threads"
worker_concurrency = tier_of(DEFAULT_PROFILE).transfer_concurrency

# Nothing that stands in a queue may stop a worker (so, too, provider_uploads.fleet.transport).
worker_consumer = "tasks.consumer:Consumer"
# What Redis refuses, as a full one refuses writes, is waited out like a lost connection.
broker_channel_error_retry = True

_transport = {
    # Ours alone: see protocol.KEY_PREFIX.
    "global_keyprefix": protocol.KEY_PREFIX,
    # "The worker is dead", not "the task is long": living workers renew what they hold
    # (provider_uploads.fleet.keepalive).
    "visibility_timeout": policy.visibility_timeout_s,
    "unacked_restore_interval": policy.restore_every_s,
    "unacked_restore_throttle": 1,
    # One worker at a time checks. One that is killed meanwhile must not block the others for
    # kombu's five minutes; two at once do no harm, each message is moved in a transaction.
    "unacked_mutex_expire": policy.restore_every_s,
    # From all queues in turn, without those whose tasks only wait for permits.
    "queue_order_strategy": "provider_uploads.fleet.queue_cycle:QueueCycle",
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
    "health_check_interval": 25,
}
broker_transport_options = _transport
redis_socket_timeout = 10  # the result backend's default is 120 s
redis_socket_connect_timeout = 5

broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # workers wait for Redis as long as it takes
worker_cancel_long_running_tasks_on_connection_loss = False  # threads cannot be cancelled

# Flower switches events on when it runs; they cost 0.58 of the throughput of no-op tasks.
worker_send_task_events = False
# Arguments in events and logs are references, and short.
task_repr_maxlevels = 2

timezone = "UTC"
