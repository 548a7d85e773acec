"""A manager's own program, run with a time limit and its words in the error."""

import shutil
import subprocess

from netagent.dns.detect import FOLDERS
from netagent.dns.errors import Absent, DnsError

_SECONDS = 20.0
_EXCERPT = 300


def run(name: str, *arguments: str, given: str = "", seconds: float = _SECONDS) -> None:
    """Raises DnsError."""
    program = shutil.which(name, path=FOLDERS)
    if program is None:
        raise Absent(f"the program {name} is not installed, though it owns the resolver: install it, or set DNS off")
    try:
        done = subprocess.run(
            [program, *arguments],
            input=given.encode(),
            capture_output=True,
            timeout=seconds,
            env={"LC_ALL": "C", "PATH": FOLDERS},
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DnsError(f"{name} did not end within {seconds:g} s: look at its service") from error
    except OSError as error:
        raise DnsError(f"{program} cannot be run: {error.strerror}: mend the machine") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).decode("utf-8", "replace").split())[:_EXCERPT]
        raise DnsError(
            f"{name} failed: {said or f'exit status {done.returncode}'}: look at its service, or set DNS off"
        )
