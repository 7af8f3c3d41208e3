//! Deals the cores out: one to the intake, the others to all the rest.
//!
//! An overload measured on cores that everybody shares shows whom the kernel lets run, and nothing of the intake. So it
//! has a core of its own, as it would have on a machine of its own, and whatever is started from here shares the others:
//! RabbitMQ, PostgreSQL, the worker, and the load, which goes before them there, so that its clock is right.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

/// The cores of this process, dealt out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    intake: CpuSet,
    others: CpuSet,
}

impl Cores {
    /// Keeps this thread, and with it every thread and process that it starts from now on, off the intake's core.
    ///
    /// # Errors
    /// There is one core only, or the kernel refuses.
    pub(crate) fn deal() -> Result<Self> {
        let mut others = sched_getaffinity(None).context("cannot see the cores of this process")?;
        ensure!(
            others.count() > 1,
            "this process may use one core only; the intake needs one for itself"
        );
        let last = (0..CpuSet::MAX_CPU).rfind(|core| others.is_set(*core));
        let mut intake = CpuSet::new();
        if let Some(core) = last {
            intake.set(core);
            others.unset(core);
        }
        let cores = Self { intake, others };
        cores.leave_intake()?;
        Ok(cores)
    }

    /// Moves this thread to the core of the intake: a process that is started now stays there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn enter_intake(&self) -> Result<()> {
        sched_setaffinity(None, &self.intake).context("cannot choose the core of the intake")
    }

    /// Moves this thread back.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn leave_intake(&self) -> Result<()> {
        sched_setaffinity(None, &self.others).context("cannot choose the cores beside the intake")
    }
}

/// Lets this thread go before all others that are not of the kernel; tells whether it may.
///
/// A real-time priority, set by a program of util-linux: being nice counts within one session only where the kernel
/// groups sessions, and the servers have sessions of their own.
pub(crate) fn go_first() -> bool {
    let thread = gettid().as_raw_nonzero().to_string();
    let output = Command::new("chrt")
        .args(["--fifo", "--pid", "1", &thread])
        .output();
    output.is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_intake_has_a_core_that_nobody_else_has() {
        let dealt = std::thread::spawn(|| {
            let cores = Cores::deal()?;
            let others = sched_getaffinity(None)?;
            cores.enter_intake()?;
            let intake = sched_getaffinity(None)?;
            cores.leave_intake()?;
            anyhow::Ok((others, intake, sched_getaffinity(None)?))
        });
        // A machine of one core has nothing to deal out.
        let Ok((others, intake, back)) = dealt.join().unwrap() else {
            return;
        };
        assert_eq!(intake.count(), 1);
        assert_eq!(back, others);
        assert!((0..CpuSet::MAX_CPU).all(|core| !(intake.is_set(core) && others.is_set(core))));
    }
}
