#!/usr/bin/env python3
"""Writes azvmagent-VERSION.tar.xz from a commit: `packaging/released/make.py REV`. Needs git and that commit."""

import hashlib
import io
import lzma
import re
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).parent
PARTS = ("ipc", "wire", "release", "rdagent", "guestagent", "netagent", "telemetry", "pyproject.toml")
"""What `agentctl package build --source` reads."""


def sources(revision: str) -> bytes:
    """A tar of PARTS at this commit: names in order, no owner, no time. The same with every git and Python."""
    command = ["git", "archive", "--format=tar", revision, *PARTS]
    archived = subprocess.run(command, cwd=HERE.parents[1], stdout=subprocess.PIPE, check=True).stdout
    target = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archived)) as given,
        tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as written,
    ):
        for entry in sorted((entry for entry in given if entry.isfile()), key=lambda entry: entry.name):
            plain = tarfile.TarInfo(entry.name)
            plain.size, plain.mode = entry.size, 0o644
            written.addfile(plain, given.extractfile(entry))
    return target.getvalue()


def version_of(tar: bytes) -> str:
    """`__version__` of its components. Exits if they do not agree."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        found = {
            match[1].decode()
            for name in ("rdagent", "guestagent", "netagent", "telemetry")
            if (module := opened.extractfile(f"{name}/__init__.py"))
            and (match := re.search(rb'(?m)^__version__ = "(.+)"$', module.read()))
        }
    if len(found) != 1:
        sys.exit(f"the components do not have one version: {sorted(found)}")
    return found.pop()


def main(revision: str) -> None:
    tar = sources(revision)
    packed = lzma.compress(tar, preset=9 | lzma.PRESET_EXTREME)
    target = HERE / f"azvmagent-{version_of(tar)}.tar.xz"
    if target.exists() and lzma.decompress(target.read_bytes()) != tar:
        sys.exit(f"{target} stands and holds something else; a release is never changed")
    target.write_bytes(packed)
    sys.stdout.write(f"{hashlib.sha256(packed).hexdigest()}  {target.name}\n")
    sys.stdout.write(f"{hashlib.sha256(tar).hexdigest()}  {target.stem} (unpacked)\n")


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit("usage: packaging/released/make.py REV")
