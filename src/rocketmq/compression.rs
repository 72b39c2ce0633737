//! Undoes the body compression of other producers; this client compresses nothing itself.
//!
//! Java producers compress bodies of 4 KiB and more and say with which compressor in the message's system
//! flag. A body is foreign input: the output is bounded before it is allocated, a stream cut short is an
//! error and never a shorter body.
//!
//! Source: `MessageSysFlag`, `CompressionType`, `CompressorFactory`.

use std::io::{self, Read};

use bytes::Bytes;

/// The longest body [`decompress`] should be allowed to make out of a message, in bytes.
///
/// Brokers take 4 MiB of *compressed* body by default, which can stand for 4 GiB.
pub const MAX_DECOMPRESSED_BYTES: usize = 64 * 1024 * 1024;

/// Zstandard's window is allocated whole before any output, so it is bounded like the output, though never
/// below the 8 MiB that RFC 8878 asks every decoder to allow.
const ZSTD_WINDOW_BYTES: usize = 8 * 1024 * 1024;

/// How a body was compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compressor {
    /// A zlib stream, the default of every Java client.
    Zlib,
    /// LZ4 frames.
    Lz4,
    /// Zstandard frames.
    Zstd,
}

impl Compressor {
    /// The compressor named by bits 8 to 10 of a system flag.
    ///
    /// # Errors
    /// The number found there, when RocketMQ knows no compressor of that number.
    pub fn from_sys_flag(sys_flag: i32) -> Result<Self, u8> {
        match (sys_flag >> 8) as u8 & 7 {
            // Clients before 4.9.3 left the number out.
            0 | 3 => Ok(Self::Zlib),
            1 => Ok(Self::Lz4),
            2 => Ok(Self::Zstd),
            unknown => Err(unknown),
        }
    }
}

/// Compressed bytes that do not make a body. The producer's fault, or damage on the way; a repeat does not
/// help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// Not a whole stream of that compressor.
    #[error("not a whole {compressor:?} stream: {reason}")]
    Corrupt {
        /// The compressor that the message names.
        compressor: Compressor,
        /// What the decoder said.
        reason: String,
    },
    /// More output than allowed.
    #[error("decompressing gives more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
}

/// Decompresses `data` into at most `limit` bytes.
///
/// Like Java's, LZ4 and Zstandard read frame after frame; what follows a zlib stream is ignored.
///
/// # Errors
/// When `data` is damaged or cut short, or gives more than `limit` bytes.
pub fn decompress(compressor: Compressor, data: &[u8], limit: usize) -> Result<Bytes, DecompressError> {
    let mut body = Vec::new();
    let read = match compressor {
        Compressor::Zlib => read_bounded(flate2::read::ZlibDecoder::new(data), limit, &mut body),
        Compressor::Lz4 => lz4(data, limit, &mut body),
        Compressor::Zstd => zstd(data, limit, &mut body),
    };
    if body.len() > limit {
        return Err(DecompressError::TooLarge { limit });
    }
    read.map_err(|error| DecompressError::Corrupt { compressor, reason: error.to_string() })?;
    Ok(body.into())
}

/// Reads to the end, or to one byte past `limit`: enough to tell.
fn read_bounded(stream: impl Read, limit: usize, body: &mut Vec<u8>) -> io::Result<()> {
    let left = limit.saturating_add(1).saturating_sub(body.len());
    stream.take(left as u64).read_to_end(body).map(|_| ())
}

fn lz4(mut data: &[u8], limit: usize, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let frame = lz4_flex::frame::FrameDecoder::new((&mut data).chain(CutShort));
        read_bounded(frame, limit, body)?;
        if data.is_empty() || body.len() > limit {
            return Ok(());
        }
    }
}

fn zstd(mut data: &[u8], limit: usize, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let window = limit.max(ZSTD_WINDOW_BYTES) as u64;
        let frame = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(&mut data, window);
        read_bounded(frame.map_err(io::Error::other)?, limit, body)?;
        if data.is_empty() || body.len() > limit {
            return Ok(());
        }
    }
}

/// Stands where the data ends: the LZ4 decoder takes an end of file between two blocks for the end of the
/// frame.
struct CutShort;

impl Read for CutShort {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::new(io::ErrorKind::InvalidData, "cut short"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    pub(crate) const ALL: [Compressor; 3] = [Compressor::Zlib, Compressor::Lz4, Compressor::Zstd];

    pub(crate) fn compress(compressor: Compressor, data: &[u8]) -> Vec<u8> {
        match compressor {
            Compressor::Zlib => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(5));
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Compressor::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Compressor::Zstd => {
                ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
            }
        }
    }

    #[test]
    fn the_system_flag_names_the_compressor() {
        let named = |number: i32| Compressor::from_sys_flag(number << 8 | 0xFF);
        assert_eq!(
            [0, 1, 2, 3].map(named),
            [Compressor::Zlib, Compressor::Lz4, Compressor::Zstd, Compressor::Zlib].map(Ok)
        );
        assert_eq!([4, 5, 6, 7].map(named), [4, 5, 6, 7].map(Err));
    }

    #[test]
    fn a_bomb_is_refused_and_the_limit_itself_is_not() {
        for compressor in ALL {
            let bomb = compress(compressor, &vec![0; 300_000]);
            let at = |limit| decompress(compressor, &bomb, limit);
            assert_eq!(at(299_999), Err(DecompressError::TooLarge { limit: 299_999 }), "{compressor:?}");
            assert_eq!(at(300_000).unwrap().len(), 300_000, "{compressor:?}");
        }
    }

    #[test]
    fn a_stream_cut_anywhere_is_an_error_not_a_shorter_body() {
        let text: Vec<u8> = (0..3_000u32).map(|i| (i * i % 251) as u8).collect();
        for compressor in ALL {
            let whole = compress(compressor, &text);
            for end in 0..whole.len() {
                let cut = decompress(compressor, &whole[..end], 10_000);
                assert!(matches!(cut, Err(DecompressError::Corrupt { .. })), "{compressor:?} {end}: {cut:?}");
            }
        }
    }

    #[test]
    fn frames_that_follow_each_other_are_one_body() {
        for compressor in [Compressor::Lz4, Compressor::Zstd] {
            let frames = [compress(compressor, b"one "), compress(compressor, b"two")].concat();
            assert_eq!(decompress(compressor, &frames, 100).unwrap(), "one two");
        }
    }

    proptest! {
        #[test]
        fn what_is_compressed_is_decompressed(data in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            for compressor in ALL {
                let body = decompress(compressor, &compress(compressor, &data), data.len()).unwrap();
                prop_assert_eq!(&body, &data);
            }
        }

        #[test]
        fn damage_does_not_panic(
            data in proptest::collection::vec(0u8..4, 0..300),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            for compressor in ALL {
                let mut stream = compress(compressor, &data);
                for (at, byte) in &damage {
                    let at = at.index(stream.len());
                    stream[at] = *byte;
                }
                let _ = decompress(compressor, &stream, 10_000);
            }
        }
    }
}
