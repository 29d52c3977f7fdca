"""The process that has a cache open and does to it what it is told: `src/values/worker.rs`."""

import time

from keys import MASK, at_random, key

COUNTERS_FROM, COUNTERS, NEW_FROM, LARGE_FROM, LARGE_KEYS = 1 << 40, 1000, 1 << 41, 1 << 42, 8
VALUE, LARGE = b"v" * 100, b"w" * (1 << 20)
BATCH = 64
COMMON = COUNTERS_FROM - 1


class Values:
    def __init__(self, name, directory):
        import diskcache

        kind = diskcache.FanoutCache if "Fanout" in name else diskcache.Cache
        self.make = lambda: kind(directory)
        self.cache = self.make()

    def answer(self, line):
        verb, *numbers = line.split(" ")
        return getattr(self, verb)(*map(int, numbers))

    def fill(self, start, end):
        with self.cache.transact():
            for number in range(start, end):
                self.cache.set(key(number), VALUE, retry=True)
        return "filled"

    def repeat(self, number, once, ms, batch=BATCH, most=MASK):
        taken = at = 0
        while taken < ms * 1_000_000 and at < most:
            keys = [key(number(i)) for i in range(at, at + batch)]
            start = time.perf_counter_ns()
            for one in keys:
                once(one)
            taken += time.perf_counter_ns() - start
            at += batch
        return taken / at

    def put(self, one):
        self.cache.set(one, VALUE, retry=True)

    def found(self, one):
        if self.cache.get(one, retry=True) is None:
            raise KeyError("a key is gone")

    def get(self, keys, seed, ms):
        return self.repeat(lambda at: at_random(at, keys, seed), self.found, ms)

    def set(self, keys, seed, ms):
        return self.repeat(lambda at: at_random(at, keys, seed), self.put, ms)

    def new(self, _, seed, ms):
        return self.repeat(lambda at: NEW_FROM + (seed << 24) + at, self.put, ms)

    def delete(self, keys, seed, ms):
        number = lambda at: NEW_FROM + (seed << 24) + at
        return self.repeat(number, lambda one: self.cache.delete(one, retry=True), ms, most=keys)

    def incr(self, _, seed, ms):
        number = lambda at: COUNTERS_FROM + at_random(at, COUNTERS, seed)
        return self.repeat(number, lambda one: self.cache.incr(one, retry=True), ms)

    def write(self, _, seed, ms):
        number = lambda at: LARGE_FROM + at % LARGE_KEYS
        return self.repeat(number, lambda one: self.cache.set(one, LARGE, retry=True), ms, LARGE_KEYS)

    def read(self, _, seed, ms):
        return self.repeat(lambda at: LARGE_FROM + at % LARGE_KEYS, self.found, ms, LARGE_KEYS)

    def mix(self, keys, seed, ms):
        start, done = time.perf_counter_ns(), 0
        while (taken := time.perf_counter_ns() - start) < ms * 1_000_000:
            first, *others = [key(at_random(done + i, keys, seed)) for i in range(10)]
            self.cache.set(first, VALUE, retry=True)
            for one in others:
                self.cache.get(one, retry=True)
            done += 10
        return f"{done} {taken // 1000}"

    def count(self, most, ms):
        end, done = time.perf_counter_ns() + ms * 1_000_000, 0
        while done < most and time.perf_counter_ns() < end:
            self.cache.incr(key(COMMON), retry=True)
            done += 1
        return done

    def counted(self):
        return self.cache.get(key(COMMON), retry=True)

    def reopen(self, ms):
        opening, closing = [], []
        self.cache.close()
        end = time.perf_counter_ns() + ms * 1_000_000
        while not opening or time.perf_counter_ns() < end:
            start = time.perf_counter_ns()
            self.cache = self.make()
            opened = time.perf_counter_ns()
            self.cache.close()
            opening.append(opened - start)
            closing.append(time.perf_counter_ns() - opened)
        self.cache = self.make()
        return f"{sorted(opening)[len(opening) // 2]} {sorted(closing)[len(closing) // 2]}"
