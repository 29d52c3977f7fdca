"""The process that does to Python's locks and caches what it is told.

It speaks the same lines as `src/locks/worker.rs` and `src/values/worker.rs`, which say what they mean.
`worker.py probe` tells which modules are there, with their versions.
"""

import importlib.metadata
import logging
import mmap
import os
import struct
import sys
import time

TURN = 100e-6
# Of the page that all processes share: `src/locks/words.rs`, in words of 8 bytes.
STATE, COUNTER, GIVEN_BACK, LAST_HOLDER = 0, 32, 64, 65
READY, GO = 1, 2
PAGE_BYTES = 4096
TIMES_MAX = 4_000_000


def tell(line):
    print(line, flush=True)


def listen():
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


def serve(answer):
    """Answers lines until nobody sends any."""
    tell("ready")
    while (line := listen()) is not None:
        try:
            tell(answer(line))
        except Exception as error:  # whatever a peer raises is its answer
            tell(f"failed: {type(error).__name__}: {error}".replace("\n", " "))


# ---------------------------------------------------------------------------------------------- locks


class Peer:
    """A lock with `acquire` and `release`; the least that all of them have."""

    def __init__(self, lock, lease=None):
        self.lock, self.lease, self.lent = lock, lease, None
        self.acquire, self.release = lock.acquire, lock.release

    def tally(self):
        return "-"


class Averager(Peer):
    """A running average: to add is all there is."""

    def __init__(self, average, cache, key):
        self.average, self.cache, self.key, self.lease = average, cache, key, None
        self.acquire, self.release = (lambda: average.add(1.0)), (lambda: None)

    def tally(self):
        return self.cache.get(self.key, default=(0.0, 0))[1]


def diskcache_cache(name, directory):
    import diskcache

    # As the recipes demand: no key may be evicted while somebody holds it.
    if name.endswith("Fanout"):
        return diskcache.FanoutCache(os.path.join(directory, "fanout"), eviction_policy="none")
    return diskcache.Cache(os.path.join(directory, "diskcache"), eviction_policy="none")


CACHES = {}


def open_diskcache(name, directory, key, permits):
    import diskcache

    place = (name.endswith("Fanout"), directory)
    if place not in CACHES:
        CACHES[place] = diskcache_cache(name, directory)
    cache = CACHES[place]
    recipe = name.split()[1].rstrip(",")
    key = f"{recipe} {key}"
    if recipe == "Averager":
        return Averager(diskcache.Averager(cache, key), cache, key)
    if recipe == "BoundedSemaphore":
        make = lambda expire: diskcache.BoundedSemaphore(cache, key, value=permits, expire=expire)
    else:
        make = lambda expire: getattr(diskcache, recipe)(cache, key, expire=expire)
    return Peer(make(None), make)


def open_filelock(directory, key):
    import filelock

    return Peer(filelock.FileLock(os.path.join(directory, f"filelock-{key}")))


def open_fasteners(directory, key):
    import fasteners

    return Peer(fasteners.InterProcessLock(os.path.join(directory, f"fasteners-{key}")))


def open_portalocker(name, directory, key, permits):
    import portalocker

    # It gives up after five seconds, if nothing else is said.
    if name.endswith("BoundedSemaphore"):
        name = f"portalocker-{key}"
        return Peer(portalocker.NamedBoundedSemaphore(permits, name=name, directory=directory, timeout=60))
    return Peer(portalocker.Lock(os.path.join(directory, f"portalocker-{key}"), timeout=60))


def open_lock(name, directory, key, permits):
    match name.split()[0]:
        case "diskcache":
            return open_diskcache(name, directory, key, permits)
        case "filelock":
            return open_filelock(directory, key)
        case "fasteners":
            return open_fasteners(directory, key)
        case "portalocker":
            return open_portalocker(name, directory, key, permits)
    raise ValueError(f"no lock is called {name}")


def at_share(ordered, share):
    at = -int(-share * len(ordered) // 1)
    return ordered[min(max(at - 1, 0), len(ordered) - 1)] if ordered else 0


class Locks:
    def __init__(self, directory, page):
        self.directory, self.opened, self.calibrated = directory, {}, {}
        with open(page, "r+b") as file:
            self.words = memoryview(mmap.mmap(file.fileno(), PAGE_BYTES)).cast("Q")

    def answer(self, line):
        verb, name, key, permits, number = line.split("\t")
        if (name, key) not in self.opened:
            self.opened[name, key] = open_lock(name, self.directory, key, int(permits))
        peer = self.opened[name, key]
        while verb in ("count", "slowly", "timed", "turns") and self.words[STATE] == READY:
            time.sleep(50e-6)
        return getattr(self, verb)(peer, int(number))

    def open(self, peer, _):
        return "opened"

    def some_pairs(self, peer, times):
        acquire, release = peer.acquire, peer.release
        start = time.perf_counter_ns()
        for _ in range(times):
            acquire()
            release()
        return time.perf_counter_ns() - start

    def pairs(self, peer, ms):
        times = self.calibrated.get(peer)
        if times is None:
            self.some_pairs(peer, 2)  # which make files and tables
            each = self.some_pairs(peer, 8) / 8
            times = self.calibrated[peer] = max(1, int(ms * 1e6 / each))
        return self.some_pairs(peer, times) / times

    def count(self, peer, most):
        words, acquire, release, done = self.words, peer.acquire, peer.release, 0
        while done < most and words[STATE] == GO:
            acquire()
            words[COUNTER] += 1
            release()
            done += 1
        return done

    def slowly(self, peer, most):
        words, acquire, release, done = self.words, peer.acquire, peer.release, 0
        while done < most and words[STATE] == GO:
            acquire()
            seen = words[COUNTER]
            time.sleep(0)
            words[COUNTER] = seen + 1
            release()
            done += 1
        return done

    def timed(self, peer, most):
        words, acquire, release, nanos = self.words, peer.acquire, peer.release, []
        before = time.perf_counter_ns()
        while len(nanos) < min(most, TIMES_MAX) and words[STATE] == GO:
            acquire()
            words[COUNTER] += 1
            release()
            now = time.perf_counter_ns()
            nanos.append(now - before)
            before = now
        nanos.sort()
        return " ".join(str(n) for n in [len(nanos)] + [at_share(nanos, s) for s in (0.5, 0.99, 0.999, 1)])

    def turns(self, peer, me):
        words, nanos = self.words, []
        while words[STATE] == GO:
            peer.acquire()
            if words[LAST_HOLDER] not in (0, me):
                nanos.append(max(0, time.monotonic_ns() - words[GIVEN_BACK]))
            time.sleep(TURN)
            words[LAST_HOLDER], words[GIVEN_BACK] = me, time.monotonic_ns()
            peer.release()
            time.sleep(TURN)
        nanos.sort()
        return " ".join(str(n) for n in [len(nanos)] + [at_share(nanos, s) for s in (0.5, 0.99, 1)])

    def hold(self, peer, _):
        tell("asking")
        peer.acquire()
        tell(time.monotonic_ns())
        listen()
        peer.release()
        return "given back"

    def lend(self, peer, ms):
        if peer.lease is None:
            return "no leases"
        peer.lent = peer.lease(ms / 1000)
        peer.lent.acquire()
        return "lent"

    def late(self, peer, _):
        try:
            (peer.lent if peer.lease and peer.lent else peer).release()
        except Exception:  # says that it was lost, as it should
            pass
        return "done"

    def tally(self, peer, _):
        return peer.tally()


# --------------------------------------------------------------------------------------------- values

MASK = (1 << 64) - 1
COUNTERS_FROM, COUNTERS, NEW_FROM, LARGE_FROM, LARGE_KEYS = 1 << 40, 1000, 1 << 41, 1 << 42, 8
VALUE, LARGE = b"v" * 100, b"w" * (1 << 20)
BATCH = 64
COMMON = COUNTERS_FROM - 1


def mixed(number):
    z = (number + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def key(number):
    return f"{mixed(number):016x}"


def at_random(at, keys, seed):
    return mixed(at ^ (seed << 32)) % max(keys, 1)


class Values:
    def __init__(self, name, directory):
        import diskcache

        self.make = (lambda: diskcache.FanoutCache(directory)) if "Fanout" in name else (lambda: diskcache.Cache(directory))
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

    def found(self, one):
        if self.cache.get(one, retry=True) is None:
            raise KeyError("a key is gone")

    def get(self, keys, seed, ms):
        return self.repeat(lambda at: at_random(at, keys, seed), self.found, ms)

    def set(self, keys, seed, ms):
        return self.repeat(lambda at: at_random(at, keys, seed), lambda one: self.cache.set(one, VALUE, retry=True), ms)

    def new(self, _, seed, ms):
        return self.repeat(lambda at: NEW_FROM + (seed << 24) + at, lambda one: self.cache.set(one, VALUE, retry=True), ms)

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

    def reopen(self, times):
        opening, closing = [], []
        self.cache.close()
        for _ in range(times):
            start = time.perf_counter_ns()
            self.cache = self.make()
            opened = time.perf_counter_ns()
            self.cache.close()
            opening.append(opened - start)
            closing.append(time.perf_counter_ns() - opened)
        self.cache = self.make()
        return f"{sorted(opening)[times // 2]} {sorted(closing)[times // 2]}"


# ---------------------------------------------------------------------------------------------- keyed


class Keyed:
    """One lock of many, named anew each time: `src/locks/keyed.rs`."""

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


# ------------------------------------------------------------------------------------------------ roles


def probe():
    for module in ("diskcache", "filelock", "fasteners", "portalocker"):
        try:
            tell(f"{module} {importlib.metadata.version(module)}")
        except importlib.metadata.PackageNotFoundError:
            pass


def main():
    logging.disable(logging.CRITICAL)
    role, *args = sys.argv[1:]
    if role == "probe":
        return probe()
    try:
        worker = {"locks": Locks, "values": Values, "keyed": Keyed}[role](*args)
    except Exception as error:
        return tell(f"failed: {type(error).__name__}: {error}".replace("\n", " "))
    serve(worker.answer)


main()
