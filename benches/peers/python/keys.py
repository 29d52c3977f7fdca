"""The keys, as `src/values/mod.rs` makes them."""

MASK = (1 << 64) - 1


def mixed(number):
    z = (number + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def key(number):
    return f"{mixed(number):016x}"


def at_random(at, keys, seed):
    return mixed(at ^ (seed << 32)) % max(keys, 1)
