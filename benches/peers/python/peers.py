"""The locks of Python that are compared, each with `acquire` and `release`."""

import os


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
