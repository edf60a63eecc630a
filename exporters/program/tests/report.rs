//! `slackwater report`: what it says of processes whose state is known.

mod common;

use common::{Demo, Shell};

fn report(process: u32, arguments: &[&str]) -> String {
    let mut command = common::slackwater();
    let output = command.arg("report").arg(process.to_string()).args(arguments).output();
    let output = output.expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    String::from_utf8(output.stdout).expect("text")
}

/// The percentages of the parts of RSS.
fn percentages(text: &str) -> Vec<f64> {
    let section = text.split("\n\n").nth(1).expect("three sections after the verdict");
    let lines = section.lines().skip(1).take_while(|line| !line.starts_with("  RSS "));
    lines
        .map(|line| {
            let percent = line.split_whitespace().find_map(|word| word.strip_suffix('%'));
            percent.expect("a share of RSS").parse().expect("a number")
        })
        .collect()
}

#[test]
fn a_program_under_the_preload_library_is_explained() {
    let shell = Shell::start();
    let text = report(shell.id(), &[]);
    let verdict = text.lines().next().expect("a verdict");
    assert!(verdict.starts_with(&format!("sh ({}): RSS ", shell.id())), "{verdict}");
    assert!(verdict.contains("nothing much is due to be given back"), "{verdict}");
    for section in ["Why RSS is what it is", "What would be released", "Suspects"] {
        assert!(text.contains(&format!("\n\n{section}\n  ")), "{text}");
    }
    let percentages = percentages(&text);
    assert_eq!(percentages.len(), 11, "{text}");
    // Eleven shares, each rounded by at most a twentieth.
    assert!((percentages.iter().sum::<f64>() - 100.0).abs() <= 0.55, "{text}");
}

#[test]
fn memory_that_is_held_back_is_named_with_the_reason() {
    let environment = [("SLACKWATER_RELEASE", "off"), ("SLACKWATER_COVERAGE", "small")];
    let mut program = common::slackwater();
    program.envs(environment);
    let mut demo = Demo::start_by(program, "127.0.0.1:0", &[]);
    demo.read_until("idle");
    let text = report(demo.id(), &[]);
    let verdict = text.lines().next().expect("a verdict");
    assert!(verdict.contains("MiB is due to be given back (release off, coverage"), "{text}");
    assert!(text.contains("\n  - release off: "), "{text}");
    assert!(text.contains("kind sub4k, medium, large stay"), "{text}");
}

#[test]
fn growth_is_seen_between_two_looks() {
    // Every second another 16 MiB, written to, and none given back.
    let script = "i=0; v=; echo ready; while :; do v=$v$(head -c 16777216 /dev/zero | tr '\\0' x); \
         sleep 1; done";
    let shell = Shell::run(script);
    let text = report(shell.id(), &["--seconds", "4"]);
    let verdict = text.lines().next().expect("a verdict");
    assert!(verdict.contains("suspects: growth"), "{text}");
    assert!(text.contains("what grew while it was watched: live by "), "{text}");
    assert!(text.contains("(watched for 4."), "{text}");
}

#[test]
fn a_process_that_ends_meanwhile_is_said_to_have_ended() {
    let mut shell = Shell::run("echo ready; sleep 1");
    let output = common::slackwater()
        .args(["report", &shell.id().to_string(), "--seconds", "2"])
        .spawn()
        .and_then(|report| {
            shell.finish();
            report.wait_with_output()
        })
        .expect("it starts");
    assert_eq!(output.status.code(), Some(1));
}
