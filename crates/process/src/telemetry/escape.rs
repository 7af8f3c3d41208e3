//! Makes text that others wrote harmless on a terminal and in a log.
//!
//! A client chooses what stands in an error message: escape sequences that repaint the screen, newlines that forge
//! a log line, direction marks that make a line read differently from what it is.

use std::fmt::{self, Write};
use std::io;

/// Returns whether `c` could change how the text around it is shown.
#[must_use]
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Displays `text` with every hostile character as an escape (`\n`, `\u{1b}`).
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        EscapingWriter(f).write_str(self.0)
    }
}

/// Passes text on with every hostile character escaped.
pub(super) struct EscapingWriter<W>(pub(super) W);

impl<W: Write> Write for EscapingWriter<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut clean = 0;
        for (at, c) in text.char_indices().filter(|(_, c)| is_hostile(*c)) {
            self.0.write_str(&text[clean..at])?;
            match c {
                '\n' => self.0.write_str("\\n")?,
                '\r' => self.0.write_str("\\r")?,
                '\t' => self.0.write_str("\\t")?,
                _ => write!(self.0, "\\u{{{:x}}}", u32::from(c))?,
            }
            clean = at + c.len_utf8();
        }
        self.0.write_str(&text[clean..])
    }
}

/// Writes JSON lines on with hostile characters as `\uXXXX`, which JSON allows wherever they can stand: JSON itself
/// only demands it for those below U+0020.
pub(super) struct JsonWriter<W>(pub(super) W);

impl<W: io::Write> io::Write for JsonWriter<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // The formatter hands over one whole event, so a character is never cut in two.
        let text = String::from_utf8_lossy(line);
        let hostile = |c: char| c != '\n' && is_hostile(c);
        if !text.contains(hostile) {
            self.0.write_all(line)?;
            return Ok(line.len());
        }
        let mut safe = String::with_capacity(text.len() + 16);
        for c in text.chars() {
            if hostile(c) {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    safe.push_str(&format!("\\u{unit:04x}"));
                }
            } else {
                safe.push(c);
            }
        }
        self.0.write_all(safe.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn nothing_that_repaints_a_terminal_passes() {
        let text = "a\u{1b}[2Jb\nc\u{202e}d\u{9b}e\u{200b}f ü 🦀";
        assert_eq!(
            Escaped(text).to_string(),
            "a\\u{1b}[2Jb\\nc\\u{202e}d\\u{9b}e\\u{200b}f ü 🦀"
        );
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({"m": "a\u{202e}b\u{9b}\u{e0001}\u{1b} ü"});
        let mut out = Vec::new();
        writeln!(JsonWriter(&mut out), "{value}").unwrap();
        let line = String::from_utf8(out).unwrap();
        assert!(!line.trim_end().contains(is_hostile), "{line:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), value);
    }
}
