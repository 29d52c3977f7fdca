//! A semaphore that limits how many connections a machine has open at once, however many programs
//! and threads want one.

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use slablock::{BoundedSemaphore, Cache};

const CLIENTS: u32 = 8;
const CONNECTIONS: u32 = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let cache = Cache::open(dir.path().join("store"))?;
    let connections = BoundedSemaphore::new(&cache, "database", CONNECTIONS);
    let (open, most) = (AtomicU32::new(0), AtomicU32::new(0));

    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (connections, open, most) = (&connections, &open, &most);
            scope.spawn(move || {
                let permit = connections.acquire().expect("the store works");
                let now = open.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                println!("client {client} has permit {}, {now} open", permit.permit());
                thread::sleep(Duration::from_millis(20)); // the query
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });

    let most = most.load(Ordering::SeqCst);
    println!("{CLIENTS} clients, never more than {most} at once");
    assert!(most <= CONNECTIONS);
    assert_eq!(connections.available()?, CONNECTIONS);
    Ok(())
}
