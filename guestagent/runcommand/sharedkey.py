"""v1's storage account key: a read signature of our own for one blob (service SAS, version 2018-11-09)."""

import base64
import binascii
import datetime
import hashlib
import hmac
from collections.abc import Callable
from urllib.parse import quote, unquote, urlsplit

_VERSION = "2018-11-09"
_VALID = datetime.timedelta(minutes=30)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def signed_url(url: str, account: str, key: str, clock: Callable[[], datetime.datetime] = _now) -> str:
    """`url` with a signature good for half an hour. Raises ValueError for a key or a URL that is none."""
    try:
        secret = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("storageAccountKey is not base64") from error
    parts = urlsplit(url)
    path = unquote(parts.path).lstrip("/")
    # An emulator has the account in the path instead of the host's name.
    path = path.removeprefix(f"{account}/") if not (parts.hostname or "").startswith(f"{account}.") else path
    if not path:
        raise ValueError("it names no blob")
    resource = f"/blob/{account}/{path if '/' in path else f'$root/{path}'}"
    expiry = (clock() + _VALID).strftime("%Y-%m-%dT%H:%M:%SZ")
    # Permissions, start, expiry, resource, identifier, IP, protocol, version, kind, snapshot, five response headers.
    fields = ["r", "", expiry, resource, "", "", "", _VERSION, "b", "", "", "", "", "", ""]
    digest = hmac.new(secret, "\n".join(fields).encode(), hashlib.sha256).digest()
    signature = quote(base64.b64encode(digest).decode(), safe="")
    query = f"sv={_VERSION}&sr=b&sp=r&se={quote(expiry, safe='')}&sig={signature}"
    return url + ("&" if parts.query else "?") + query
