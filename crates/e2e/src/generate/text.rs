//! Bodies in many scripts, and sources.

use fastrand::Rng;

/// Pieces that bodies are put together of: scripts, directions, joined and combining characters, and everything
/// that some layer between here and a row might take for its own syntax.
const PIECES: [&str; 44] = [
    "payment declined for order 4711; retrying in 30 s",
    "GET /api/v1/orders?limit=10&after=42 200 13ms",
    "Straße, Größe, naïve café — “quoted” … €",
    "Быстрая коричневая лиса прыгает через ленивую собаку",
    "Γαζέες καὶ μυρτιὲς δὲν θὰ βρῶ πιά",
    "نص حكيم له سر قاطع وذو شأن عظيم",
    "דג סקרן שט בים מאוכזב",
    "ऋषियों को सताने वाले दुष्ट राक्षसों",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "我能吞下玻璃而不伤身体",
    "いろはにほへと ちりぬるを ｶﾀｶﾅ",
    "키스의 고유조건은 입술끼리 만나야",
    "ა ბ გ დ ე ჳ",
    "አማርኛ ሰላም",
    "👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇺🇳 🧑🏿‍🚀",
    "e\u{301}\u{302}\u{303}\u{304} Z\u{351}\u{36b}\u{343}a\u{32a}\u{342}lgo",
    "\u{202e}reversed\u{202c} \u{200f}\u{200e}\u{2066}isolate\u{2069}",
    "zero\u{200b}width\u{200d}join\u{feff}er",
    "\u{fffd}\u{fffe}\u{ffff}\u{10ffff}\u{e000}\u{d7ff}",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𒀀 🀄",
    "line one\nline two\r\nline three\rtab\tbell\u{7}",
    "\u{1}\u{2}\u{8}\u{b}\u{c}\u{e}\u{1b}[31mred\u{1b}[0m\u{7f}\u{80}\u{9f}",
    "null \0 byte",
    "\u{2028}\u{2029}\u{85}\u{a0}\u{ad}",
    "\"quoted\" \\back\\slash\\ \\u0041 \\n \\\\\" '",
    "{\"body\":\"nested\",\"n\":[1,2,{\"k\":null}]}",
    "'; DROP TABLE messages; --",
    "<script>alert(1)</script> &amp; <!-- -->",
    "\\N \\. \\x00 \\b copy",
    "%s %d %n ${jndi:ldap://x} {{7*7}} $(id)",
    "a,b;c\t\"d\"\"e\" =1+1 @sum",
    "-----BEGIN CERTIFICATE-----\nMIIB",
    "java.lang.NullPointerException\n\tat Main.main(Main.java:3)",
    "true",
    "null",
    "0123",
    "1e400",
    "[]",
    "{}",
    "   leading and trailing   ",
    "ﬀ ﬁ ǆ ß ı İ K Å",
    "\u{115f}\u{1160}\u{3164}\u{ffa0}",
    "ｆｕｌｌｗｉｄｔｈ　ｓｐａｃｅ",
    "\u{1f1e6}\u{1f1e6}\u{1f1e6}",
];

/// Makes a text of exactly `size` bytes.
pub(super) fn body(rng: &mut Rng, size: usize) -> String {
    let mut text = String::with_capacity(size + 128);
    // Long texts repeat what was chosen for them: a megabyte of fresh choices would cost more than it finds.
    let few: [&str; 4] = std::array::from_fn(|_| PIECES[rng.usize(..PIECES.len())]);
    while text.len() < size {
        let piece = if size > 16 << 10 {
            few[rng.usize(..few.len())]
        } else {
            PIECES[rng.usize(..PIECES.len())]
        };
        text.push_str(piece);
        if rng.bool() {
            text.push(' ');
        }
    }
    let end = text.floor_char_boundary(size);
    text.truncate(end);
    while text.len() < size {
        text.push('.');
    }
    text
}

/// Makes a source: one to four segments, now and then as long as sources may be.
pub(super) fn source(rng: &mut Rng) -> String {
    const SERVICES: [&str; 8] = ["billing", "shop", "auth", "mail", "edge-7", "db_main", "A", "0"];
    const PARTS: [&str; 6] = ["api", "worker", "cron", "v2", "eu-west", "x_y-Z9"];
    match rng.u8(..100) {
        0 => return "s".repeat(200),
        1 => {
            return ["ab"; 67]
                .join(".")
                .chars()
                .take(200)
                .collect::<String>()
                .trim_end_matches('.')
                .to_owned();
        }
        _ => {}
    }
    let mut source = SERVICES[rng.usize(..SERVICES.len())].to_owned();
    for _ in 0..rng.usize(..3) {
        source.push('.');
        source.push_str(PARTS[rng.usize(..PARTS.len())]);
    }
    source
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_exactly_the_size_asked_for() {
        let mut rng = Rng::with_seed(1);
        for size in [1, 2, 3, 7, 100, 5_000, 256 << 10] {
            assert_eq!(body(&mut rng, size).len(), size);
        }
    }

    #[test]
    fn a_source_keeps_to_its_alphabet_and_length() {
        let mut rng = Rng::with_seed(1);
        for _ in 0..5_000 {
            let source = source(&mut rng);
            assert!((1..=200).contains(&source.len()));
            assert!(source.split('.').all(|segment| {
                !segment.is_empty()
                    && segment
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
            }));
        }
    }
}
