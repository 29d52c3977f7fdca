//! Policies that look at all values to find the one that goes: what those that look at some can come to.

use std::collections::{BTreeSet, HashMap};

use super::{Act, Step, bytes};

/// Which value goes first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    /// The one with the least uses for its bytes; what comes later is worth more than all that went.
    GreedyDual,
    LeastRecentlyUsed,
    /// The one with the least uses; what comes later is worth more than all that went.
    LeastFrequentlyUsed,
    LeastRecentlyStored,
}

impl Policy {
    /// As slablock's documentation says; more uses are not counted.
    fn uses_max(self) -> u64 {
        match self {
            Policy::GreedyDual => 15,
            _ => 4_095,
        }
    }
}

/// What a use is worth of a value of one byte: so much that it does not come to nothing for any.
const USE_OF_A_BYTE: u64 = 1 << 32;

/// What is worth less goes first; among equals what was used, or stored, longer ago.
type Rank = (u64, u64);

struct Value {
    rank: Rank,
    uses: u64,
    bytes: u64,
}

/// A cache that only knows what is in it. Bytes are those of keys and values, and nothing else.
pub struct Exact {
    policy: Policy,
    limit: u64,
    used: u64,
    /// What the worthiest value that went was worth.
    age: u64,
    /// Counts what happens.
    now: u64,
    values: HashMap<u32, Value>,
    /// All of them, the one that goes first at the front.
    order: BTreeSet<(Rank, u32)>,
}

impl Exact {
    pub fn new(policy: Policy, limit: u64) -> Exact {
        Exact {
            policy,
            limit,
            used: 0,
            age: 0,
            now: 0,
            values: HashMap::new(),
            order: BTreeSet::new(),
        }
    }

    pub fn get(&mut self, key: u32) -> bool {
        let Some(mut value) = self.take(key) else {
            return false;
        };
        value.uses += 1;
        let rank = match self.policy {
            Policy::LeastRecentlyStored => value.rank,
            _ => self.rank(value.uses, value.bytes),
        };
        self.put(key, Value { rank, ..value });
        true
    }

    /// Uses of the value before count on.
    pub fn set(&mut self, key: u32, bytes: u64) {
        let uses = self.take(key).map_or(1, |before| before.uses);
        if bytes > self.limit {
            return;
        }
        while self.used + bytes > self.limit && self.evict() {}
        let rank = self.rank(uses, bytes);
        self.put(key, Value { rank, uses, bytes });
    }

    /// Of one that is used, or stored, now.
    fn rank(&mut self, uses: u64, bytes: u64) -> Rank {
        self.now += 1;
        let uses = uses.min(self.policy.uses_max());
        let worth = match self.policy {
            Policy::GreedyDual => self.age + uses * USE_OF_A_BYTE / bytes.max(1),
            Policy::LeastFrequentlyUsed => self.age + uses,
            Policy::LeastRecentlyUsed | Policy::LeastRecentlyStored => 0,
        };
        (worth, self.now)
    }

    fn put(&mut self, key: u32, value: Value) {
        self.used += value.bytes;
        self.order.insert((value.rank, key));
        self.values.insert(key, value);
    }

    fn take(&mut self, key: u32) -> Option<Value> {
        let value = self.values.remove(&key)?;
        self.order.remove(&(value.rank, key));
        self.used -= value.bytes;
        Some(value)
    }

    /// `false`: nothing is left.
    fn evict(&mut self) -> bool {
        let first = self.order.first().copied();
        let Some((rank, key)) = first else {
            return false;
        };
        self.age = self.age.max(rank.0);
        self.take(key).is_some()
    }
}

/// Which steps are hits under a policy, in so many bytes.
pub fn hits(policy: Policy, limit: u64, trace: &[Step]) -> Vec<bool> {
    let mut cache = Exact::new(policy, limit);
    let step = |step: &Step| {
        let hit = step.act != Act::Set && cache.get(step.key);
        if !hit {
            cache.set(step.key, bytes(step.key));
        }
        hit
    };
    trace.iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left in a room for three of one byte.
    ///
    /// 1, 2 and 3 are set, 1 is read twice and 2 once, 3 is set anew; then 4 comes.
    fn after_a_fourth(policy: Policy) -> Vec<u32> {
        let mut cache = Exact::new(policy, 3);
        set(&mut cache, &[(1, 1), (2, 1), (3, 1)]);
        assert!([1, 1, 2].iter().all(|key| cache.get(*key)));
        cache.set(3, 1);
        cache.set(4, 1);
        keys(&cache)
    }

    /// Keys, with bytes.
    fn set(cache: &mut Exact, all: &[(u32, u64)]) {
        all.iter().for_each(|(key, bytes)| cache.set(*key, *bytes));
    }

    fn keys(cache: &Exact) -> Vec<u32> {
        let mut keys: Vec<u32> = cache.values.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn each_policy_has_its_own_first_one() {
        assert_eq!(after_a_fourth(Policy::LeastRecentlyUsed), [2, 3, 4]);
        assert_eq!(after_a_fourth(Policy::LeastRecentlyStored), [2, 3, 4]);
        assert_eq!(after_a_fourth(Policy::LeastFrequentlyUsed), [1, 2, 4]);
        assert_eq!(after_a_fourth(Policy::GreedyDual), [1, 2, 4]);
    }

    #[test]
    fn reading_keeps_what_goes_by_use_and_not_what_goes_by_storing() {
        let left = |policy| {
            let mut cache = Exact::new(policy, 2);
            set(&mut cache, &[(1, 1), (2, 1)]);
            cache.get(1);
            cache.set(3, 1);
            keys(&cache)
        };
        assert_eq!(left(Policy::LeastRecentlyUsed), [1, 3]);
        assert_eq!(left(Policy::LeastRecentlyStored), [2, 3]);
    }

    /// 1 has three uses, and outlives 2 and 3. At an age of 2 one use of 4 is worth as much, and 1 is older.
    #[test]
    fn uses_age() {
        let mut cache = Exact::new(Policy::LeastFrequentlyUsed, 2);
        cache.set(1, 1);
        assert!(cache.get(1) && cache.get(1));
        cache.set(2, 1);
        cache.set(3, 1);
        assert_eq!((keys(&cache), cache.age), (vec![1, 3], 1));
        cache.set(4, 1);
        assert_eq!((keys(&cache), cache.age), (vec![1, 4], 2));
        cache.set(5, 1);
        assert_eq!((keys(&cache), cache.age), (vec![4, 5], 3));
    }

    /// Twice the uses are outweighed by four times the bytes.
    #[test]
    fn a_large_value_goes_before_small_ones_that_are_used_less() {
        let left = |policy| {
            let mut cache = Exact::new(policy, 6);
            cache.set(1, 4);
            cache.get(1);
            set(&mut cache, &[(2, 1), (3, 1)]);
            cache.set(4, 1);
            keys(&cache)
        };
        assert_eq!(left(Policy::GreedyDual), [2, 3, 4]);
        assert_eq!(left(Policy::LeastFrequentlyUsed), [1, 3, 4]);
    }

    #[test]
    fn bytes_are_kept_within_the_limit() {
        let mut cache = Exact::new(Policy::LeastRecentlyUsed, 10);
        set(&mut cache, &[(1, 6), (2, 4), (1, 6)]);
        assert_eq!((keys(&cache), cache.used), (vec![1, 2], 10));
        cache.set(3, 5);
        assert_eq!((keys(&cache), cache.used), (vec![3], 5));
        cache.set(4, 11);
        assert_eq!((keys(&cache), cache.used), (vec![3], 5));
    }

    #[test]
    fn a_missed_get_is_followed_by_a_set() {
        let act = Act::Get;
        let trace = [5, 6, 5, 6, 7, 5].map(|key| Step { key, act });
        let room = bytes(5) + bytes(6) + bytes(7);
        let hit = hits(Policy::LeastRecentlyUsed, room, &trace);
        assert_eq!(hit, [false, false, true, true, false, true]);
        let hit = hits(Policy::LeastRecentlyUsed, room - 1, &trace);
        assert_eq!(hit[..5], [false, false, true, true, false]);
    }
}
