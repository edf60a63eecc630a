//! How a body is sent: as it is, or compressed for those who ask for it.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::formats::preference::Preference;

/// Shorter bodies fit into one packet as they are.
pub(super) const MIN_BYTES: usize = 1024;

/// An encoding (RFC 9110, 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// None.
    Identity,
    Gzip,
}

impl Encoding {
    /// What the header `Accept-Encoding` asks for.
    pub(super) fn accepted(header: &str) -> Encoding {
        let weight = |names: &[&str]| {
            let is_meant =
                |one: &Preference<'_>| names.iter().any(|name| one.name.eq_ignore_ascii_case(name));
            Preference::all(header).find(is_meant).map(|one| one.weight)
        };
        let gzip = weight(&["gzip", "x-gzip"]).or_else(|| weight(&["*"])).unwrap_or(0);
        if gzip > 0 && gzip >= weight(&["identity"]).unwrap_or(0) {
            Encoding::Gzip
        } else {
            Encoding::Identity
        }
    }
}

/// `body`, compressed.
pub(super) fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    // Writing to a vector does not fail.
    let _ = encoder.write_all(body);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_ask_for_it() {
        for (header, gzip) in [
            ("", false),
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("x-gzip", true),
            ("*", true),
            ("*;q=0.1, gzip;q=0", false),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("identity, gzip;q=0.5", false),
            ("identity;q=0.5, gzip", true),
            ("br, zstd", false),
            ("gzip;q=banana", false),
        ] {
            let expected = if gzip { Encoding::Gzip } else { Encoding::Identity };
            assert_eq!(Encoding::accepted(header), expected, "{header:?}");
        }
    }
}
