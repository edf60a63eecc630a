//! Folded stacks as a picture: an SVG that can be searched and zoomed in a browser.
//!
//! One colour has one meaning throughout: a function has the same shade in every picture of a kind.
//! In a comparison red has grown and blue has shrunk.

use std::fmt::Write;
use std::io;

use inferno::flamegraph::color::{BackgroundColor, BasicPalette, Color};
use inferno::flamegraph::{self, Direction, Options, Palette};

use super::folded::{self, UNKNOWN};
use super::kind::Kind;
use super::lacks::{WHY_UNKNOWN, brief, lacks};
use super::names::Names;
use super::reading::ProfileReading;

/// What is written around the picture.
#[derive(Clone, Debug)]
pub struct Caption {
    /// The first line.
    pub title: String,
    /// A second one.
    pub subtitle: String,
    /// What is counted.
    pub unit: &'static str,
    /// What it is of.
    pub kind: Kind,
    /// What the profile lacks: see [`lacks()`](fn@super::lacks::lacks). In brief in the second line, and whole
    /// in the picture's description.
    pub lacks: Vec<String>,
}

/// Draws what `kind` is of: of everything ever, or of the time between two readings. For what only
/// ever grows that is what was added; else the readings are compared. `whose` is for the caption.
///
/// # Errors
///
/// As [`render`], whose format is kept here.
pub fn draw(
    kind: Kind,
    whose: &str,
    before: Option<&ProfileReading>,
    after: &ProfileReading,
    names: &Names,
) -> io::Result<String> {
    let folded = |reading: &ProfileReading| {
        let mut folded = kind.folded(reading, names);
        for one in folded.iter_mut().filter(|one| one.path == [UNKNOWN]) {
            one.path.push(WHY_UNKNOWN.to_string());
        }
        folded
    };
    let now = folded(after);
    let (lines, window) = match before {
        None => (folded::render(&now), String::new()),
        Some(before) => {
            let earlier = folded(before);
            let seconds = after.profile.seconds_since(&before.profile);
            if kind.is_total() {
                (folded::render_growth(&earlier, &now), format!(", in {seconds:.1} s"))
            } else {
                let what = format!(", and what changed in {seconds:.1} s: red grew, blue shrank");
                (folded::render_both(&earlier, &now), what)
            }
        }
    };
    let caption = Caption {
        title: format!("{} — {whose}", kind.title()),
        subtitle: format!("{}{window}", source(kind, after)),
        unit: kind.unit(),
        kind,
        lacks: if kind.has_stacks() { lacks(&after.profile, names) } else { Vec::new() },
    };
    render(&lines, &caption)
}

/// Where the figures are from.
fn source(kind: Kind, reading: &ProfileReading) -> String {
    if !kind.has_stacks() {
        return "ticks, caches taken over, and purges by how their pages had become free"
            .to_string();
    }
    reading.profile.basis()
}

/// Draws folded stacks: with one value on each line, or with two, which are compared.
///
/// # Errors
///
/// When `folded` is not in that format.
pub fn render(folded: &str, caption: &Caption) -> io::Result<String> {
    // The last value of a line is its width: a window may end with nothing of what there was.
    let is_nothing = |line: &str| line.ends_with(" 0");
    if folded.lines().all(is_nothing) {
        return Ok(nothing(caption));
    }
    let mut options = Options::default();
    options.title = caption.title.clone();
    options.subtitle = Some(caption.second_line());
    options.count_name = caption.unit.to_string();
    options.font_type = "system-ui, sans-serif".to_string();
    options.colors = Palette::Basic(palette(caption.kind));
    options.bgcolors = Some(BackgroundColor::Flat(Color { r: 0xf4, g: 0xf6, b: 0xf7 }));
    options.hash = true;
    // The outermost functions first: stacks are deep, and a page is read from its top.
    options.direction = Direction::Inverted;
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, folded.lines(), &mut svg).map_err(io::Error::other)?;
    let svg = String::from_utf8(svg).map_err(io::Error::other)?;
    Ok(caption.described(svg))
}

impl Caption {
    fn second_line(&self) -> String {
        let briefs: Vec<&str> = self.lacks.iter().map(|line| brief(line)).collect();
        match briefs.is_empty() {
            true => self.subtitle.clone(),
            false => format!("{} — lacking: {}", self.subtitle, briefs.join("; ")),
        }
    }

    /// The picture with all that is lacking as its description, which browsers and screen readers know.
    fn described(&self, mut svg: String) -> String {
        let head = svg.find("<svg").and_then(|start| Some(start + svg[start..].find('>')? + 1));
        if let Some(head) = head.filter(|_| !self.lacks.is_empty()) {
            svg.insert_str(head, &format!("<desc>{}</desc>", escaped(&self.lacks.join("\n"))));
        }
        svg
    }
}

fn palette(kind: Kind) -> BasicPalette {
    match kind {
        Kind::Live => BasicPalette::Mem,
        Kind::Alloc => BasicPalette::Orange,
        Kind::Peak => BasicPalette::Hot,
        Kind::Fragmentation => BasicPalette::Yellow,
        Kind::Release => BasicPalette::Aqua,
    }
}

/// A picture that says that there is none.
fn nothing(caption: &Caption) -> String {
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1200 120\" width=\"1200\" \
         font-family=\"system-ui, sans-serif\" text-anchor=\"middle\">\n\
         <rect width=\"1200\" height=\"120\" fill=\"#f4f6f7\"/>\n",
    );
    let second_line = caption.second_line();
    let lines = [(&caption.title[..], 34, 17), (&second_line, 58, 12), ("Nothing yet.", 92, 14)];
    for (text, y, size) in lines {
        let text = escaped(text);
        let _ = writeln!(svg, "<text x=\"600\" y=\"{y}\" font-size=\"{size}\">{text}</text>");
    }
    caption.described(svg + "</svg>\n")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caption() -> Caption {
        Caption {
            title: "Live <memory> & more".to_string(),
            subtitle: "a subtitle".to_string(),
            unit: "bytes",
            kind: Kind::Live,
            lacks: Vec::new(),
        }
    }

    #[test]
    fn what_is_lacking_stands_in_the_picture() {
        let lacks = ["40% has no call stack: <why>".to_string(), "7 samples".to_string()];
        let caption = Caption { lacks: lacks.to_vec(), ..caption() };
        for folded in ["main;a 1000\n", ""] {
            let svg = render(folded, &caption).expect("well-formed");
            assert!(
                svg.contains("a subtitle — lacking: 40% has no call stack; 7 samples"),
                "{svg}"
            );
            let whole = "<desc>40% has no call stack: &lt;why>\n7 samples</desc>";
            assert!(svg.contains(whole), "{svg}");
        }
    }

    #[test]
    fn a_window_that_ends_with_nothing_is_a_picture_of_nothing() {
        for folded in ["", "main;a 1000 0\n", "main;a 1000 0\nmain;b 7 0\n"] {
            let svg = render(folded, &caption()).expect("well-formed");
            assert!(svg.contains("Nothing yet."), "{folded}: {svg}");
        }
        let svg = render("main;a 1000 0\nmain;b 7 3\n", &caption()).expect("well-formed");
        assert!(!svg.contains("Nothing yet."), "{svg}");
    }

    #[test]
    fn an_unknown_stack_has_its_reason_above_it() {
        let snapshot = slackwater::snapshot();
        let reading = ProfileReading { profile: super::super::tests::made_up(), snapshot };
        let svg = draw(Kind::Alloc, "x", None, &reading, &Names::default()).expect("well-formed");
        let reason = format!("<title>{WHY_UNKNOWN} (100 bytes");
        assert!(
            svg.contains(&reason) && svg.contains("<title>[stack unknown] (100 bytes"),
            "{svg}"
        );
    }

    #[test]
    fn a_picture_has_every_function_and_is_the_same_again() {
        let folded = "main;a;b<[u8: 16]> 1000\nmain;c 3000\n";
        let svg = render(folded, &caption()).expect("well-formed");
        for text in [
            "<title>all (4,000 bytes, 100%)</title>",
            "<title>c (3,000 bytes, 75.00%)</title>",
            "<title>b&lt;[u8: 16]&gt; (1,000 bytes, 25.00%)</title>",
            "Live &lt;memory&gt; &amp; more",
            "a subtitle",
        ] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        assert!(!svg.contains("href=\"http"), "nothing comes from elsewhere");
        assert_eq!(render(folded, &caption()).expect("well-formed"), svg);
    }

    #[test]
    fn a_comparison_shows_what_grew_and_what_shrank() {
        let svg = render("main;grew 10 40\nmain;shrank 30 10\n", &caption()).expect("well-formed");
        assert!(svg.contains("<title>grew (40 bytes, 80.00%; +60.00%)</title>"), "{svg}");
        assert!(svg.contains("<title>shrank (10 bytes, 20.00%; -40.00%)</title>"), "{svg}");
    }

    #[test]
    fn of_nothing_there_is_a_picture_that_says_so() {
        let svg = render("", &caption()).expect("well-formed");
        assert!(
            svg.contains("Nothing yet.") && svg.contains("Live &lt;memory> &amp; more"),
            "{svg}"
        );
    }
}
