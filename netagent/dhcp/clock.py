"""What the machine itself gives us: time, boot, chance."""

import os
import time
from pathlib import Path


def now() -> float:
    """Goes on while the machine is suspended, and nobody can set it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def asleep() -> float:
    """Seconds that the machine was suspended, in all."""
    return now() - time.clock_gettime(time.CLOCK_MONOTONIC)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def chance() -> float:
    """From 0 to just below 1. Machines that start together must not go on together."""
    return int.from_bytes(os.urandom(6)) / 2**48
