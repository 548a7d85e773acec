"""Signals at a moment that suits, whichever thread the kernel gives them to: rich leaves one behind for a while."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable

import pytest

from agentctl.holding import ENDINGS, heard, held


def elsewhere(work: Callable[[], None]) -> None:
    """In another thread, seen to its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def arrive(number: signal.Signals) -> None:
    signal.pthread_kill(threading.get_ident(), number)


@pytest.mark.parametrize("number", ENDINGS)
def test_one_that_another_thread_gets_is_heard(number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in ENDINGS]
    with heard(ENDINGS) as arrivals:
        elsewhere(lambda: arrive(number))
        assert arrivals.recv(1)[0] == number
    assert [signal.getsignal(one) for one in ENDINGS] == before


def test_the_end_of_a_child_is_heard() -> None:
    with heard((*ENDINGS, signal.SIGCHLD)) as arrivals:
        subprocess.run(["true"], check=True)
        assert arrivals.recv(1)[0] == signal.SIGCHLD


def test_one_that_is_heard_while_nobody_listens_is_not_lost() -> None:
    with heard(ENDINGS) as arrivals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert set(arrivals.recv(1) + arrivals.recv(1)) == {signal.SIGTERM, signal.SIGINT}


def work(number: signal.Signals, done: list[str], *, impatience: bool) -> None:
    """What a second signal may interrupt."""
    with held(impatience=impatience):
        elsewhere(lambda: arrive(number))
        done.append("first")
        elsewhere(lambda: arrive(number))
        done.append("second")


@pytest.mark.parametrize("number", ENDINGS)
def test_what_another_thread_gets_waits_for_the_end_of_the_block(number: signal.Signals) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        work(number, done, impatience=False)
    assert done == ["first", "second"]


def test_the_impatient_need_not_wait() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        work(signal.SIGINT, done, impatience=True)
    assert done == ["first"]
