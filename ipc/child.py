"""Children that run a module of ours: from the version their parent runs from, without a word to their own children.

`launch.py` says in AZVMAGENT_IMPORTS which folders that version imports from. PYTHONPATH would do the same and more: an
extension in Python, which inherits our environment, would import our layers instead of what the machine's owner
installed. So a child is started by this file as a script, which knows no site-packages and needs none.
"""

import os
import runpy
import sys

IMPORTS = "AZVMAGENT_IMPORTS"
"""Empty or not set: the base install, which Python finds by itself."""


def module_command(module: str, *arguments: str) -> list[str]:
    """What runs `python -m MODULE ARGUMENT...` in a child that inherits our environment."""
    if os.environ.get(IMPORTS):
        return [sys.executable, "-I", "-S", __file__, module, *arguments]
    return [sys.executable, "-P", "-m", module, *arguments]


def _main() -> None:
    sys.path[:0] = os.environ[IMPORTS].split(os.pathsep)
    sys.dont_write_bytecode = True
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
