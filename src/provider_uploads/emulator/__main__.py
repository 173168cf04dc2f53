"""``python -m provider_uploads.emulator``."""

from __future__ import annotations

import argparse
import sys

from provider_uploads.emulator import EmulatorConfig, PortInUseError, serve


def main() -> int:
    """Run a local Gemini until it is interrupted."""
    defaults = EmulatorConfig()
    parser = argparse.ArgumentParser(prog="python -m provider_uploads.emulator")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8787, help="0 is any free one")
    parser.add_argument("--processing-s", type=float, default=defaults.processing_s)
    parser.add_argument("--latency-ms", type=float, default=defaults.latency_ms)
    options = parser.parse_args()
    config = EmulatorConfig(processing_s=options.processing_s, latency_ms=options.latency_ms)
    try:
        serve(config, options.host, options.port, announce=lambda line: print(line, flush=True))
    except PortInUseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
