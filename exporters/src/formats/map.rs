//! A heap as a map: `/map.json`, what each page of each segment is used for and whether it is there.
//!
//! Without parameters, or with `first` and `count`, page counts for each segment; with `segment`, one
//! segment page by page:
//!
//! | character | the page |
//! |---|---|
//! | `s` `o` | belongs to a span of blocks, and is resident · is not |
//! | `L` `l` | belongs to a large run, and is resident · is not |
//! | `d` | is free and waits for its purge |
//! | `.` | is free and not resident |
//! | `?` | is resident, and nothing accounts for it |

use std::fmt::Write;

use slackwater::remote::{Memory, Place, RemoteHeap, SpanUse};
use slackwater::units::{PAGE_BYTES, SEGMENT_BYTES};

use crate::figures::residency::{self, ReadError, SegmentResidency};
use crate::kernel::pagemap::Pagemap;

/// Pages in a segment.
const PAGES: usize = SEGMENT_BYTES / PAGE_BYTES;

/// Segments in one answer: 2 GiB.
pub const MAX_SEGMENTS: u32 = 1024;

/// What of the map is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// Page counts of `count` segments from `first` on, or of as many as there are.
    Segments {
        /// The first one.
        first: u32,
        /// How many, at most [`MAX_SEGMENTS`].
        count: u32,
    },
    /// The pages of one segment.
    Pages {
        /// Which one.
        segment: u32,
    },
}

impl Query {
    /// From the parameters of a request.
    ///
    /// # Errors
    ///
    /// One line that names the parameter and what was expected.
    pub fn parse<'a>(
        parameters: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Query, String> {
        let (mut first, mut count, mut segment) = (None, None, None);
        for (name, value) in parameters {
            let place = match name {
                "first" => &mut first,
                "count" => &mut count,
                "segment" => &mut segment,
                _ => return Err(format!("{name}: expected first and count, or segment")),
            };
            let Ok(number) = value.parse::<u32>() else {
                return Err(format!("{name}={value}: expected a whole number"));
            };
            if place.replace(number).is_some() {
                return Err(format!("{name}={value}: expected {name} once"));
            }
        }
        match (segment, count) {
            (Some(segment), None) if first.is_none() => Ok(Query::Pages { segment }),
            (Some(segment), _) => {
                Err(format!("segment={segment}: expected it without first and count"))
            }
            (None, Some(count)) if !(1..=MAX_SEGMENTS).contains(&count) => {
                Err(format!("count={count}: expected a number from 1 to {MAX_SEGMENTS}"))
            }
            (None, count) => Ok(Query::Segments {
                first: first.unwrap_or(0),
                count: count.unwrap_or(MAX_SEGMENTS),
            }),
        }
    }
}

/// Draws what is asked for, as JSON. The inner error is for who asked: one line, like those of
/// [`Query::parse`].
///
/// # Errors
///
/// When the heap or the page map cannot be read.
pub fn render(
    query: Query,
    memory: &impl Memory,
    heap: &RemoteHeap,
    pagemap: &Pagemap,
) -> Result<Result<String, String>, ReadError> {
    let place = heap.place(memory)?;
    let total = place.map_or(0, |place| place.segments);
    let (name, asked) = match query {
        Query::Segments { first, .. } => ("first", first),
        Query::Pages { segment } => ("segment", segment),
    };
    Ok(match (query, &place) {
        (Query::Segments { first, count }, Some(place)) if first < total => {
            let count = count.min(total - first);
            let segments = residency::segments(memory, heap, pagemap, place, first, count)?;
            Ok(counts(first, total, &segments))
        }
        // A heap before its first allocation.
        (Query::Segments { first: 0, .. }, _) => Ok(counts(0, total, &[])),
        (Query::Pages { segment }, Some(place)) if segment < total => {
            let found = residency::segments(memory, heap, pagemap, place, segment, 1)?;
            let spans = heap.spans(memory, place, segment)?;
            Ok(found.first().map_or(String::new(), |found| pages(segment, place, found, &spans)))
        }
        _ => Err(format!("{name}={asked}: expected a number below {total}, that of the segments")),
    })
}

/// The page counts of segments from `first` on.
fn counts(first: u32, total: u32, segments: &[SegmentResidency]) -> String {
    let mut text = String::with_capacity(128 + 128 * segments.len());
    let _ = write!(
        text,
        "{{\"page_bytes\":{PAGE_BYTES},\"segment_bytes\":{SEGMENT_BYTES},\"first\":{first},\
         \"total\":{total},\"segments\":["
    );
    for (i, segment) in segments.iter().enumerate() {
        if i > 0 {
            text.push(',');
        }
        let (pages, resident) = (&segment.pages, &segment.resident);
        let _ = write!(
            text,
            "{{\"span_resident\":{},\"span_other\":{},\"large_resident\":{},\"large_other\":{},\
             \"dirty\":{},\"clean\":{},\"unexplained\":{}}}",
            count(&pages.span, |word| resident[word]),
            count(&pages.span, |word| !resident[word]),
            count(&pages.large, |word| resident[word]),
            count(&pages.large, |word| !resident[word]),
            count(&pages.dirty, |_| u64::MAX),
            count(&pages.clean, |word| !resident[word]),
            count(&pages.clean, |word| resident[word]),
        );
    }
    text.push_str("]}");
    text
}

/// Of `bits`, how many are in the mask of their word.
fn count(bits: &[u64; 8], mask: impl Fn(usize) -> u64) -> u32 {
    bits.iter().enumerate().map(|(word, bits)| (bits & mask(word)).count_ones()).sum()
}

/// One segment, page by page, with the spans in its chunks.
fn pages(
    segment: u32,
    place: &Place,
    found: &SegmentResidency,
    spans: &[Option<SpanUse>],
) -> String {
    let address = place.base + segment as u64 * SEGMENT_BYTES as u64;
    let mut text = String::with_capacity(2048);
    let _ = write!(text, "{{\"segment\":{segment},\"address\":\"{address:#x}\",\"pages\":\"");
    text.extend((0..PAGES).map(|page| character(found, page)));
    text.push_str("\",\"chunks\":[");
    for (i, span) in spans.iter().enumerate() {
        if i > 0 {
            text.push(',');
        }
        let _ = match span {
            None => write!(text, "null"),
            Some(SpanUse { block_bytes, blocks, free }) => write!(
                text,
                "{{\"block_bytes\":{block_bytes},\"blocks\":{blocks},\"free\":{free}}}"
            ),
        };
    }
    text.push_str("]}");
    text
}

fn character(found: &SegmentResidency, page: usize) -> char {
    let has = |bits: &[u64; 8]| bits[page / 64] >> (page % 64) & 1 == 1;
    let is_resident = has(&found.resident);
    let pages = &found.pages;
    match (has(&pages.span), has(&pages.large), has(&pages.dirty)) {
        (true, ..) if is_resident => 's',
        (true, ..) => 'o',
        (_, true, _) if is_resident => 'L',
        (_, true, _) => 'l',
        (_, _, true) => 'd',
        _ if is_resident => '?',
        _ => '.',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use slackwater::remote::SegmentPages;

    fn query(text: &str) -> Result<Query, String> {
        let parameters = text.split('&').filter(|one| !one.is_empty());
        Query::parse(parameters.map(|one| one.split_once('=').unwrap_or((one, ""))))
    }

    #[test]
    fn parameters_are_checked() {
        let segments = |first, count| Ok(Query::Segments { first, count });
        assert_eq!(query(""), segments(0, 1024));
        assert_eq!(query("first=7"), segments(7, 1024));
        assert_eq!(query("count=1&first=4294967295"), segments(u32::MAX, 1));
        assert_eq!(query("segment=3"), Ok(Query::Pages { segment: 3 }));
        for (text, mentions) in [
            ("bogus=1", "bogus: expected first and count"),
            ("first=x", "first=x: expected a whole number"),
            ("first=-1", "first=-1: expected a whole number"),
            ("first=4294967296", "first=4294967296: expected a whole number"),
            ("first=", "first=: expected a whole number"),
            ("count=0", "count=0: expected a number from 1 to 1024"),
            ("count=1025", "count=1025: expected a number from 1 to 1024"),
            ("segment=1&first=1", "segment=1: expected it without"),
            ("count=5&segment=1", "segment=1: expected it without"),
            ("first=1&first=2", "first=2: expected first once"),
        ] {
            let line = query(text).expect_err(text);
            assert!(line.contains(mentions), "{text}: {line}");
        }
    }

    /// Pages 0, 1 of a span; 2, 3 of a large run; 4, 5 dirty; the rest clean. The even ones resident.
    fn mixed() -> SegmentResidency {
        let mut pages = SegmentPages { clean: [u64::MAX; 8], ..SegmentPages::default() };
        pages.clean[0] &= !0b11_1111;
        (pages.span[0], pages.large[0], pages.dirty[0]) = (0b11, 0b1100, 0b11_0000);
        let mut resident = [0; 8];
        resident[0] = 0b101_0101;
        SegmentResidency { pages, resident, ..SegmentResidency::default() }
    }

    #[test]
    fn every_kind_of_page_has_its_character_and_its_count() {
        let drawn: String = (0..PAGES).map(|page| character(&mixed(), page)).collect();
        assert!(drawn.starts_with("soLldd?."), "{drawn}");
        assert_eq!(drawn.len(), 512);
        let text = counts(4, 6, &[mixed(), SegmentResidency::default()]);
        let start = "{\"page_bytes\":4096,\"segment_bytes\":2097152,\"first\":4,\"total\":6,\
             \"segments\":[{\"span_resident\":1,\"span_other\":1,\"large_resident\":1,\
             \"large_other\":1,\"dirty\":2,\"clean\":505,\"unexplained\":1},{";
        assert!(text.starts_with(start) && text.ends_with("]}"), "{text}");
    }
}
