"""Running as somebody else. We are root, so no password is needed to become the user, and none is ever used.

The original pipes the password through a shell into sudo, which does not ask root for it. Here it is neither checked
nor written anywhere: `runAsPassword` is accepted and ignored.
"""

import contextlib
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from guestagent.runcommand.errors import NoSuchUser

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT_VARIABLES = ("LANG", "TZ", "AZVMAGENT_ROOT")


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A user of this machine."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: Path
    shell: str

    @property
    def is_us(self) -> bool:
        return self.uid == os.geteuid()

    def environment(self) -> dict[str, str]:
        """What a fresh session of this user would have; nothing of ours but the language."""
        found = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        return {
            **found,
            "PATH": _PATH,
            "HOME": str(self.home),
            "USER": self.name,
            "LOGNAME": self.name,
            "SHELL": self.shell or "/bin/sh",
        }


def find(name: str) -> Account:
    """Raises NoSuchUser, also if we may not become that user."""
    try:
        entry = pwd.getpwnam(name)
        groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    except (KeyError, OSError, UnicodeEncodeError, ValueError) as error:
        raise NoSuchUser(
            f"failed to lookup RunAs user {name[:80]!r}: looks like the user does not exist on this machine"
        ) from error
    account = Account(
        name=entry.pw_name,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        groups=groups,
        home=Path(entry.pw_dir or "/"),
        shell=entry.pw_shell,
    )
    if os.geteuid() != 0 and not account.is_us:
        raise NoSuchUser(f"to run as {name[:80]!r} the agent must be root; it is {_own_name()}")
    return account


@contextlib.contextmanager
def acting_as(account: Account) -> Iterator[None]:
    """Files are looked up and made as this user, so that a link in a user's folder leads us nowhere.

    For the whole process: use only while it has one thread.
    """
    if account.is_us:
        yield
        return
    before = os.getgroups()
    os.setgroups(account.groups)
    os.setegid(account.gid)
    os.seteuid(account.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


def copy_for(account: Account, folder: Path, name: str, number: int) -> tuple[Path, bool]:
    """A copy of what was downloaded, where the user can get at it; whether it is a temporary one. Raises OSError."""
    sources = [(path.name, os.open(path, os.O_RDONLY | os.O_CLOEXEC)) for path in folder.iterdir() if path.is_file()]
    try:
        with acting_as(account):
            target, temporary = _folder_of(account, name, number)
            for file_name, descriptor in sources:
                with (target / file_name).open("xb") as file, os.fdopen(os.dup(descriptor), "rb") as source:
                    shutil.copyfileobj(source, file)
                    os.fchmod(file.fileno(), 0o500)
    finally:
        for _, descriptor in sources:
            os.close(descriptor)
    return target, temporary


def remove_copy(user: str, folder: Path) -> None:
    """What `copy_for` made; a user who is gone meanwhile leaves it."""
    with contextlib.suppress(NoSuchUser, OSError), acting_as(find(user)):
        shutil.rmtree(folder, ignore_errors=True)


def _folder_of(account: Account, name: str, number: int) -> tuple[Path, bool]:
    """Under the home, as the original; in /tmp for users without one."""
    folder = account.home / "waagent" / "run-command-handler-runas" / "download" / name / str(number)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="run-command-", dir="/tmp")), True  # mkdtemp makes it ours
    return folder, False


def _own_name() -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return str(os.geteuid())
