//! Fetches the servers, once.
//!
//! What is fetched lands in `.brokers/` at the workspace root (`NSQBRIDGE_BROKERS_DIR` names another folder), one
//! sub-folder per pinned version:
//!
//! ```text
//!   lock ─▶ NAME.partial/ ─▶ Maven or Go fill it ─▶ stamp written ─▶ renamed to NAME/
//! ```
//!
//! The stamp holds the pins as well as the number and size of the files, so a changed pin, a lost jar and a fetch that
//! was killed half-way all lead to the same cure: fetching again. The lock makes processes that fetch at the same time
//! wait for the first one.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::error::cannot;
use crate::process::Process;
use crate::progress::{Progress, megabytes};
use crate::tools::{self, Tool};
use crate::versions::{self, Line};
use crate::{Error, Result};

const STAMP: &str = "stamp";

/// Fetches everything that is not there yet.
///
/// # Errors
/// A tool is missing or too old (all of them are named), or a fetch failed.
pub fn all() -> Result<()> {
    let parts = [rocketmq_part(Line::V5), rocketmq_part(Line::V4), nsq_part()];
    let mut needs: Vec<Tool> = Vec::new();
    for part in parts.iter().filter(|part| !part.is_complete()) {
        needs.extend(part.needs.iter().filter(|tool| !needs.contains(tool)).collect::<Vec<_>>());
    }
    tools::check(&needs)?;
    for part in parts {
        part.ensure()?;
    }
    Ok(())
}

/// The folder with the jars of one RocketMQ line, fetched if need be.
///
/// # Errors
/// Java or Maven is missing or too old, or the fetch failed; the end of Maven's log is in the text.
pub fn rocketmq(line: Line) -> Result<PathBuf> {
    rocketmq_part(line).ensure()
}

/// The folder with NSQ's programs, fetched and compiled if need be.
///
/// # Errors
/// Go is missing or too old, or the fetch failed; the end of Go's log is in the text.
pub fn nsq() -> Result<PathBuf> {
    nsq_part().ensure()
}

/// The folder everything is fetched into.
pub fn home() -> PathBuf {
    match env::var_os("NSQBRIDGE_BROKERS_DIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .canonicalize()
            .unwrap_or_default()
            .join(".brokers"),
    }
}

/// Something to fetch, whatever fetches it.
struct Part {
    name: String,
    /// Files handed to the tool: name and text. Together they are the pins.
    pins: Vec<(&'static str, &'static str)>,
    /// The sub-folder with what a server needs.
    content: &'static str,
    needs: &'static [Tool],
    command: fn(&Path) -> Result<Command>,
    doing: &'static str,
    /// From the tool's log and what is in the content folder so far: how far the work is.
    how_far: fn(&str, &Listing) -> String,
    home: PathBuf,
}

fn rocketmq_part(line: Line) -> Part {
    Part {
        name: format!("rocketmq-{line}"),
        pins: vec![("pom.xml", line.pom())],
        content: "lib",
        needs: &[Tool::Java, Tool::Maven],
        command: maven,
        doing: "resolving jars with Maven (1-2 minutes the first time)",
        how_far: jars_so_far,
        home: home(),
    }
}

fn nsq_part() -> Part {
    Part {
        name: format!("nsq-{}", versions::NSQ),
        pins: vec![("go.mod", versions::NSQ_GO_MOD), ("go.sum", versions::NSQ_GO_SUM)],
        content: "bin",
        needs: &[Tool::Go],
        command: go,
        doing: "compiling with Go (20 seconds the first time)",
        how_far: programs_so_far,
        home: home(),
    }
}

fn maven(work: &Path) -> Result<Command> {
    let mut command = Command::new(Tool::Maven.find()?);
    // A jar whose checksum is wrong must fail here, not in a test.
    command.args([
        "--batch-mode",
        "--strict-checksums",
        "dependency:copy-dependencies",
        "-DincludeScope=runtime",
    ]);
    command.arg("-DoutputDirectory=lib").current_dir(work);
    Ok(command)
}

fn go(work: &Path) -> Result<Command> {
    let mut command = Command::new(Tool::Go.find()?);
    command.args(["install", "-v", "-mod=readonly", "-buildvcs=false", "tool"]).current_dir(work);
    // Without cgo no C compiler is needed, and the programs do not care.
    command.env("GOBIN", work.join("bin")).env("GOWORK", "off").env("CGO_ENABLED", "0");
    // Set for cross-compiling, these would make Go refuse GOBIN.
    command.env_remove("GOOS").env_remove("GOARCH");
    Ok(command)
}

/// Maven downloads into its own cache first and copies everything at the end.
fn jars_so_far(log: &str, copied: &Listing) -> String {
    if copied.files > 0 {
        return format!("{} jars, {}", copied.files, megabytes(copied.bytes));
    }
    let downloaded: Vec<&str> = log.lines().filter(|line| line.contains("Downloaded from")).collect();
    let bytes = downloaded.iter().filter_map(|line| maven_size(line)).sum();
    format!("{} files downloaded, {}", downloaded.len(), megabytes(bytes))
}

/// The size in "Downloaded from x: y.jar (752 kB at 3.6 MB/s)", in bytes.
fn maven_size(line: &str) -> Option<u64> {
    let (_, size) = line.rsplit_once('(')?;
    let mut words = size.split(' ');
    let number: f64 = words.next()?.parse().ok()?;
    let unit = match words.next()? {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        _ => return None,
    };
    Some((number * unit) as u64)
}

fn programs_so_far(log: &str, built: &Listing) -> String {
    let packages = log.lines().filter(|line| !line.starts_with("go: ")).count();
    format!("{packages} packages, {} programs, {}", built.files, megabytes(built.bytes))
}

impl Part {
    fn target(&self) -> PathBuf {
        self.home.join(&self.name)
    }

    /// What the stamp of a complete folder says.
    fn expected_stamp(&self, content: &Listing) -> String {
        let pins: String = self.pins.iter().map(|(name, text)| format!("\n--- {name}\n{text}")).collect();
        format!("{}: {} files, {} bytes\n{pins}", self.name, content.files, content.bytes)
    }

    fn is_complete(&self) -> bool {
        let target = self.target();
        let content = Listing::of(&target.join(self.content));
        content.files > 0
            && fs::read_to_string(target.join(STAMP))
                .is_ok_and(|stamp| stamp == self.expected_stamp(&content))
    }

    fn ensure(&self) -> Result<PathBuf> {
        let content = self.target().join(self.content);
        if self.is_complete() {
            return Ok(content);
        }
        tools::check(self.needs)?;
        fs::create_dir_all(&self.home).map_err(cannot("create", &self.home))?;
        let _lock = self.lock()?;
        if !self.is_complete() {
            self.fetch()?;
        }
        Ok(content)
    }

    /// One lock for all parts, because Maven's own cache does not stand two Mavens at once.
    fn lock(&self) -> Result<File> {
        let path = self.home.join("lock");
        let file = File::create(&path).map_err(cannot("create", &path))?;
        if file.try_lock().is_err() {
            eprintln!("{}: another process is fetching; waiting for it", self.name);
            file.lock().map_err(cannot("lock", &path))?;
        }
        Ok(file)
    }

    fn fetch(&self) -> Result<()> {
        let work = self.home.join(format!("{}.partial", self.name));
        remove(&work)?;
        fs::create_dir_all(&work).map_err(cannot("create", &work))?;
        for (name, text) in &self.pins {
            let path = work.join(name);
            fs::write(&path, text).map_err(cannot("write", &path))?;
        }
        self.run(&work)?;

        let content = Listing::of(&work.join(self.content));
        if content.files == 0 {
            return Err(Error::new(format!("{}: the fetch ended well and brought nothing", self.name)));
        }
        let stamp = work.join(STAMP);
        fs::write(&stamp, self.expected_stamp(&content)).map_err(cannot("write", &stamp))?;
        remove(&self.target())?;
        fs::rename(&work, self.target()).map_err(cannot("rename", &work))
    }

    /// Runs the tool in `work` and shows how far it is.
    fn run(&self, work: &Path) -> Result<()> {
        let log = work.join("log");
        let mut process = Process::spawn(&(self.command)(work)?, &log)?;
        let mut progress = Progress::new(format!("{}: {}", self.name, self.doing));
        let code = loop {
            let code = process.exit_code();
            let so_far = (self.how_far)(
                &fs::read_to_string(&log).unwrap_or_default(),
                &Listing::of(&work.join(self.content)),
            );
            match code {
                Some(code) => {
                    progress.finish(&so_far);
                    break code;
                }
                None => progress.show(&so_far),
            }
            thread::sleep(Duration::from_millis(200));
        };
        if code == 0 {
            return Ok(());
        }
        let tail = crate::server::tail(&log);
        Err(Error::new(format!(
            "{}: fetching failed with exit code {code}; running it again repairs what is half done\n{tail}",
            self.name
        )))
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::exists(folder) {
        Ok(false) => Ok(()),
        _ => fs::remove_dir_all(folder).map_err(cannot("remove", folder)),
    }
}

/// How many files a folder holds, and their bytes: enough to notice a lost or cut one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Listing {
    files: usize,
    bytes: u64,
}

impl Listing {
    /// An absent folder is an empty one.
    fn of(folder: &Path) -> Listing {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).fold(Listing::default(), |sum, file| Listing {
            files: sum.files + 1,
            bytes: sum.bytes + file.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    /// Stands in for Maven: one file, and a trace of having run.
    fn part(home: &Path, pin: &'static str) -> Part {
        Part {
            name: "thing".to_owned(),
            pins: vec![("pin", pin)],
            content: "lib",
            needs: &[],
            command: |work| {
                let mut command = Command::new("sh");
                command.args(["-c", "echo ran >> ../runs; mkdir lib && cp pin lib/file"]).current_dir(work);
                Ok(command)
            },
            doing: "copying",
            how_far: |_, listing| format!("{} files", listing.files),
            home: home.to_owned(),
        }
    }

    fn runs(home: &Path) -> usize {
        fs::read_to_string(home.join("runs")).unwrap().lines().count()
    }

    #[test]
    fn what_is_complete_is_not_fetched_again() {
        let folder = Folder::new("fetch").unwrap();
        let content = part(folder.path(), "a").ensure().unwrap();
        assert_eq!(fs::read_to_string(content.join("file")).unwrap(), "a");
        part(folder.path(), "a").ensure().unwrap();
        assert_eq!(runs(folder.path()), 1);
    }

    #[test]
    fn a_changed_pin_a_lost_file_and_a_lost_stamp_are_fetched_again() {
        let folder = Folder::new("fetch").unwrap();
        part(folder.path(), "a").ensure().unwrap();
        let content = part(folder.path(), "b").ensure().unwrap();
        assert_eq!(fs::read_to_string(content.join("file")).unwrap(), "b");
        assert_eq!(runs(folder.path()), 2);

        fs::remove_file(content.join("file")).unwrap();
        part(folder.path(), "b").ensure().unwrap();
        assert_eq!(runs(folder.path()), 3);

        fs::remove_file(content.join("../stamp")).unwrap();
        part(folder.path(), "b").ensure().unwrap();
        assert_eq!(runs(folder.path()), 4);
    }

    #[test]
    fn leftovers_of_a_killed_fetch_do_no_harm() {
        let folder = Folder::new("fetch").unwrap();
        let partial = folder.path().join("thing.partial/lib");
        fs::create_dir_all(&partial).unwrap();
        fs::write(partial.join("half"), "x").unwrap();
        let content = part(folder.path(), "a").ensure().unwrap();
        assert_eq!(Listing::of(&content), Listing { files: 1, bytes: 1 });
    }

    #[test]
    fn a_failed_fetch_says_why_and_leaves_nothing_that_looks_complete() {
        let folder = Folder::new("fetch").unwrap();
        let mut broken = part(folder.path(), "a");
        broken.command = |work| {
            let mut command = Command::new("sh");
            command
                .args(["-c", "mkdir lib; echo half > lib/file; echo no such version; exit 3"])
                .current_dir(work);
            Ok(command)
        };
        let text = broken.ensure().unwrap_err().to_string();
        assert!(text.contains("exit code 3") && text.contains("no such version"), "{text}");
        assert!(!broken.is_complete());
        part(folder.path(), "a").ensure().unwrap();
    }

    #[test]
    fn many_at_once_fetch_once() {
        let folder = Folder::new("fetch").unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| part(folder.path(), "a").ensure().unwrap());
            }
        });
        assert_eq!(runs(folder.path()), 1);
    }

    #[test]
    fn sizes_are_read_from_mavens_log() {
        assert_eq!(maven_size("Downloaded from central: x/a-4.4.jar (752 kB at 3.6 MB/s)"), Some(752_000));
        assert_eq!(maven_size("Downloaded from central: x/b.jar (5.9 MB at 24 MB/s)"), Some(5_900_000));
        assert_eq!(maven_size("nothing of the kind"), None);
    }
}
