//! Finds where the records of a JSON body begin and end, without reading what is in them.
//!
//! A parser gives up an array at its first malformed element. This scanner knows only strings, brackets and commas,
//! so that one bad record (a lone surrogate, a NaN, a byte that is no UTF-8) is rejected by itself and its
//! neighbours are taken. It does not recurse, and what it cannot bracket it refuses with the byte position.

use std::ops::Range;

use memchr::memchr2;

/// What is wrong with the brackets of a body, and at which byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unbalanced {
    pub(crate) at: usize,
    pub(crate) what: &'static str,
}

/// How much memory the values of a body take beyond their text.
///
/// `{"a":1}` is 7 bytes of text and a node of a tree in memory: without this, 20 MiB of small objects would take more
/// than a GiB. Only what lies inside of a record counts; the record's own fields become no such nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    objects: usize,
    arrays: usize,
    commas: usize,
}

impl Weight {
    /// Returns the bytes of memory, roughly and rather too many.
    pub(crate) const fn bytes(&self) -> usize {
        // The leaf of a BTreeMap<String, Value>; the first allocation of a Vec<Value>; a key or an element.
        640 * self.objects + 128 * self.arrays + 96 * self.commas
    }

    /// Adds what stands in one line of NDJSON.
    pub(crate) fn add_line(&mut self, line: &[u8]) {
        let mut depth = 0_usize;
        let mut at = 0;
        while let Some(&byte) = line.get(at) {
            match byte {
                b'"' => match string_end(line, at) {
                    Some(end) => at = end,
                    None => return,
                },
                b'{' | b'[' => {
                    self.opened(byte, depth);
                    depth += 1;
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                b',' if depth > 1 => self.commas += 1,
                _ => {}
            }
            at += 1;
        }
    }

    const fn opened(&mut self, bracket: u8, depth: usize) {
        if depth == 0 {
            return;
        }
        if bracket == b'{' {
            self.objects += 1;
        } else {
            self.arrays += 1;
        }
    }
}

/// Returns the place of the quote that ends the string that begins at `start`.
fn string_end(json: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += memchr2(b'"', b'\\', json.get(at..)?)?;
        if json[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Brackets that are open, innermost last: a bit each for the first 128, only counted beyond.
#[derive(Default)]
struct Open {
    depth: usize,
    objects: u128,
}

impl Open {
    const fn push(&mut self, bracket: u8) {
        if self.depth < 128 {
            let bit = 1_u128 << self.depth;
            self.objects = if bracket == b'{' {
                self.objects | bit
            } else {
                self.objects & !bit
            };
        }
        self.depth += 1;
    }

    /// Tells whether `bracket` closes the innermost one.
    const fn pop(&mut self, bracket: u8) -> bool {
        if self.depth == 0 {
            return false;
        }
        self.depth -= 1;
        self.depth >= 128 || (self.objects >> self.depth & 1 == 1) == (bracket == b'}')
    }
}

/// Where a scan stops.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Behind the bracket that closes the first one.
    BehindValue,
    /// At the comma or bracket that ends an element of an array.
    AtElementEnd,
}

fn scan(json: &[u8], start: usize, stop: Stop, weight: &mut Weight) -> Result<usize, Unbalanced> {
    let mut open = Open::default();
    let mut at = start;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => {
                at = string_end(json, at).ok_or(Unbalanced {
                    at,
                    what: "a string that does not end",
                })?;
            }
            b'{' | b'[' => {
                weight.opened(byte, open.depth);
                open.push(byte);
            }
            b']' if open.depth == 0 && stop == Stop::AtElementEnd => return Ok(at),
            b'}' | b']' => {
                if !open.pop(byte) {
                    return Err(Unbalanced {
                        at,
                        what: "a closing bracket without its opening one",
                    });
                }
                if open.depth == 0 && stop == Stop::BehindValue {
                    return Ok(at + 1);
                }
            }
            b',' if open.depth == 0 && stop == Stop::AtElementEnd => return Ok(at),
            b',' if open.depth > 1 => weight.commas += 1,
            _ => {}
        }
        at += 1;
    }
    Err(Unbalanced {
        at: json.len(),
        what: "the end, with brackets still open",
    })
}

/// Returns where the object or array that begins at `start` ends.
pub(crate) fn value_end(json: &[u8], start: usize, weight: &mut Weight) -> Result<usize, Unbalanced> {
    scan(json, start, Stop::BehindValue, weight)
}

/// Returns the places of the elements of the array that begins at `start`, without the white space around them, and
/// where the array ends; stops behind `most + 1` elements.
pub(crate) fn elements(
    json: &[u8],
    start: usize,
    most: usize,
    weight: &mut Weight,
) -> Result<(Vec<Range<usize>>, usize), Unbalanced> {
    let mut places = Vec::new();
    let mut at = start + 1;
    if json.get(skip_space(json, at)) == Some(&b']') {
        return Ok((places, skip_space(json, at) + 1));
    }
    loop {
        let end = scan(json, at, Stop::AtElementEnd, weight)?;
        places.push(trim(json, at..end));
        if json.get(end) == Some(&b']') || places.len() > most {
            return Ok((places, end + 1));
        }
        at = end + 1;
    }
}

/// Returns the first place from `at` on that is no JSON white space.
pub(crate) fn skip_space(json: &[u8], mut at: usize) -> usize {
    while matches!(json.get(at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
        at += 1;
    }
    at
}

/// Cuts JSON white space off both ends.
pub(crate) fn trim(json: &[u8], place: Range<usize>) -> Range<usize> {
    let start = skip_space(json, place.start).min(place.end);
    let mut end = place.end;
    while end > start && matches!(json.get(end - 1), Some(b' ' | b'\t' | b'\r' | b'\n')) {
        end -= 1;
    }
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn split(json: &[u8]) -> Result<Vec<&[u8]>, Unbalanced> {
        let (places, end) = elements(json, 0, usize::MAX - 1, &mut Weight::default())?;
        assert_eq!(end, json.len());
        Ok(places.into_iter().map(|place| &json[place]).collect())
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let text = proptest::string::string_regex("[\\PC\"\\\\\\[\\]{},: \n]{0,12}")
            .unwrap()
            .boxed();
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((text.clone(), inner), 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_valid_array_splits_into_what_a_parser_reads(
            values in prop::collection::vec(any_value(), 0..8), pretty: bool
        ) {
            let array = Value::from(values.clone());
            let json = if pretty { serde_json::to_vec_pretty(&array) } else { serde_json::to_vec(&array) }.unwrap();
            let parsed: Vec<Value> =
                split(&json).unwrap().into_iter().map(|element| serde_json::from_slice(element).unwrap()).collect();
            prop_assert_eq!(parsed, values);
        }

        #[test]
        fn no_bytes_make_the_scanner_panic_or_run_past_the_end(
            bytes in proptest::string::bytes_regex("(?s-u)\\[[\\[\\]{}\",:\\\\ a\\xff]{0,40}").unwrap()
        ) {
            let mut weight = Weight::default();
            if let Ok((places, end)) = elements(&bytes, 0, 100, &mut weight) {
                prop_assert!(end <= bytes.len());
                prop_assert!(places.iter().all(|place| place.start <= place.end && place.end < end));
            }
            weight.add_line(&bytes);
        }
    }

    #[test]
    fn one_bad_element_does_not_hide_its_neighbours() {
        let json = b"[ {\"a\":NaN} , {\"b\":\"\xff\"},\"\\ud800\",{\"c\":\"]\\\"[\"},]";
        let elements = split(json).unwrap();
        assert_eq!(elements.len(), 5);
        assert_eq!(elements[3], br#"{"c":"]\"["}"#);
        assert_eq!(elements[4], b"");
    }

    #[test]
    fn unbalanced_bodies_are_refused_with_the_place() {
        for (json, at) in [
            (&b"["[..], 1),
            (b"[{}", 3),
            (b"[{]", 2),
            (b"[}", 1),
            (b"[\"abc", 1),
            (b"[{\"a\":\"b\\\"}]", 6),
            (b"[[[", 3),
        ] {
            assert_eq!(
                split(json).map_err(|fault| fault.at),
                Err(at),
                "{}",
                String::from_utf8_lossy(json)
            );
        }
    }

    #[test]
    fn a_bottomless_body_is_only_counted() {
        let mut json = b"[".repeat(1_000_000);
        assert_eq!(split(&json).unwrap_err().at, 1_000_000);
        json.extend(b"]".repeat(1_000_000));
        assert_eq!(split(&json).unwrap().len(), 1);
    }

    #[test]
    fn only_what_lies_inside_a_record_has_weight() {
        let record = br#"{"body":"a,b,{[","attributes":{"a":1,"b":[1,2]},"id":null}"#;
        let expected = Weight {
            objects: 1,
            arrays: 1,
            commas: 2,
        };
        let mut weight = Weight::default();
        assert_eq!(value_end(record, 0, &mut weight), Ok(record.len()));
        assert_eq!(weight, expected);
        let mut weight = Weight::default();
        weight.add_line(record);
        assert_eq!(weight, expected);
        let array = [b"[".as_slice(), record, b"]"].concat();
        let mut weight = Weight::default();
        elements(&array, 0, 10, &mut weight).unwrap();
        assert_eq!(weight, expected);
    }
}
