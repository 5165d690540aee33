"""Who may see /ops: whoever has the token, as a bearer or as the password of the browser's own dialog."""

import binascii
import hashlib
import hmac
from base64 import b64decode

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request

from gateway.rate import RateLimit
from gateway.refusal import Refusal

WRONG_TRIES = "20/minute"
"""Of one address. From then on the right token is refused too, or it could be found by trying."""

CHALLENGE = 'Basic realm="Milepost operations", charset="UTF-8", Bearer realm="Milepost operations"'


class Operators:
    """Keeps the others out."""

    def __init__(self, token: SecretStr, wrong: RateLimit) -> None:
        self._token = token.get_secret_value().encode()
        self._wrong = wrong

    @property
    def seal(self) -> str:
        """What each form of ours carries. A browser sends its password along with any site's form, this it does not."""
        return hmac.new(self._token, b"milepost /ops form", hashlib.sha256).hexdigest()

    async def admit(self, request: Request) -> None:
        """Raises HTTPException (401) without the token, Refusal (429) after too many wrong ones, JournalUnavailable."""
        _, given = _credentials(request.headers)
        if given is not None:
            if hmac.compare_digest(given, self._token):
                return  # always: else whoever shares its address, that of a proxy perhaps, could lock operators out
            await self._wrong.check(request)
        raise HTTPException(401, "This page asks for the operators' token.", {"www-authenticate": CHALLENGE})

    def check_seal(self, request: Request, seal: str) -> None:
        """Raises Refusal (403) for a form that another site made. A bearer token no browser sends by itself."""
        scheme, _ = _credentials(request.headers)
        ours = request.headers.get("sec-fetch-site", "same-origin") in {"same-origin", "none"}
        sealed = hmac.compare_digest(seal.encode(errors="replace"), self.seal.encode())
        if scheme != "bearer" and not (ours and sealed):
            raise Refusal(403, "This did not come from a form of this page. Nothing was done.")


def _credentials(headers: Headers) -> tuple[str, bytes | None]:
    """The scheme in lower case, and the token, if there is one."""
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
