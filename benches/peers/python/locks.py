"""The process that takes and gives back what it is told: `src/locks/worker.rs` says what the lines mean."""

import mmap
import time

from lines import listen, tell
from peers import open_lock

TURN = 100e-6
SLICE_NS = 250_000
# Of the page that all processes share: `src/locks/words.rs`, in words of 8 bytes.
STATE, COUNTER, GIVEN_BACK, LAST_HOLDER = 0, 32, 64, 65
READY, GO = 1, 2
PAGE_BYTES = 4096


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
            times = self.calibrated[peer] = max(1, int(SLICE_NS / each))
        start, slices = time.perf_counter_ns(), []
        while not slices or time.perf_counter_ns() - start < ms * 1_000_000:
            slices.append(self.some_pairs(peer, times))
        return at_share(sorted(slices), 0.5) / times

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

    def timed(self, peer, _):
        words, acquire, release, nanos = self.words, peer.acquire, peer.release, []
        before = time.perf_counter_ns()
        while words[STATE] == GO:
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
