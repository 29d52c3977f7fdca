"""Lines, spoken with the program that started this one: `src/process.rs`."""

import sys


def tell(line):
    print(line, flush=True)


def listen():
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


def tell_failure(error):
    tell(f"failed: {type(error).__name__}: {error}".replace("\n", " "))


def serve(answer):
    """Answers lines until nobody sends any."""
    tell("ready")
    while (line := listen()) is not None:
        try:
            tell(answer(line))
        except Exception as error:  # whatever a peer raises is its answer
            tell_failure(error)
