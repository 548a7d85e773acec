"""Tokens of the machine's managed identities, from the instance metadata service."""

import re
from urllib.parse import urlencode, urlsplit

from guestagent.runcommand.order import Identity
from wire import json
from wire.deadline import Deadline
from wire.errors import DocumentError, HostError
from wire.http import HttpClient

STORAGE_VERSION = "2018-03-28"
_RESOURCE = "https://storage.azure.com/"
_SECONDS = 20.0
# A token is worth something to whoever receives it: it goes to Azure's blob stores only, in any of its clouds.
_STORE = re.compile(
    r"[a-z0-9-]+\.(?:[a-z0-9]+\.)?blob\."
    r"(?:core\.(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net|cloudapi\.de|microsoft\.scloud|eaglex\.ic\.gov)"
    r"|storage\.azure\.net)"
)


class NoToken(Exception):
    """Why there is none."""


def is_blob_store(url: str) -> bool:
    """Whether a token of ours may be sent there."""
    return bool(_STORE.fullmatch(urlsplit(url).hostname or ""))


def token_headers(client: HttpClient, imds: str, url: str, identity: Identity | None) -> dict[str, str]:
    """What makes a request to a blob one of this identity. Raises NoToken."""
    if not is_blob_store(url):
        raise NoToken(f"{urlsplit(url).hostname} is no Azure blob store: managed identity needs one")
    query = {"api-version": "2018-02-01", "resource": _RESOURCE}
    if identity is not None and identity.client_id:
        query["client_id"] = identity.client_id
    if identity is not None and identity.object_id:
        query["object_id"] = identity.object_id
    where = f"{imds}/metadata/identity/oauth2/token?{urlencode(query)}"
    try:
        answer = client.request("GET", where, headers={"Metadata": "true"}, deadline=Deadline.after(_SECONDS))
        token = json.Fields("the token", "", json.parse("the token", answer.body)).text("access_token")
    except (HostError, DocumentError) as error:
        raise NoToken(f"managed identity needs a token of the metadata service: {error}") from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise NoToken("the metadata service's token is none")
    return {"Authorization": f"Bearer {token}", "x-ms-version": STORAGE_VERSION}
