//! The live page: one file, joined here from its parts when the program is built.
//!
//! The parts are beside this file: the text, the style, and the script in the order in which its pieces
//! build on each other. The page of profiles has the same style and no script. No script, style, font
//! or picture comes from elsewhere, and the policy says so to the browser. Every link and request is
//! relative: behind a reverse proxy the pages may be anywhere.

/// What the page may do: run what is written in it, and ask the server that it came from.
pub const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; \
     style-src 'unsafe-inline'; connect-src 'self'; img-src data:";

/// The page. The tags of `head` and `body` may be left out in HTML, and are.
pub const PAGE: &str = concat!(
    "<!doctype html>\n<html lang=\"en\">\n<style>\n",
    include_str!("page.css"),
    "</style>\n",
    include_str!("page.html"),
    "<script type=\"module\">\n",
    include_str!("service.js"),
    include_str!("format.js"),
    include_str!("history.js"),
    include_str!("chart.js"),
    include_str!("map.js"),
    include_str!("figures.js"),
    include_str!("page.js"),
    "</script>\n</html>\n",
);

/// What the page of profiles may do: nothing.
pub const PROFILES_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:";

/// The page of profiles: what there is, and how to come by it.
pub const PROFILES: &str = concat!(
    "<!doctype html>\n<html lang=\"en\">\n<style>\n",
    include_str!("page.css"),
    include_str!("profiles.css"),
    "</style>\n",
    include_str!("profiles.html"),
    "</html>\n",
);

#[cfg(test)]
mod tests {
    use crate::figures::breakdown::Breakdown;

    /// What the page stacks up is what there is, under the same names.
    #[test]
    fn the_page_shows_each_part_of_rss_once() {
        let script = include_str!("history.js");
        let (_, list) = script.split_once("const PARTS = [").expect("the list");
        let (list, _) = list.split_once("\n];").expect("its end");
        let rows = list.lines().filter_map(|line| line.trim().strip_prefix("[\""));
        let mut shown: Vec<&str> = rows.filter_map(|row| row.split('"').next()).collect();
        let breakdown = Breakdown::default().with_stacks(Some(0));
        let mut parts: Vec<&str> = breakdown.parts().map(|part| part.name).collect();
        shown.sort_unstable();
        parts.sort_unstable();
        assert_eq!(shown, parts);
    }
}
