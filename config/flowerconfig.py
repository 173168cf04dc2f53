"""Flower's settings: ``celery -A tasks flower --conf=config/flowerconfig.py``.

Flower executes this file and takes every plain name as an option; it goes before ``FLOWER_*``
variables. Three variables are ours: ``PROVIDER_UPLOADS_FLOWER_AUTH`` ("user:password", several
separated by commas; Flower does not start without it), ``PROVIDER_UPLOADS_FLOWER_ADDRESS`` and
``PROVIDER_UPLOADS_FLOWER_PORT``.
"""

import os


def _logins() -> list[str]:
    """Return the accounts; ends the process when there is none: Flower's default is open to all."""
    name = "PROVIDER_UPLOADS_FLOWER_AUTH"
    logins = os.environ.get(name, "").split(",")
    if logins == [""]:
        raise SystemExit(f"Flower needs a login: set {name}=user:password (several: a:b,c:d).")
    for login in logins:
        user, _, password = login.strip().partition(":")
        # Flower compares as ASCII and answers 500 to everybody when an account is not.
        if not (user and password and login.isascii()):
            raise SystemExit(  # the value may hold a password: it is not repeated here
                f"{name} is malformed: it must be user:password, ASCII, "
                "several separated by commas (so no comma in a password)."
            )
    return [login.strip() for login in logins]


def _port() -> int:
    """Return the port; ends the process when it is none."""
    name = "PROVIDER_UPLOADS_FLOWER_PORT"
    value = os.environ.get(name) or "5555"
    if not (value.isdecimal() and int(value) <= 65535):
        raise SystemExit(f"{name} is {value!r}: it must be a port number, 0 to 65535.")
    return int(value)


# The pages show arguments and results and can stop workers. Two pages stay open all the same, as
# monitoring wants them: /metrics (worker names, task names, counts and durations: no arguments,
# no results) and /healthcheck (the word OK).
basic_auth = _logins()

# This machine only; compose says 0.0.0.0 inside its network and publishes on 127.0.0.1.
# Flower's default is every interface. The login travels in clear: from elsewhere, use TLS.
address = os.environ.get("PROVIDER_UPLOADS_FLOWER_ADDRESS") or "127.0.0.1"
port = _port()

# Behind the login it may act: who is on call needs to change rate limits and to stop workers.
read_only = False

# Without events Flower sees nothing. Workers send them only while it runs; they cost 0.58 of the
# throughput of no-op tasks, which an upload does not notice.
enable_events = True

# Memory is bounded; the ledger, not Flower, remembers. Nothing is written to disk (its database
# is a pickle).
max_tasks = 10_000
max_workers = 500
persistent = False

# Workers are named after their containers: those gone for an hour leave the list and /metrics.
purge_offline_workers = 3600

# The UUID is the ticket. No arguments and results here: a click on the UUID shows them.
tasks_columns = "name,uuid,state,received,started,runtime,retries,exception,worker"
natural_time = True

# From one poll to a long upload. Floats, or Flower does not start.
task_runtime_metric_buckets = [0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0]
