//! One view as plain text.

use std::fmt::Write;

use super::bars;
use super::size_classes::{self, Column};
use super::view::View;
use crate::amounts::{bytes, percent, share};

/// The bars' width in characters.
const BAR: usize = 40;

/// The view's figures, section by section.
pub fn text(view: &View) -> String {
    let mut text = format!("{}\n{}\n", view.name, view.headline().join("  "));
    text.push_str("\nwhy RSS is what it is\n");
    match view.breakdown() {
        None => text.push_str("  the kernel does not tell what it backs of this process\n"),
        Some(breakdown) => {
            let parts: Vec<_> = breakdown.parts().collect();
            for (part, bar) in parts.iter().zip(bars::of(&parts, BAR)) {
                let drawn = format!("{}{}", " ".repeat(bar.start), "#".repeat(bar.len()));
                let share = percent(share(part.bytes, breakdown.sum()));
                let amount = bytes(part.bytes);
                let _ =
                    writeln!(text, "  {:<12} {amount:>11} {share:>7}  {drawn:<BAR$}|", part.name);
            }
        }
    }
    text.push_str("\nrates\n");
    write_rows(&mut text, &view.rates());
    text.push_str("\nsize classes\n");
    let rows = size_classes::rows(&view.observation().snapshot, view.order);
    let head = Column::ALL.map(|column| column.name().to_string());
    for [block, amounts @ ..] in std::iter::once(head).chain(rows.iter().map(size_classes::cells)) {
        let _ = write!(text, "  {block:>6}");
        for amount in amounts {
            let _ = write!(text, " {amount:>11}");
        }
        text.push('\n');
    }
    text.push_str("\nsystem calls\n");
    write_rows(&mut text, &view.system_calls());
    text.push_str("\nthread caches\n");
    write_rows(&mut text, &view.thread_caches());
    text
}

fn write_rows<const N: usize>(text: &mut String, rows: &[[String; N]]) {
    for row in rows {
        let _ = write!(text, "  {:<22}", row[0]);
        for amount in &row[1..] {
            let _ = write!(text, " {amount:>11}");
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::made_up;
    use super::*;

    #[test]
    fn every_section_is_there_in_plain_characters() {
        let text = text(&made_up());
        assert!(text.starts_with("made-up (7)\nRSS 100.0 MiB  live 40.0 MiB  "), "{text}");
        let sections =
            ["why RSS is what it is", "rates", "size classes", "system calls", "thread caches"];
        for section in sections {
            assert!(text.contains(&format!("\n\n{section}\n  ")), "{section}:\n{text}");
        }
        assert!(text.contains("  frees/s                       1.0k\n"), "{text}");
        assert!(
            text.contains("      64     1.0 MiB     4.0 MiB     3.0 MiB       25.0%\n"),
            "{text}"
        );
        assert!(text.chars().all(|c| c == '\n' || c == ' ' || c.is_ascii_graphic()), "{text}");
    }
}
