//! What the two sides of one round share: where the server is, which request is next, and what clients have found wrong.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
    },
};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tower_background::Order;

use crate::{books::Books, dice::Dice, plan::Plan};

/// How an exchange ended, as its client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    Whole,
    /// The server ended it before its time.
    Cut,
    /// The client left.
    Left,
    /// There was no connection, or it took no more requests.
    Unsent,
    /// A response that is whole is not the one that was to come.
    Wrong,
    /// Nothing came of it for so long that nothing ever will.
    Stuck,
}

/// One round: one supervisor, one server, and the clients that attack it.
#[derive(Debug)]
pub struct Field {
    pub books: Arc<Books>,
    pub address: SocketAddr,
    pub order: Order,
    /// How many tasks may be left that take a place until the supervisor is shut down. None before that is near.
    may_stay: AtomicI64,
    /// The server is being stopped, and may cut what it has begun.
    pub stopping: AtomicBool,
    /// Clients send no more.
    pub stop: CancellationToken,
    /// Told when all requests of the round have come. The clients go on until they are stopped.
    pub enough: Notify,
    seed: u64,
    requests: u64,
    drawn: AtomicU64,
    seen: Mutex<BTreeMap<(&'static str, Seen), u64>>,
    helpers: Mutex<Option<mpsc::Sender<()>>>,
}

impl Field {
    pub fn new(
        books: Arc<Books>,
        address: SocketAddr,
        order: Order,
        seed: u64,
        requests: u64,
    ) -> (Arc<Self>, mpsc::Receiver<()>) {
        let (helpers, helped) = mpsc::channel(1);
        let field = Self {
            books,
            address,
            order,
            may_stay: AtomicI64::new(0),
            stopping: AtomicBool::new(false),
            stop: CancellationToken::new(),
            enough: Notify::new(),
            seed,
            requests,
            drawn: AtomicU64::new(0),
            seen: Mutex::default(),
            helpers: Mutex::new(Some(helpers)),
        };
        (Arc::new(field), helped)
    }

    /// The next request of a client.
    pub fn draw(&self) -> Plan {
        let number = self.drawn.fetch_add(1, SeqCst);
        Plan::of(Dice::new(self.seed ^ number.rotate_left(32)).roll())
    }

    /// Notes that a request has come to the handler.
    pub fn arrived(&self) {
        let number = self.books.calls.fetch_add(1, SeqCst);
        if number == self.requests * 19 / 20 {
            // Fewer than there are places: the others must go on.
            self.may_stay.store(10, SeqCst);
        }
        if number + 1 == self.requests {
            self.enough.notify_one();
        }
    }

    pub fn may_stay(&self) -> bool {
        self.may_stay.load(SeqCst) > 0 && self.may_stay.fetch_sub(1, SeqCst) > 0
    }

    pub fn drawn(&self) -> u64 {
        self.drawn.load(SeqCst)
    }

    pub fn saw(&self, protocol: &'static str, seen: Seen) {
        *self.seen.lock().unwrap().entry((protocol, seen)).or_default() += 1;
    }

    pub fn seen(&self) -> BTreeMap<(&'static str, Seen), u64> {
        self.seen.lock().unwrap().clone()
    }

    /// What one holds that may still add tasks when the server is gone. Nothing if it is too late for that.
    pub fn helper(&self) -> Option<mpsc::Sender<()>> {
        self.helpers.lock().unwrap().clone()
    }

    pub fn no_more_helpers(&self) {
        *self.helpers.lock().unwrap() = None;
    }
}
