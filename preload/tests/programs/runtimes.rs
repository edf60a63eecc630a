//! Runtimes that have a heap of their own and take what is beside it from malloc: node, a Java virtual machine,
//! Go with C.

use crate::shared::{Scratch, expect_same, same_under_library, without_and_under};
use crate::support::{LIMIT, installed, preloaded, run};

#[test]
fn node_and_its_workers_compute_the_same() {
    let Some(node) = installed("node_and_its_workers_compute_the_same", "node") else { return };
    same_under_library("node", &node, "", |command, scratch| {
        command.env_remove("NODE_OPTIONS");
        command.arg(scratch.write("churn.js", include_str!("sources/churn.js")));
    });
}

#[test]
fn java_collects_and_computes_the_same() {
    const TEST: &str = "java_collects_and_computes_the_same";
    let [Some(javac), Some(java)] = ["javac", "java"].map(|tool| installed(TEST, tool)) else {
        return;
    };
    let directory = Scratch::new("java");
    let source = directory.write("Churn.java", include_str!("sources/Churn.java"));
    let mut compile = preloaded(javac);
    compile.env_remove("JAVA_TOOL_OPTIONS").arg("-d").arg(&directory.0).arg(source);
    run(&mut compile, "", LIMIT).expect_success();
    for collector in ["Serial", "G1", "Z"] {
        let name = format!("java with {collector}");
        let outcomes = without_and_under("java", &java, "", |command, _| {
            command.env_remove("JAVA_TOOL_OPTIONS").env_remove("_JAVA_OPTIONS");
            command.args(["-Xcheck:jni", "-Xmx160m", &format!("-XX:+Use{collector}GC"), "-cp"]);
            command.arg(&directory.0).arg("Churn");
        });
        let [without, under] = outcomes.each_ref();
        expect_same(&name, &without.stdout, &under.stdout);
        assert_eq!(without.stderr, under.stderr, "{name}: what it warns of");
    }
}

#[test]
fn go_with_c_computes_the_same() {
    const TEST: &str = "go_with_c_computes_the_same";
    let [Some(go), Some(_)] = ["go", "gcc"].map(|tool| installed(TEST, tool)) else { return };
    let directory = Scratch::new("go");
    let source = directory.write("churn.go", include_str!("sources/churn.go"));
    let program = directory.join("churn");
    let mut build = preloaded(go);
    build.current_dir(&directory.0).env("GOCACHE", directory.join("cache"));
    build.env("GOPATH", directory.join("path")).env("GO111MODULE", "off");
    build
        .env("CGO_ENABLED", "1")
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "")
        .env("GOENV", "off");
    run(build.arg("build").arg("-o").arg(&program).arg(source), "", LIMIT * 2).expect_success();
    for threads in ["1", "8"] {
        same_under_library("churn", &program, "", |command, _| {
            command.env("GOMAXPROCS", threads).env("GOGC", "20");
        });
    }
}
