"""The process that does its part of a trace to a cache: `src/trace/worker.rs`."""

import array
import time

from keys import key

SET = 2
VALUE = b"v" * (1 << 20)


class Dealt:
    def __init__(self, _, limit, directory, steps, taken):
        import diskcache

        self.cache = diskcache.Cache(directory, size_limit=int(limit))
        self.steps, self.taken, self.place = array.array("Q"), array.array("Q"), taken
        with open(steps, "rb") as file:
            self.steps.frombytes(file.read())

    def answer(self, line):
        verb, *numbers = line.split(" ")
        return getattr(self, verb)(*map(int, numbers))

    def until(self, end):
        start = time.process_time_ns()
        for step in self.steps[len(self.taken) // 2 : end]:
            self.taken.extend(self.step(step))
        return time.process_time_ns() - start

    def step(self, word):
        """The nanoseconds that the get took, and those of the set; 0: there was none."""
        one, size, got = key(word >> 32), word >> 2 & (1 << 30) - 1, 0
        if word & 3 != SET:
            start = time.perf_counter_ns()
            value = self.cache.get(one, retry=True)
            got = time.perf_counter_ns() - start
            if value is not None and len(value) != size:
                raise ValueError("a value is not what was set")
            if value is not None:
                return got, 0
        value = VALUE[:size]
        start = time.perf_counter_ns()
        self.cache.set(one, value, retry=True)
        return got, time.perf_counter_ns() - start

    def keep(self):
        with open(self.place, "wb") as file:
            self.taken.tofile(file)
        return "kept"
