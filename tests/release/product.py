"""A product of one tiny component, `probe`, as a checkout; and the root it is unpacked under."""

import os
import subprocess
import sys
from pathlib import Path

from release.build import Built, build, layer_file
from release.record import Chosen, Record, locked, read, write
from release.signing import SecretKey, Trust
from release.unpack import Machine, Package, component_folder, this_machine, unpack, unpack_layer

CHECKOUT = Path(__file__).resolve().parent.parent.parent
LAUNCH = CHECKOUT / "launch.py"
KEY, OTHER_KEY = SecretKey("11" * 32), SecretKey("22" * 32)
TRUST = Trust((KEY.public(),))
NAME = "probe"
GOOD = "import probe, sys; print('probe', probe.__version__, *sys.argv[1:])"


def checkout(folder: Path, version: str, main: str = GOOD) -> Path:
    """A source tree with a probe that does `main`."""
    for path, text in {
        "probe/__init__.py": f"__version__ = '{version}'\n",
        "probe/__main__.py": f"{main}\n",
        "probe/data/greeting.txt": "hello\n",
        "ipc/__init__.py": "",
        "ipc/contract/__init__.py": "PROTOCOL = (1, 2)\n",
        "wire/__init__.py": "",
        "pyproject.toml": "[project]\nrequires-python = '>=3.11'\n",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def probe(folder: Path, version: str, main: str = GOOD, floor: str = "0.0.0") -> Built:
    """Its package."""
    return build(checkout(folder / f"source-{version}", version, main), NAME, folder / "dist", [KEY], floor=floor)


def chosen(built: Built) -> Chosen:
    return Chosen(built.manifest.version, built.digest)


class Installed:
    """A root with versions of one component."""

    def __init__(self, root: Path, component: str = NAME) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.component = component
        self.folder = component_folder(root, component)

    def put(self, built: Built, machine: Machine | None = None) -> Package:
        for layer in built.manifest.layers:
            unpack_layer(layer_file(built.path.parent / "layers", layer), self.root, layer)
        return unpack(built.path, self.root, self.component, TRUST, machine or this_machine())

    @property
    def base(self) -> Path:
        """The base install: what Python finds by itself."""
        return self.root.with_name(f"{self.root.name}-base")

    def put_base(self, version: str) -> None:
        checkout(self.base, version)

    def tree(self, version: str) -> Path:
        return self.folder / "versions" / version

    def set(self, **fields: object) -> Record:
        """Write a record with these fields."""
        with locked(self.folder):
            newest = read(self.folder)
            serial = newest.serial if newest else 0
            return write(self.folder, Record(component=self.component, serial=serial, **fields))  # type: ignore[arg-type]

    def record(self) -> Record:
        record = read(self.folder)
        assert record is not None
        return record

    def launch(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """`launch.py` as supervisord would run it, to its end."""
        command = [sys.executable, "-I", "-S", str(LAUNCH), str(self.root), self.component, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=self._environment(environment), timeout=60)

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.base), **more}
