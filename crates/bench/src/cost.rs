//! What a process and its children cost: processor time and memory, read from `/proc`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// Linux counts processor time for programs in hundredths of a second (`USER_HZ`), whatever its own clock does.
const TICKS_PER_SECOND: f64 = 100.0;

/// How often memory is looked at; a peak between two looks is missed.
const SAMPLE: Duration = Duration::from_millis(500);

/// What runs on this machine as one party: a process, and what descends from it if that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Family {
    root: u32,
    with_children: bool,
}

impl Family {
    /// Takes one process alone: what it started are parties of their own.
    pub(crate) const fn alone(pid: u32) -> Self {
        Self {
            root: pid,
            with_children: false,
        }
    }

    /// Finds who listens at `host:port`; `None` when that is another machine or cannot be seen from here.
    pub(crate) fn listening_at(host: &str, port: u16) -> Option<Self> {
        let local = (host, port)
            .to_socket_addrs()
            .ok()?
            .any(|address| address.ip().is_loopback());
        if !local {
            return None;
        }
        let inodes: Vec<_> = ["/proc/net/tcp", "/proc/net/tcp6"]
            .into_iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .flat_map(|table| listening_inodes(&table, port))
            .map(|inode| format!("socket:[{inode}]"))
            .collect();
        let holders: Vec<u32> = processes().filter(|pid| holds_one_of(*pid, &inodes)).collect();
        // Children may have inherited the socket: the family begins with the one whose parent does not hold it.
        let begins = |pid: &&u32| Stat::read(**pid).is_some_and(|stat| !holders.contains(&stat.parent));
        holders.iter().find(begins).map(|pid| Self {
            root: *pid,
            with_children: true,
        })
    }

    fn descendants(self) -> Vec<u32> {
        if self.with_children {
            descendants(self.root)
        } else {
            Vec::new()
        }
    }

    /// Returns the processor time so far, in seconds; of a family, ended children included.
    pub(crate) fn processor_seconds(self) -> Result<f64> {
        let root = Stat::read(self.root).context("a measured process is gone")?;
        let ended = if self.with_children {
            root.ended_children_ticks
        } else {
            0
        };
        let children: u64 = self
            .descendants()
            .iter()
            .filter_map(|pid| Stat::read(*pid))
            .map(|s| s.ticks)
            .sum();
        Ok((root.ticks + ended + children) as f64 / TICKS_PER_SECOND)
    }

    /// Returns the memory held now, in bytes: what each process has alone, and what they share once.
    fn memory(self) -> u64 {
        let mut shared = 0;
        let mut alone = 0;
        for pid in self.descendants().into_iter().chain([self.root]) {
            // A process that ended meanwhile holds nothing.
            let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
                continue;
            };
            alone += status_bytes(&status, "RssAnon:");
            shared = shared.max(status_bytes(&status, "RssShmem:") + status_bytes(&status, "RssFile:"));
        }
        alone + shared
    }
}

fn status_bytes(status: &str, field: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = value.and_then(|value| value.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTENING: &str = "0A";
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() > 9 && fields[1].ends_with(&suffix) && fields[3] == LISTENING)
        .map(|fields| fields[9].to_owned())
        .collect()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids.into_iter()
}

fn holds_one_of(pid: u32, sockets: &[String]) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    files
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|target| {
            target
                .to_str()
                .is_some_and(|target| sockets.iter().any(|socket| socket == target))
        })
}

struct Stat {
    parent: u32,
    ticks: u64,
    ended_children_ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name, in parentheses, may hold anything; the fields are counted from behind it.
        let fields: Vec<&str> = text.get(text.rfind(')')? + 2..)?.split(' ').collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            parent: u32::try_from(number(1)?).ok()?,
            ticks: number(11)? + number(12)?,
            ended_children_ticks: number(13)? + number(14)?,
        })
    }
}

fn descendants(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in processes() {
        if let Some(stat) = Stat::read(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        found.extend_from_slice(&below);
        open.extend(below);
    }
    found
}

/// What each party of a measurement cost while it ran, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Costs(pub(crate) BTreeMap<&'static str, Cost>);

impl Costs {
    /// Returns the processor time of a party; 0 of one that could not be seen.
    pub(crate) fn processor_seconds(&self, party: &str) -> f64 {
        self.0.get(party).map_or(0.0, |cost| cost.processor_seconds)
    }
}

/// What one party cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) processor_seconds: f64,
    pub(crate) peak_bytes: u64,
}

/// Waits until everything is on the disk: what earlier measurements have left would be paid for by the next one.
///
/// # Errors
/// The runtime is being torn down.
pub(crate) async fn settle() -> Result<()> {
    Ok(tokio::task::spawn_blocking(rustix::fs::sync).await?)
}

/// Watches some processes from its start to its end.
#[derive(Debug)]
pub(crate) struct Watch {
    parties: Vec<(&'static str, Family, f64)>,
    peaks: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    sampler: JoinHandle<()>,
}

impl Watch {
    /// Begins.
    ///
    /// # Errors
    /// One of them is gone.
    pub(crate) fn start(parties: &[(&'static str, Family)]) -> Result<Self> {
        let parties = parties
            .iter()
            .map(|(name, family)| Ok((*name, *family, family.processor_seconds()?)))
            .collect::<Result<Vec<_>>>()?;
        let peaks = Arc::new(Mutex::new(BTreeMap::new()));
        let (watched, seen) = (parties.clone(), Arc::clone(&peaks));
        let sampler = tokio::spawn(async move {
            let mut ticks = interval(SAMPLE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                sample(&watched, &seen);
            }
        });
        Ok(Self {
            parties,
            peaks,
            sampler,
        })
    }

    /// Ends; every party must still run.
    ///
    /// # Errors
    /// One of them is gone.
    pub(crate) fn end(self) -> Result<Costs> {
        self.sampler.abort();
        sample(&self.parties, &self.peaks);
        let peaks = self.peaks.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = |(name, family, before): &(&'static str, Family, f64)| {
            let processor_seconds = family.processor_seconds()? - before;
            Ok((
                *name,
                Cost {
                    processor_seconds,
                    peak_bytes: peaks.get(name).copied().unwrap_or(0),
                },
            ))
        };
        self.parties.iter().map(cost).collect::<Result<_>>().map(Costs)
    }
}

fn sample(parties: &[(&'static str, Family, f64)], peaks: &Mutex<BTreeMap<&'static str, u64>>) {
    for (name, family, _) in parties {
        let memory = family.memory();
        let mut peaks = peaks.lock().unwrap_or_else(PoisonError::into_inner);
        let peak = peaks.entry(name).or_default();
        *peak = memory.max(*peak);
    }
}

/// Returns host and port of a server's URL, with the port that its protocol has by default.
pub(crate) fn place(url: &str, default_port: u16) -> (String, u16) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if let Ok(address) = host.parse::<SocketAddr>() {
        return (address.ip().to_string(), address.port());
    }
    match host.rsplit_once(':') {
        Some((name, port)) => (name.to_owned(), port.parse().unwrap_or(default_port)),
        None if host.is_empty() => (Ipv4Addr::LOCALHOST.to_string(), default_port),
        None if host == "[::1]" => (Ipv6Addr::LOCALHOST.to_string(), default_port),
        None => (host.to_owned(), default_port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listener_on_this_machine_is_found_by_its_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = Family::listening_at("localhost", port).unwrap();
        assert_eq!(found.root, std::process::id());
        assert_eq!(Family::listening_at("192.0.2.1", port), None);
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = Stat::parse("7 (a) (b c) S 3 7 7 0 -1 4194560 1 2 3 4 50 6 70 8 20 0 1 0").unwrap();
        assert_eq!((stat.parent, stat.ticks, stat.ended_children_ticks), (3, 56, 78));
    }

    #[test]
    fn work_done_shows_in_the_cost() {
        let own = Family::alone(std::process::id());
        let before = own.processor_seconds().unwrap();
        let began = std::time::Instant::now();
        let mut sum = 0_u64;
        while began.elapsed() < Duration::from_millis(300) {
            sum = sum.wrapping_add(sum.rotate_left(3) ^ 7);
        }
        assert!(std::hint::black_box(sum) != 1);
        assert!(own.processor_seconds().unwrap() > before);
        assert!(own.memory() > 1 << 20);
    }

    #[test]
    fn a_url_tells_host_and_port() {
        for (url, host, port) in [
            ("amqp://u:p@h:1/%2f", "h", 1),
            ("postgres://h/db", "h", 9),
            ("postgres://u@[::1]:3/db", "::1", 3),
            ("postgres://u@127.0.0.1?x=1", "127.0.0.1", 9),
        ] {
            assert_eq!(place(url, 9), (host.to_owned(), port), "{url}");
        }
    }
}
