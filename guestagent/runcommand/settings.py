"""The settings file of a run, in either shape, to an Order. Any bytes in, an Order or BadSettings out.

`action` is v1 (RunCommandLinux): keys exactly as documented, an unknown one is an error. `managed` is v2
(RunCommandHandlerLinux): keys in any case, unknown ones are ignored.
"""

import base64
import binascii
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from guestagent.runcommand.errors import BadSettings
from guestagent.runcommand.order import BlobTarget, Identity, Order, Source
from guestagent.runcommand.sharedkey import signed_url
from wire import json
from wire.errors import DocumentError

SCRIPT_LIMIT = 256 * 1024
"""Bytes of v1's script as it stands in the settings."""
_UNPACKED_LIMIT = 16 * 1024 * 1024
_DOCUMENT = "the settings"
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_LONGEST_TIMEOUT = 10 * 365 * 86400


class HandlerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The file, protected settings still closed."""

    public: dict[str, Any]
    protected: bytes | None
    """DER CMS envelope."""
    thumbprint: str


def read_handler_settings(data: bytes) -> HandlerSettings:
    """`{"runtimeSettings":[{"handlerSettings":{...}}]}`. Raises BadSettings."""
    if not data.strip():
        raise BadSettings("the settings file is empty")
    try:
        items = json.Fields(_DOCUMENT, "", json.parse(_DOCUMENT, data)).objects("runtimeSettings")
        if len(items) != 1:
            raise BadSettings(f"runtimeSettings has {len(items)} items instead of one")
        fields = json.Fields(_DOCUMENT, "handlerSettings", items[0].raw("handlerSettings"))
        public, protected = fields.raw("publicSettings"), fields.text("protectedSettings", "")
        thumbprint = fields.text("protectedSettingsCertThumbprint", "")
        if isinstance(public, str):
            # Delivered as text by one of the channels; a widespread agent hands it on as it is.
            public = json.parse("publicSettings", public.encode())
    except DocumentError as error:
        raise BadSettings(str(error)) from error
    if not isinstance(public, dict | None):
        raise BadSettings("publicSettings is not an object")
    try:
        envelope = base64.b64decode(protected, validate=True) if protected else None
    except (binascii.Error, ValueError) as error:
        raise BadSettings(f"protectedSettings is not base64: {error}") from error
    if envelope and not thumbprint:
        raise BadSettings("protectedSettings has no protectedSettingsCertThumbprint")
    return HandlerSettings(public=public or {}, protected=envelope, thumbprint=thumbprint)


def parse_protected(plaintext: bytes) -> dict[str, Any]:
    """Raises BadSettings, which never quotes the plaintext."""
    try:
        value = msgspec.json.decode(plaintext.removeprefix(b"\xef\xbb\xbf")) if plaintext.strip() else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadSettings("the decrypted protectedSettings are not JSON") from error
    if not isinstance(value, dict | None):
        raise BadSettings("the decrypted protectedSettings are not an object")
    return value or {}


# -- v1 ----------------------------------------------------------------------------------------------------------------


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


_Check = tuple[Callable[[Any], bool], str]
_PUBLIC: dict[str, _Check] = {
    "commandToExecute": (_text, "a string"),
    "script": (_text, "a string"),
    "skipDos2Unix": (lambda value: isinstance(value, bool), "true or false"),
    "fileUris": (_texts, "an array of strings"),
    "timestamp": (lambda value: isinstance(value, int) and not isinstance(value, bool), "an integer"),
}
_PROTECTED: dict[str, _Check] = {
    "commandToExecute": (_text, "a string"),
    "script": (_text, "a string"),
    "fileUris": (_texts, "an array of strings"),
    "storageAccountName": (
        lambda value: isinstance(value, str) and bool(_ACCOUNT.fullmatch(value)),
        "3 to 24 lower-case letters or digits",
    ),
    "storageAccountKey": (_text, "a string"),
}


def parse_action(public: dict[str, Any], protected: dict[str, Any]) -> Order:
    """v1. Raises BadSettings."""
    _check_keys("public", public, _PUBLIC)
    _check_keys("protected", protected, _PROTECTED)
    command = _only_once("commandToExecute", public, protected)
    script = _only_once("script", public, protected)
    if command and script:
        raise BadSettings("'commandToExecute' and 'script' were both specified, but only one is valid at a time")
    if not command and not script:
        raise BadSettings("'commandToExecute' is not specified")
    if "\0" in command:
        raise BadSettings("'commandToExecute' contains a NUL")
    account, key = protected.get("storageAccountName", ""), protected.get("storageAccountKey", "")
    if bool(account) != bool(key):
        raise BadSettings("both 'storageAccountName' and 'storageAccountKey' must be specified")
    urls = public.get("fileUris") or protected.get("fileUris") or []
    return Order(
        command=command,
        script=_unpack_script(script) if script else None,
        files=tuple(_file(f"fileUris[{number}]", url, account, key) for number, url in enumerate(urls)),
        convert_text=not public.get("skipDos2Unix", False),
    )


def _check_keys(which: str, found: Mapping[str, Any], known: Mapping[str, _Check]) -> None:
    for name, value in found.items():
        if name not in known:
            raise BadSettings(f"invalid {which} settings JSON: additional property {name[:80]!r} is not allowed")
        fits, wanted = known[name]
        if not fits(value):
            raise BadSettings(f"invalid {which} settings JSON: {name} is not {wanted}")


def _only_once(name: str, public: dict[str, Any], protected: dict[str, Any]) -> str:
    if public.get(name) and protected.get(name):
        raise BadSettings(f"'{name}' was specified both in public and protected settings; it must be specified once")
    value: str = public.get(name) or protected.get(name) or ""
    return value


def _unpack_script(text: str) -> bytes:
    """Base64, and gzip inside if it looks like it."""
    if len(text) > SCRIPT_LIMIT:
        raise BadSettings(f"the script's length ({len(text)}) exceeded the maximum allowed length of {SCRIPT_LIMIT}")
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadSettings(f"failed to base64 decode script: {error}") from error
    if not data.startswith(b"\x1f\x8b"):
        return data
    unpacker = zlib.decompressobj(wbits=31)
    try:
        found = unpacker.decompress(data, _UNPACKED_LIMIT)
    except zlib.error as error:
        raise BadSettings(f"failed to decompress script: {error}") from error
    if not unpacker.eof:
        reason = "it is cut short" if not unpacker.unconsumed_tail else f"more than {_UNPACKED_LIMIT} bytes"
        raise BadSettings(f"failed to decompress script: {reason}")
    return found


def _file(where: str, url: str, account: str, key: str) -> Source:
    name = _name_of(where, url)
    if not account:
        return Source(url=url, file_name=name)
    try:
        return Source(url=signed_url(url, account, key), file_name=name)
    except ValueError as error:
        raise BadSettings(f"{where}: {error}") from error


# -- v2 ----------------------------------------------------------------------------------------------------------------


def parse_managed(public: dict[str, Any], protected: dict[str, Any]) -> Order:
    """v2. Raises BadSettings."""
    try:
        return _managed(json.Fields("publicSettings", "", public), json.Fields("protectedSettings", "", protected))
    except DocumentError as error:
        raise BadSettings(str(error)) from error


def _managed(public: json.Fields, protected: json.Fields) -> Order:
    if public.boolean("installAsService", default=False):
        raise BadSettings("installAsService is not supported by the built-in run command")
    source = json.Fields("publicSettings", "source", public.raw("source") or {})
    script, uri = source.text("script", ""), source.text("scriptUri", "")
    if bool(script) == bool(uri):
        raise BadSettings("exactly one of 'source.script' and 'source.scriptUri' has to be specified")
    parameters = [*public.objects("parameters"), *protected.objects("protectedParameters")]
    timeout = public.integer("timeoutInSeconds", 0)
    script_from = None
    if uri:
        script_from = Source(
            url=_joined("source.scriptUri", uri, protected.text("sourceSASToken", "")),
            file_name=_name_of("source.scriptUri", uri),
            identity=_identity(protected, "sourceManagedIdentity"),
        )
    run_as = public.text("runAsUser", "")
    if "\0" in run_as or len(run_as) > 256:
        raise BadSettings("runAsUser is not a user's name")
    return Order(
        script=script.encode() if script else None,
        script_from=script_from,
        artifacts=_artifacts(public.objects("artifacts"), protected.objects("artifacts")),
        arguments=tuple(_value(one) for one in parameters if _value(one) and not one.text("name", "")),
        environment={_variable(one): _value(one) for one in parameters if _value(one) and one.text("name", "")},
        run_as=run_as,
        timeout_seconds=float(min(timeout, _LONGEST_TIMEOUT)) if timeout > 0 else None,
        asynchronous=public.boolean("asyncExecution", default=False),
        failure_is_error=public.boolean("treatFailureAsDeploymentFailure", default=False),
        output_blob=_blob(public, protected, "output"),
        error_blob=_blob(public, protected, "error"),
    )


def _value(parameter: json.Fields) -> str:
    """Empty ones are dropped, as the original drops them."""
    value = parameter.text("value", "")
    if "\0" in value:
        raise parameter.wrong("value", "contains a NUL")
    return value


def _variable(parameter: json.Fields) -> str:
    name = parameter.text("name", "")
    if "=" in name or "\0" in name:
        raise parameter.wrong("name", f"{name[:80]!r} cannot be the name of a variable")
    return name


def _blob(public: json.Fields, protected: json.Fields, which: str) -> BlobTarget | None:
    uri = public.text(f"{which}BlobUri", "")
    if not uri:
        return None
    token = protected.text(f"{which}BlobSASToken", "")
    return BlobTarget(
        url=_joined(f"{which}BlobUri", uri, token),
        signed=bool(token) or "sig=" in urlsplit(uri).query,
        identity=_identity(protected, f"{which}BlobManagedIdentity"),
    )


def _artifacts(public: list[json.Fields], protected: list[json.Fields]) -> tuple[Source, ...]:
    secrets = {one.integer("id"): one for one in protected}
    found = []
    for number, one in enumerate(public):
        where, key = f"artifacts[{number}]", one.integer("id", 0)
        secret = secrets.get(key)
        name = one.text("fileName", "") or f"Artifact{key}"
        _check_file_name(where, name)
        found.append(
            Source(
                url=_joined(f"{where}.uri", one.text("uri"), secret.text("sasToken", "") if secret else ""),
                file_name=name,
                identity=_identity(secret, "artifactManagedIdentity") if secret else None,
            )
        )
    if len({one.file_name for one in found}) != len(found):
        raise BadSettings("two artifacts have the same fileName")
    return tuple(found)


def _identity(fields: json.Fields, key: str) -> Identity | None:
    value = fields.raw(key)
    if value is None:
        return None
    inner = json.Fields("protectedSettings", key, value)
    found = Identity(client_id=inner.text("clientId", ""), object_id=inner.text("objectId", ""))
    if found.client_id and found.object_id:
        raise BadSettings(f"{key}: use either clientId or objectId, not both")
    return found


def _joined(where: str, url: str, token: str) -> str:
    """The URL with its signature; tokens come with and without their question mark."""
    _check_url(where, url)
    token = token.strip().lstrip("?&")
    return url + ("&" if "?" in url else "?") + token if token else url


def _check_url(where: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 80) > 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        raise BadSettings(f"{where} is not a valid url")


def _name_of(where: str, url: str) -> str:
    """What the file is called on disk: the last part of the URL's path."""
    _check_url(where, url)
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    _check_file_name(where, name)
    return name


def _check_file_name(where: str, name: str) -> None:
    if name in {"", ".", ".."} or "/" in name or "\0" in name or len(name.encode("utf-8", "replace")) > 200:
        raise BadSettings(f"{where}: cannot extract a file name: {name[:80]!r}")
