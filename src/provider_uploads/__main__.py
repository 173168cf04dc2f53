"""``python -m provider_uploads``."""

from provider_uploads.cli import main

if __name__ == "__main__":
    main()
