"""`python -m guestagent.runcommand install|enable|disable|update|uninstall`, in the handler's folder.

`work FOLDER DESCRIPTOR` is the worker's own entry: `enable` calls it.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from guestagent.runcommand import verbs
from guestagent.runcommand.place import BadPlace, Place, own_place
from guestagent.runcommand.record import read_record

_VERBS: dict[str, Callable[[Place], int]] = {
    "install": verbs.install,
    "enable": verbs.enable,
    "disable": verbs.disable,
    "update": lambda place: verbs.update(place, os.environ),
    "uninstall": verbs.uninstall,
}


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["work", folder, descriptor]:
                return _work(own_place(Path(folder), os.environ), int(descriptor))
            case [verb] if verb in _VERBS:
                return _VERBS[verb](own_place(Path.cwd(), os.environ))
    except BadPlace as error:
        sys.stderr.write(f"{error}\n")
        return verbs.FAILED
    except OSError as error:
        sys.stderr.write(f"{arguments[0]}: {error}\n")
        return verbs.FAILED
    sys.stderr.write(f"usage: guestagent.runcommand {'|'.join(_VERBS)}\n")
    return 2


def _work(place: Place, descriptor: int) -> int:
    # The other commands do without what a worker loads.
    from guestagent.runcommand.outside import Outside
    from guestagent.runcommand.worker import Worker

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    record = read_record(place)
    if record is None or record.phase != "accepted":
        logging.getLogger("runcommand").error("%s is not to be begun", place.stem)
        return verbs.FAILED
    worker = Worker(place, record, Outside())
    worker.claim()
    with contextlib.suppress(BrokenPipeError):
        # `enable` may have been killed meanwhile; the record is ours all the same.
        os.write(descriptor, b"+")
    os.close(descriptor)
    worker.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
