//! The report: Markdown tables of what was counted, and of what the model makes of it.

use std::fmt::Write as _;

use slackwater_benches::comparing::contender::Face;
use slackwater_benches::comparing::head::Head;
use slackwater_benches::comparing::machine;
use slackwater_benches::comparing::statistics::three_digits;
use slackwater_benches::comparing::table;
use slackwater_benches::comparing::versions;
use slackwater_benches::scaling::counts::{Count, Counts, Place};
use slackwater_benches::scaling::model::{self, CORES, TRANSFERS};
use slackwater_benches::scaling::places::CLASSES;

use crate::{Counted, Plan};

/// What is less than this in a thousand operations has no line of its own.
const LEAST: f64 = 0.05;

const INTRODUCTION: &str = "\
Atomic read-modify-writes in a thousand operations (an operation is an allocation and its free), and behind the slash the \
locks that were taken, each of which is two of them. Counted by callgrind, one thread at a time: what repeats because \
others are there at that moment is not in it. Lines that a thread has for itself are not counted as shared.";

const MODEL: &str = "\
The model: each shared read-modify-write is a transfer of its line, which takes 50 to 100 ns, and the thread waits for it; \
and a line is passed on once in that time at most, so the busiest one bounds what all cores do together. All lines of a \
size class are one, as with one size of block. Of two figures the first is for 50 ns, the second for 100. With the counts of \
the most threads.";

/// The counted rows of one load.
struct Load<'a> {
    name: &'a str,
    rows: Vec<&'a Counted>,
}

impl Plan {
    pub fn report(&self, counted: &[Counted], failures: &[String]) -> String {
        let mut report = self.head(failures).join("\n\n") + "\n";
        let loads = loads(counted);
        let mut threads: Vec<u32> = counted.iter().map(|counted| counted.row.threads).collect();
        threads.sort_unstable();
        threads.dedup();
        let _ = write!(
            report,
            "\n### Shared, by load\n\n{INTRODUCTION}\n\n{}",
            by_load(&loads, &threads)
        );
        let _ = write!(report, "\n### By class\n\n{}", by_class(&loads, &threads));
        let _ = write!(report, "\n### By line\n\n{}", by_line(&loads, &threads));
        if !self.peers.is_empty() {
            let _ =
                write!(report, "\n### All that are executed, and peers'\n\n{}", self.peers(&loads));
        }
        let _ = write!(report, "\n### What they would cost\n\n{MODEL}\n\n{}", modelled(&loads));
        report
    }

    fn head(&self, failures: &[String]) -> Vec<String> {
        let ours = format!(
            "Counted by line of source, linked as the global allocator: {}.",
            versions::ours()
        );
        if self.peers.is_empty() {
            let mut paragraphs = machine::lines();
            paragraphs.push(ours);
            return paragraphs;
        }
        let head = Head {
            face: Face::Preloaded,
            contenders: &self.peers,
            built: &self.options.built,
            left_out: &self.left_out,
            failures,
        };
        let mut paragraphs = head.paragraphs();
        paragraphs.push(ours);
        paragraphs
    }

    /// The locked instructions of each, whatever they are for.
    fn peers(&self, loads: &[Load]) -> String {
        let mut heads = vec!["load, threads".to_owned(), "slackwater".to_owned()];
        heads.extend(self.peers.iter().map(|peer| peer.name.to_owned()));
        let mut table = table::head(&heads);
        for counted in loads.iter().flat_map(|load| &load.rows) {
            let Counted { row, ours, peers } = counted;
            let mut cells = vec![format!("{}, {}", row.load, row.threads)];
            cells.push(rate(ours.sum(|_| true).writes));
            cells.extend(peers.iter().map(|peer| peer.map_or("–".to_owned(), rate)));
            table::add_line(&mut table, &cells);
        }
        table
    }

    pub fn csv_of(&self, counted: &[Counted]) -> String {
        let mut csv = "load,threads,allocator,class,line_of,place,writes,locks\n".to_owned();
        for Counted { row, ours, peers } in counted {
            let (load, threads) = (&row.load, row.threads);
            for (Place { class, sharing, site }, Count { writes, locks }) in &ours.0 {
                let (class, line_of) = (class.name(), sharing.name());
                let _ = writeln!(
                    csv,
                    "{load},{threads},slackwater,{class},{line_of},{site},{writes:.4},{locks:.4}"
                );
            }
            for (peer, writes) in self.peers.iter().zip(peers) {
                if let Some(writes) = writes {
                    let _ = writeln!(csv, "{load},{threads},{},,,,{writes:.4},", peer.name);
                }
            }
        }
        csv
    }
}

fn loads(counted: &[Counted]) -> Vec<Load<'_>> {
    let mut loads: Vec<Load> = Vec::new();
    for counted in counted {
        match loads.iter_mut().find(|load| load.name == counted.row.load) {
            Some(load) => load.rows.push(counted),
            None => loads.push(Load { name: &counted.row.load, rows: vec![counted] }),
        }
    }
    loads
}

fn heads(first: &[&str], threads: &[u32]) -> Vec<String> {
    let first = first.iter().map(|head| (*head).to_owned());
    first.chain(threads.iter().map(u32::to_string)).collect()
}

impl Load<'_> {
    /// A cell for each number of threads.
    fn cells(
        &self,
        threads: &[u32],
        cell: impl Fn(&Counts) -> String,
    ) -> impl Iterator<Item = String> {
        threads.iter().map(move |threads| {
            let counted = self.rows.iter().find(|counted| counted.row.threads == *threads);
            counted.map_or("–".to_owned(), |counted| cell(&counted.ours))
        })
    }

    /// The most that any number of threads has of what `is_meant`.
    fn most(&self, is_meant: impl Fn(&Place) -> bool) -> f64 {
        self.rows.iter().map(|counted| counted.ours.sum(&is_meant).writes).fold(0.0, f64::max)
    }
}

fn by_load(loads: &[Load], threads: &[u32]) -> String {
    let mut table = table::head(&heads(&["load; threads"], threads));
    for load in loads {
        let mut cells = vec![load.name.to_owned()];
        cells.extend(load.cells(threads, |counts| both(counts.shared())));
        table::add_line(&mut table, &cells);
    }
    table
}

fn by_class(loads: &[Load], threads: &[u32]) -> String {
    let mut table = table::head(&heads(&["load", "class; threads"], threads));
    for load in loads {
        for class in CLASSES {
            let is_meant = |place: &Place| place.class == class;
            if load.most(is_meant) < LEAST {
                continue;
            }
            let mut cells = vec![load.name.to_owned(), class.name().to_owned()];
            cells.extend(load.cells(threads, |counts| both(counts.sum(is_meant))));
            table::add_line(&mut table, &cells);
        }
    }
    table
}

fn by_line(loads: &[Load], threads: &[u32]) -> String {
    let mut table =
        table::head(&heads(&["load", "class", "a line for", "place; threads"], threads));
    for load in loads {
        let mut places: Vec<_> =
            load.rows.iter().flat_map(|counted| counted.ours.0.keys()).collect();
        places.sort();
        places.dedup();
        for place in places {
            if load.most(|other| other == place) < LEAST {
                continue;
            }
            let Place { class, sharing, site } = place;
            let mut cells = vec![load.name.to_owned(), class.name().to_owned()];
            cells.extend([sharing.name().to_owned(), format!("`{site}`")]);
            cells.extend(
                load.cells(threads, |counts| rate(counts.sum(|other| other == place).writes)),
            );
            table::add_line(&mut table, &cells);
        }
    }
    table
}

/// With the counts of the most threads there are.
fn modelled(loads: &[Load]) -> String {
    let mut heads = vec!["load".to_owned(), "shared".to_owned()];
    heads.push("each a transfer, ns an operation".to_owned());
    heads.push("busiest line".to_owned());
    heads.push("all cores, million operations a second".to_owned());
    heads.extend(CORES.map(|cores| format!("{cores} cores: ns an operation, at least")));
    let mut table = table::head(&heads);
    for load in loads {
        let Some(counted) = load.rows.last() else { continue };
        let shared = counted.ours.shared().writes;
        let busiest = model::busiest(&counted.ours);
        let mut cells = vec![format!("{}, {}", load.name, counted.row.threads), rate(shared)];
        cells.push(pair(|transfer| model::each_a_transfer(shared, transfer)));
        cells.push(format!("{}: {}", busiest.class.name(), rate(busiest.writes)));
        cells.push(if busiest.writes < LEAST {
            "–".to_owned()
        } else {
            pair(|transfer| 1000.0 / model::each_a_transfer(busiest.writes, transfer))
        });
        cells.extend(
            CORES.map(|cores| pair(|transfer| model::saturated(busiest.writes, transfer, cores))),
        );
        table::add_line(&mut table, &cells);
    }
    table
}

fn pair(value: impl Fn(f64) -> f64) -> String {
    TRANSFERS.map(|transfer| rate(value(transfer))).join(" / ")
}

fn both(count: Count) -> String {
    format!("{} / {}", rate(count.writes), rate(count.locks))
}

fn rate(value: f64) -> String {
    if value < 0.005 { "0".to_owned() } else { three_digits(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use slackwater_benches::scaling::places::{Class, Sharing};

    fn counted(threads: u32, writes: f64) -> Counted {
        let name = format!("larson_by_{threads}");
        let place =
            |class, sharing| Place { class, sharing, site: "heap/depot.rs:8 give".to_owned() };
        let ours = Counts(BTreeMap::from([
            (place(Class::Depot, Sharing::SizeClass), Count { writes, locks: writes / 2.0 }),
            (place(Class::Caches, Sharing::Own), Count { writes: 7.0, locks: 0.0 }),
        ]));
        Counted { row: crate::row(&name).unwrap(), ours, peers: Vec::new() }
    }

    #[test]
    fn tables_have_a_column_for_each_number_of_threads() {
        let counted = [counted(1, 2.0), counted(4, 20.0)];
        let loads = loads(&counted);
        let threads = [1, 2, 4];
        let table = by_load(&loads, &threads);
        assert!(table.ends_with("| larson | 2.00 / 1.00 | – | 20.0 / 10.0 |\n"), "{table}");
        let table = by_class(&loads, &threads);
        assert!(table.contains("| larson | depot | 2.00 / 1.00 | – | 20.0 / 10.0 |\n"), "{table}");
        assert!(table.contains("| larson | own cache | 7.00 / 0 | – | 7.00 / 0 |\n"), "{table}");
        let table = by_line(&loads, &threads);
        let row = "| larson | depot | a size class | `heap/depot.rs:8 give` | 2.00 | – | 20.0 |\n";
        assert!(table.contains(row), "{table}");
        let table = modelled(&loads);
        let row = "| larson, 4 | 20.0 | 1.00 / 2.00 | depot: 20.0 | 1000 / 500 | 64.0 / 128 | 128 / 256 |\n";
        assert!(table.ends_with(row), "{table}");
    }
}
