"""The end of a process: what it said is said, its status is kept, and nothing holds it up."""

import subprocess
import sys

CHILD = """
import atexit, sys, threading
from ipc.ending import end_process
atexit.register(lambda: print("taken apart", file=sys.stderr))
threading.Thread(target=threading.Event().wait).start()
print("said")
end_process(3)
"""


def test_what_was_said_is_said_and_nothing_is_waited_for() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "said\n", "")
