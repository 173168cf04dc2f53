"""A local Gemini: a real HTTP server that speaks the Gemini File API.

One engine behind three doors: an ASGI application, a context manager for tests, a foreground
server for the command line.
"""

from provider_uploads.emulator.app import create_app
from provider_uploads.emulator.batch_config import BatchConfig
from provider_uploads.emulator.config import EmulatorConfig, Operation
from provider_uploads.emulator.errors import EmulatorError, InvalidFaultError, PortInUseError
from provider_uploads.emulator.fault_kinds import FaultKind
from provider_uploads.emulator.faults import Fault, FaultMix
from provider_uploads.emulator.local import LocalGemini
from provider_uploads.emulator.server import serve

__all__ = [  # noqa: RUF022 - in reading order
    # three doors, and what can be adjusted
    "create_app",
    "LocalGemini",
    "serve",
    "EmulatorConfig",
    "BatchConfig",
    # what can be ordered to go wrong
    "Operation",
    "FaultKind",
    "Fault",
    "FaultMix",
    # what is raised
    "EmulatorError",
    "PortInUseError",
    "InvalidFaultError",
]
