"""What crosses a border: read strictly, written so that the other side can read it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from provider_uploads import protocol
from provider_uploads.errors import InvalidRequestError, NewerPayloadError
from provider_uploads.protocol import MAX_DISPLAY_NAME
from provider_uploads.schemas import (
    Copy,
    PollPolicy,
    ProviderFile,
    Stage,
    UploadRequest,
    UploadResult,
    UploadStatus,
    checked,
)

ID = "0123456789abcdef" * 2


def payload(**changes: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "upload_id": ID,
        "source": "/data/clip.mp4",
        "display_name": "clip.mp4",
        "mime_type": "video/mp4",
        "size_bytes": 10,
        **changes,
    }


class TestUploadRequest:
    def test_what_is_written_can_be_read(self) -> None:
        request = UploadRequest.read(payload(display_name="Ein Fluß 🏞"))
        travelled = json.loads(json.dumps(request.model_dump(mode="json")))
        assert UploadRequest.read(travelled) == request
        assert UploadRequest.model_validate_json(request.model_dump_json()) == request

    def test_left_out_is_the_default(self) -> None:
        request = UploadRequest.read(payload())
        assert request.poll_policy == PollPolicy(
            timeout_s=120, poll_s=2, max_poll_s=10, backoff_factor=1.5, jitter_s=0.2
        )
        assert request.cleanup_on_timeout is True

    @pytest.mark.parametrize("version", [protocol.PAYLOAD_VERSION + 1, 99])
    def test_a_newer_payload_is_known_as_one(self, version: int) -> None:
        """Whatever else is in it: only a newer worker can tell."""
        with pytest.raises(NewerPayloadError) as caught:
            UploadRequest.read({"version": version, "unheard": "of"})
        assert caught.value.args == (version, protocol.PAYLOAD_VERSION)

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"version": 0}, "version"),
            ({"version": "2"}, "version"),
            ({"upload_id": "x"}, "upload_id"),
            ({"upload_id": ID.upper()}, "upload_id"),
            ({"upload_id": ID + "\n"}, "upload_id"),
            ({"source": ""}, "source"),
            ({"size_bytes": -1}, "size_bytes"),
            ({"size_bytes": "many"}, "size_bytes"),
            ({"source": "https://host/x?signature=1"}, "source"),
            ({"source": "https://user:pw@host/x"}, "source"),
            ({"source": f"staged://{ID[::-1]}/x"}, "UploadRequest"),
            ({"source": "staged:///etc/passwd"}, "UploadRequest"),
            ({"mime_type": "video"}, "mime_type"),
            ({"display_name": "x" * (MAX_DISPLAY_NAME + 1)}, "display_name"),
            ({"patience": {"poll_s": 0}}, "patience.poll_s"),
            ({"patience": {"polls": 3}}, "patience.polls"),
            ({"patience": None}, "patience"),
            ({"unheard": "of"}, "unheard"),
        ],
    )
    def test_what_does_not_fit_is_named(self, changes: dict[str, Any], field: str) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            UploadRequest.read(payload(**changes))
        assert caught.value.field == field

    @pytest.mark.parametrize("missing", ["upload_id", "source", "mime_type", "size_bytes"])
    def test_what_is_missing_is_named(self, missing: str) -> None:
        given = payload()
        del given[missing]
        with pytest.raises(InvalidRequestError, match=rf"^{missing}="):
            UploadRequest.read(given)

    def test_a_long_value_is_shortened_in_the_complaint(self) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            UploadRequest.read(payload(mime_type="x" * 100_000))
        assert len(str(caught.value)) < 300

    def test_it_cannot_be_changed(self) -> None:
        request = UploadRequest.read(payload())
        with pytest.raises(ValidationError, match="frozen"):
            request.source = "elsewhere"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("video/mp4", "video/mp4"),
        ("Text/Plain; charset=utf-8", "text/plain"),
        (" image/svg+xml ", "image/svg+xml"),
        ("application/vnd.ms-excel", "application/vnd.ms-excel"),
    ],
)
def test_mime_types_are_made_plain(written: str, read: str) -> None:
    assert UploadRequest.read(payload(mime_type=written)).mime_type == read


@pytest.mark.parametrize(
    "written", ["", ";", "/", "a/", "/b", "a/b/c", "a b/c", "é/x", "a/b\nx", "٣/x", "a/b,c/d"]
)
def test_mime_types_that_are_none(written: str) -> None:
    with pytest.raises(InvalidRequestError, match="write it as type/subtype"):
        UploadRequest.read(payload(mime_type=written))


@pytest.mark.parametrize("field", ["timeout_s", "poll_s", "max_poll_s", "backoff_factor"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "soon", [], {}])
def test_patience_takes_seconds(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=field):
        checked(PollPolicy, {field: value})


@given(st.floats(1e-6, 30 * 86_400), st.floats(1, 1e6), st.floats(0, 1e6))
def test_patience_survives_json(poll_s: float, factor: float, jitter_s: float) -> None:
    made = PollPolicy(poll_s=poll_s, max_poll_s=None, backoff_factor=factor, jitter_s=jitter_s)
    assert PollPolicy.model_validate_json(made.model_dump_json()) == made


def test_the_last_four_stages_are_ends() -> None:
    assert [stage for stage in Stage if stage.ended] == list(Stage)[-4:]
    assert [str(stage) for stage in Stage] == [
        *("QUEUED", "UPLOADING", "PROCESSING", "ACTIVE", "FAILED", "TIMED_OUT", "CANCELLED")
    ]


@pytest.mark.parametrize("record", [ProviderFile, UploadResult, UploadStatus, PollPolicy])
def test_unknown_fields_are_refused(record: type[ProviderFile]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        record.model_validate({"unheard": "of"})


def test_nothing_a_user_sees_has_room_for_a_secret() -> None:
    for record in (UploadRequest, UploadResult, UploadStatus):
        assert not [name for name in record.model_fields if "session" in name or "key" in name]


def test_results_and_statuses_survive_json() -> None:
    result = UploadResult(
        ticket=ID,
        provider="google",
        id=protocol.file_name(ID, 0),
        uri="https://x/files/y",
        state="ACTIVE",
        mime_type="video/mp4",
        size_bytes=1,
        sha256=None,
        display_name="Ein Fluß",
        expires_at=None,
        polls=1,
        queued_s=0.1,
        upload_s=0.2,
        processing_s=0.3,
    )
    assert UploadResult.model_validate_json(result.model_dump_json()) == result
    status = UploadStatus(
        ticket=ID,
        stage=Stage.FAILED,
        source="/x",
        display_name="x",
        mime_type="a/b",
        size_bytes=0,
        copy_at_provider=Copy.DELETED,
        error={"type": "UploadFailedError", "args": ["x", "FAILED", None], "message": "…"},
    )
    assert UploadStatus.model_validate_json(status.model_dump_json()) == status


def test_the_provider_s_names_are_short_enough_and_lower_case() -> None:
    name = protocol.file_name(ID, 9999)
    assert name == f"files/pu-{ID}-9999"
    assert len(name.removeprefix("files/")) <= 40
