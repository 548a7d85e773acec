"""Opening protected settings, in a process of its own: `python -m guestagent.runcommand.secrets LIB THUMBPRINT`.

The envelope comes on standard input, the plaintext goes to standard output. What cryptography costs in memory is given
back with the process; a worker may live for days.
"""

import re
import subprocess
import sys
from pathlib import Path

from guestagent.runcommand.errors import BadSettings
from ipc.child import module_command

_SECONDS = 60.0
_THUMBPRINT = re.compile(r"[0-9A-F]{40}")


def open_protected(lib: Path, thumbprint: str, envelope: bytes) -> bytes:
    """The plaintext. Raises BadSettings."""
    name = thumbprint.upper()
    if not _THUMBPRINT.fullmatch(name):
        raise BadSettings(f"protectedSettingsCertThumbprint is no thumbprint: {thumbprint[:60]!r}")
    command = module_command("guestagent.runcommand.secrets", str(lib), name)
    try:
        done = subprocess.run(command, input=envelope, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BadSettings(f"protectedSettings cannot be decrypted: {error}") from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise BadSettings(f"protectedSettings cannot be decrypted with certificate {name}: {lines[-1]}")
    return done.stdout


def main(lib: str, thumbprint: str) -> int:
    from wire.certificates import decrypt
    from wire.errors import DocumentError

    try:
        key = (Path(lib) / f"{thumbprint}.prv").read_bytes()
        plaintext = decrypt(sys.stdin.buffer.read(), key)
    except DocumentError as error:
        # Written for another envelope of the host's; here it is about ours.
        sys.stderr.write(error.reason.replace("our transport certificate", "it") + "\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"its key cannot be read: {error.strerror}\n")
        return 1
    except (ValueError, TypeError) as error:
        sys.stderr.write(f"its key cannot be used: {error}\n")
        return 1
    sys.stdout.buffer.write(plaintext)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
