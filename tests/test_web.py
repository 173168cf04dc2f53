"""What a browser is told: uploads, server-sent events, errors as HTTP."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from provider_uploads import Stage, UploadStatus, errors
from provider_uploads.schemas import Copy, Delivery, DeliveryState
from provider_uploads.web import SSE_HEADERS, problem, public, sse

TICKET = "0123456789abcdef" * 2
OTHER = "f" * 32


def status(stage: Stage = Stage.UPLOADING, ticket: str = TICKET, **fields: Any) -> UploadStatus:
    given: dict[str, Any] = {
        "ticket": ticket,
        "stage": stage,
        "source": "/srv/secret/clip.mp4",
        "display_name": "clip.mp4",
        "mime_type": "video/mp4",
        "size_bytes": 100,
        **fields,
    }
    return UploadStatus(**given)


class TestPublic:
    def test_what_is_the_server_s_stays_there(self) -> None:
        shown = public(
            status(
                Stage.FAILED,
                owner="ann",
                tags={"internal": "yes"},
                profile="archive",
                note=f"waits for {OTHER}, which sends the same bytes",
                deliveries=(Delivery(to="orders", state=DeliveryState.SENT),),
                error=errors.SourceNotFoundError("/srv/secret/clip.mp4").as_record(),
            )
        )
        said = json.dumps(shown)
        for secret in ("/srv", "secret", "ann", "internal", "archive", "orders", OTHER):
            assert secret not in said
        assert shown["error"]["detail"] == "clip.mp4: there is no such file."
        assert shown["note"] == "waits for another upload, which sends the same bytes"
        assert (shown["ticket"], shown["stage"], shown["ended"]) == (TICKET, "FAILED", True)

    def test_a_gone_copy_has_no_uri(self) -> None:
        shown = public(status(Stage.ACTIVE, copy_at_provider=Copy.DELETED))
        assert (shown["uri"], shown["error"], shown["note"]) == (None, None, None)


def parsed(frames: bytes) -> list[dict[str, str]]:
    """Read frames as a browser does: fields by name, comments left out."""
    found = []
    for block in frames.decode().split("\n\n"):
        lines = [line.partition(": ") for line in block.split("\n") if line]
        fields = {name: value for name, _, value in lines if name}
        if fields:
            found.append(fields)
    return found


async def asynchronous(
    statuses: Sequence[UploadStatus | None],
) -> AsyncIterator[UploadStatus | None]:
    for one in statuses:
        yield one


def plain(statuses: Sequence[UploadStatus | None]) -> Iterator[UploadStatus | None]:
    yield from statuses


def frames_of(statuses: Sequence[UploadStatus | None], **options: Any) -> bytes:
    """The frames; they are the same of either kind of events."""

    async def read() -> bytes:
        return b"".join([frame async for frame in sse(asynchronous(statuses), **options)])

    found = b"".join(sse(plain(statuses), **options))
    assert asyncio.run(read()) == found
    return found


class TestServerSentEvents:
    def test_a_whole_stream(self) -> None:
        text = frames_of([status(sent_bytes=1), None, status(Stage.ACTIVE)], retry_s=1.5)
        assert text.startswith(b"retry: 1500\n\n")
        assert text.count(b"\n: ") == 1
        retry, first, last, end = parsed(text)
        assert retry == {"retry": "1500"}
        assert json.loads(first["data"])["sent_bytes"] == 1
        assert json.loads(last["data"])["stage"] == "ACTIVE"
        assert first["id"] != last["id"]
        assert end == {"event": "end", "data": "{}"}
        assert SSE_HEADERS["content-type"] == "text/event-stream"

    def test_what_the_browser_knows_is_not_told_again(self) -> None:
        one, two = status(sent_bytes=1), status(ticket=OTHER, sent_bytes=2)
        _, _, last, _ = parsed(frames_of([one, two]))
        # The seconds alone are no change.
        again = [one.model_copy(update={"upload_s": 5.0}), two]
        assert [frame.get("event") for frame in parsed(frames_of(again, last_event_id=last["id"]))][
            1:
        ] == ["end"]
        changed = [one, status(Stage.ACTIVE, ticket=OTHER)]
        _, told, _ = parsed(frames_of(changed, last_event_id=last["id"]))
        assert json.loads(told["data"])["ticket"] == OTHER
        _, *rest = parsed(frames_of(changed, last_event_id=told["id"]))
        assert [frame.get("event") for frame in rest] == ["end"]

    @pytest.mark.parametrize("header", ["", "nonsense", "a.b.c", "…", "\n"])
    def test_an_id_that_is_none(self, header: str) -> None:
        assert len(parsed(frames_of([status()], last_event_id=header))) == 3

    def test_an_id_stays_short(self) -> None:
        many = [status(ticket=f"{number:032x}", stage=Stage.ACTIVE) for number in range(1000)]
        found = parsed(frames_of(many))
        assert max(len(frame.get("id", "")) for frame in found) < 2000

    def test_no_name_breaks_out_of_its_line(self) -> None:
        hostile = "a\n\nevent: end\ndata: {}\r\n\u2028.mp4"
        _, told, end = parsed(frames_of([status(display_name=hostile)]))
        assert json.loads(told["data"])["display_name"] == hostile
        assert end["event"] == "end"

    @pytest.mark.parametrize(
        ("error", "events"),
        [
            (errors.QueueUnavailableError("redis://10.0.0.1:6379/0", "TimeoutError"), ["problem"]),
            (errors.UnknownTicketError(TICKET), ["problem", "end"]),
        ],
    )
    def test_an_error_on_the_way(
        self, error: errors.ProviderUploadsError, events: list[str]
    ) -> None:
        """After an ``end`` the page closes the stream; without one, the browser comes again."""

        def breaking() -> Iterator[UploadStatus]:
            yield status()
            raise error

        found = parsed(b"".join(sse(breaking())))
        assert [frame["event"] for frame in found if "event" in frame] == events
        assert "10.0.0.1" not in json.dumps(found)

    def test_the_events_are_closed_with_the_response(self) -> None:
        events = plain([status(), status(Stage.ACTIVE)])
        response = sse(events)
        next(response)
        next(response)
        response.close()  # type: ignore[attr-defined]
        assert list(events) == []

        async def leave() -> None:
            events = asynchronous([status(), status(Stage.ACTIVE)])
            response = sse(events)
            await anext(response)
            await anext(response)
            await response.aclose()  # type: ignore[attr-defined]
            assert [one async for one in events] == []

        asyncio.run(leave())

    def test_a_view_of_ones_own(self) -> None:
        found = b"".join(sse(plain([status()]), view=lambda one: {"stage": one.stage}))
        assert json.loads(parsed(found)[1]["data"]) == {"stage": "UPLOADING"}


def example(cls: type[errors.ProviderUploadsError]) -> errors.ProviderUploadsError:
    """One of this class, all of whose data is a server's own."""
    for count in range(8):
        for data in (["/srv/secret/clip.mp4"] * count, ["/srv/secret/clip.mp4", 5, 5, 5][:count]):
            try:
                error = cls(*data)
                str(error)
            except (TypeError, ValueError, KeyError, AttributeError):
                continue
            return error
    raise AssertionError(cls)


def tree(cls: type[errors.ProviderUploadsError]) -> list[type[errors.ProviderUploadsError]]:
    return [cls, *(sub for child in cls.__subclasses__() for sub in tree(child))]


class TestProblems:
    @pytest.mark.parametrize("cls", tree(errors.ProviderUploadsError), ids=lambda cls: cls.__name__)
    def test_every_error_is_a_response(self, cls: type[errors.ProviderUploadsError]) -> None:
        found = problem(example(cls))
        body = json.loads(found.body)
        assert body["status"] == found.status
        assert body["type"] == f"urn:provider-uploads:{cls.__name__}"
        assert re.fullmatch(r"[A-Z].*[.]", body["detail"]) or cls in (
            errors.InvalidRequestError,
            *tree(errors.SourceError),
            errors.SourceUnavailableError,
        )
        if cls is not errors.InvalidRequestError:  # whose words are ours
            assert b"/srv" not in found.body
        assert found.headers["content-type"] == "application/problem+json"
        # What may pass says when to come again, and nothing else does.
        assert (cls in tree(errors.TransientError)) == ("retry-after" in found.headers)
        assert (found.status in {503, 504}) or cls not in tree(errors.TransientError)

    @pytest.mark.parametrize(
        ("error", "status", "detail"),
        [
            (errors.UnknownTicketError(TICKET), 404, "There is no such upload."),
            (errors.UnknownTicketError(TICKET, "batch"), 404, "There is no such batch."),
            (
                errors.ResultTimeoutError(TICKET, "QUEUED", 1.0, "batch"),
                504,
                "The batch is not finished. It goes on: ask again later.",
            ),
            (
                errors.QueueUnavailableError("redis://10.0.0.1/0", "TimeoutError"),
                503,
                "The upload queue takes nothing now. Try again later.",
            ),
            (
                errors.InvalidRequestError("timeout_s", "-1", "must be positive"),
                400,
                "timeout_s: must be positive",
            ),
            (
                errors.SourceTooLargeError(f"staged://{TICKET}/clip.mp4", 5000, 4000),
                413,
                "clip.mp4 is larger than the 4,000 bytes allowed.",
            ),
            (
                errors.SourceNotAllowedError("C:\\data\\a.txt", "/x", "/srv"),
                403,
                "a.txt may not be read.",
            ),
            (
                errors.SourceUnreadableError("https://host/a/b.pdf?X-Signature=s3cret", "HTTP 403"),
                422,
                "b.pdf cannot be read.",
            ),
            (
                errors.UploadFailedError("files/a", "FAILED", {"message": "no video stream."}),
                422,
                "The provider could not process the file: no video stream.",
            ),
            (errors.ConfigurationError("REDIS_URL is wrong"), 500, "The server cannot do this"),
            (KeyError("/srv/secret"), 500, "The server cannot do this"),
        ],
    )
    def test_what_users_read(self, error: Exception, status: int, detail: str) -> None:
        found = problem(error)
        assert found.status == status
        assert json.loads(found.body)["detail"].startswith(detail)

    def test_when_to_come_again(self) -> None:
        asked = errors.RateLimitedError("upload", "quota", 429, 17.2)
        assert problem(asked).headers["retry-after"] == "18"
        queue = errors.QueueUnavailableError("redis://h/0", "x")
        assert problem(queue).headers["retry-after"] == "5"
