"""The host's XML, through a hardened parser.

DOCTYPE and entities are refused, bytes, depth and number of elements are bounded. Elements are found as the reference
agent finds them: by name, anywhere below, first in document order. Unlike it we also read CDATA as text and elements
with a namespace prefix: what it rejects we understand.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from wire.errors import DocumentError

SIZE_LIMIT = 8 * 1024 * 1024
_DEPTH_LIMIT = 64
_ELEMENT_LIMIT = 100_000

Element = ET.Element


def parse(document: str, data: bytes) -> Element:
    """The root element. Raises DocumentError."""
    from defusedxml import DefusedXmlException  # 9 MB of parser only when a document has come
    from defusedxml.ElementTree import DefusedXMLParser

    if len(data) > SIZE_LIMIT:
        raise DocumentError(document, f"is larger than {SIZE_LIMIT} bytes")
    if len(data) > 3 and all(byte > 128 for byte in data[:3]):
        data = data[3:]  # a byte order mark, by the protocol's own rule
    parser = DefusedXMLParser(target=_BoundedBuilder(document), forbid_dtd=True)
    try:
        parser.feed(data)
        root = parser.close()
    except ET.ParseError as error:
        raise DocumentError(document, f"is not well-formed XML: {error}") from error
    except DefusedXmlException as error:
        raise DocumentError(document, f"uses what is forbidden in XML here: {type(error).__name__}") from error
    except (ValueError, LookupError) as error:
        raise DocumentError(document, f"is in an encoding we do not read: {error}") from error
    if not isinstance(root, ET.Element):
        raise DocumentError(document, "is empty")
    return root


def find(element: Element, name: str) -> Element | None:
    """The first element of this name below `element`."""
    return next(find_all(element, name), None)


def find_all(element: Element, name: str) -> Iterator[Element]:
    """All elements of this name below `element`, in document order."""
    return (one for one in element.iter() if one is not element and one.tag == name)


def children(element: Element, name: str) -> Iterator[Element]:
    """Its direct children of this name."""
    return (one for one in element if one.tag == name)


def text_of(element: Element, name: str) -> str:
    """The text of the first such element below; empty if there is none."""
    found = find(element, name)
    return found.text or "" if found is not None else ""


def writable(text: str) -> str:
    """`text` without the characters XML 1.0 cannot carry (section 2.2), escaped or not."""
    return "".join(
        one
        for one in text
        if one in "\t\n\r" or " " <= one <= "\ud7ff" or "\ue000" <= one <= "\ufffd" or one > "\uffff"
    )


class _BoundedBuilder(ET.TreeBuilder):
    def __init__(self, document: str) -> None:
        super().__init__()
        self._document = document
        self._depth = 0
        self._elements = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self._depth += 1
        self._elements += 1
        if self._depth > _DEPTH_LIMIT:
            raise DocumentError(self._document, f"nests deeper than {_DEPTH_LIMIT} elements")
        if self._elements > _ELEMENT_LIMIT:
            raise DocumentError(self._document, f"has more than {_ELEMENT_LIMIT} elements")
        return super().start(_NAMESPACE.sub("", tag), attrs)

    def end(self, tag: str, /) -> Element:
        self._depth -= 1
        return super().end(_NAMESPACE.sub("", tag))


_NAMESPACE = re.compile(r"^\{[^}]*\}")
