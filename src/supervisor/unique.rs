//! [`UniqueKeys`]: the keys of unique tasks that wait or run.

use std::{collections::HashSet, sync::Arc};

use crate::{
    task::Name,
    util::sync::{Mutex, lock},
};

#[derive(Debug, Clone, Default)]
pub(super) struct UniqueKeys(Arc<Mutex<HashSet<Name>>>);

/// A key that is in use until this is dropped.
#[derive(Debug)]
pub(super) struct UniqueKey {
    keys: UniqueKeys,
    key: Name,
}

impl UniqueKeys {
    /// Takes a key. Returns `None` if it is in use.
    pub(super) fn claim(&self, key: &Name) -> Option<UniqueKey> {
        let is_new = lock(&self.0).insert(key.clone());
        is_new.then(|| UniqueKey {
            keys: self.clone(),
            key: key.clone(),
        })
    }
}

impl Drop for UniqueKey {
    fn drop(&mut self) {
        lock(&self.keys.0).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_use_until_it_is_dropped() {
        let keys = UniqueKeys::default();
        let first = keys.claim(&Name::Static("cache"));
        assert!(first.is_some());
        assert!(
            keys.claim(&Name::Shared("cache".into())).is_none(),
            "the text counts"
        );
        assert!(keys.claim(&Name::Static("other")).is_some());
        drop(first);
        assert!(keys.claim(&Name::Static("cache")).is_some());
    }
}
