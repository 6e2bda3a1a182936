//! What a request costs in allocations and instructions, from the call of the service to the end of its last task.
//!
//! `cargo bench --bench allocations` counts allocations; `-- --instructions` counts instructions as well, with valgrind. All is in
//! one process on a current-thread runtime. A task is a small future that says when it has run.

#![expect(clippy::cast_precision_loss, reason = "the figures are small")]

mod by_hand;

use std::{
    alloc::System,
    convert::Infallible,
    env,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasksExt};

use by_hand::{ByHand, Tasks};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const TASKS: [usize; 4] = [0, 1, 4, 16];
const WAYS: [&str; 3] = ["bare", "by-hand", "layer"];
const REQUESTS: usize = 10_000;

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [way, tasks, requests] = &arguments[..] {
        run(way, tasks.parse().expect("a number"), requests.parse().expect("a number"));
        return;
    }
    println!("A request, with what its tasks cost. `bare` spawns its tasks in the handler.\n");
    table("allocations", |way, tasks| run(way, tasks, REQUESTS));
    if arguments.iter().any(|argument| argument == "--instructions") {
        // The difference of two runs is free of what the process costs itself.
        table("instructions", |way, tasks| {
            let (few, many) = (1_000, 3_000);
            (instructions(way, tasks, many) - instructions(way, tasks, few)) / (many - few) as f64
        });
    }
}

fn table(what: &str, measure: impl Fn(&str, usize) -> f64) {
    println!(
        "| {what} with tasks: | {} |\n|---|{}",
        TASKS.map(|tasks| tasks.to_string()).join(" | "),
        "---|".repeat(TASKS.len())
    );
    for way in WAYS {
        println!("| {way} | {} |", TASKS.map(|tasks| format!("{:.1}", measure(way, tasks))).join(" | "));
    }
    println!();
}

/// Makes so many requests, and tells the allocations of one.
fn run(way: &str, tasks: usize, requests: usize) -> f64 {
    let done = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let layer = BackgroundLayer::new();
    let task = {
        let done = Arc::clone(&done);
        move || {
            let done = Arc::clone(&done);
            async move {
                done.fetch_add(1, Relaxed);
            }
        }
    };
    let response = || std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello")))));
    match way {
        "bare" => {
            let service = service_fn(move |_: Request<()>| {
                (0..tasks).for_each(|_| drop(tokio::spawn(task())));
                response()
            });
            runtime.block_on(drive(service, &done, tasks, requests))
        }
        "by-hand" => {
            let service = ByHand(service_fn(move |request: Request<()>| {
                let list = request.extensions().get::<Tasks>().expect("the layer is there");
                (0..tasks).for_each(|_| list.add(task()));
                response()
            }));
            runtime.block_on(drive(service, &done, tasks, requests))
        }
        "layer" => {
            let service = layer.layer(service_fn(move |request: Request<()>| {
                let list = request.background_tasks().expect("the layer is there");
                assert!((0..tasks).all(|_| list.add(task())));
                response()
            }));
            runtime.block_on(drive(service, &done, tasks, requests))
        }
        other => panic!("{other} is no way"),
    }
}

async fn drive<S, B>(mut service: S, done: &AtomicUsize, tasks: usize, requests: usize) -> f64
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes, Error = Infallible> + Unpin,
{
    let region = Region::new(ALLOCATOR);
    for request in 1..=requests {
        let Ok(service) = service.ready().await;
        let Ok(response) = service.call(Request::new(())).await;
        let mut body = response.into_body();
        while body.frame().await.is_some() {}
        drop(body);
        while done.load(Relaxed) < request * tasks {
            tokio::task::yield_now().await;
        }
    }
    let change = region.change();
    (change.allocations + change.reallocations) as f64 / requests as f64
}

fn instructions(way: &str, tasks: usize, requests: usize) -> f64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().expect("this is a file"))
        .args([way, &tasks.to_string(), &requests.to_string()])
        .output()
        .expect("valgrind runs");
    let log = String::from_utf8_lossy(&output.stderr);
    let (_, collected) = log.split_once("Collected : ").expect("callgrind tells what it has counted");
    collected.split_whitespace().next().and_then(|count| count.parse().ok()).expect("a number")
}
