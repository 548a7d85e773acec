"""The extension policy: what the owner of the VM lets the host install (protocol: extension policy).

One JSON file. It exists to say no, so whatever is wrong with it blocks every handler, and the reason names the
attribute. No file, no policy.
"""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import msgspec

from guestagent.errors import PolicyError

SIZE_LIMIT = 1024 * 1024

_NEWEST = (0, 1, 0)
_VERSION = re.compile(r"\d{1,9}(\.\d{1,9}(\.\d{1,9})?)?", re.ASCII)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says. The default is what no file says."""

    problem: str = ""
    """Why the file cannot be obeyed: everything is blocked."""
    allow_listed_only: bool = False
    signatures_required: bool = False
    """Of handlers that say nothing of their own."""
    extensions: dict[str, bool | None] = {}
    """The list: by case-folded handler name, what its own signatureRequired says."""

    def refusal(self, handler: str) -> str:
        """Why this handler may be neither enabled nor uninstalled; empty if it may."""
        if self.problem:
            return f"the extension policy cannot be obeyed and blocks every extension: {self.problem}"
        if self.allow_listed_only and handler.casefold() not in self.extensions:
            return f"the extension policy allows only the extensions it lists, and {handler} is not among them"
        return ""

    def signature_required(self, handler: str) -> bool:
        """What the handler's own entry says, else what the policy says of all."""
        own = self.extensions.get(handler.casefold())
        return bool(self.problem) or (self.signatures_required if own is None else own)


def read_policy(path: Path) -> Policy:
    """The policy in force. Never raises: a file that cannot be read is as bad as one that says nonsense."""
    try:
        data = _read(path)
        return Policy() if data is None else parse_policy(data)
    except PolicyError as error:
        return Policy(problem=f"{path}: {error}")
    except OSError as error:
        return Policy(problem=f"{path} cannot be read: {error.strerror}")


def parse_policy(data: bytes) -> Policy:
    """Raises PolicyError, naming the attribute. As in the reference agent an attribute that is null is not there."""
    if len(data) > SIZE_LIMIT:
        raise PolicyError(f"it is larger than {SIZE_LIMIT} bytes")
    try:
        document = json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"it is not JSON: {error}") from error
    policy = _checked(document, "the policy", {"policyVersion", "extensionPolicies"})
    _check_version(policy.get("policyVersion"))
    rules = policy.get("extensionPolicies")
    if rules is None:
        return Policy()
    rules = _checked(rules, "extensionPolicies", {"allowListedExtensionsOnly", "signatureRequired", "extensions"})
    listed = rules.get("extensions")
    return Policy(
        allow_listed_only=_switch(rules, "extensionPolicies", "allowListedExtensionsOnly") or False,
        signatures_required=_switch(rules, "extensionPolicies", "signatureRequired") or False,
        extensions={} if listed is None else _extensions(listed),
    )


def _read(path: Path) -> bytes | None:
    """None if there is no such file. Raises PolicyError, OSError."""
    try:
        # Should it be a pipe, not to wait for the other end.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise PolicyError("it is not a file")
            return file.read(SIZE_LIMIT + 1)
    except FileNotFoundError:
        if path.is_symlink():
            raise PolicyError("it is a link to nothing") from None
        return None


def _extensions(listed: Any) -> dict[str, bool | None]:
    found: dict[str, bool | None] = {}
    for name, entry in _checked(listed, "extensionPolicies.extensions").items():
        # A name may hold anything, also what no log can.
        where = f"extensionPolicies.extensions.{name[:100]!r}"
        rules = _checked(entry, where, {"signatureRequired", "runtimePolicy"})
        if name.casefold() in found:
            raise PolicyError(f"{where} is there twice: names differ in more than case")
        found[name.casefold()] = _switch(rules, where, "signatureRequired")
    return found


def _check_version(version: Any) -> None:
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise PolicyError('policyVersion is missing, or is no text like "0.1.0"')
    parts = tuple(int(part) for part in version.split("."))
    if parts > _NEWEST:
        raise PolicyError(f"policyVersion {version} is newer than {'.'.join(map(str, _NEWEST))}, which we know")


def _checked(value: Any, where: str, known: set[str] | None = None) -> dict[str, Any]:
    """An object with no attribute that is not `known`: one we do not understand may forbid something."""
    if not isinstance(value, dict):
        raise PolicyError(f"{where} is not an object")
    for name in value:
        if known is not None and name not in known:
            raise PolicyError(f"{where} has an attribute nobody knows: {name[:100]!r}")
    return value


def _switch(value: dict[str, Any], where: str, name: str) -> bool | None:
    found = value.get(name)
    if found is not None and not isinstance(found, bool):
        raise PolicyError(f"{where}.{name} is neither true nor false")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two answers to one question neither may be chosen."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise PolicyError(f"the attribute {name[:100]!r} is there twice")
        found[name] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
