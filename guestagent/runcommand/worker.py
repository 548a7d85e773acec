"""The worker: one detached process per run. Whatever ends it, the record says how far it came."""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from guestagent.runcommand import output, status, users
from guestagent.runcommand.child import Child, Ended, Signals
from guestagent.runcommand.errors import EarlyCancel, NotStarted, RunError
from guestagent.runcommand.order import Order
from guestagent.runcommand.outside import Outside
from guestagent.runcommand.place import Place
from guestagent.runcommand.prepare import Ready, forget_older, make_blobs, prepare, read_order
from guestagent.runcommand.processes import adopt_orphans, myself, process
from guestagent.runcommand.record import Record, State, View, write_record
from guestagent.runcommand.uploader import Uploader

if TYPE_CHECKING:
    from guestagent.runcommand.blobs import AppendBlob

REPORT_SECONDS = 15.0
"""How often a running script's status and blobs are brought up to date."""

_WRITE_TRIES = 5
_WRITE_PAUSE = 1.0
_CANCELED_UPLOAD_SECONDS = 5.0

logger = logging.getLogger("runcommand")


class Worker:
    """Carries one record from accepted to ended."""

    def __init__(self, place: Place, record: Record, outside: Outside, report_seconds: float = REPORT_SECONDS) -> None:
        self._place = place
        self._record = record
        self._outside = outside
        self._report_seconds = report_seconds

    def claim(self) -> None:
        """From now on it is we whose life tells whether anybody works on it. Raises OSError."""
        self._keep(worker=myself())

    def run(self) -> None:
        """To the end. What goes wrong is the run's outcome.

        Raises OSError for a record that cannot be written before the script has begun; after that nothing ends it.
        """
        with Signals().caught() as signals:
            try:
                with signals.interrupting():
                    order, ready, blobs = self._prepare()
                self._start(order, ready, blobs, signals)
            except RunError as error:
                self._end("Failed", f"Execution failed: {error}", exit_code=error.exit_code)
            except EarlyCancel:
                self._end("Canceled", "Execution was canceled before the script began", exit_code=-1)
            finally:
                self._tidy()

    def _prepare(self) -> "tuple[Order, Ready, list[AppendBlob]]":
        order = read_order(self._place)
        self._keep(asynchronous=order.asynchronous, failure_is_error=order.failure_is_error, run_as=order.run_as)
        if order.asynchronous:
            self._tell(status.running(self._record))
        ready = prepare(self._place, order, self._outside, self._record.mark)
        self._keep(work=str(ready.folder), temporary=ready.temporary)
        return order, ready, make_blobs(self._place, order, self._outside)

    def _start(self, order: Order, ready: Ready, blobs: "list[AppendBlob]", signals: Signals) -> None:
        forget_older(self._place)
        output.forget_old(self._place)
        out, err = output.open_both(self._place)
        try:
            output.link_beside_script(self._place)
            if ready.account is not None and not ready.account.is_us:
                # So that /dev/stdout and /dev/stderr can be opened by the script.
                os.fchown(out, ready.account.uid, -1)
                os.fchown(err, ready.account.uid, -1)
            if signals.canceled:
                raise EarlyCancel
            adopt_orphans()
            # Durable before it happens: from here on nobody may begin it again.
            self._keep(phase="started", started=True, started_at=time.time())
            began = time.monotonic()
            try:
                child = Child(ready, out, err)
            except NotStarted as error:
                os.write(err, f"{error}\n".encode())
                problem = Uploader(self._outside, blobs, self._report_seconds).finish(self._written())
                self._end("Failed", f"Execution failed: {error}", problem, exit_code=error.exit_code, ran=True)
                return
        finally:
            os.close(out)
            os.close(err)
        self._note(script=process(child.pid))
        self._follow(child, order, began, signals, Uploader(self._outside, blobs, self._report_seconds))

    def _follow(self, child: Child, order: Order, began: float, signals: Signals, uploader: Uploader) -> None:
        limit = began + order.timeout_seconds if order.timeout_seconds else float("inf")
        wake = "time"
        while wake == "time" and time.monotonic() < limit:
            wake = child.wait(signals, min(limit, time.monotonic() + self._report_seconds))
            if wake == "time" and time.monotonic() < limit:
                self._tell(
                    status.running(self._record, output.tail(self._place.stdout), output.tail(self._place.stderr))
                )
        if wake == "ended" and child.ended is not None:
            problem = uploader.finish(self._written())
            self._script_ended(child.ended, problem)
            return
        child.end()
        if wake == "canceled":
            problem = uploader.finish(self._written(), seconds=_CANCELED_UPLOAD_SECONDS)
            self._end("Canceled", "Execution was canceled", problem, exit_code=-1)
        else:
            problem = uploader.finish(self._written())
            text = f"Execution failed: it took longer than timeoutInSeconds ({order.timeout_seconds:g}) and was ended"
            self._end("TimedOut", text, problem, exit_code=-1)

    def _script_ended(self, ended: Ended, problem: str) -> None:
        if ended.code == 0:
            self._end("Succeeded", "Execution completed", problem, exit_code=0, ran=True)
            return
        text = f"Execution failed: failed to execute command: command terminated with exit status={ended.code}"
        if ended.signal:
            text += f" (by signal {ended.signal})"
        self._end("Failed", text, problem, exit_code=ended.code, ran=True)

    def _written(self) -> int:
        total = 0
        for path in (self._place.stdout, self._place.stderr):
            with contextlib.suppress(OSError):
                total += path.stat().st_size
        return total

    def _end(self, state: State, message: str, problem: str = "", *, exit_code: int, ran: bool = False) -> None:
        now = time.time()
        view = View(
            execution_state=state,
            execution_message=f"{message}; {problem}" if problem else message,
            output=output.tail(self._place.stdout) if self._record.started else "",
            error=output.tail(self._place.stderr) if self._record.started else "",
            exit_code=exit_code,
            start_time=status.stamp(self._record.accepted_at),
            end_time=status.stamp(now),
        )
        # The record first: if we are killed between the two, whoever looks writes the status from it.
        self._note(tries=_WRITE_TRIES, phase="ended", ended_at=now, view=view, ran=ran)
        self._tell(view, tries=_WRITE_TRIES)
        logger.info("%s: %s", self._place.stem, state)

    def _tell(self, view: View, tries: int = 1) -> None:
        """The status file."""
        self._patiently(lambda: status.report(self._place, self._record, view), tries)

    def _keep(self, **changes: object) -> None:
        """On disk before anything else is done. Raises OSError."""
        self._record = msgspec.structs.replace(self._record, **changes)
        write_record(self._place, self._record)

    def _note(self, tries: int = 1, **changes: object) -> None:
        """The same about a script that has begun: a full disk is no reason to end it."""
        self._record = msgspec.structs.replace(self._record, **changes)
        self._patiently(lambda: write_record(self._place, self._record), tries)

    def _patiently(self, write: Callable[[], None], tries: int) -> None:
        for left in range(tries - 1, -1, -1):
            try:
                write()
            except OSError as error:
                logger.warning("%s: what became of it cannot be written: %s", self._place.stem, error)
                if isinstance(error, FileNotFoundError):
                    return  # the folder is gone: updated or uninstalled; a successor looks at the record
                if left:
                    time.sleep(_WRITE_PAUSE)
            else:
                return

    def _tidy(self) -> None:
        if self._record.temporary:
            users.remove_copy(self._record.run_as, Path(self._record.work))
        if not self._record.started:
            shutil.rmtree(self._place.work, ignore_errors=True)
