//! The average response time of a service with many workers, reported and begun anew each interval:
//! no response is in two reports, and none is in no report.

use std::error::Error;
use std::thread;

use slablock::{Averager, Cache};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let cache = Cache::open(dir.path().join("store"))?;
    let latency = Averager::new(&cache, "latency");
    assert_eq!(latency.get()?, None, "nothing was measured yet");

    serve(&latency, &[0.080, 0.120, 0.100]);
    let summary = latency.summary()?.ok_or("something was measured")?;
    println!(
        "{} responses, {:.3} s on average, {:.3} to {:.3}",
        summary.count, summary.mean, summary.min, summary.max
    );
    assert_eq!(summary.count, 3);

    // Looking does not change it; popping returns it and starts anew, in one step.
    let looked = latency.get()?;
    let reported = latency.pop()?;
    assert_eq!(reported, looked);
    assert_eq!(latency.get()?, None);
    println!("reported {:.3} s and reset", reported.unwrap_or_default());

    serve(&latency, &[0.5]);
    assert_eq!(latency.pop()?, Some(0.5), "of this interval only");
    Ok(())
}

/// One worker a response; in earnest these are the worker processes of a server.
fn serve(latency: &Averager, seconds: &[f64]) {
    thread::scope(|scope| {
        for &taken in seconds {
            scope.spawn(move || latency.add(taken).expect("the store works"));
        }
    });
}
