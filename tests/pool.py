"""Servers and workers that several tests use, one after another.

Starting a worker and importing the SDK in it costs more CPU than most tests. A worker is used again
by the next test whose workers have the same environment, if the last one left nothing in the broker
and did not end it; Redis and the local Gemini are emptied in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import redis

from provider_uploads.emulator import EmulatorConfig, LocalGemini
from provider_uploads.protocol import KEY_PREFIX
from tests.nodes import RedisProcess, WorkerProcess

#: What a worker says once, when it starts, and kombu's bindings of its queues.
_KEPT = tuple(f"{KEY_PREFIX}{name}" for name in ("tiers", "lane", "_kombu.binding."))


class Pool:
    """One Redis, one worker at most, and a local Gemini for each configuration."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._redis: RedisProcess | None = None
        self._worker: WorkerProcess | None = None
        self._key: tuple[object, ...] = ()
        self._geminis: dict[str, LocalGemini] = {}

    def redis(self) -> RedisProcess:
        """Return a Redis that is empty but for what the worker has said."""
        if self._redis is not None and not _answers(self._redis):
            self.discard_worker()
            self._redis.kill_now()
            self._redis = None
        if self._redis is None:
            self._redis = RedisProcess.spawn(self._folder)
            self._redis.ready()
            self._redis.pooled = True
        with self._redis.client as client:
            if _busy(client):
                self.discard_worker()
            if self._worker is None:
                client.flushall()
            else:
                for key in client.scan_iter("*"):
                    if not str(key).startswith(_KEPT):
                        client.delete(key)
        return self._redis

    def gemini(self, config: EmulatorConfig) -> LocalGemini:
        """Return a local Gemini that is as new."""
        key = repr(asdict(config))
        known = self._geminis.pop(key, None)
        if known is not None and known.running and not known.advanced_s:
            known.reset()
        else:
            if known is not None:
                known.stop()
            known = LocalGemini(config)
            known.start()
        self._geminis[key] = known
        while len(self._geminis) > 8:
            self._geminis.pop(next(iter(self._geminis))).stop()
        return known

    def worker(self, command: Sequence[str], env: Mapping[str, str]) -> WorkerProcess:
        """Return a worker with this command and environment."""
        key = (tuple(command), tuple(sorted(env.items())))
        if self._worker is not None and (self._key != key or self._worker.exit_code is not None):
            self.discard_worker()
        if self._worker is None:
            if self._redis is not None:
                with self._redis.client as client:
                    client.flushall()  # what the last worker has said
            self._worker = WorkerProcess.spawn(self._folder, command, env)
            self._worker.pooled = True
            self._key = key
        self._worker.ready()
        self._worker.forget_logs()
        return self._worker

    def discard_worker(self) -> None:
        """End the worker: the next test gets a new one."""
        if self._worker is not None:
            self._worker.kill_now()
            self._worker = None

    def close(self) -> None:
        """End everything."""
        self.discard_worker()
        if self._redis is not None:
            self._redis.kill_now()
        for gemini in self._geminis.values():
            gemini.stop()


def _answers(node: RedisProcess) -> bool:
    if node.exit_code is not None:
        return False
    try:
        with redis.Redis(port=node.port, socket_timeout=2) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _busy(client: redis.Redis) -> bool:
    """Whether a message of the last test is left."""
    if client.hlen(f"{KEY_PREFIX}unacked"):
        return True
    return any(True for _ in client.scan_iter(f"{KEY_PREFIX}*", _type="list"))
