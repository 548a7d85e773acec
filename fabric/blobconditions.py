"""Conditional headers: whether a blob is as its reader or writer thinks it is."""

from email.utils import parsedate_to_datetime

from fabric.blobproperties import Properties
from fabric.errors import StorageRefused

_NOT_MET = "ConditionNotMet"


def check_read(headers: dict[str, str], blob: Properties) -> None:
    """Raises StorageRefused: 304 or 412."""
    none_match = headers.get("if-none-match", "")
    if none_match.strip() == "*":
        raise StorageRefused(400, "UnsatisfiableCondition", "a blob that is read is there")
    _check_match(headers, blob)
    if _matches(none_match, blob) or (not none_match and _unmodified_since(headers, "if-modified-since", blob)):
        raise StorageRefused(304, _NOT_MET, "")


def check_write(headers: dict[str, str], blob: Properties | None) -> None:
    """`blob` is None if there is none yet. Raises StorageRefused: 409 or 412."""
    none_match = headers.get("if-none-match", "")
    if blob is None:
        if headers.get("if-match"):
            raise StorageRefused(412, _NOT_MET, "there is no blob that could match If-Match")
        return
    if none_match.strip() == "*":
        raise StorageRefused(409, "BlobAlreadyExists", "the blob is there already")
    _check_match(headers, blob)
    if _matches(none_match, blob) or (not none_match and _unmodified_since(headers, "if-modified-since", blob)):
        raise StorageRefused(412, _NOT_MET, f"the blob is {blob.etag}, as it was")


def _check_match(headers: dict[str, str], blob: Properties) -> None:
    match = headers.get("if-match", "")
    changed = "if-unmodified-since" in headers and not _unmodified_since(headers, "if-unmodified-since", blob)
    if (match and match.strip() != "*" and not _matches(match, blob)) or (not match and changed):
        raise StorageRefused(412, _NOT_MET, f"the blob is {blob.etag} by now")


def _matches(tags: str, blob: Properties) -> bool:
    return blob.etag.strip('"') in {one.strip().removeprefix("W/").strip('"') for one in tags.split(",")}


def _unmodified_since(headers: dict[str, str], name: str, blob: Properties) -> bool:
    """By the second, as the header has it. A date that is none counts as if the header were not there."""
    try:
        since = parsedate_to_datetime(headers[name]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return name == "if-unmodified-since"
    return int(blob.modified) <= since
