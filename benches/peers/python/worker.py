"""What this package runs for the peers that are Python's. `worker.py probe` tells which are there."""

import importlib.metadata
import logging
import sys

from dealt import Dealt
from keyed import Keyed
from lines import serve, tell, tell_failure
from locks import Locks
from values import Values


def probe():
    for module in ("diskcache", "filelock", "fasteners", "portalocker"):
        try:
            tell(f"{module} {importlib.metadata.version(module)}")
        except importlib.metadata.PackageNotFoundError:
            pass


def main():
    # What a peer logs must not come between the lines.
    logging.disable(logging.CRITICAL)
    role, *args = sys.argv[1:]
    if role == "probe":
        return probe()
    try:
        worker = {"locks": Locks, "values": Values, "keyed": Keyed, "trace": Dealt}[role](*args)
    except Exception as error:
        return tell_failure(error)
    serve(worker.answer)


main()
