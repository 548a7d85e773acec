"""What a version can fail on without being bad: the Python and the machine it runs on."""

import platform


def fingerprint() -> str:
    """E.g. `cpython-3.11.7 x86_64 glibc-2.36 linux-6.18`. A version that failed on another one is worth a new try.

    Of the kernel the first two numbers: its patches come too often for a try each.
    """
    interpreter = f"{platform.python_implementation().lower()}-{platform.python_version()}"
    library = "-".join(filter(None, platform.libc_ver())) or "libc"
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{interpreter} {platform.machine()} {library} linux-{kernel}"
