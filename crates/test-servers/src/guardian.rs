//! Who cleans up when the starter of a process cannot: killed, or ended by Ctrl-C, it runs no destructor.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Waits for its input to end, which it does however the starter dies, then clears away what was left behind.
const SCRIPT: &str = r#"read -r _; kill -9 "-$1" 2>/dev/null; shift; rm -rf -- "$@""#;

/// A process that kills a process group once this process is gone; dropped, it leaves the group alone.
///
/// Drop it before the group's number can belong to somebody else: once the group has ended, or before it is killed.
#[derive(Debug)]
pub struct Guardian(Child);

impl Guardian {
    /// Guards the group that the process `leader` leads; `folder` is removed after the group was killed.
    ///
    /// # Errors
    /// When `sh` cannot be started.
    pub fn of(leader: u32, folder: Option<&Path>) -> io::Result<Self> {
        Command::new("sh")
            .args(["-c", SCRIPT, "guardian", &leader.to_string()])
            .args(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Out of reach of the terminal's Ctrl-C.
            .process_group(0)
            .spawn()
            .map(Self)
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        // What is gone already cannot be killed, and that is all these errors can say.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
