//! [`Slots`]: a table with keys that are never used twice.

/// The key of a value, such as a task. The slot of a removed value is used again, but its serial
/// number is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    index: usize,
    serial: u64,
}

/// A table of values in segments of equal size.
///
/// It grows and shrinks by whole segments, so no call copies a large table. This matters because
/// the table is used under a lock.
#[derive(Debug)]
pub(super) struct Slots<T> {
    segments: Vec<Segment<T>>,
    /// The first free slot. Each free slot knows the next one.
    free: Option<usize>,
    len: usize,
    /// The serial number of the next value.
    serial: u64,
    /// How far the serial numbers are apart.
    step: u64,
}

pub(super) type Segment<T> = Box<[Slot<T>]>;

#[derive(Debug)]
pub(super) enum Slot<T> {
    Free { next: Option<usize> },
    Used { serial: u64, value: T },
}

pub(super) const SEGMENT: usize = 256;

impl<T> Slots<T> {
    /// Creates a table whose serial numbers begin with `first`, and are `step` apart. So several
    /// tables can have different ones.
    pub(super) const fn new(first: u64, step: u64) -> Self {
        Self {
            segments: Vec::new(),
            free: None,
            len: 0,
            serial: first,
            step,
        }
    }

    #[inline]
    pub(super) fn insert(&mut self, value: T) -> Key {
        let index = self.free.unwrap_or_else(|| self.grow());
        let serial = self.serial;
        let slot = &mut self.segments[index / SEGMENT][index % SEGMENT];
        let Slot::Free { next } = *slot else {
            unreachable!("the list of free slots has only free slots");
        };
        *slot = Slot::Used { serial, value };
        self.free = next;
        self.serial += self.step;
        self.len += 1;
        Key { index, serial }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.slot(key)? {
            Slot::Used { serial, value } if *serial == key.serial => Some(value),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let free = self.free;
        let slot = self.slot(key)?;
        if !matches!(slot, Slot::Used { serial, .. } if *serial == key.serial) {
            return None;
        }
        let Slot::Used { value, .. } = std::mem::replace(slot, Slot::Free { next: free }) else {
            return None;
        };
        self.free = Some(key.index);
        self.len -= 1;
        Some(value)
    }

    /// Returns the values of one segment with their keys. `None` after the last segment.
    pub(super) fn segment(&mut self, number: usize) -> Option<impl Iterator<Item = (Key, &mut T)>> {
        let slots = self.segments.get_mut(number)?;
        Some(
            slots
                .iter_mut()
                .enumerate()
                .filter_map(move |(index, slot)| match slot {
                    Slot::Used { serial, value } => Some((
                        Key {
                            index: number * SEGMENT + index,
                            serial: *serial,
                        },
                        value,
                    )),
                    Slot::Free { .. } => None,
                }),
        )
    }

    /// Takes the segments of an empty table that has several. Drop them after you have released the
    /// lock.
    #[inline]
    pub(super) fn take_unused(&mut self) -> Option<Vec<Segment<T>>> {
        if self.len > 0 || self.segments.len() < 2 {
            return None;
        }
        self.free = None;
        Some(std::mem::take(&mut self.segments))
    }

    /// Adds a segment, and returns its first slot.
    #[cold]
    fn grow(&mut self) -> usize {
        let first = self.segments.len() * SEGMENT;
        let last = first + SEGMENT - 1;
        let slots = (first..=last).map(|index| Slot::Free {
            next: (index < last).then_some(index + 1),
        });
        self.segments.push(slots.collect());
        first
    }

    #[inline]
    fn slot(&mut self, key: Key) -> Option<&mut Slot<T>> {
        self.segments
            .get_mut(key.index / SEGMENT)?
            .get_mut(key.index % SEGMENT)
    }
}

impl Key {
    /// Returns a number that no other value has. Values that are inserted later have a higher one.
    pub(super) const fn serial(self) -> u64 {
        self.serial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_own_value_alone() {
        let mut slots = Slots::new(3, 16);
        let first = slots.insert("first");
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second");
        assert_eq!(first.index, second.index, "the slot is used again");
        assert_eq!((first.serial(), second.serial()), (3, 19));
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut "second"));
    }

    #[test]
    fn segments_are_added_and_given_back() {
        let mut slots = Slots::new(0, 1);
        let keys: Vec<_> = (0..SEGMENT * 3).map(|value| slots.insert(value)).collect();
        assert_eq!((slots.len, slots.segments.len()), (SEGMENT * 3, 3));
        assert_eq!(
            slots.segment(1).unwrap().map(|(_, value)| *value).min(),
            Some(SEGMENT)
        );
        assert!(slots.segment(3).is_none());
        assert!(slots.take_unused().is_none());
        for (value, key) in keys.into_iter().enumerate() {
            assert_eq!(slots.remove(key), Some(value));
        }
        assert_eq!(slots.take_unused().map(|unused| unused.len()), Some(3));
        let key = slots.insert(7);
        assert_eq!(slots.remove(key), Some(7));
    }
}
