"""How often and how long the tasks try. Every number can be set: ``PROVIDER_UPLOADS_<NAME>``.

A backoff is four of them: the first wait, the factor of each next one, the longest, and by which
part of itself a wait is spread.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from provider_uploads.backoff import Backoff
from provider_uploads.protocol import BATCH_TARGET_S
from provider_uploads.settings import env_file, explained


class Policy(BaseSettings):
    """The tasks' numbers; seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(
        env_prefix="PROVIDER_UPLOADS_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
    )

    #: What the tiers allow; a file of your own takes the place of ours.
    tiers_file: Path = Path(__file__).with_name("tiers.toml")

    #: Attempts of an upload before its last error ends it: about four minutes of waiting
    #: (1 + 2 + 4 + ... + 60 s).
    upload_tries: int = Field(default=10, ge=1)
    upload_retry_first_s: float = Field(default=1.0, gt=0)
    upload_retry_max_s: float = Field(default=60.0, gt=0)
    upload_retry_factor: float = Field(default=2.0, ge=1)
    upload_retry_jitter: float = Field(default=0.1, ge=0, lt=1)

    #: A local or staged file of at most so many bytes is sent in one request, without a session;
    #: 0: none is.
    one_request_bytes: int = Field(default=256 * 1024, ge=0)

    #: A deletion is tried until the provider would have expired the file anyway.
    delete_retry_first_s: float = Field(default=1.0, gt=0)
    delete_retry_max_s: float = Field(default=300.0, gt=0)
    delete_retry_factor: float = Field(default=2.0, ge=1)
    delete_retry_jitter: float = Field(default=0.1, ge=0, lt=1)

    #: A notification is sent until it is taken, or for so long; a receiver that asks for more than
    #: the longest wait gets that.
    notify_retry_first_s: float = Field(default=2.0, gt=0)
    notify_retry_max_s: float = Field(default=1800.0, gt=0)
    notify_retry_factor: float = Field(default=3.0, ge=1)
    notify_retry_jitter: float = Field(default=0.2, ge=0, lt=1)
    notify_for_s: float = Field(default=48 * 3600.0, gt=0)
    #: How long a receiver may take (Standard Webhooks advises 15 to 30 s), how many of a worker's
    #: slots may wait for receivers, and how long a notification waits for one of those before it
    #: is retried: polls go on beside receivers that hang.
    notify_timeout_s: float = Field(default=15.0, gt=0)
    notify_slots: int = Field(default=4, ge=1)
    notify_slot_wait_s: float = Field(default=0.1, gt=0)

    #: How often a question checks whether its files are ACTIVE.
    question_look_first_s: float = Field(default=0.2, gt=0)
    question_look_max_s: float = Field(default=5.0, gt=0)
    question_look_factor: float = Field(default=1.5, ge=1)
    question_look_jitter: float = Field(default=0.1, ge=0, lt=1)
    #: How long a model may take; then the attempt fails and is retried.
    generate_timeout_s: float = Field(default=600.0, gt=0)

    #: How often a batch's jobs are polled: soon at first, then every two minutes (the Batch API's
    #: target is a day).
    batch_poll_first_s: float = Field(default=2.0, gt=0)
    batch_poll_max_s: float = Field(default=120.0, gt=0)
    batch_poll_factor: float = Field(default=1.5, ge=1)
    batch_poll_jitter: float = Field(default=0.2, ge=0, lt=1)
    #: Where webhooks tell of ends, polls are so rare.
    batch_poll_webhook_s: float = Field(default=900.0, gt=0)
    #: Seconds between two requests for a list of jobs: 12 a minute for all jobs of an account. A
    #: list of ten pages counts ten times.
    batch_list_every_s: float = Field(default=5.0, gt=0)
    #: How often a batch checks whether its files are ACTIVE, and whether there is room for its job.
    batch_look_first_s: float = Field(default=0.5, gt=0)
    batch_look_max_s: float = Field(default=15.0, gt=0)
    batch_look_factor: float = Field(default=1.5, ge=1)
    batch_look_jitter: float = Field(default=0.2, ge=0, lt=1)
    #: Of many that wait for room each looks more rarely: so many seconds for each open batch.
    batch_look_apart_s: float = Field(default=0.02, ge=0)
    #: How long no job for a model is created after one of them failed because the account's
    #: enqueued tokens are taken; it ends early when a job of ours for that model does.
    batch_full_first_s: float = Field(default=60.0, gt=0)
    batch_full_max_s: float = Field(default=900.0, gt=0)
    batch_full_factor: float = Field(default=2.0, ge=1)
    batch_full_jitter: float = Field(default=0.2, ge=0, lt=1)
    #: How long a batch waits while the service answers 429 to its creation, or has no room for its
    #: tokens, uncounted.
    batch_wait_s: float = Field(default=7 * 24 * 3600.0, gt=0)
    #: A file that expires sooner after its batch is created than this is sent again: the Batch
    #: API's target.
    batch_spare_s: float = Field(default=float(BATCH_TARGET_S), ge=0)
    #: How long a cancelled job may take to end before nobody waits for that any more.
    batch_cancel_s: float = Field(default=600.0, gt=0)
    #: Bytes of answers, compressed, that are kept in Redis for a batch without a place for them.
    batch_kept_bytes: int = Field(default=64 * 1024**2, ge=0)
    #: URLs that the service is to tell of a job's end; none: those registered for the project.
    batch_webhooks: tuple[str, ...] = ()

    #: Where so many uploads of a profile wait for their files to be ACTIVE, their polls are parked
    #: in Redis, and one watcher asks for all by the provider's list, a hundred files a request.
    park_from: int = Field(default=32, ge=1)
    #: Between two readings of the list: so long, and so much longer for each of its pages; but no
    #: file that waits costs more than a page in ``watch_file_s``. Permits may make it longer.
    watch_every_s: float = Field(default=0.6, gt=0)
    watch_page_s: float = Field(default=0.018, ge=0)
    watch_file_s: float = Field(default=3.0, ge=0)
    #: Where the list has as many pages as files wait, or cannot be read, each is polled by itself;
    #: then the list is tried again.
    watch_measure_s: float = Field(default=300.0, gt=0)
    watch_retry_s: float = Field(default=15.0, gt=0)
    #: How often a watcher sees to polls that are due, and how often others check that there is one.
    watch_tick_s: float = Field(default=0.25, gt=0)
    watch_check_s: float = Field(default=1.0, gt=0)
    #: A watcher that died is replaced after so long.
    watch_lock_s: float = Field(default=10.0, gt=0)
    #: How long what a watcher saw of a file makes a request of its own needless.
    seen_s: int = Field(default=60, ge=1)
    #: Parked polls that are sent one by one at a time, where no rate limit says how many.
    watch_singles: int = Field(default=200, ge=1)

    #: The least wait of the fleet after a 429, longer when the next one follows soon.
    cool_down_first_s: float = Field(default=1.0, gt=0)
    cool_down_max_s: float = Field(default=60.0, gt=0)
    cool_down_factor: float = Field(default=2.0, ge=1)
    cool_down_jitter: float = Field(default=0.0, ge=0, lt=1)

    #: How far ahead one of many uploads may reserve its permit, so that a single upload waits no
    #: longer than that; and how long it waits before it may reserve any, if single ones never end.
    bulk_ahead_s: float = Field(default=1.0, gt=0)
    bulk_patience_s: float = Field(default=30.0, gt=0)
    #: Longest wait for a permit that may occupy a slot: the time all slots take one after another,
    #: within these bounds. Beyond it the message goes to the end of its queue.
    in_slot_least_s: float = Field(default=5.0, gt=0)
    in_slot_most_s: float = Field(default=10.0, gt=0)
    #: How often a task that waits in its slot checks whether it should stop, and by how much that
    #: varies.
    slot_check_s: float = Field(default=0.5, gt=0)
    slot_check_jitter: float = Field(default=0.2, ge=0, lt=1)
    #: How often a request that cannot be interrupted checks whether the worker is stopping.
    stop_check_s: float = Field(default=0.2, gt=0)
    #: A permit so near is reserved at once; a later one only if it comes before the deadline.
    permit_soon_s: float = Field(default=2.0, gt=0)
    #: Longer waits are noted in the status, this often.
    note_after_s: float = Field(default=2.0, ge=0)
    note_every_s: float = Field(default=10.0, gt=0)
    #: Then it is retried after so long: a rate may have been set meanwhile.
    away_s: float = Field(default=5.0, gt=0)

    #: The part of a worker's slots whose uploads may read from https, s3 or gs at a time, and how
    #: soon one is retried that found none free: slow servers leave slots for local files.
    remote_share: float = Field(default=0.5, gt=0, le=1)
    remote_retry_s: float = Field(default=2.0, gt=0)
    #: The longest wait that a source's server may ask for (Retry-After), and the provider: a quota
    #: of the day begins anew within a day.
    source_retry_after_max_s: float = Field(default=600.0, gt=0)
    provider_retry_after_max_s: float = Field(default=24 * 3600.0, gt=0)

    #: How often an upload that does not fit checks whether there is storage.
    storage_look_s: float = Field(default=5.0, gt=0)

    #: How often uploads of the same bytes check whether the one that sends them is done; a file
    #: that expires within ``reuse_spare_s`` is sent again.
    reuse_look_first_s: float = Field(default=0.2, gt=0)
    reuse_look_max_s: float = Field(default=5.0, gt=0)
    reuse_look_factor: float = Field(default=1.5, ge=1)
    reuse_look_jitter: float = Field(default=0.1, ge=0, lt=1)
    reuse_spare_s: float = Field(default=3600.0, ge=0)

    #: A lease outlives several stalled Redis calls (2 s each), and ends before the 30 s after which
    #: a dead worker's messages are delivered again.
    lease_s: float = Field(default=20.0, gt=0)
    #: How long a second delivery stays away from a lease that is held.
    lease_held_retry_s: float = Field(default=5.0, gt=0)

    #: Between two progress notes of one transfer; each costs one Redis call.
    progress_every_s: float = Field(default=0.25, gt=0)

    #: How often a message of a newer client is retried for a newer worker: for a day.
    newer_payload_retry_s: float = Field(default=30.0, gt=0)
    newer_payload_tries: int = Field(default=2880, ge=1)

    #: A message that comes back to a worker more often than this waits for its next turn at least
    #: as long as evenly spread ones would, whatever brings it back.
    returns_per_minute: int = Field(default=120, ge=1)

    #: A message whose worker has not renewed it for this long is handed out again. Living workers
    #: renew every third of it, so this means "the worker is dead". All workers must agree: the
    #: shortest wins.
    visibility_timeout_s: int = Field(default=30, ge=1)
    #: How often each worker checks for such messages; Celery's default is every 100 s.
    restore_every_s: int = Field(default=5, ge=1)

    #: Consecutive failures of a profile's Files service that open the breaker: then one worker
    #: probes and the others wait. An outage counts no attempts for so many seconds (known ones
    #: lasted hours).
    breaker_failures: int = Field(default=5, ge=1)
    breaker_probe_first_s: float = Field(default=2.0, gt=0)
    breaker_probe_max_s: float = Field(default=30.0, gt=0)
    breaker_probe_factor: float = Field(default=2.0, ge=1)
    breaker_probe_jitter: float = Field(default=0.1, ge=0, lt=1)
    outage_s: float = Field(default=6 * 3600.0, gt=0)
    #: How much earlier or later than the next probe an upload retries during an outage.
    outage_jitter: float = Field(default=0.25, ge=0, lt=1)

    #: What has not changed for so long is searched for among all messages, those of dead workers
    #: included; what has none was lost, and is recovered within 45 s like any other.
    sweep_quiet_s: float = Field(default=20.0, gt=0)
    #: How often to sweep Redis, which costs 10 µs for every message that waits, and how often the
    #: provider, which costs a request for every 100 files.
    sweep_every_s: float = Field(default=10.0, gt=0)
    sweep_provider_every_s: float = Field(default=600.0, gt=0)
    #: Delete files under our names of which this Redis knows nothing. Only where no other Redis,
    #: and nobody without a queue, uploads with the same keys.
    sweep_unknown: bool = False

    @property
    def upload_retry(self) -> Backoff:
        """Waits between attempts of an upload."""
        return self._backoff("upload_retry")

    @property
    def cool_downs(self) -> Backoff:
        """Waits after a 429 that names none."""
        return self._backoff("cool_down")

    @property
    def breaker_probes(self) -> Backoff:
        """Waits between probes of a service that is down."""
        return self._backoff("breaker_probe")

    @property
    def question_polls(self) -> Backoff:
        """Waits of a question for its files."""
        return self._backoff("question_look")

    @property
    def batch_polls(self) -> Backoff:
        """Waits between polls of a batch's jobs."""
        return self._backoff("batch_poll")

    @property
    def batch_looks(self) -> Backoff:
        """Waits of a batch for its files, or for room."""
        return self._backoff("batch_look")

    @property
    def batch_full(self) -> Backoff:
        """Waits of all batches for a model while its enqueued tokens are taken."""
        return self._backoff("batch_full")

    @property
    def reuse_polls(self) -> Backoff:
        """Waits of an upload for another one of the same bytes."""
        return self._backoff("reuse_look")

    @property
    def delete_retry(self) -> Backoff:
        """Waits between attempts of a deletion."""
        return self._backoff("delete_retry")

    @property
    def notify_retry(self) -> Backoff:
        """Waits between attempts of a notification."""
        return self._backoff("notify_retry")

    def _backoff(self, name: str) -> Backoff:
        return Backoff(
            getattr(self, f"{name}_first_s"),
            getattr(self, f"{name}_factor"),
            getattr(self, f"{name}_max_s"),
            jitter=getattr(self, f"{name}_jitter"),
        )


def _read() -> Policy:
    """Return the policy; raises ConfigurationError naming a variable that is wrong."""
    with explained():
        return Policy(_env_file=env_file())


policy = _read()
