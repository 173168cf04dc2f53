"""How much: numbers and wiring. A wheel carries them: ``provider_uploads.local.workers``."""
