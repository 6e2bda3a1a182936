//! Tests of what the books do while requests end.

use std::{sync::mpsc, thread, time::Duration};

use super::*;

/// A request whose last other handle is let go of while it is looked at, and whose end is for the books.
struct Leaving {
    exchange: Exchange,
    ledger: Arc<Ledger>,
    other: Mutex<Option<Arc<dyn Filer>>>,
    ended: mpsc::Sender<Stats>,
}

impl Filer for Leaving {
    fn exchange(&self) -> &Exchange {
        let other = self.other.lock().expect("nobody panics").take();
        drop(other);
        &self.exchange
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let _ = self.ended.send(self.ledger.stats());
    }
}

fn described(describe: fn(&Ledger, Key)) {
    let (ended, told) = mpsc::channel();
    thread::spawn(move || {
        let ledger = Arc::new(Ledger::new(None));
        let exchange = Exchange::new(Instant::now());
        let request = Arc::new(Leaving { exchange, ledger: Arc::clone(&ledger), other: Mutex::new(None), ended });
        let filer: Arc<dyn Filer> = request.clone();
        let key = ledger.add(None, Arc::downgrade(&filer), true, Some(Instant::now())).expect("the books are open");
        *request.other.lock().expect("nobody panics") = Some(filer);
        drop(request);
        describe(&ledger, key);
    });
    assert!(told.recv_timeout(Duration::from_secs(60)).is_ok(), "the request has ended, and had the books");
}

#[test]
fn a_request_may_end_while_its_tasks_are_described() {
    described(|ledger, _| assert_eq!(ledger.running().len(), 1));
    described(|ledger, key| assert!(ledger.task(key).is_some()));
    described(|ledger, _| ledger.seal());
}
