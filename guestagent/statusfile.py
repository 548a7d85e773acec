"""The status file an extension writes (protocol: status file; what real ones do to it).

Any bytes in, a status or StatusFileError out. What is too long is cut, never a reason to say nothing.
"""

from typing import Any, Literal

import msgspec

from guestagent.errors import StatusFileError

READ_LIMIT = 16 * 1024 * 1024
SIZE_LIMIT = 131_072
_MESSAGE_LIMIT = 1024
_SUBSTATUS_LIMIT = 10_240
# Empty ones have no length the rule could count.
_SUBSTATUS_COUNT = 1000
_MARK = " ... [TRUNCATED]"

Word = Literal["transitioning", "warning", "error", "success"]
_WORDS: dict[str, Word] = {
    "transitioning": "transitioning",
    "warning": "warning",
    "error": "error",
    "success": "success",
}
Code = int | str


class Substatus(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    status: Word
    code: Code
    message: str | None


class ExtensionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is forwarded to the host."""

    status: Word
    code: Code = 0
    message: str | None = None
    operation: str | None = None
    applied_at: str | None = None
    substatus: tuple[Substatus, ...] = ()


def parse_status(data: bytes) -> ExtensionStatus:
    """Raises StatusFileError (1012) for what cannot be understood."""
    if len(data) > READ_LIMIT:
        raise StatusFileError(f"the status file is larger than {READ_LIMIT} bytes")
    try:
        document = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        shown = data[:200].decode("utf-8", "replace")
        raise StatusFileError(f"the status file is not JSON: {error}: {shown}") from error
    # The contract is an array of one; some write the object alone.
    first = document[0] if isinstance(document, list) and document else document
    status = first.get("status") if isinstance(first, dict) else None
    if not isinstance(status, dict):
        raise StatusFileError("the status file has no status object")
    parsed = ExtensionStatus(
        status=_word(status.get("status"), "status.status"),
        code=_code(status.get("code")),
        message=_message(status.get("formattedMessage")),
        operation=_text(status.get("operation")),
        applied_at=_text(status.get("configurationAppliedTime")),
        substatus=_substatuses(status.get("substatus")),
    )
    return _cut(parsed) if len(data) > SIZE_LIMIT else parsed


def _word(value: Any, where: str) -> Word:
    """A word we do not know means something went wrong; no word at all means the file is not what it should be."""
    if not isinstance(value, str) or not value:
        raise StatusFileError(f"the status file has no {where}")
    return _WORDS.get(value.lower(), "error")


def _code(value: Any) -> Code:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return 0
    return value if isinstance(value, int) else value[:32]


def _message(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("message")
    return value if isinstance(value, str) else None


def _text(value: Any) -> str | None:
    return value[:256] if isinstance(value, str) else None


def _substatuses(value: Any) -> tuple[Substatus, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(
        Substatus(
            name=_text(one.get("name")) or "",
            status=_word(one.get("status"), "substatus.status"),
            code=_code(one.get("code")),
            message=_message(one.get("formattedMessage")),
        )
        for one in value
        if isinstance(one, dict)
    )


def _cut(status: ExtensionStatus) -> ExtensionStatus:
    """By the protocol's rule for oversize files; a null message is no reason to fail."""
    kept: list[Substatus] = []
    total = 0
    for one in status.substatus:
        short = msgspec.structs.replace(
            one, name=_shorten(one.name, _SUBSTATUS_LIMIT) or "", message=_shorten(one.message, _SUBSTATUS_LIMIT)
        )
        total += len(short.name) + len(short.message or "")
        if total > SIZE_LIMIT or len(kept) == _SUBSTATUS_COUNT:
            break
        kept.append(short)
    return msgspec.structs.replace(status, message=_shorten(status.message, _MESSAGE_LIMIT), substatus=tuple(kept))


def _shorten(text: str | None, limit: int) -> str | None:
    return text if text is None or len(text) <= limit else text[: limit - len(_MARK)] + _MARK
