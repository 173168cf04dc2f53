"""Cached contents: what a prompt begins with, read once and kept until it expires."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from provider_uploads.emulator.config import SECOND_NS, Clock, rfc3339
from provider_uploads.emulator.errors import invalid_argument, no_such_cache
from provider_uploads.emulator.prompt_parts import PromptPart

DEFAULT_LIFETIME_NS = 3600 * SECOND_NS

_ID_CHARS = string.ascii_lowercase + string.digits


@dataclass(frozen=True, kw_only=True)
class CachedContent:
    """Parts of a prompt that need not be sent again; a file in them may be deleted meanwhile."""

    name: str
    owner: str = field(repr=False)
    model: str
    display_name: str | None
    given: tuple[PromptPart, ...]
    create_ns: int
    update_ns: int
    expire_ns: int

    @property
    def tokens(self) -> int:
        """How many tokens they count."""
        return sum(part.tokens for part in self.given)

    def resource(self) -> dict[str, Any]:
        """The CachedContent resource; what is cached is not told."""
        named = {"displayName": self.display_name} if self.display_name else {}
        return {
            "name": self.name,
            "model": f"models/{self.model}",
            **named,
            "createTime": rfc3339(self.create_ns),
            "updateTime": rfc3339(self.update_ns),
            "expireTime": rfc3339(self.expire_ns, fraction_digits=9),
            "usageMetadata": {"totalTokenCount": self.tokens},
        }


class CachedContents:
    """All cached contents of all projects."""

    def __init__(self, clock: Clock, min_tokens: int) -> None:
        self._clock = clock
        self._min_tokens = min_tokens
        self._caches: dict[str, CachedContent] = {}  # oldest first

    def of(self, owner: str) -> Iterator[CachedContent]:
        """One project's."""
        self._forget_expired()
        return (cache for cache in self._caches.values() if cache.owner == owner)

    def create(
        self,
        owner: str,
        model: str,
        display_name: str | None,
        given: tuple[PromptPart, ...],
        expire_ns: int | None,
    ) -> CachedContent:
        """Keep them; 400 if they are too little, as the service has a least size."""
        now_ns = self._clock()
        cache = CachedContent(
            name="cachedContents/" + "".join(secrets.choice(_ID_CHARS) for _ in range(40)),
            owner=owner,
            model=model,
            display_name=display_name,
            given=given,
            create_ns=now_ns,
            update_ns=now_ns,
            expire_ns=now_ns + DEFAULT_LIFETIME_NS if expire_ns is None else expire_ns,
        )
        if cache.tokens < self._min_tokens:
            raise invalid_argument(
                f"Cached content is too small. total_token_count={cache.tokens}, "
                f"min_total_token_count={self._min_tokens}"
            )
        self._caches[cache.name] = cache
        return cache

    def get(self, name: str, owner: str) -> CachedContent:
        """One of this project; 403 otherwise."""
        self._forget_expired()
        cache = self._caches.get(name)
        if cache is None or cache.owner != owner:
            raise no_such_cache()
        return cache

    def expire(self, name: str, owner: str, expire_ns: int) -> CachedContent:
        """Let it live until then."""
        cache = replace(self.get(name, owner), expire_ns=expire_ns, update_ns=self._clock())
        self._caches[name] = cache
        return cache

    def delete(self, name: str, owner: str) -> None:
        """Forget one."""
        del self._caches[self.get(name, owner).name]

    def clear(self) -> None:
        """Forget all of them."""
        self._caches.clear()

    def _forget_expired(self) -> None:
        now_ns = self._clock()
        for cache in tuple(self._caches.values()):
            if cache.expire_ns <= now_ns:
                del self._caches[cache.name]
