//! Where in the source an instruction comes from, with all that was inlined there.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

/// A function that an instruction is part of, inlined into the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Without its path; with its types if it was inlined.
    pub function: String,
    /// With its whole path.
    pub file: String,
    /// 0 if it is not known.
    pub line: u32,
}

/// The frames of each address, the innermost first.
pub fn frames(program: &Path, addresses: &[u64]) -> Result<HashMap<u64, Vec<Frame>>, String> {
    let mut frames = HashMap::new();
    // A command line has a limit.
    for some in addresses.chunks(1000) {
        let output = Command::new("addr2line")
            .args(["--addresses", "--inlines", "--functions", "--demangle", "--exe"])
            .arg(program)
            .args(some.iter().map(|address| format!("{address:#x}")))
            .output()
            .map_err(|error| format!("addr2line: {error}"))?;
        frames.extend(parse(&String::from_utf8_lossy(&output.stdout)));
    }
    Ok(frames)
}

/// Reads what addr2line says: a line with an address, then two lines for each frame.
fn parse(text: &str) -> HashMap<u64, Vec<Frame>> {
    let mut frames: HashMap<u64, Vec<Frame>> = HashMap::new();
    let mut lines = text.lines();
    let mut address = None;
    while let Some(line) = lines.next() {
        if let Some(digits) = line.strip_prefix("0x") {
            address = u64::from_str_radix(digits, 16).ok();
            continue;
        }
        let (Some(address), Some(place)) = (address, lines.next()) else { break };
        let (file, number) = place.rsplit_once(':').unwrap_or((place, ""));
        // "12 (discriminator 3)", or "?".
        let number = number.split(' ').next().unwrap_or_default();
        frames.entry(address).or_default().push(Frame {
            function: line.to_owned(),
            file: file.to_owned(),
            line: number.parse().unwrap_or(0),
        });
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inlined_functions_come_before_those_they_are_in() {
        let text = "0x00055c5c\nswap\n/rustc/5/atomic.rs:2901\nunlock<Pool>\n/w/src/os/lock.rs:128 (discriminator 2)\n\
                    0x53036\n??\n??:?\n";
        let frame = |function: &str, file: &str, line| Frame {
            function: function.to_owned(),
            file: file.to_owned(),
            line,
        };
        let frames = HashMap::from([
            (
                0x55c5c,
                vec![
                    frame("swap", "/rustc/5/atomic.rs", 2901),
                    frame("unlock<Pool>", "/w/src/os/lock.rs", 128),
                ],
            ),
            (0x53036, vec![frame("??", "??", 0)]),
        ]);
        assert_eq!(parse(text), frames);
    }
}
