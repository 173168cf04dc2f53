"""``provider-uploads``, and ``python -m provider_uploads``."""

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line. Until it is imported, Ctrl-C ends the process without a traceback."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from provider_uploads.cli import main as run

    signal.signal(signal.SIGINT, handler)
    run()


if __name__ == "__main__":
    main()
