//! What the operating system knows about this process, under the names every Prometheus dashboard has.

use std::fs;

use metrics::{Unit, describe_gauge, gauge};

/// Ticks a second of the times in `/proc`: Linux shows 100 to programs whatever the kernel uses itself
/// (`USER_HZ`, `man 5 proc`).
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn describe_metrics() {
    describe_gauge!("process_resident_memory_bytes", Unit::Bytes, "Resident memory");
    describe_gauge!("process_virtual_memory_bytes", Unit::Bytes, "Virtual memory");
    // A gauge by its type, because counters of the recorder are whole numbers and CPU time is not.
    describe_gauge!(
        "process_cpu_seconds_total",
        Unit::Seconds,
        "User and system CPU time spent"
    );
    describe_gauge!(
        "process_start_time_seconds",
        Unit::Seconds,
        "Start of the process since the Unix epoch"
    );
    describe_gauge!("process_threads", Unit::Count, "Threads");
    describe_gauge!("process_open_fds", Unit::Count, "Open file descriptors");
    describe_gauge!("process_max_fds", Unit::Count, "Limit of open file descriptors");
}

/// Sets every gauge that can be read; off Linux there is no `/proc`, and they are left out.
pub(super) fn record() {
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        set("process_resident_memory_bytes", kilobytes(&status, "VmRSS:"));
        set("process_virtual_memory_bytes", kilobytes(&status, "VmSize:"));
        set("process_threads", number_after(&status, "Threads:"));
    }
    if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
        set("process_cpu_seconds_total", cpu_seconds(&stat));
        let boot = fs::read_to_string("/proc/stat")
            .ok()
            .and_then(|stat| number_after(&stat, "btime "));
        set(
            "process_start_time_seconds",
            boot.zip(start_ticks(&stat))
                .map(|(b, t)| b + t / TICKS_PER_SECOND),
        );
    }
    if let Ok(limits) = fs::read_to_string("/proc/self/limits") {
        set("process_max_fds", number_after(&limits, "Max open files"));
    }
    // One of them is the directory being read.
    set(
        "process_open_fds",
        fs::read_dir("/proc/self/fd")
            .ok()
            .map(|fds| fds.count().saturating_sub(1) as f64),
    );
}

fn set(name: &'static str, value: Option<f64>) {
    if let Some(value) = value {
        gauge!(name).set(value);
    }
}

fn number_after(text: &str, label: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}

fn kilobytes(status: &str, label: &str) -> Option<f64> {
    number_after(status, label).map(|kilobytes| kilobytes * 1024.0)
}

/// Returns field `number` of `/proc/self/stat`, counted from 1 as in `man 5 proc`. The second field is the program's
/// name in parentheses, and may itself hold spaces and parentheses.
fn field(stat: &str, number: usize) -> Option<f64> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name
        .split_whitespace()
        .nth(number.checked_sub(3)?)?
        .parse()
        .ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((field(stat, 14)? + field(stat, 15)?) / TICKS_PER_SECOND)
}

fn start_ticks(stat: &str) -> Option<f64> {
    field(stat, 22)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 250 150 0 0 20 0 9 0 1234 5 6 7";

    #[test]
    fn a_program_name_with_parentheses_shifts_no_field() {
        assert_eq!(cpu_seconds(STAT), Some(4.0));
        assert_eq!(start_ticks(STAT), Some(1234.0));
    }

    #[test]
    fn labels_are_found_at_the_start_of_their_line() {
        let status = "Name:\tx\nVmSize:\t  200 kB\nVmRSS:\t  100 kB\n";
        assert_eq!(kilobytes(status, "VmRSS:"), Some(102_400.0));
        assert_eq!(
            number_after("Max open files            1024   4096   files", "Max open files"),
            Some(1024.0)
        );
        assert_eq!(number_after("Max open files   unlimited", "Max open files"), None);
    }
}
