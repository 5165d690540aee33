"""Authentication for `/ops`: the token, as a bearer or as the password of the browser's own dialog."""

import binascii
import hashlib
import hmac
from base64 import b64decode
from typing import Annotated

from fastapi import Form
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request

from gateway.rate import RateLimit
from gateway.refusal import Refusal

WRONG_TRIES = "20/minute"
"""Wrong tokens of one address that are answered 401; after that, 429."""

CHALLENGE = 'Basic realm="Milepost operations", charset="UTF-8", Bearer realm="Milepost operations"'


class Operators:
    """Admits operators, and takes forms of our own pages alone."""

    def __init__(self, token: SecretStr, wrong: RateLimit) -> None:
        self._token = token.get_secret_value().encode()
        self._wrong = wrong

    @property
    def csrf_token(self) -> str:
        """The hidden field of each form of ours. A browser sends its password with any site's form, but not this."""
        return hmac.new(self._token, b"milepost /ops form", hashlib.sha256).hexdigest()

    async def admit(self, request: Request) -> None:
        """Raises HTTPException (401) without the token, Refusal (429) after too many wrong ones, JournalUnavailable."""
        _, given = _credentials(request.headers)
        if given is not None:
            if hmac.compare_digest(given, self._token):
                return  # always: else a client with the same address, as behind a proxy, could lock operators out
            await self._wrong.check(request)
        raise HTTPException(401, "This page asks for the operators' token.", {"www-authenticate": CHALLENGE})

    async def check_form(self, request: Request, csrf_token: Annotated[str, Form()] = "") -> None:
        """Raises Refusal (403) for a form of another site. No browser sends a bearer token by itself."""
        scheme, _ = _credentials(request.headers)
        ours = request.headers.get("sec-fetch-site", "same-origin") in {"same-origin", "none"}
        known = hmac.compare_digest(csrf_token.encode(errors="replace"), self.csrf_token.encode())
        if scheme != "bearer" and not (ours and known):
            raise Refusal(403, "This did not come from a form of this page. Nothing was done.")


def _credentials(headers: Headers) -> tuple[str, bytes | None]:
    """The scheme in lower case, and the token or None."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    scheme, value = scheme.lower(), value.strip()
    if scheme == "bearer":
        return scheme, value.encode("latin-1")
    if scheme == "basic":
        try:
            return scheme, b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return scheme, b""
    return scheme, None
