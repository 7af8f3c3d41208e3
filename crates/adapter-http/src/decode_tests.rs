use std::io::Write;

use axum::http::HeaderValue;
use bytesize::ByteSize;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use super::*;
use crate::budget::Budget;
use crate::config::HttpConfig;
use crate::pressure::Gravest;

fn coding_of(values: &[&'static str]) -> Option<Coding> {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(CONTENT_ENCODING, HeaderValue::from_static(value));
    }
    coding(&headers).ok()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn raw(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).unwrap()
}

async fn decoded(coding: Coding, wire: Vec<u8>) -> Result<Vec<u8>, Kind> {
    let config = HttpConfig {
        max_request: ByteSize::mib(1),
        ..HttpConfig::default()
    };
    let mut permit = Budget::admit(Budget::new(&config), Gravest::Small).await.unwrap();
    let decoders = Decoders {
        all: &Semaphore::new(1),
        deadline: Instant::now() + config.request_timeout,
    };
    decode(coding, wire.into(), &Limits::new(&config), decoders, &mut permit)
        .await
        .map(|bytes| bytes.to_vec())
        .map_err(|problem| problem.kind())
}

#[test]
fn codings_are_known_in_any_letter_case_and_sloppy_list() {
    for (values, expected) in [
        (&[][..], Some(Coding::Identity)),
        (&["identity"], Some(Coding::Identity)),
        (&[""], Some(Coding::Identity)),
        (&["GZIP"], Some(Coding::Gzip)),
        (&[" x-gzip , "], Some(Coding::Gzip)),
        (&["identity, zstd"], Some(Coding::Zstd)),
        (&["Deflate"], Some(Coding::Deflate)),
        (&["gzip,deflate"], Some(Coding::OneOf)),
        (&["gzip", "deflate"], Some(Coding::OneOf)),
        (&["br"], None),
        (&["gzip, br"], None),
        (&["*"], None),
    ] {
        assert_eq!(coding_of(values), expected, "{values:?}");
    }
}

#[tokio::test]
async fn every_coding_decodes_at_every_size() {
    for size in [1, 1_000, STEP - 1, STEP, STEP + 1, 1 << 20] {
        let bytes: Vec<u8> = (0..size).map(|at| (at * 31 % 251) as u8).collect();
        for (coding, wire) in [
            (Coding::Identity, bytes.clone()),
            (Coding::Gzip, gzip(&bytes)),
            (Coding::Deflate, zlib(&bytes)),
            (Coding::Deflate, raw(&bytes)),
            (Coding::Zstd, zstd_of(&bytes)),
            (Coding::OneOf, gzip(&bytes)),
            (Coding::OneOf, zlib(&bytes)),
            (Coding::OneOf, zstd_of(&bytes)),
        ] {
            assert_eq!(
                decoded(coding, wire).await.as_ref(),
                Ok(&bytes),
                "{coding:?} of {size}"
            );
        }
    }
}

#[tokio::test]
async fn further_members_and_frames_belong_to_the_body() {
    let twice = [gzip(b"one "), gzip(b"two")].concat();
    assert_eq!(decoded(Coding::Gzip, twice).await, Ok(b"one two".to_vec()));
    let twice = [zstd_of(b"one "), zstd_of(b"two")].concat();
    assert_eq!(decoded(Coding::Zstd, twice).await, Ok(b"one two".to_vec()));
}

#[tokio::test]
async fn a_stream_cut_off_anywhere_is_refused() {
    let bytes = b"some text that is worth compressing, compressing, compressing".repeat(10);
    for (coding, whole) in [
        (Coding::Gzip, gzip(&bytes)),
        (Coding::Deflate, zlib(&bytes)),
        (Coding::Deflate, raw(&bytes)),
        (Coding::Zstd, zstd_of(&bytes)),
    ] {
        for length in 1..whole.len() {
            let cut = whole[..length].to_vec();
            // Raw deflate has no magic bytes: a few of it may look like a whole stream, but never like this text.
            assert_ne!(
                decoded(coding, cut.clone()).await,
                Ok(bytes.clone()),
                "{coding:?} {length}"
            );
            if coding != Coding::Deflate || length > 2 {
                assert_eq!(
                    decoded(coding, cut).await,
                    Err(Kind::MalformedEncoding),
                    "{coding:?} {length}"
                );
            }
        }
    }
}

#[tokio::test]
async fn garbage_and_trailing_data_are_refused() {
    for (coding, wire) in [
        (Coding::Gzip, b"{\"body\":\"plain\"}".to_vec()),
        (Coding::Zstd, b"{\"body\":\"plain\"}".to_vec()),
        (Coding::Deflate, b"{\"body\":\"plain\"}".to_vec()),
        (Coding::OneOf, b"{\"body\":\"plain\"}".to_vec()),
        (Coding::Gzip, [gzip(b"a"), b"tail".to_vec()].concat()),
        (Coding::Deflate, [zlib(b"a"), b"tail".to_vec()].concat()),
        (Coding::Deflate, [raw(b"a"), b"tail".to_vec()].concat()),
        (Coding::Zstd, [zstd_of(b"a"), b"tail".to_vec()].concat()),
    ] {
        let shown = String::from_utf8_lossy(&wire).into_owned();
        assert_eq!(
            decoded(coding, wire).await,
            Err(Kind::MalformedEncoding),
            "{coding:?} {shown}"
        );
    }
}

#[tokio::test]
async fn a_bomb_is_given_up_at_the_limit() {
    let zeros = vec![0; (1 << 20) + 1];
    for (coding, wire) in [
        (Coding::Gzip, gzip(&zeros)),
        (Coding::Deflate, zlib(&zeros)),
        (Coding::Zstd, zstd_of(&zeros)),
        (Coding::Gzip, gzip(&vec![0; 64 << 20])),
        (Coding::Zstd, zstd_of(&vec![0; 64 << 20])),
    ] {
        assert_eq!(decoded(coding, wire).await, Err(Kind::TooLarge), "{coding:?}");
    }
}

#[tokio::test]
async fn a_zstd_frame_with_a_huge_window_is_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&vec![7; 300_000]).unwrap();
    assert_eq!(
        decoded(Coding::Zstd, encoder.finish().unwrap()).await,
        Err(Kind::MalformedEncoding)
    );
}
