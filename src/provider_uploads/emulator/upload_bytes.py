"""Bytes on their way into an upload session, and the faults that strike among them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from provider_uploads.emulator.calls import Call
from provider_uploads.emulator.errors import ApiError, HangUpError, gone, invalid_argument
from provider_uploads.emulator.fault_kinds import AtBytes
from provider_uploads.emulator.faults import Fault
from provider_uploads.emulator.sessions import SessionState, UploadSession


async def take_bytes(session: UploadSession, blocks: AsyncIterator[bytes], most_bytes: int) -> None:
    """Append what arrives; 400 if the file gets larger than ``most_bytes``."""
    with session.writer() as writer:
        async for block in blocks:
            if session.state is not SessionState.ACTIVE:
                raise gone("The upload was cancelled.")
            room_bytes = most_bytes - session.received_bytes
            writer.write(block[:room_bytes])
            if len(block) > room_bytes:
                raise too_large(most_bytes)


async def with_faults(
    call: Call, session: UploadSession, blocks: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """The blocks, until and unless a fault strikes among them."""
    fault = call.fault
    if fault is None or fault.rule.at_bytes is None:
        async for block in blocks:
            yield block
        return
    if fault.rule.at_bytes is AtBytes.DROP:
        lost_bytes = 0
        async for block in blocks:
            lost_bytes += len(block)
        session.lost_until = max(session.lost_until, session.received_bytes + lost_bytes)
        raise fault.dropped
    left_bytes = fault.place_bytes(call.content_length)
    struck = not left_bytes and fault.rule.at_bytes is AtBytes.STALL
    if struck:  # reading does not even begin
        await _strike(call, fault)
    async for block in blocks:
        if struck or left_bytes > len(block):
            left_bytes -= len(block)
            yield block
            continue
        yield block[:left_bytes]
        await _strike(call, fault)
        struck = True
        if not ends_early(call):
            yield block[left_bytes:]
            continue
        async for _ in blocks:  # a client that still sends would not read the answer
            pass
    if not struck:  # fewer bytes than that: it strikes where they end
        await _strike(call, fault)


async def _strike(call: Call, fault: Fault) -> None:
    if fault.rule.at_bytes is AtBytes.HANG_UP:
        raise HangUpError
    if fault.rule.at_bytes is AtBytes.STALL:
        await call.stall(fault.pause_s)


def ends_early(call: Call) -> bool:
    """Shall the upload be called complete, whatever is missing?"""
    return call.fault is not None and call.fault.rule.at_bytes is AtBytes.END


def check_complete(session: UploadSession) -> None:
    """400 if other than the declared number of bytes has arrived; the session lives on."""
    declared_bytes = session.metadata.declared_bytes
    if declared_bytes is not None and session.received_bytes != declared_bytes:
        raise invalid_argument(
            f"The upload was to have {declared_bytes} bytes, {session.received_bytes} have arrived."
        )


def too_large(most_bytes: int) -> ApiError:
    """400: more bytes than a file may have, or than were declared."""
    return invalid_argument(f"The file is larger than the {most_bytes} bytes it may have.")
