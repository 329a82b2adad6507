//! Which slot is where in its life; no system calls here.
//!
//! ```text
//!         begin          made         acquire          release           cleared          forgotten
//!  free ─────────► making ────► ready ────────► in use ────────► retired ────────► cleared ────────► free (last in the queue)
//!                     └── failed ───────────────────────────────────►┘
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::policy::Policy;

/// All slots of an instance.
#[derive(Debug)]
pub(super) struct Stock {
    /// The one that was free for the longest comes first: stray packets for an old user find nobody.
    free: VecDeque<u32>,
    making: usize,
    ready: VecDeque<u32>,
    in_use: BTreeMap<u32, Policy>,
    retired: BTreeMap<u32, Policy>,
    /// Taken to be cleared or forgotten, and not back yet.
    clearing: usize,
    /// Gone, but for the host's memory of their connections.
    cleared: BTreeSet<u32>,
    target: usize,
    closing: bool,
}

impl Stock {
    pub(super) fn new(slots: u32, in_use: BTreeMap<u32, Policy>, target: usize) -> Self {
        Self {
            free: (1..=slots)
                .filter(|slot| !in_use.contains_key(slot))
                .collect(),
            making: 0,
            ready: VecDeque::new(),
            in_use,
            retired: BTreeMap::new(),
            clearing: 0,
            cleared: BTreeSet::new(),
            target,
            closing: false,
        }
    }

    /// A ready slot, now in use.
    pub(super) fn take_ready(&mut self) -> Option<u32> {
        let slot = self.ready.pop_front()?;
        self.in_use.insert(slot, Policy::Open);
        Some(slot)
    }

    /// A free slot to be made, whether or not more are wanted.
    pub(super) fn begin(&mut self) -> Option<u32> {
        let slot = self.free.pop_front()?;
        self.making += 1;
        Some(slot)
    }

    /// A free slot to be made if there are too few ready ones.
    pub(super) fn begin_if_short(&mut self) -> Option<u32> {
        if self.closing || self.ready.len() + self.making >= self.target {
            return None;
        }
        self.begin()
    }

    /// Whether there is no slot now, but one that is not in use and so may come back.
    pub(super) fn may_get_one(&self) -> bool {
        let waiting = self.making + self.retired.len() + self.clearing + self.cleared.len();
        !self.closing && self.free.is_empty() && self.ready.is_empty() && waiting > 0
    }

    pub(super) fn made_ready(&mut self, slot: u32) {
        self.making -= 1;
        if self.closing {
            self.retired.insert(slot, Policy::Open);
        } else {
            self.ready.push_back(slot);
        }
    }

    pub(super) fn made_for_use(&mut self, slot: u32) {
        self.making -= 1;
        self.in_use.insert(slot, Policy::Open);
    }

    pub(super) fn failed(&mut self, slot: u32) {
        self.making -= 1;
        self.retired.insert(slot, Policy::Open);
    }

    /// False when it is not in use.
    pub(super) fn retire(&mut self, slot: u32) -> bool {
        match self.in_use.remove(&slot) {
            Some(policy) => {
                self.retired.insert(slot, policy);
                true
            }
            None => false,
        }
    }

    /// All slots to be cleared, with what was in force for them.
    pub(super) fn take_retired(&mut self) -> BTreeMap<u32, Policy> {
        self.clearing += self.retired.len();
        std::mem::take(&mut self.retired)
    }

    pub(super) fn cleared(&mut self, slots: impl IntoIterator<Item = u32>) {
        for slot in slots {
            self.clearing -= 1;
            self.cleared.insert(slot);
        }
    }

    /// These are not used again.
    pub(super) fn lost(&mut self, slots: usize) {
        self.clearing -= slots;
    }

    /// Cleared slots, when their connections should be forgotten now: that costs the same for one as for many.
    pub(super) fn take_cleared_if_many(&mut self) -> Option<BTreeSet<u32>> {
        const MANY: usize = 256;
        (self.cleared.len() > self.free.len().min(MANY)).then(|| self.take_cleared())
    }

    pub(super) fn take_cleared(&mut self) -> BTreeSet<u32> {
        self.clearing += self.cleared.len();
        std::mem::take(&mut self.cleared)
    }

    pub(super) fn forgotten(&mut self, slots: impl IntoIterator<Item = u32>) {
        for slot in slots {
            self.clearing -= 1;
            self.free.push_back(slot);
        }
    }

    pub(super) fn is_in_use(&self, slot: u32) -> bool {
        self.in_use.contains_key(&slot)
    }

    pub(super) fn in_use(&self) -> usize {
        self.in_use.len()
    }

    pub(super) fn policy(&self, slot: u32) -> Option<&Policy> {
        self.in_use.get(&slot)
    }

    /// The policies of all slots in use.
    pub(super) fn policies(&self) -> BTreeMap<u32, Policy> {
        self.in_use.clone()
    }

    pub(super) fn set_policy(&mut self, slot: u32, policy: Policy) {
        if let Some(present) = self.in_use.get_mut(&slot) {
            *present = policy;
        }
    }

    /// No more slots are made; ready ones, and with `all` those in use, are to be cleared.
    pub(super) fn close(&mut self, all: bool) {
        self.closing = true;
        let ready: BTreeSet<u32> = self.ready.drain(..).collect();
        self.retired
            .extend(ready.into_iter().map(|slot| (slot, Policy::Open)));
        if all {
            self.retired.append(&mut self.in_use);
        }
    }

    /// No more slots are made or cleared.
    pub(super) fn stop(&mut self) {
        self.closing = true;
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    #[cfg(test)]
    fn counts(&self) -> [usize; 6] {
        [
            self.free.len(),
            self.making,
            self.ready.len(),
            self.in_use.len(),
            self.retired.len(),
            self.cleared.len(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_goes_round_and_comes_back_last() {
        let mut stock = Stock::new(3, BTreeMap::from([(2, Policy::Blocked)]), 1);
        assert_eq!(stock.counts(), [2, 0, 0, 1, 0, 0]);
        assert_eq!(stock.begin_if_short(), Some(1));
        assert_eq!(stock.begin_if_short(), None, "the target is one");
        assert!(!stock.may_get_one(), "slot 3 is free");
        stock.made_ready(1);
        assert_eq!(stock.take_ready(), Some(1));
        assert_eq!(stock.policy(1), Some(&Policy::Open));
        assert!(stock.retire(1));
        assert!(!stock.retire(1), "not twice");
        assert_eq!(stock.take_retired().into_keys().collect::<Vec<_>>(), [1]);
        stock.cleared([1]);
        assert_eq!(stock.take_cleared_if_many(), None, "one is free still");
        assert_eq!(stock.counts(), [1, 0, 0, 1, 0, 1]);
        let cleared = stock.take_cleared();
        stock.forgotten(cleared);
        assert_eq!(stock.counts(), [2, 0, 0, 1, 0, 0]);
        assert_eq!(stock.begin(), Some(3));
        assert_eq!(stock.begin(), Some(1));
        assert_eq!(stock.begin(), None);
        assert!(
            stock.may_get_one(),
            "those being made may fail or be given back"
        );
        stock.failed(3);
        stock.made_for_use(1);
        assert_eq!(stock.counts(), [0, 0, 0, 2, 1, 0]);
        assert_eq!(stock.take_retired().len(), 1);
        assert!(stock.may_get_one(), "it is being cleared");
        stock.lost(1);
        assert!(!stock.may_get_one(), "all others are in use");
    }

    #[test]
    fn closing_keeps_what_is_in_use_unless_told() {
        let mut stock = Stock::new(4, BTreeMap::new(), 2);
        for _ in 0..2 {
            let slot = stock.begin_if_short().unwrap();
            stock.made_ready(slot);
        }
        stock.take_ready().unwrap();
        let late = stock.begin_if_short().unwrap();
        stock.close(false);
        assert_eq!(stock.counts(), [1, 1, 0, 1, 1, 0]);
        assert_eq!(stock.begin_if_short(), None);
        stock.made_ready(late);
        assert_eq!(stock.counts(), [1, 0, 0, 1, 2, 0]);
        stock.close(true);
        assert_eq!(stock.counts(), [1, 0, 0, 0, 3, 0]);
    }
}
