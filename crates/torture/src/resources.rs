//! What a process holds, by Linux's `/proc`.

use std::fs;

use serde::Serialize;

/// The most memory that a program may hold: what its documented buffers come to, and the same again.
pub const MOST_MEMORY: u64 = 256 << 20;

/// The most files and sockets: the clients' connections, and some for its own.
pub const MOST_FILES: u64 = 1_000;

/// The most threads: a runtime's workers and its pool for what blocks, which is bounded at 512 by tokio.
pub const MOST_THREADS: u64 = 128;

/// What a process holds, or the most that it has held.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Held {
    /// The most resident memory since its start, bytes.
    pub memory: u64,
    /// Open files and sockets.
    pub files: u64,
    /// Threads.
    pub threads: u64,
}

impl Held {
    /// Reads what a process holds now; nothing, when it is gone.
    pub fn by(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let number = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Self {
            // The system keeps the peak: what is looked at once a second misses it.
            memory: number("VmHWM:")? << 10,
            threads: number("Threads:")?,
            files: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64,
        })
    }

    /// Takes the greater of each.
    #[must_use]
    pub fn most(self, other: Self) -> Self {
        Self {
            memory: self.memory.max(other.memory),
            files: self.files.max(other.files),
            threads: self.threads.max(other.threads),
        }
    }

    /// Names what is over its bound.
    pub fn over(&self, who: &str) -> Vec<String> {
        [
            ("bytes of memory", self.memory, MOST_MEMORY),
            ("open files", self.files, MOST_FILES),
            ("threads", self.threads, MOST_THREADS),
        ]
        .into_iter()
        .filter(|(_, held, most)| held > most)
        .map(|(what, held, most)| format!("{who} held {held} {what}, over {most}"))
        .collect()
    }
}

/// Returns the state of a process: `R`, `S`, `T` stopped, `Z` ended and not waited for; `None` when it is gone.
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_runs_and_holds_something() {
        let held = Held::by(std::process::id()).unwrap();
        assert!(
            held.memory > 1 << 20 && held.files > 2 && held.threads > 0,
            "{held:?}"
        );
        assert!(matches!(state(std::process::id()), Some('R' | 'S')));
        assert!(held.over("it").is_empty());
        let much = Held {
            memory: MOST_MEMORY + 1,
            ..held
        };
        assert_eq!(much.over("it").len(), 1);
    }
}
