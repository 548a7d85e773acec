"""A product of one tiny component, `probe`, as a checkout; and the root it is unpacked under."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def third_party(folder: Path, *names: str) -> Iterator[None]:
    """Tiny packages as an installer would leave them; in here they can be imported, and packages made with them."""
    for name in names:
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"NAME = {name!r}\n")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "top_level.txt").write_text(f"{name}\n")
        (info / "RECORD").write_text(f"{name}/__init__.py,,\n{info.name}/METADATA,,\n")
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def layer_path(root: Path, built: Built, name: str) -> Path:
    """Where a layer that the package names lies."""
    (layer,) = (one for one in built.manifest.layers if one.name == name)
    return root / "deps" / layer.sha256


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
