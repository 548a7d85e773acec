"""Start of a process to its first answer, and SIGTERM to its end: each component, two checkouts by turns.

python -m bench.start [--against CHECKOUT] [--rounds 20] [--memory] [COMPONENT...]

Without supervisord: what launch.py, Python and our code cost. `packaged` is a version on disk in force, `base` the base
install. The asker looks for the socket each millisecond, so its patience is no part of it. Each checkout builds
its own packages.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import zmq

from agentctl.drill.group.stage import Stage
from agentctl.drill.variants import CHECKOUT
from bench import procfs
from bench.table import Figures, show
from ipc.contract.every import Describe, Description
from ipc.frame import Header, decode_body, decode_header, encode
from ipc.places import COMPONENTS, Places
from release.build import Built, layer_file
from release.manifest import canonical, digest
from release.unpack import read_manifest

PATIENCE = 20.0
SETTLING = 1.5
"""Seconds after the first answer until its memory is looked at."""
ALONE = """[host]
wireserver = "http://127.0.0.1:1"
hostgaplugin = "http://127.0.0.1:1"
imds = "http://127.0.0.1:1"
"""
"""Nobody is there: what is measured is our own."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Start of a process to its first answer.")
    parser.add_argument("--against", type=Path, default=CHECKOUT, help="Another checkout; without one, this one twice.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--memory", action="store_true", help="Look at memory, too: some seconds more a round.")
    parser.add_argument("components", nargs="*", default=COMPONENTS, metavar="COMPONENT")
    chosen = parser.parse_args()
    sources = {"ours": CHECKOUT, "against": chosen.against.absolute()}
    with Stage(ALONE) as stage:
        for folder in (stage.places.run, stage.places.state, stage.places.log, stage.places.lib):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for component in chosen.components:
            versions = {
                side: stage.install(built(source, component, f"1.0.{number}", stage.root / side, stage.key_file))
                for number, (side, source) in enumerate(sources.items())
            }
            for way in ("packaged", "base"):
                found: dict[str, dict[str, list[float]]] = {side: defaultdict(list) for side in sources}
                for _ in range(chosen.rounds):
                    for side, source in sources.items():
                        stage.choose(component, versions[side] if way == "packaged" else None)
                        for name, value in once(stage, source, component, memory=chosen.memory).items():
                            found[side][name].append(value)
                medians = {side: {n: statistics.median(v) for n, v in values.items()} for side, values in found.items()}
                show(f"{component}, {way}", medians["ours"], {"against": medians["against"]})
                sys.stdout.flush()


def built(source: Path, component: str, version: str, out: Path, key: Path) -> Built:
    """Built by the checkout's own code."""
    command = [sys.executable, "-P", "-m", "agentctl", "package", "build", component, "--as-version", version,
               "--key", str(key), "--source", str(source), "--out", str(out)]  # fmt: skip
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(source)}, stdout=subprocess.DEVNULL)
    path = out / f"{component}-{version}.zip"
    manifest = read_manifest(path)
    layers = {one.sha256: layer_file(out / "layers", one) for one in manifest.layers}
    return Built(path, digest(canonical(manifest)), manifest, layers)


def once(stage: Stage, source: Path, component: str, *, memory: bool) -> Figures:
    environment = stage.deployment.environment() | {"AZVMAGENT_BASE": str(source), "PYTHONPATH": str(source)}
    command = [sys.executable, "-I", "-S", str(source / "launch.py"), str(stage.places.installed), component]
    began = time.monotonic()
    with (stage.places.log / f"{component}.log").open("ab") as log:
        child = subprocess.Popen(command, env=environment, cwd="/", stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        first_answer(stage.places, component, child)
        answered = time.monotonic()
        figures = {"first answer, ms": (answered - began) * 1000, "its CPU, ms": procfs.cpu_seconds(child.pid) * 1000}
        if memory:
            time.sleep(SETTLING)
            figures["PSS, MB"] = procfs.pss_mb(child.pid)
        asked = time.monotonic()
        child.send_signal(signal.SIGTERM)
        _, _, used = os.wait4(child.pid, 0)
        ended = time.monotonic()
        child.returncode = 0
    finally:
        child.kill()
        child.wait()
    figures["end, ms"] = (ended - asked) * 1000
    figures["CPU of it all, ms"] = (used.ru_utime + used.ru_stime) * 1000
    return figures


def first_answer(places: Places, component: str, child: subprocess.Popen[bytes]) -> None:
    """A question by a socket of its own each time the path is there anew."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    with context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 1)
        socket.connect(f"ipc://{places.requests_socket(component)}")
        until = time.monotonic() + PATIENCE
        header = Header(id="1", kind="request", name=Describe.wire_name(), sender="bench", version="1")
        socket.send_multipart(encode(header, Describe()))
        while not socket.poll(50):
            if child.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{component} does not answer")
        header, body = decode_header(frames := socket.recv_multipart()), frames[1]
        if header.kind != "reply" or decode_body(body, Description).pid != child.pid:
            raise RuntimeError(f"{component}: another one answers")


if __name__ == "__main__":
    main()
