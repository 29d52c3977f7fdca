"""One lock of many, named anew each time: `src/locks/keyed.rs`."""

import os
import time

from keys import at_random, key


class Keyed:
    def __init__(self, name, directory, _keys):
        if name == "filelock":
            import filelock

            self.lock = lambda number: filelock.FileLock(os.path.join(directory, key(number)))
        else:
            import diskcache

            cache = diskcache.Cache(directory, eviction_policy="none")
            recipe = getattr(diskcache, name.split()[1])
            self.lock = lambda number: recipe(cache, key(number))

    def answer(self, line):
        verb, *numbers = line.split(" ")
        return getattr(self, verb)(*map(int, numbers))

    def one(self, number):
        lock = self.lock(number)
        lock.acquire()
        lock.release()

    def make(self, start, end):
        for number in range(start, end):
            self.one(number)
        return "made"

    def pair(self, keys, seed, ms):
        start, done = time.perf_counter_ns(), 0
        while (taken := time.perf_counter_ns() - start) < ms * 1_000_000:
            self.one(at_random(done, keys, seed))
            done += 1
        return taken / done
