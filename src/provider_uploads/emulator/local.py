"""A local Gemini inside a Python process, for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from provider_uploads.emulator.batch_controls import LocalBatches
from provider_uploads.emulator.config import Clock, EmulatorConfig, Operation, system_clock
from provider_uploads.emulator.engine import Engine
from provider_uploads.emulator.errors import EmulatorError
from provider_uploads.emulator.fault_kinds import FaultKind
from provider_uploads.emulator.faults import Fault, FaultMix
from provider_uploads.emulator.files import Source
from provider_uploads.emulator.server import Server, listen, url_of
from provider_uploads.emulator.sessions import FileMetadata
from provider_uploads.emulator.webhook_controls import LocalWebhooks

_Result = TypeVar("_Result")
_PATIENCE_S = 10.0


class LocalGemini:
    """A local Gemini on 127.0.0.1, in a thread of its own, while the ``with`` block lasts.

        with LocalGemini(EmulatorConfig(processing_s=0.1)) as gemini:
            client = genai.Client(api_key="any", http_options=HttpOptions(base_url=gemini.url))

    Clients talk real HTTP to it. The methods may be called from any thread. ``clock`` tells the
    nanoseconds since the epoch; states and expiry follow from it.
    """

    def __init__(
        self, config: EmulatorConfig | None = None, *, port: int = 0, clock: Clock = system_clock
    ) -> None:
        self.config = config or EmulatorConfig()
        self._port = port
        self._clock = clock
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self.url = ""
        self.batches = LocalBatches(self._ask)
        self.webhooks = LocalWebhooks(self._ask)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Serve; returns when requests are accepted. PortInUseError if a given port is taken."""
        listener = listen("127.0.0.1", self._port)
        self.url = url_of(listener)
        self._server = Server(Engine(self.config, self._clock), listener)
        self._thread = threading.Thread(
            target=self._server.run_until_stopped, name="local-gemini", daemon=True
        )
        self._thread.start()
        self._server.up.wait(_PATIENCE_S)
        if not self._server.started:
            raise EmulatorError("the local Gemini did not start; its log says why")

    def stop(self) -> None:
        """Hang up on everybody and end the thread; a second time does nothing."""
        if self._server is not None and self._thread is not None:
            self._server.stop()
            self._thread.join(_PATIENCE_S)
            self._server = self._thread = None

    @property
    def running(self) -> bool:
        """Whether it serves."""
        return self._server is not None

    @property
    def advanced_s(self) -> float:
        """How far its clock has been put forward, in seconds."""
        return self._ask(lambda engine: engine.clock.advanced_s)

    def order_fault(
        self,
        operation: Operation | str,
        kind: FaultKind | str,
        *,
        nth: int = 1,
        count: int | None = None,
        match: str | None = None,
        share: float = 1.0,
        seed: int = 0,
        for_s: float | None = None,
        retry_delay_s: float | None = None,
        stall_s: float | None = None,
        after_bytes: int | None = None,
    ) -> dict[str, Any]:
        """Let something go wrong, see ``Fault``; returned is its entry in the list of faults."""
        fault = Fault.from_json(
            {
                "operation": operation,
                "kind": kind,
                "nth": nth,
                "count": count,
                "match": match,
                "share": share,
                "seed": seed,
                "for_s": for_s,
                "retry_delay_s": retry_delay_s,
                "stall_s": stall_s,
                "after_bytes": after_bytes,
            }
        )
        return self._ask(lambda engine: engine.faults.order(fault))

    def order_mix(
        self,
        share: float,
        seed: int = 0,
        *,
        kinds: Collection[FaultKind | str] = (),
        operations: Collection[Operation | str] = (),
        nth: int = 1,
        count: int | None = None,
        match: str | None = None,
        for_s: float | None = None,
        retry_delay_s: float | None = None,
        stall_s: float | None = None,
    ) -> dict[str, Any]:
        """Let a share of all replies go wrong in all ways, see ``FaultMix``; returned as above."""
        mix = FaultMix.from_json(
            {
                "share": share,
                "seed": seed,
                "kinds": kinds,
                "operations": operations,
                "nth": nth,
                "count": count,
                "match": match,
                "for_s": for_s,
                "retry_delay_s": retry_delay_s,
                "stall_s": stall_s,
            }
        )
        return self._ask(lambda engine: engine.faults.order(mix))

    def order_outage(
        self,
        for_s: float | None = None,
        *,
        operations: Collection[Operation | str] = (Operation.GET, Operation.LIST),
        kind: FaultKind | str = FaultKind.INTERNAL,
    ) -> dict[str, Any]:
        """Let operations fail for so long on the server's clock, or until ``end_fault``."""
        return self.order_mix(1.0, kinds=(kind,), operations=operations, for_s=for_s)

    def faults(self) -> list[dict[str, Any]]:
        """The orders, with what they have ``seen`` and how often each was ``applied``."""
        return self._ask(lambda engine: engine.faults.json())

    def end_fault(self, order_id: int) -> dict[str, Any] | None:
        """Take one order back; returned is how far it came, None if there is none of that id."""
        return self._ask(lambda engine: engine.faults.end(order_id))

    def clear_faults(self) -> None:
        """Nothing goes wrong any more."""
        self._ask(lambda engine: engine.faults.clear())

    def counters(self) -> dict[str, Any]:
        """What has been counted, as ``GET /_emulator/counters`` answers it."""
        return self._ask(lambda engine: engine.counters_json())

    def clear_counters(self) -> None:
        """Count from zero again."""
        self._ask(lambda engine: engine.counters.clear())

    def files(self) -> list[dict[str, Any]]:
        """All files of all keys, oldest first."""
        return self._ask(lambda engine: engine.files_json())

    def sessions(self) -> list[dict[str, Any]]:
        """The sessions that can still take bytes, oldest first."""
        return self._ask(lambda engine: engine.sessions_json())

    def advance_clock(self, advance_s: float) -> None:
        """Let time pass: what is due to expire, expires; what is processed, gets ready."""
        self._ask(lambda engine: engine.clock.advance(advance_s))

    def add_generated(
        self,
        data: bytes,
        *,
        key: str,
        name: str | None = None,
        display_name: str | None = None,
        mime_type: str = "application/octet-stream",
    ) -> dict[str, Any]:
        """Make a file of the kind that can be downloaded; returned is its File resource."""
        metadata = FileMetadata(
            name=name, display_name=display_name, mime_type=mime_type, declared_bytes=None
        )

        def add(engine: Engine) -> dict[str, Any]:
            with engine.temporary_session(key, metadata) as session:
                with session.writer() as writer:
                    writer.write(data)
                file = engine.finish_session(session, Source.GENERATED)
            return engine.resource(file, self.url)

        return self._ask(add)

    def reset(self) -> None:
        """Forget files, sessions, faults, quotas used and counters; the clock stays as it is."""
        self._ask(lambda engine: engine.reset())

    def _ask(self, question: Callable[[Engine], _Result]) -> _Result:
        """Put a question to the engine in the thread it belongs to."""
        server = self._server
        if server is None or server.loop is None:
            raise EmulatorError("this local Gemini is not running: use it inside its with block")
        answer: Future[_Result] = Future()

        def ask() -> None:
            try:
                answer.set_result(question(server.engine))
            except BaseException as error:
                answer.set_exception(error)

        server.loop.call_soon_threadsafe(ask)
        return answer.result(_PATIENCE_S)
