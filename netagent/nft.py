"""The `nft` program: our table put there, read back, taken away. Blocking; each call has a time limit."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from netagent.firewall import COUNTERS, FAMILY, TABLE, FirewallError

SECONDS = 10.0
"""For one run of the program."""
LISTING_LIMIT = 4 * 1024 * 1024
_EXCERPT = 400
_ABSENT = ("No such file or directory", "does not exist")
_FOLDERS = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin"
"""Not our own PATH: it may be a user's."""


class NoNft(FirewallError):
    """The program is not there."""


class NoTable(FirewallError):
    """What was asked for is not there."""


class TooLarge(FirewallError):
    """A listing larger than we read."""


class Counter(msgspec.Struct, frozen=True):
    """What went through, since the table was put there."""

    packets: int
    bytes: int


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Our table as the kernel has it."""

    counters: dict[str, Counter]
    shape: str
    """Equal for equal rules, whatever was counted. Another after anybody edited them."""


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """All rules of this machine, for `netagent.blocked`."""

    text: bytes
    whole: bool = True
    """False: elements of named sets are left out, there were too many."""


class Firewall:
    """Keeps our table as it should be, and writes only when it is not."""

    def __init__(self) -> None:
        self._text = ""
        self._shape = ""

    def keep(self, text: str) -> tuple[Table, bool]:
        """The table, and whether it had to be put there. Raises FirewallError."""
        table = found()
        if table is not None and text == self._text and table.shape == self._shape:
            return table, False
        table = apply(text)
        self._text, self._shape = text, table.shape
        return table, True

    def off(self) -> bool:
        """Nothing of ours is left; whether there was something. Raises FirewallError."""
        self._text = self._shape = ""
        return remove()


def apply(text: str, seconds: float = SECONDS) -> Table:
    """Have it all or nothing of it done, and read the table back. Raises FirewallError."""
    _run(["-f", "-"], text.encode(), seconds)
    table = found(seconds)
    if table is None:
        raise FirewallError(f"table {FAMILY} {TABLE} is gone as soon as it is made: look for who flushes the ruleset")
    return table


def remove(seconds: float = SECONDS) -> bool:
    """Nothing of ours is left; whether there was something. Without the program there was not. Raises FirewallError."""
    try:
        if found(seconds) is None:
            return False
        # In one transaction: somebody else may delete it meanwhile.
        _run(["-f", "-"], f"add table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n".encode(), seconds)
    except NoNft:
        return False
    return True


def found(seconds: float = SECONDS) -> Table | None:
    """Our table; None if there is none. Raises FirewallError."""
    try:
        text = _run(["-j", "list", "table", FAMILY, TABLE], b"", seconds)
    except NoTable:
        return None
    return parse_table(text)


def everything(seconds: float = SECONDS, limit: int = LISTING_LIMIT) -> Listing:
    """Raises FirewallError."""
    try:
        return Listing(text=_run(["-j", "list", "ruleset"], b"", seconds, limit))
    except TooLarge:
        return Listing(text=_run(["-j", "-t", "list", "ruleset"], b"", seconds, limit), whole=False)


def legacy_tables(names: Path = Path("/proc/net/ip_tables_names")) -> tuple[str, ...]:
    """Tables of iptables-legacy, whose rules are in no listing of nft."""
    try:
        with names.open("rb") as file:
            return tuple(file.read(1024).decode("ascii", "replace").split())
    except PermissionError:
        # It is there, so there are some; which, only root is told.
        return ("unknown",)
    except OSError:
        # Absent where the kernel's part of it is not loaded.
        return ()


def parse_table(text: bytes) -> Table:
    """What `nft -j list table` prints. Raises FirewallError."""
    try:
        objects = msgspec.json.decode(text, type=_Listed).nftables
        counters = {
            one["counter"]["name"]: msgspec.convert(one["counter"], Counter) for one in objects if "counter" in one
        }
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise FirewallError(f"nft printed what is no listing ({error}): look at nft -j list ruleset") from error
    rules = [
        {kind: {key: value for key, value in body.items() if key not in {"handle", "packets", "bytes"}}}
        for one in objects
        for kind, body in one.items()
        if kind != "metainfo"
    ]
    shape = hashlib.sha256(msgspec.json.encode(rules, order="deterministic")).hexdigest()
    return Table(counters={name: counters[name] for name in COUNTERS if name in counters}, shape=shape)


class _Listed(msgspec.Struct):
    nftables: list[dict[str, dict[str, Any]]]


def _run(arguments: list[str], given: bytes, seconds: float, limit: int = LISTING_LIMIT) -> bytes:
    """What it prints. Raises FirewallError."""
    program = shutil.which("nft", path=_FOLDERS)
    if program is None:
        raise NoNft("the nft program is not installed: install the package nftables, or set the firewall off")
    # Into files: a listing may be larger than we want to hold.
    try:
        with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as said:
            code = subprocess.run(
                [program, *arguments],
                input=given,
                stdout=printed,
                stderr=said,
                env={"LC_ALL": "C", "PATH": _FOLDERS},
                cwd="/",
                timeout=seconds,
                check=False,
            ).returncode
            printed.seek(0)
            said.seek(0)
            text, excerpt = printed.read(limit + 1), said.read(_EXCERPT)
    except subprocess.TimeoutExpired as error:
        reason = f"nft did not end within {seconds:g} s: look for another program that holds the ruleset"
        raise FirewallError(reason) from error
    except OSError as error:
        raise FirewallError(f"{program} cannot be run: {error.strerror}: mend the machine") from error
    if code:
        _failed(code, " ".join(excerpt.decode("utf-8", "replace").split()))
    if len(text) > limit:
        raise TooLarge(f"the rules of this machine are more than {limit} bytes: look at nft list ruleset")
    return text


def _failed(code: int, excerpt: str) -> NoReturn:
    if any(words in excerpt for words in _ABSENT):
        raise NoTable(f"nft failed: {excerpt}: a table or a kernel module is missing; set the firewall off, or mend it")
    hint = "give netagent CAP_NET_ADMIN" if "not permitted" in excerpt else "set the firewall off, or mend it"
    raise FirewallError(f"nft failed: {excerpt or f'exit status {code}'}: {hint}")
