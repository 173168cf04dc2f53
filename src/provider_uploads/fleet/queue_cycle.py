"""In which order a worker asks Redis for messages."""

from __future__ import annotations

from kombu.utils.scheduling import round_robin_cycle

from provider_uploads.fleet.slots import slots


class QueueCycle(round_robin_cycle):  # type: ignore[type-arg]  # generic in stubs only
    """The order in which kombu asks Redis for messages: in turn, without queues to skip for now.

    Named in the transport option ``queue_order_strategy``.
    """

    def consume(self, n: int) -> list[str]:  # type: ignore[override]  # kombu returns lists
        """Return the queues to ask next."""
        return [queue for queue in super().consume(n) if not slots.skip(queue)]
