//! On what it was measured: without this a time means nothing.

use std::fs;

use crate::cores;

/// The lines that head a report.
pub fn lines() -> Vec<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cores: Vec<_> = cores::allowed().iter().map(usize::to_string).collect();
    vec![
        format!("Processor: {}; cores {}.", processor(&cpuinfo), cores.join(", ")),
        format!(
            "Kernel: {} {}; transparent huge pages: {}, defragmentation: {}.",
            first_line("/proc/sys/kernel/ostype"),
            first_line("/proc/sys/kernel/osrelease"),
            chosen(&first_line("/sys/kernel/mm/transparent_hugepage/enabled")),
            chosen(&first_line("/sys/kernel/mm/transparent_hugepage/defrag")),
        ),
    ]
}

/// How many others want to run, as the kernel's averages over 1, 5 and 15 minutes say.
pub fn load() -> String {
    first_line("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(", ")
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

/// The processor's name, family and model, of the text of `/proc/cpuinfo`.
fn processor(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
    };
    match (field("model name"), field("cpu family"), field("model")) {
        (Some(name), Some(family), Some(model)) => format!("{name}, family {family} model {model}"),
        // ARM's kernels have numbers alone.
        _ => match (field("CPU implementer"), field("CPU part")) {
            (Some(implementer), Some(part)) => format!("implementer {implementer} part {part}"),
            _ => "unknown".to_owned(),
        },
    }
}

/// The word in brackets, of the choices that the kernel shows.
fn chosen(choices: &str) -> &str {
    let inside = choices.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or(choices, |(chosen, _)| chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_named_with_family_and_model() {
        let amd = "cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\ncpu family\t: 9\n";
        assert_eq!(processor(amd), "AMD EPYC, family 25 model 17");
        let arm = "CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n";
        assert_eq!(processor(arm), "implementer 0x41 part 0xd0c");
        assert_eq!(processor(""), "unknown");
    }

    #[test]
    fn the_choice_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen("unknown"), "unknown");
    }
}
