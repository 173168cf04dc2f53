"""How deliveries are signed: with a shared secret, or with a key everybody can look up.

    Static, Standard Webhooks                 Dynamic, a JSON Web Token
    webhook-id: msg_…                         webhook-id: msg_…
    webhook-timestamp: 1764000000             webhook-timestamp: 1764000000
    webhook-signature: v1,<base64> …          webhook-signature: <header>.<claims>.<signature>

A static webhook's signature is an HMAC-SHA256 over id, timestamp and body, one for each of its
secrets. A dynamic one's token is signed with RS256 and holds the event; its key is found by its
``kid`` in ``/.well-known/jwks.json``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joserfc.jwk import RSAKey

ISSUER = "https://generativelanguage.googleapis.com"
# For how long a token is good; what the service gives nobody outside knows.
TOKEN_LIFETIME_S = 300

_SECRET_PREFIX = "whsec_"  # noqa: S105 - what every secret begins with
_KEY_BITS = 2048


def new_secret() -> str:
    """A signing secret as the service makes them."""
    return _SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def sign(signing_secrets: list[str], message_id: str, timestamp_s: int, body: bytes) -> str:
    """The ``webhook-signature`` of a static webhook, with one signature for each secret."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    signatures = []
    for secret in signing_secrets:
        key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX))
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        signatures.append(f"v1,{base64.b64encode(digest).decode()}")
    return " ".join(signatures)


class SigningKey:
    """The service's own key pair for dynamic webhooks; made when it is first needed."""

    @cached_property
    def key_id(self) -> str:
        """What a token names it by."""
        return secrets.token_hex(20)

    @cached_property
    def _key(self) -> RSAKey:
        return self._new_key()

    @cached_property
    def _other_key(self) -> RSAKey:
        return self._new_key()

    def _new_key(self) -> RSAKey:
        # Only a dynamic webhook needs it: whoever has none need not have the library.
        from joserfc.jwk import RSAKey

        return RSAKey.generate_key(_KEY_BITS, parameters={"kid": self.key_id})

    def jwks(self) -> dict[str, Any]:
        """The public half, as ``/.well-known/jwks.json`` shows it."""
        shown = self._key.as_dict(private=False)
        return {"keys": [{**shown, "use": "sig", "alg": "RS256"}]}

    def token(
        self, event: dict[str, Any], audience: str, now_s: int, *, forged: bool = False
    ) -> str:
        """The ``webhook-signature`` of a dynamic webhook; a forged one has another key's."""
        from joserfc import jwt

        claims = {
            **event,
            "iss": ISSUER,
            "aud": audience,
            "iat": now_s,
            "exp": now_s + TOKEN_LIFETIME_S,
        }
        header = {"alg": "RS256", "kid": self.key_id, "typ": "JWT"}
        return jwt.encode(header, claims, self._other_key if forged else self._key)


def unsigned_token(event: dict[str, Any], audience: str, now_s: int) -> str:
    """A token that says it needs no signature."""
    claims = {**event, "iss": ISSUER, "aud": audience, "iat": now_s, "exp": now_s + 300}
    parts = ({"alg": "none", "typ": "JWT"}, claims)
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    return b".".join(encoded).decode() + "."
