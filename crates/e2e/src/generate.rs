//! Messages as a function of a seed and a number.

mod attributes;
mod text;

use fastrand::Rng;
use serde_json::{Map, Value};
use time::{OffsetDateTime, UtcOffset};
use uuid::Uuid;

/// The longest body that the default limits take, in bytes.
pub const LARGEST_BODY: usize = 256 << 10;

/// One day in milliseconds.
const DAY_MILLIS: u64 = 86_400_000;

/// How a severity may be written, and the number that a database keeps for it.
const SEVERITIES: [(&str, i16); 20] = [
    ("debug", 5),
    ("trace", 5),
    ("Verbose", 5),
    ("dbg", 5),
    ("info", 9),
    ("INFO", 9),
    ("notice", 9),
    ("Information", 9),
    ("warning", 13),
    ("warn", 13),
    ("WARN", 13),
    ("Warning", 13),
    ("error", 17),
    ("err", 17),
    ("Severe", 17),
    ("ERROR", 17),
    ("critical", 21),
    ("fatal", 21),
    ("emerg", 21),
    ("Crit", 21),
];

/// Returns the number that a database keeps for a severity, however it is written.
pub fn severity_number(text: &str) -> Option<i16> {
    SEVERITIES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text))
        .map(|(_, number)| *number)
}

/// Makes the message of every number; equal seeds make equal messages.
#[derive(Clone, Copy, Debug)]
pub struct Generator {
    seed: u64,
    /// The time that ids carry, milliseconds since 1970.
    epoch_millis: u64,
    largest_body: usize,
}

impl Generator {
    /// Makes a generator whose ids carry times around `now`.
    ///
    /// A few ids carry a time of other days, so that more than one partition is met.
    pub fn new(seed: u64, now: OffsetDateTime) -> Self {
        let millis = now.unix_timestamp_nanos() / 1_000_000;
        Self {
            seed,
            epoch_millis: u64::try_from(millis).unwrap_or(0),
            largest_body: LARGEST_BODY,
        }
    }

    /// Lets no body be longer than `bytes`, for loads where count matters and volume does not.
    pub const fn with_largest_body(mut self, bytes: usize) -> Self {
        self.largest_body = bytes;
        self
    }

    /// Returns the seed.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns random numbers that depend on the seed, `purpose` and `number` alone.
    pub fn rng(&self, purpose: u64, number: u64) -> Rng {
        let mixed = (self.seed ^ purpose.rotate_left(48)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03);
        Rng::with_seed(mixed)
    }

    /// Returns the id that the message of `number` is sent with: a UUIDv7 that holds the number in its last 40 bits.
    pub fn id(&self, number: u64) -> Uuid {
        // One in 64 is a day early or late: retries after midnight and clocks that differ are ordinary.
        let millis = match number % 128 {
            17 => self.epoch_millis - DAY_MILLIS,
            81 => self.epoch_millis + DAY_MILLIS,
            _ => self.epoch_millis + number / 16,
        };
        let salt = u128::from(self.seed & 0x3f_ffff);
        let bits = (u128::from(millis) << 80)
            | (0x7 << 76)
            | (u128::from((self.seed >> 22) & 0xfff) << 64)
            | (0b10 << 62)
            | (salt << 40)
            | u128::from(number & 0xff_ffff_ffff);
        Uuid::from_u128(bits)
    }

    /// Returns the number of the message that was sent with `id`, or `None` when this generator never made it.
    pub fn number(&self, id: Uuid) -> Option<u64> {
        let number = u64::try_from(id.as_u128() & 0xff_ffff_ffff).ok()?;
        (self.id(number) == id).then_some(number)
    }

    /// Returns the message of `number`.
    pub fn record(&self, number: u64) -> Record {
        let mut rng = self.rng(1, number);
        let (severity, severity_number) = SEVERITIES[rng.usize(..SEVERITIES.len())];
        let severity = (rng.u8(..20) > 0).then_some(severity);
        let source = (rng.u8(..20) > 0).then(|| text::source(&mut rng));
        let size = self.body_size(number, &mut rng);
        let body = text::body(&mut rng, size);
        let attributes = (rng.u8(..2) > 0).then(|| attributes::attributes(&mut rng));
        let occurred_at = (rng.u8(..3) > 0).then(|| moment(&mut rng));
        Record {
            id: self.id(number),
            severity,
            severity_number: if severity.is_some() { severity_number } else { 9 },
            source,
            body,
            attributes,
            occurred_at,
        }
    }

    /// Chooses a length: mostly log lines, some pages, a few as long as the limit allows.
    fn body_size(&self, number: u64, rng: &mut Rng) -> usize {
        let size = match number % 4_000 {
            1_999 => LARGEST_BODY,
            2_999 => 64 << 10,
            n if n % 100 == 50 => rng.usize(1 << 10..16 << 10),
            n if n % 10 == 5 => rng.usize(1..=4),
            n if n % 5 == 1 => rng.usize(200..1_000),
            _ => rng.usize(5..200),
        };
        size.min(self.largest_body)
    }
}

/// A message as it is sent; what should be stored follows from it.
#[derive(Clone, Debug)]
pub struct Record {
    /// The id it is sent with.
    pub id: Uuid,
    /// The severity as it is written, where it is named.
    pub severity: Option<&'static str>,
    /// The number that a database keeps for the severity.
    pub severity_number: i16,
    /// The source, where it is named.
    pub source: Option<String>,
    /// The body; U+0000 in it is stored as U+FFFD.
    pub body: String,
    /// The attributes; U+0000 in them is stored as U+FFFD.
    pub attributes: Option<Map<String, Value>>,
    /// When it happened, where it is said.
    pub occurred_at: Option<Moment>,
}

impl Record {
    /// Leaves out what a request of `text/plain` cannot carry.
    pub fn into_plain(mut self) -> Self {
        self.attributes = None;
        self
    }

    /// Returns the source that is stored.
    pub fn stored_source(&self) -> &str {
        self.source.as_deref().unwrap_or("default")
    }

    /// Returns the body that is stored.
    pub fn stored_body(&self) -> String {
        without_nul(&self.body)
    }

    /// Returns the attributes that are stored.
    pub fn stored_attributes(&self) -> Value {
        let map = self.attributes.clone().unwrap_or_default();
        stored_value(Value::Object(map))
    }
}

/// A time as it is written, and what is stored of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// RFC 3339, with some offset and some number of fractional digits.
    pub text: String,
    /// Microseconds since 1970, finer digits cut off.
    pub micros: i64,
}

fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Returns a JSON value as it is stored: U+0000 as U+FFFD, in keys and texts.
pub fn stored_value(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(without_nul(&text)),
        Value::Array(items) => items.into_iter().map(stored_value).collect(),
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| (without_nul(&key), stored_value(value)))
            .collect(),
        scalar => scalar,
    }
}

/// The first second of 2261-12-31: far enough from the end of the range for every offset.
const LATE: i64 = 9_214_560_000;

fn moment(rng: &mut Rng) -> Moment {
    let seconds = match rng.u8(..20) {
        0 => rng.i64(86_400..LATE),
        1 => 86_400,
        2 => LATE,
        _ => rng.i64(1_500_000_000..1_900_000_000),
    };
    let nanos = rng.i64(0..1_000_000_000);
    let digits = [0_usize, 1, 3, 6, 9][rng.usize(..5)];
    let shown = nanos / 10_i64.pow(9 - u32::try_from(digits).unwrap_or(0));
    let kept = shown * 10_i64.pow(9 - u32::try_from(digits).unwrap_or(0));
    let fraction = if digits == 0 {
        String::new()
    } else {
        format!(".{shown:0digits$}")
    };
    let minutes: i32 = [0, 0, 60, -480, 345, 840, -720][rng.usize(..7)];
    let offset = UtcOffset::from_whole_seconds(minutes * 60).unwrap_or(UtcOffset::UTC);
    let local = OffsetDateTime::from_unix_timestamp(seconds)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
        .to_offset(offset);
    let zone = if minutes == 0 {
        "Z".to_owned()
    } else {
        let sign = if minutes < 0 { '-' } else { '+' };
        format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
    };
    let text = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{fraction}{zone}",
        local.year(),
        u8::from(local.month()),
        local.day(),
        local.hour(),
        local.minute(),
        local.second(),
    );
    Moment {
        text,
        micros: seconds * 1_000_000 + kept / 1_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::format_description::well_known::Rfc3339;

    fn generator() -> Generator {
        Generator::new(7, OffsetDateTime::from_unix_timestamp(1_795_352_400).unwrap())
    }

    #[test]
    fn an_id_is_of_version_7_and_tells_its_number() {
        let generator = generator();
        for number in [0, 1, 17, 81, 99_999, 1 << 39] {
            let id = generator.id(number);
            assert_eq!(id.get_version_num(), 7);
            assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
            assert_eq!(generator.number(id), Some(number));
        }
        let other = Generator::new(8, OffsetDateTime::from_unix_timestamp(1_795_352_400).unwrap());
        assert_eq!(generator.number(other.id(3)), None);
    }

    #[test]
    fn the_same_number_makes_the_same_message() {
        for number in 0..200 {
            assert_eq!(
                format!("{:?}", generator().record(number)),
                format!("{:?}", generator().record(number))
            );
        }
        assert_ne!(generator().record(1).body, generator().record(2).body);
    }

    #[test]
    fn bodies_reach_from_one_byte_to_the_limit() {
        let generator = generator();
        let sizes: Vec<_> = (0..4_000)
            .map(|number| generator.record(number).body.len())
            .collect();
        assert_eq!(sizes.iter().min(), Some(&1));
        assert_eq!(sizes.iter().max(), Some(&LARGEST_BODY));
        let total: usize = sizes.iter().sum();
        assert!(total < 4_000 * 600, "the mix grew to {total} bytes");
    }

    #[test]
    fn attributes_stay_within_the_limits_of_size_and_depth() {
        fn depth(value: &Value) -> usize {
            match value {
                Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
                Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
                _ => 0,
            }
        }
        let mut deepest = 0;
        for number in 0..4_000 {
            let stored = generator().record(number).stored_attributes();
            deepest = deepest.max(depth(&stored));
            assert!(stored.to_string().len() <= 64 << 10);
        }
        assert_eq!(deepest, 32);
    }

    #[test]
    fn a_moment_says_the_microseconds_that_are_stored() {
        let mut rng = Rng::with_seed(3);
        for _ in 0..2_000 {
            let moment = moment(&mut rng);
            let parsed = OffsetDateTime::parse(&moment.text, &Rfc3339).unwrap();
            assert_eq!(
                parsed.unix_timestamp_nanos().div_euclid(1_000),
                i128::from(moment.micros),
                "{moment:?}"
            );
            assert!(moment.micros >= 0);
        }
    }

    #[test]
    fn nul_is_expected_as_the_replacement_character() {
        let record = Record {
            body: "a\0b".to_owned(),
            attributes: serde_json::from_str(r#"{"k\u0000":["\u0000"]}"#).unwrap(),
            ..generator().record(1)
        };
        assert_eq!(record.stored_body(), "a\u{fffd}b");
        assert_eq!(
            record.stored_attributes(),
            serde_json::json!({"k\u{fffd}": ["\u{fffd}"]})
        );
    }
}
