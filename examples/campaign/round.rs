//! One life of the web process: load, a request that stays, and SIGKILL.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tower_background::BoxError;

use crate::{
    PATIENCE,
    books::{Books, Seen},
    client::Client,
    engine::Place,
    plan::{Cell, Mode, Special, Stage},
    process::Process,
    web::GRACE,
    worker::has_begun,
};

/// How many clients there are beside the one that stays.
const CLIENTS: usize = 6;

/// How many requests are answered before it comes.
const WARM: usize = 30;

pub struct Campaign<'a> {
    place: &'a Place,
    folder: &'a Path,
    books: Arc<Books>,
    worker: Process,
    pub worker_kills: usize,
    /// Held jobs that had begun before their response was over.
    pub early: Vec<usize>,
}

impl<'a> Campaign<'a> {
    pub async fn new(place: &'a Place, folder: &'a Path, books: Arc<Books>) -> Result<Self, BoxError> {
        let (worker, _) = Process::start("worker", place, folder, &[]).await?;
        Ok(Self { place, folder, books, worker, worker_kills: 0, early: Vec::new() })
    }

    /// Starts the web process, and kills it at the stage of the cell; before that the worker, if that is asked for.
    pub async fn round(&mut self, number: usize, cell: Cell, and_worker: bool) -> Result<(), BoxError> {
        let (mut web, port) = Process::start("web", self.place, self.folder, &["1"]).await?;
        let port = port.parse()?;
        let mut clients = JoinSet::new();
        let (tell, mut answered) = mpsc::unbounded_channel();
        for _ in 0..CLIENTS {
            let (books, tell) = (Arc::clone(&self.books), tell.clone());
            clients.spawn(async move {
                let Ok(mut client) = Client::connect(port).await else { return };
                loop {
                    let id = books.open(number);
                    let path = path(cell.mode, Special::Nothing, id);
                    // It goes on until the connection is cut.
                    let Ok(()) = client.get(&path, |seen| books.saw(id, seen)).await else { return };
                    let _ = tell.send(());
                }
            });
        }
        for _ in 0..WARM {
            timeout(PATIENCE, answered.recv()).await.map_err(|_| "the load is not answered: it hangs")?;
        }
        if and_worker {
            self.kill_worker(number, cell.mode, port).await?;
        }
        self.stay(&mut web, number, cell, port, &mut clients).await?;
        for told in web.kill().await? {
            match told.strip_prefix("early ") {
                Some(id) => self.early.push(id.parse()?),
                None => return Err(format!("what is {told:?}?").into()),
            }
        }
        timeout(PATIENCE, clients.join_all()).await.map_err(|_| "a client of a dead server hangs")?;
        Ok(())
    }

    /// Has a request come to the stage, and stay there.
    async fn stay(
        &mut self,
        web: &mut Process,
        number: usize,
        cell: Cell,
        port: u16,
        clients: &mut JoinSet<()>,
    ) -> Result<(), BoxError> {
        let Cell { mode, stage } = cell;
        let id = self.books.open(number);
        let (tell, mut seen) = watch::channel(Seen::Nothing);
        let books = Arc::clone(&self.books);
        clients.spawn(async move {
            let Ok(mut client) = Client::connect(port).await else { return };
            let path = path(mode, Special::Stays(stage), id);
            let tell_of = |seen| {
                books.saw(id, seen);
                tell.send_replace(seen);
            };
            let _ = client.get(&path, tell_of).await;
        });
        // After the end of a durable one, nothing is done that could stay.
        if (mode, stage) != (Mode::Durable, Stage::End) {
            web.until(&format!("{} {id}", stage.path())).await?;
        }
        let at_least = match (mode, stage) {
            (Mode::Lossy, Stage::Write) | (_, Stage::End) => Seen::Whole,
            (_, Stage::Handler | Stage::Write) => Seen::Nothing,
            (_, Stage::Head) => Seen::Head,
            (_, Stage::Body) => Seen::Body,
        };
        let seen = timeout(PATIENCE, seen.wait_for(|seen| *seen >= at_least)).await;
        drop(seen.map_err(|_| "the answer does not come: it hangs")?);
        if mode == Mode::Held && matches!(stage, Stage::Head | Stage::Body) {
            self.is_not_early(id).await?;
        }
        Ok(())
    }

    /// Looks whether jobs that were written later begin, and this one does not: its response is open.
    async fn is_not_early(&mut self, id: usize) -> Result<(), BoxError> {
        let begun = Instant::now();
        while (id + 1..self.books.requests()).filter(|id| has_begun(self.folder, *id)).count() < 5 {
            if begun.elapsed() > PATIENCE {
                return Err("no job is done: the worker hangs".into());
            }
            sleep(Duration::from_millis(5)).await;
        }
        // On a machine that is too slow, the grace may be over.
        if has_begun(self.folder, id) && begun.elapsed() < GRACE {
            self.early.push(id);
        }
        Ok(())
    }

    /// Kills the worker in the middle of a job, and starts it again, as what it was.
    async fn kill_worker(&mut self, number: usize, mode: Mode, port: u16) -> Result<(), BoxError> {
        let id = self.books.open(number);
        let mut client = Client::connect(port).await?;
        client.get(&path(mode, Special::Stuck, id), |seen| self.books.saw(id, seen)).await?;
        self.worker.until(&format!("stuck {id}")).await?;
        if let Some(told) = self.worker.kill().await?.first() {
            return Err(format!("what is {told:?}?").into());
        }
        (self.worker, _) = Process::start("worker", self.place, self.folder, &[]).await?;
        self.worker_kills += 1;
        Ok(())
    }
}

fn path(mode: Mode, special: Special, id: usize) -> String {
    format!("/{mode}/{}/{id}", special.path())
}
