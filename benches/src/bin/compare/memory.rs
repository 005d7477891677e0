//! Resident memory: before, while many clients pull, and after

use std::thread;
use std::time::Duration;

use registry_benches::content::{Blob, Way};
use registry_benches::load::at_once;
use registry_benches::report::{Measure, Row};
use registry_benches::site::{Kind, Storage};
use registry_benches::{Result, mebibytes};

use crate::runner::{REPOSITORY, Runner, clients, size};

pub(crate) const ID: &str = "memory";
pub(crate) const IDLE: &str = "idle";
/// How long a server has to come to rest
const REST: Duration = Duration::from_secs(2);

/// The name of a case
pub(crate) fn peak(count: usize, bytes: u64) -> String {
    format!(
        "at most, with {} each pulling {}",
        clients(count),
        size(bytes)
    )
}

pub(crate) fn measure(runner: &mut Runner) -> Result<()> {
    let crowd = runner.sizes.crowd;
    let bytes = runner.sizes.medium;
    let peak = peak(crowd, bytes);
    let after = format!("{} s after", REST.as_secs());
    let cases = [IDLE, &peak, &after];
    let measures = [
        Measure::less("MiB resident"),
        Measure::less("of it not in the page cache anyway"),
    ];
    runner.section(ID, "Memory", &measures);
    if !cases.iter().any(|what| runner.wants(ID, what)) {
        runner.finish();
        return Ok(());
    }
    let blob = Blob::new(2, bytes);
    let mut rows = cases.map(|what| Row {
        what: what.to_owned(),
        cells: Default::default(),
    });
    // Once each: it is the most that counts, and it does not come out lower the next time.
    for kind in runner.site.installed(&Kind::REGISTRIES) {
        eprintln!("{ID}: {kind}");
        let root = runner.site.root()?;
        let storage = Storage::Folder(root.path().to_owned());
        let server = runner.site.start(kind, &storage, false)?;
        blob.push(&mut server.connect()?, REPOSITORY, Way::Streamed)?;
        drop(server);
        // Another process: what the push took is not what idling takes.
        let server = runner.site.start(kind, &storage, false)?;
        let mut connection = server.connect()?;
        connection.request("GET", "/v2/", "")?;
        connection.expect(200)?;
        drop(connection);
        thread::sleep(REST);
        let idle = (server.resident()?, server.anonymous()?);
        let most = server.peak_while(|| {
            at_once(crowd, |_| blob.pull(&mut server.connect()?, REPOSITORY))?;
            Ok(())
        })?;
        thread::sleep(REST);
        let rest = (server.resident()?, server.anonymous()?);
        for (row, (resident, anonymous)) in rows.iter_mut().zip([idle, most, rest]) {
            let cell = vec![mebibytes(resident), mebibytes(anonymous)];
            row.cells.insert(kind, cell);
        }
    }
    for row in rows {
        runner.row(ID, row);
    }
    Ok(())
}
