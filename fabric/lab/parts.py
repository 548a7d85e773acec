"""The processes a lab is made of: each is started, waited for until it serves, and known to live or not."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from fabric.errors import FabricError
from fabric.lab.plan import Fault

_START = 30.0
_SCRIPT = Path(__file__).with_name("vm.sh")


class PartFailed(FabricError):
    """A program of the lab did not do what it is for."""


class Part:
    """A process that is to live as long as the lab."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.process = process
        self.draining: asyncio.Task[None] | None = None

    @property
    def lives(self) -> bool:
        return self.process.returncode is None

    @property
    def first_pid(self) -> int:
        """Of the process that `unshare --fork` made, else its own."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else pid

    async def end(self, *, politely: float = 0.0) -> None:
        """Without leaving any of it; `politely` is how many seconds it may take to end by itself."""
        with contextlib.suppress(ProcessLookupError):
            if politely:
                self.process.terminate()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.process.wait(), politely)
                    return
            self.process.kill()
        await self.process.wait()


def entering(namespace: int) -> list[str]:
    """The words before a command that is to run in a namespace."""
    return ["nsenter", f"--net=/proc/self/fd/{namespace}", "--"]


async def ip(namespace: int, lines: Sequence[str], descriptors: Sequence[int] = ()) -> None:
    """`ip -batch` in a namespace. Raises PartFailed."""
    process = await asyncio.create_subprocess_exec(
        *entering(namespace),
        *("ip", "-batch", "-"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=[namespace, *descriptors],
    )
    _, errors = await process.communicate("".join(f"{line}\n" for line in lines).encode())
    if process.returncode:
        said = errors.decode(errors="replace").strip()
        number = said.rpartition(":")[2].strip()
        line = lines[int(number) - 1] if number.isdigit() and 0 < int(number) <= len(lines) else lines[0]
        hint = ": this kernel lacks it; load its module" if "Unknown device type" in said else ""
        raise PartFailed(f"ip {line}: {said.splitlines()[0] if said else 'failed'}{hint}")


async def start_vm(namespace: int, folder: Path, name: str, resolver: str) -> Part:
    """Its first process, once its folders are what they should be. Raises PartFailed."""
    log = folder / f"{name}.log"
    fresh = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
    words = [*entering(namespace), *fresh, "sh", str(_SCRIPT), str(folder / "layers"), name, resolver]
    return await _started(f"VM {name}", words, log, [namespace], lambda line: line == b"ready", on_stdout=True)


async def start_dnsmasq(namespace: int, folder: Path, name: str, configuration: str, leases: str) -> Part:
    """DHCP and DNS of a tenant. Raises PartFailed."""
    file, lease_file = folder / f"dnsmasq-{name}.conf", folder / f"dnsmasq-{name}.leases"
    file.write_text(configuration)
    lease_file.write_text(leases)
    # -d, since in a namespace of one user it can become no other.
    words = [*entering(namespace), "dnsmasq", "-d", "-C", str(file), f"--dhcp-leasefile={lease_file}"]
    log = folder / f"dnsmasq-{name}.log"
    return await _started(f"dnsmasq of {name}", words, log, [namespace], lambda line: b": started, " in line)


async def start_relay(namespace: int, folder: Path, ends: tuple[str, str], fault: Fault) -> Part:
    """Between two interfaces. Raises PartFailed."""
    program = [sys.executable, "-P", "-m", "fabric.lab.relay", *ends, msgspec.json.encode(fault).decode()]
    log = folder / f"relay-{ends[0]}.log"
    words = [*entering(namespace), *program]
    return await _started(f"relay of {ends[0]}", words, log, [namespace], lambda line: line == b"ready", on_stdout=True)


async def start_host(folder: Path, namespaces: dict[str, int]) -> Part:
    """`azfabric serve` in each tenant's namespace, its portal on this machine; once it answers. Raises PartFailed."""
    doors = [word for name, one in namespaces.items() for word in ("--in", f"{name}=/proc/self/fd/{one}")]
    log, endpoints = folder / "host.log", folder / "fabric" / "endpoints.json"
    # One that was killed leaves it.
    endpoints.unlink(missing_ok=True)
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "fabric", "serve", "--root", str(folder), *doors),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=list(namespaces.values()),
        )
    part = Part("azfabric serve", process)
    try:
        async with asyncio.timeout(_START):
            while not endpoints.exists():
                if not part.lives:
                    raise PartFailed(f"azfabric serve ended: {_tail(log)}")
                await asyncio.sleep(0.02)
    except TimeoutError as error:
        raise PartFailed(f"azfabric serve does not serve after {_START:g} s; see {log}") from error
    return part


async def _started(
    name: str,
    words: Sequence[str],
    log: Path,
    descriptors: Sequence[int],
    ready: Callable[[bytes], bool],
    *,
    on_stdout: bool = False,
) -> Part:
    """One that says in a line that it is ready; what it says goes to its log. Raises PartFailed."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if on_stdout else output,
            stderr=output if on_stdout else asyncio.subprocess.PIPE,
            pass_fds=descriptors,
            env={**os.environ, "LC_ALL": "C"},
        )
    part = Part(name, process)
    stream = process.stdout if on_stdout else process.stderr
    if stream is None:
        raise PartFailed(f"{name} has no output")
    try:
        async with asyncio.timeout(_START):
            while line := await stream.readline():
                with log.open("ab") as output:
                    output.write(line)
                if ready(line.strip()):
                    part.draining = asyncio.create_task(_drain(stream, log))
                    return part
    except TimeoutError as error:
        raise PartFailed(f"{name} is not ready after {_START:g} s; see {log}") from error
    await process.wait()
    raise PartFailed(f"{name} did not start: {_tail(log)}")


async def _drain(stream: asyncio.StreamReader, log: Path) -> None:
    with log.open("ab", buffering=0) as output:
        while piece := await stream.read(65536):
            output.write(piece)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"see {log}"
