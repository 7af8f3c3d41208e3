//! The lines of standard input.

use std::io::{self, BufRead, BufReader, Read};
use std::thread;

use tokio::sync::mpsc;

/// Lines that have been read and wait to be taken.
const LINES_AHEAD: usize = 64;

/// What standard input held next.
#[derive(Debug)]
pub(crate) enum Input {
    /// A line that says something.
    Line {
        /// From 1.
        number: u64,
        text: String,
        /// Bytes read so far, this line included.
        position: u64,
    },
    /// A line that cannot be sent.
    Fault { number: u64, fault: LineFault },
    /// It cannot be read on.
    Broken(io::Error),
}

/// Why a line cannot be sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineFault {
    #[error("not UTF-8 at its byte {0}")]
    NotUtf8(usize),
    #[error("longer than {0} bytes (intake.max_body)")]
    TooLong(usize),
}

/// Reads lines of at most `longest` bytes on a thread of its own: a read of a terminal or a pipe cannot be taken back,
/// and would hold up the end of the program. Blank lines are passed over.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn lines(reader: impl Read + Send + 'static, longest: usize) -> io::Result<mpsc::Receiver<Input>> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    thread::Builder::new()
        .name("standard-input".to_owned())
        .spawn(move || {
            let mut lines = Lines::new(BufReader::with_capacity(64 << 10, reader), longest);
            while let Some(input) = lines.next() {
                let broken = matches!(input, Input::Broken(_));
                if sender.blocking_send(input).is_err() || broken {
                    return;
                }
            }
        })?;
    Ok(receiver)
}

struct Lines<R> {
    reader: R,
    longest: usize,
    number: u64,
    position: u64,
}

impl<R: BufRead> Lines<R> {
    fn new(reader: R, longest: usize) -> Self {
        Self {
            reader,
            longest,
            number: 0,
            position: 0,
        }
    }

    /// Returns the next line that is not blank, `None` at the end.
    fn next(&mut self) -> Option<Input> {
        loop {
            let mut line = Vec::new();
            let (read, whole) = match self.read_line(&mut line) {
                Ok((0, _)) => return None,
                Ok(read) => read,
                Err(error) => return Some(Input::Broken(error)),
            };
            self.number += 1;
            self.position += read;
            let number = self.number;
            if !whole {
                let fault = LineFault::TooLong(self.longest);
                return Some(Input::Fault { number, fault });
            }
            match String::from_utf8(line) {
                Ok(text) if text.trim().is_empty() => {}
                Ok(text) => {
                    return Some(Input::Line {
                        number,
                        text,
                        position: self.position,
                    });
                }
                Err(error) => {
                    let fault = LineFault::NotUtf8(error.utf8_error().valid_up_to() + 1);
                    return Some(Input::Fault { number, fault });
                }
            }
        }
    }

    /// Reads a line without its end; of one that is too long no more than that is kept. Returns how many bytes it had
    /// and whether all of them are in `line`.
    fn read_line(&mut self, line: &mut Vec<u8>) -> io::Result<(u64, bool)> {
        // Room for the line's end too.
        let longest = self.longest + 2;
        let (mut read, mut whole) = (0_u64, true);
        loop {
            let buffered = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                buffered => buffered?,
            };
            let end = buffered.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let taken = end.unwrap_or(buffered.len());
            let room = longest - line.len();
            line.extend_from_slice(&buffered[..taken.min(room)]);
            whole &= taken <= room;
            self.reader.consume(taken);
            read += taken as u64;
            if end.is_some() || taken == 0 {
                break;
            }
        }
        if line.last() == Some(&b'\n') {
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
        }
        Ok((read, whole && line.len() <= self.longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], longest: usize) -> Vec<String> {
        // A small buffer, so that lines lie across its ends.
        let mut lines = Lines::new(BufReader::with_capacity(3, bytes), longest);
        let mut all = Vec::new();
        while let Some(input) = lines.next() {
            all.push(match input {
                Input::Line {
                    number,
                    text,
                    position,
                } => format!("{number}:{text}@{position}"),
                Input::Fault { number, fault } => format!("{number}!{fault}"),
                Input::Broken(error) => error.to_string(),
            });
        }
        all
    }

    #[test]
    fn every_line_counts_and_blank_ones_are_passed_over() {
        assert_eq!(
            read(b"one\n\n  \ntwo\r\nlast without end", 100),
            ["1:one@4", "4:two@13", "5:last without end@29"]
        );
        assert_eq!(read(b"", 100), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_text_is_told_with_its_line_and_the_next_one_is_read() {
        assert_eq!(
            read(b"a\nb\xff\xfe\nc\n", 100),
            ["1:a@2", "2!not UTF-8 at its byte 2", "3:c@8"]
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_never_held_whole() {
        assert_eq!(
            read(b"12345\r\n123456\n12345678901234567890\n1\n123456", 5),
            [
                "1:12345@7",
                "2!longer than 5 bytes (intake.max_body)",
                "3!longer than 5 bytes (intake.max_body)",
                "4:1@37",
                "5!longer than 5 bytes (intake.max_body)",
            ]
        );
    }

    #[test]
    fn a_thread_hands_them_over_and_ends_with_its_taker() {
        let mut lines = lines(io::Cursor::new("a\n".repeat(10_000)), 10).unwrap();
        assert!(matches!(
            lines.blocking_recv(),
            Some(Input::Line { number: 1, .. })
        ));
    }
}
