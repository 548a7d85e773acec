"""The entry point of `agentctl`: Ctrl-C ends it without a word while the rest of it is loaded, too."""

import signal
import sys


def main() -> None:
    """Loading takes half a second, in which a KeyboardInterrupt would be told as a fault of ours."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # one that is ignored stays ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from agentctl.cli import main as command

    try:
        signal.signal(signal.SIGINT, before)
        command()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
