//! A profile as `pprof` and what speaks its language read it: gzipped `profile.proto`, with the
//! sample types of Go's heap profile.
//!
//! The addresses are those of calls, the builds of the mapped files are named, and functions are there
//! as far as they are known here: a reader that has better names may put its own.

use std::collections::HashMap;
use std::io::Write;
use std::time::UNIX_EPOCH;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use super::folded::UNKNOWN;
use super::frame::Frame;
use super::lacks::lacks;
use super::names::Names;
use super::{Profile, Weighted, prune};

/// What is shown first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultType {
    /// Live bytes, as Go's `/debug/pprof/heap`.
    InuseSpace,
    /// Allocated bytes, as Go's `/debug/pprof/allocs`.
    AllocSpace,
}

/// Writes a profile. `window`: it is what happened in so many seconds; else, everything ever.
pub fn render(
    profile: &Profile,
    names: &Names,
    default: DefaultType,
    window: Option<f64>,
) -> Vec<u8> {
    let message = Builder::new(profile, names).build(default, window);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    // A vector takes everything.
    gzip.write_all(&message.encode_to_vec()).and_then(|()| gzip.finish()).unwrap_or_default()
}

/// The messages of `profile.proto`, as far as they are written here. Numbers that say "string" are
/// places in the table of strings.
mod proto {
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub struct Profile {
        #[prost(message, repeated, tag = "1")]
        pub sample_type: Vec<ValueType>,
        #[prost(message, repeated, tag = "2")]
        pub sample: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub mapping: Vec<Mapping>,
        #[prost(message, repeated, tag = "4")]
        pub location: Vec<Location>,
        #[prost(message, repeated, tag = "5")]
        pub function: Vec<Function>,
        #[prost(string, repeated, tag = "6")]
        pub string_table: Vec<String>,
        #[prost(int64, tag = "7")]
        pub drop_frames: i64,
        #[prost(int64, tag = "8")]
        pub keep_frames: i64,
        #[prost(int64, tag = "9")]
        pub time_nanos: i64,
        #[prost(int64, tag = "10")]
        pub duration_nanos: i64,
        #[prost(message, optional, tag = "11")]
        pub period_type: Option<ValueType>,
        #[prost(int64, tag = "12")]
        pub period: i64,
        #[prost(int64, repeated, tag = "13")]
        pub comment: Vec<i64>,
        #[prost(int64, tag = "14")]
        pub default_sample_type: i64,
    }

    #[derive(Clone, Copy, PartialEq, Message)]
    pub struct ValueType {
        #[prost(int64, tag = "1")]
        pub r#type: i64,
        #[prost(int64, tag = "2")]
        pub unit: i64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Sample {
        #[prost(uint64, repeated, tag = "1")]
        pub location_id: Vec<u64>,
        #[prost(int64, repeated, tag = "2")]
        pub value: Vec<i64>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Mapping {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(uint64, tag = "2")]
        pub memory_start: u64,
        #[prost(uint64, tag = "3")]
        pub memory_limit: u64,
        #[prost(uint64, tag = "4")]
        pub file_offset: u64,
        #[prost(int64, tag = "5")]
        pub filename: i64,
        #[prost(int64, tag = "6")]
        pub build_id: i64,
        #[prost(bool, tag = "7")]
        pub has_functions: bool,
        #[prost(bool, tag = "8")]
        pub has_filenames: bool,
        #[prost(bool, tag = "9")]
        pub has_line_numbers: bool,
        #[prost(bool, tag = "10")]
        pub has_inline_frames: bool,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Location {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(uint64, tag = "2")]
        pub mapping_id: u64,
        #[prost(uint64, tag = "3")]
        pub address: u64,
        #[prost(message, repeated, tag = "4")]
        pub line: Vec<Line>,
    }

    #[derive(Clone, Copy, PartialEq, Message)]
    pub struct Line {
        #[prost(uint64, tag = "1")]
        pub function_id: u64,
        #[prost(int64, tag = "2")]
        pub line: i64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Function {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(int64, tag = "2")]
        pub name: i64,
        #[prost(int64, tag = "3")]
        pub system_name: i64,
        #[prost(int64, tag = "4")]
        pub filename: i64,
    }
}

/// Gathers the tables that samples refer to.
///
/// # Invariants
///
/// - The id of an entry is its place plus one: 0 says "none".
/// - The first string is empty.
struct Builder<'a> {
    profile: &'a Profile,
    names: &'a Names,
    message: proto::Profile,
    strings: HashMap<String, i64>,
    functions: HashMap<(String, String), u64>,
    locations: HashMap<u64, u64>,
}

impl<'a> Builder<'a> {
    fn new(profile: &'a Profile, names: &'a Names) -> Builder<'a> {
        let mut builder = Builder {
            profile,
            names,
            message: proto::Profile::default(),
            strings: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
        };
        builder.string("");
        builder
    }

    fn build(mut self, default: DefaultType, window: Option<f64>) -> proto::Profile {
        let types = [
            ("alloc_objects", "count"),
            ("alloc_space", "bytes"),
            ("inuse_objects", "count"),
            ("inuse_space", "bytes"),
        ];
        self.message.sample_type = types.map(|(name, unit)| self.value_type(name, unit)).to_vec();
        self.message.default_sample_type = self.string(match default {
            DefaultType::InuseSpace => "inuse_space",
            DefaultType::AllocSpace => "alloc_space",
        });
        self.message.period_type = Some(self.value_type("space", "bytes"));
        self.message.period = self.profile.rate_bytes as i64;
        self.message.drop_frames = self.string(&prune::drop_frames());
        self.message.keep_frames = self.string(&prune::keep_frames());
        let time = self.profile.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.message.time_nanos = time.as_nanos() as i64;
        self.message.duration_nanos = (window.unwrap_or(0.0) * 1e9) as i64;
        let lines = lacks(self.profile, self.names);
        self.message.comment = lines.iter().map(|line| self.string(line)).collect();
        for mapping in self.profile.modules.mappings() {
            let (filename, build_id) = (self.string(&mapping.path), self.string(&mapping.build_id));
            self.message.mapping.push(proto::Mapping {
                id: self.message.mapping.len() as u64 + 1,
                memory_start: mapping.start,
                memory_limit: mapping.end,
                file_offset: mapping.offset,
                filename,
                build_id,
                ..proto::Mapping::default()
            });
        }
        for stack in &self.profile.stacks {
            let value = values(stack.allocated, stack.live());
            if value.iter().any(|value| *value != 0) {
                let location_id = match &stack.frames[..] {
                    [] => vec![self.unknown()],
                    frames => frames.iter().map(|&address| self.location(address)).collect(),
                };
                self.message.sample.push(proto::Sample { location_id, value });
            }
        }
        self.say_what_is_named();
        self.message
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(known) = self.strings.get(text) {
            return *known;
        }
        let place = self.message.string_table.len() as i64;
        self.message.string_table.push(text.to_string());
        self.strings.insert(text.to_string(), place);
        place
    }

    fn value_type(&mut self, name: &str, unit: &str) -> proto::ValueType {
        proto::ValueType { r#type: self.string(name), unit: self.string(unit) }
    }

    fn function(&mut self, frame: &Frame) -> u64 {
        let key = (frame.function.clone(), frame.file.clone());
        if let Some(known) = self.functions.get(&key) {
            return *known;
        }
        let id = self.message.function.len() as u64 + 1;
        let (name, filename) = (self.string(&frame.function), self.string(&frame.file));
        self.message.function.push(proto::Function { id, name, system_name: name, filename });
        self.functions.insert(key, id);
        id
    }

    /// A place for stacks that are not known.
    fn unknown(&mut self) -> u64 {
        self.locate(0, 0, &[Frame { function: UNKNOWN.to_string(), ..Frame::default() }])
    }

    /// The call that returns to `address`.
    fn location(&mut self, address: u64) -> u64 {
        let call = address.wrapping_sub(1);
        let mapping = self.profile.modules.find(call).map_or(0, |place| place as u64 + 1);
        let names = self.names;
        self.locate(call, mapping, names.get(address).unwrap_or_default())
    }

    fn locate(&mut self, address: u64, mapping_id: u64, frames: &[Frame]) -> u64 {
        if let Some(known) = self.locations.get(&address) {
            return *known;
        }
        let id = self.message.location.len() as u64 + 1;
        let line = frames
            .iter()
            .map(|frame| proto::Line {
                function_id: self.function(frame),
                line: i64::from(frame.line),
            })
            .collect();
        self.message.location.push(proto::Location { id, mapping_id, address, line });
        self.locations.insert(address, id);
        id
    }

    /// A mapping of which everything is named needs no names of a reader's.
    fn say_what_is_named(&mut self) {
        let proto::Profile { mapping, location, function, .. } = &mut self.message;
        for mapping in mapping {
            let mut here = location.iter().filter(|one| one.mapping_id == mapping.id).peekable();
            let mut lines = here.clone().flat_map(|one| &one.line);
            mapping.has_filenames =
                lines.clone().any(|line| function[line.function_id as usize - 1].filename != 0);
            mapping.has_line_numbers = lines.any(|line| line.line != 0);
            // Who knows the lines knows what was inlined.
            mapping.has_inline_frames = mapping.has_line_numbers;
            mapping.has_functions =
                here.peek().is_some() && here.all(|location| !location.line.is_empty());
        }
    }
}

fn values(allocated: Weighted, live: Weighted) -> Vec<i64> {
    [allocated.objects, allocated.bytes, live.objects, live.bytes]
        .map(|value| value.round() as i64)
        .to_vec()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::super::Stack;
    use super::super::folded::tests::made_up_names;
    use super::super::names::OBSERVER;
    use super::super::tests::made_up;
    use super::*;

    fn decoded(bytes: &[u8]) -> proto::Profile {
        let mut raw = Vec::new();
        GzDecoder::new(bytes).read_to_end(&mut raw).expect("gzip");
        proto::Profile::decode(&raw[..]).expect("a profile")
    }

    #[test]
    fn everything_is_where_readers_look_for_it() {
        let mut profile = made_up();
        profile.dropped = 7;
        let observed = Weighted { objects: 1.0, bytes: 64.0 };
        let frames = vec![slackwater::observer::FRAME];
        profile.stacks.push(Stack { frames, allocated: observed, ..Stack::default() });
        let bytes = render(&profile, &made_up_names(), DefaultType::InuseSpace, None);
        let found = decoded(&bytes);
        let string = |place: i64| &found.string_table[place as usize][..];
        assert_eq!(found.string_table[0], "");
        let types: Vec<_> =
            found.sample_type.iter().map(|one| (string(one.r#type), string(one.unit))).collect();
        let expected = [
            ("alloc_objects", "count"),
            ("alloc_space", "bytes"),
            ("inuse_objects", "count"),
            ("inuse_space", "bytes"),
        ];
        assert_eq!(types, expected);
        assert_eq!(string(found.default_sample_type), "inuse_space");
        assert_eq!((found.period, found.time_nanos), (524_288, 1_700_000_000_000_000_500));
        assert_eq!(found.duration_nanos, 0);
        assert_eq!(string(found.drop_frames), prune::drop_frames());
        assert!(string(found.comment[0]).starts_with("7 samples"));

        let first = &found.sample[0];
        assert_eq!(first.value, [100, 102_400, 100, 102_400]);
        let functions = |id: u64| -> Vec<&str> {
            let location = &found.location[id as usize - 1];
            let function = |id: u64| &found.function[id as usize - 1];
            location.line.iter().map(|line| string(function(line.function_id).name)).collect()
        };
        let call = &found.location[first.location_id[0] as usize - 1];
        assert_eq!((call.address, call.mapping_id), (0x40_1010, 1), "the call, not its return");
        assert_eq!(
            functions(first.location_id[0]),
            ["alloc::alloc::alloc", "<[u8; 16] as app::Keep>::keep", "app::leak"]
        );
        assert_eq!(functions(first.location_id[2]), ["main"]);
        assert_eq!(functions(found.sample[2].location_id[0]), [UNKNOWN]);
        assert_eq!(functions(found.sample[3].location_id[0]), [OBSERVER]);
        assert_eq!(found.location[found.sample[3].location_id[0] as usize - 1].mapping_id, 0);
        assert!(functions(found.sample[1].location_id[0]).is_empty());

        let [app, library] = &found.mapping[..] else { panic!("{:?}", found.mapping) };
        assert_eq!(string(app.filename), "/srv/app");
        assert_eq!(
            (app.memory_start, app.memory_limit, app.file_offset),
            (0x40_1000, 0x40_2000, 0x1000)
        );
        let flags = |one: &proto::Mapping| {
            [one.has_functions, one.has_filenames, one.has_line_numbers, one.has_inline_frames]
        };
        assert_eq!((flags(app), flags(library)), ([true; 4], [false; 4]));
    }

    #[test]
    fn a_window_has_its_length_and_may_have_less_than_nothing() {
        let before = made_up();
        let mut after = before.clone();
        after.stacks[1].freed = Weighted { objects: 4500.0, bytes: 288_000.0 };
        let window = after.since(&before);
        let bytes = render(&window, &Names::default(), DefaultType::AllocSpace, Some(2.5));
        let found = decoded(&bytes);
        assert_eq!(found.duration_nanos, 2_500_000_000);
        assert_eq!(found.string_table[found.default_sample_type as usize], "alloc_space");
        let values: Vec<_> = found.sample.iter().map(|sample| &sample.value[..]).collect();
        assert_eq!(values, [[0, 0, -500, -32_000]], "what did not change is left out");
    }
}
