"""Whether a package may be unpacked: its signature, by what configuration and policy make of it."""

import logging
from pathlib import Path

import msgspec

from guestagent.errors import SignatureError
from guestagent.handlermanifest import HandlerManifest
from guestagent.policy import read_policy
from guestagent.signature import ROOT, Mode, check_signature, consequence, place_root
from ipc.record import Emitter
from wire.extensions import Handler

logger = logging.getLogger("guestagent")


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner of this machine asks of signatures."""

    mode: Mode
    policy_file: Path
    root: str
    """PEM file a signature has to lead to; empty: Microsoft's."""
    lib: Path
    emitter: Emitter

    def judge(self, package: Path, manifest: HandlerManifest, handler: Handler, version: str) -> bool:
        """Whether the signature was looked at and is good. Blocking.

        Raises SignatureError if the package is not to be unpacked.
        """
        required = read_policy(self.policy_file).signature_required(handler.name)
        follows = consequence(self.mode, handler.signature, required=required)
        if follows == "nothing":
            return False
        try:
            if not self.root and not (self.lib / ROOT).exists():
                place_root(self.lib)
            root = Path(self.root) if self.root else self.lib / ROOT
            signers = check_signature(package, handler.signature, handler.name, version, manifest, root)
        except SignatureError as error:
            self._tell(handler, version, f"signature: {error}", ok=False)
            if follows == "refuse":
                raise
            logger.warning("%s %s: signature: %s (installation goes on)", handler.name, version, error)
            return False
        self._tell(handler, version, f"signed by {signers}", ok=True)
        return True

    def _tell(self, handler: Handler, version: str, text: str, *, ok: bool) -> None:
        self.emitter.emit("Signature", text, ok=ok, subject=handler.name, subject_version=version)
