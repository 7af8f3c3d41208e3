//! Text that is painted over itself on a terminal.

use std::os::fd::AsFd;

use rustix::termios::tcgetwinsize;

/// How many characters a terminal shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// In a line.
    pub columns: usize,
    /// Lines.
    pub rows: usize,
}

impl Size {
    /// Asks the terminal behind `output`; `None` if it is none, or does not know.
    #[must_use]
    pub fn of(output: impl AsFd) -> Option<Self> {
        let size = tcgetwinsize(output).ok()?;
        (size.ws_col > 0 && size.ws_row > 0).then_some(Self {
            columns: size.ws_col.into(),
            rows: size.ws_row.into(),
        })
    }
}

/// Paints a text over the one before.
#[derive(Debug, Default)]
pub struct Painter {
    /// The lines that stand on the terminal.
    painted: usize,
}

impl Painter {
    /// Returns what to write, so that `text` stands where the last one did.
    ///
    /// Lines that are too wide are cut, and so are lines that do not fit below each other: a terminal breaks the
    /// first and scrolls the others away, and the next text would stand elsewhere.
    pub fn paint(&mut self, text: &str, size: Option<Size>) -> String {
        let mut painting = String::new();
        if self.painted > 0 {
            // Up to the first line, and away with everything below.
            painting.push_str(&format!("\x1b[{}A\r\x1b[J", self.painted));
        }
        let rows = size.map_or(usize::MAX, |size| size.rows.saturating_sub(1));
        self.painted = 0;
        for line in text.lines().take(rows) {
            let columns = size.map_or(usize::MAX, |size| size.columns);
            painting.extend(line.chars().take(columns));
            painting.push('\n');
            self.painted += 1;
        }
        painting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_painted_where_the_last_one_stood() {
        let mut painter = Painter::default();
        assert_eq!(painter.paint("one\ntwo\n", None), "one\ntwo\n");
        assert_eq!(painter.paint("three\n", None), "\x1b[2A\r\x1b[Jthree\n");
        assert_eq!(painter.paint("", None), "\x1b[1A\r\x1b[J");
        assert_eq!(painter.paint("four\n", None), "four\n");
    }

    #[test]
    fn what_does_not_fit_is_cut() {
        let size = Size { columns: 3, rows: 3 };
        let mut painter = Painter::default();
        assert_eq!(painter.paint("größer\nb\nc\nd\n", Some(size)), "grö\nb\n");
        assert_eq!(painter.paint("a\n", Some(size)), "\x1b[2A\r\x1b[Ja\n");
    }

    #[test]
    fn a_file_is_no_terminal() {
        assert_eq!(Size::of(std::fs::File::open("/dev/null").unwrap()), None);
    }
}
