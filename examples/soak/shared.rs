//! What the server and the clients of one round share.

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

use crate::{account::Account, dice::Dice, plan::Plan};

/// How a request ended, as its client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    Whole,
    /// The server ended the response too early.
    Cut,
    /// The client left.
    Left,
    /// There was no connection, or it took no more requests.
    Unsent,
    /// The response is whole, but not the expected one.
    Wrong,
    /// Nothing happened for longer than anything should take.
    Stuck,
}

/// One round: one supervisor, one server, and the clients that attack it.
#[derive(Debug)]
pub struct Shared {
    pub account: Arc<Account>,
    pub address: SocketAddr,
    pub order: Order,
    /// How many tasks may be added that keep their permit until the shutdown. It is 0 until the
    /// shutdown is near.
    may_stay: AtomicI64,
    /// The server is shutting down, and may cut responses off.
    pub stopping: AtomicBool,
    /// Stops the clients.
    pub stop: CancellationToken,
    /// Notified when all requests of the round have arrived. The clients go on until they are
    /// stopped.
    pub enough: Notify,
    seed: u64,
    requests: u64,
    drawn: AtomicU64,
    seen: Mutex<BTreeMap<(&'static str, Seen), u64>>,
    helpers: Mutex<Option<mpsc::Sender<()>>>,
}

impl Shared {
    pub fn new(
        account: Arc<Account>,
        address: SocketAddr,
        order: Order,
        seed: u64,
        requests: u64,
    ) -> (Arc<Self>, mpsc::Receiver<()>) {
        let (helpers, helped) = mpsc::channel(1);
        let shared = Self {
            account,
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
        (Arc::new(shared), helped)
    }

    /// Returns the plan of the next request.
    pub fn draw(&self) -> Plan {
        let number = self.drawn.fetch_add(1, SeqCst);
        Plan::of(Dice::new(self.seed ^ number.rotate_left(32)).roll())
    }

    /// Notes that a request has reached the handler.
    pub fn arrived(&self) {
        let number = self.account.calls.fetch_add(1, SeqCst);
        if number == self.requests * 19 / 20 {
            // Fewer than there are permits, so that other tasks can still run.
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
        *self
            .seen
            .lock()
            .unwrap()
            .entry((protocol, seen))
            .or_default() += 1;
    }

    pub fn seen(&self) -> BTreeMap<(&'static str, Seen), u64> {
        self.seen.lock().unwrap().clone()
    }

    /// Returns a value to hold for code that adds tasks after the response. `None` if it is too
    /// late for that.
    pub fn helper(&self) -> Option<mpsc::Sender<()>> {
        self.helpers.lock().unwrap().clone()
    }

    pub fn no_more_helpers(&self) {
        *self.helpers.lock().unwrap() = None;
    }
}
