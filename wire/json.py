"""The host's JSON: bounded, strict UTF-8, and vmSettings' habit of not caring about the case of keys."""

from typing import Any

import msgspec

from wire.errors import DocumentError

SIZE_LIMIT = 8 * 1024 * 1024


def parse_object(document: str, data: bytes) -> dict[str, Any]:
    """A JSON object. Raises DocumentError."""
    value = parse(document, data)
    if not isinstance(value, dict):
        raise DocumentError(document, "is not a JSON object")
    return value


def parse(document: str, data: bytes) -> Any:
    """Any JSON value. Raises DocumentError."""
    if len(data) > SIZE_LIMIT:
        raise DocumentError(document, f"is larger than {SIZE_LIMIT} bytes")
    try:
        return msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DocumentError(document, f"is not JSON: {error}") from error


class Fields:
    """One object of a document, its keys looked up without case, its values by the type they must have."""

    def __init__(self, document: str, path: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise DocumentError(document, f"{path or 'it'} is not an object")
        self._document = document
        self._path = path
        self._values = {key.lower(): found for key, found in value.items()}

    def has(self, key: str) -> bool:
        return self._values.get(key.lower()) is not None

    def raw(self, key: str) -> Any:
        return self._values.get(key.lower())

    def text(self, key: str, default: str | None = None) -> str:
        """A string; a number is taken as its digits. Mandatory without a default. Raises DocumentError."""
        value = self.raw(key)
        if value is None:
            if default is None:
                raise self.wrong(key, "is missing")
            return default
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.wrong(key, "is not a string")
        return str(value)

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer, or its digits in a string. Mandatory without a default. Raises DocumentError."""
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if (
            isinstance(value, str)
            and value.strip().lstrip("-").isascii()
            and value.strip().lstrip("-").isdigit()
            and len(value) < 20
        ):
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(key, "is missing" if value is None else "is not an integer")
        return value

    def boolean(self, key: str, *, default: bool) -> bool:
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(key, "is not true or false")
        return value

    def objects(self, key: str) -> list["Fields"]:
        """An array of objects; absent is empty. Raises DocumentError."""
        value = self.raw(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(key, "is not an array")
        return [Fields(self._document, f"{self._at(key)}[{number}]", one) for number, one in enumerate(value)]

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of strings; absent is empty. Raises DocumentError."""
        value = self.raw(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.wrong(key, "is not an array of strings")
        return tuple(value)

    def wrong(self, key: str, reason: str) -> DocumentError:
        return DocumentError(self._document, f"{self._at(key)} {reason}")

    def _at(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key
