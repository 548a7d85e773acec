"""Python sources to the compiled files that lie beside them.

`unchecked-hash`: Python loads them without looking at the source's time, which unpacking does not keep; that they fit
is for the signature to say. The bytes are the same for the same source and the same minor version of Python.
"""

import importlib.util
import marshal
import sys
from collections.abc import Mapping
from pathlib import PurePosixPath

from release.errors import ReleaseError

# Format 2 has no back references. Those of newer formats depend on how often the compiling process uses an object.
_MARSHAL = 2
_UNCHECKED_HASH = (0b01).to_bytes(4, "little")


def compiled(sources: Mapping[str, bytes]) -> dict[str, bytes]:
    """The `__pycache__` files for every `.py` among these. Raises ReleaseError for a source with a mistake."""
    return {cached(path): _compile(path, data) for path, data in sources.items() if path.endswith(".py")}


def cached(path: str) -> str:
    """`a/b.py` to `a/__pycache__/b.cpython-311.pyc`."""
    source = PurePosixPath(path)
    return str(source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc")


def _compile(path: str, data: bytes) -> bytes:
    try:
        code = compile(data, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError) as error:
        raise ReleaseError(f"{path} cannot be compiled: {error}") from error
    head = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + importlib.util.source_hash(data)
    return head + marshal.dumps(code, _MARSHAL)
