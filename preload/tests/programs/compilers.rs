//! Compilers, and a program of many threads that one of them makes.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::shared::{Scratch, same_under_library};
use crate::support::{LIMIT, installed, plain, preloaded, run};

/// C++ that makes the compiler work: many instantiations of the large templates.
fn heavy_source() -> String {
    let mut source = String::from(
        "#include <algorithm>\n#include <iostream>\n#include <map>\n#include <memory>\n\
         #include <regex>\n#include <set>\n#include <string>\n#include <tuple>\n\
         #include <unordered_map>\n#include <variant>\n#include <vector>\n\
         template <int N> struct Tag { int value = N; bool operator<(const Tag &o) const\n\
         { return value < o.value; } };\n\
         template <int N> long weave() {\n\
         std::map<std::string, std::vector<std::tuple<Tag<N>, long, std::string>>> table;\n\
         for (int i = 0; i < 300; i++) table[std::to_string(i * N % 41)].emplace_back(\n\
         Tag<N>{i}, i * N, std::string(i % 60, 'a' + N % 26));\n\
         std::set<std::variant<int, std::string, Tag<N>>> seen; long sum = 0;\n\
         for (auto &[key, list] : table) { std::sort(list.begin(), list.end(),\n\
         [](const auto &l, const auto &r) { return std::get<1>(l) > std::get<1>(r); });\n\
         for (auto &[tag, number, text] : list) { sum += number + text.size();\n\
         if (number % 2) seen.insert(int(number)); else seen.insert(text); } }\n\
         auto shared = std::make_shared<std::unordered_map<long, std::unique_ptr<Tag<N>>>>();\n\
         for (int i = 0; i < 100; i++) (*shared)[i] = std::make_unique<Tag<N>>();\n\
         std::regex word(\"([a-z]+)-\" + std::to_string(N)); std::smatch found;\n\
         std::string subject = \"weave-\" + std::to_string(N);\n\
         if (std::regex_match(subject, found, word)) sum += found.size();\n\
         return sum + seen.size() + shared->size(); }\n\
         int main() { long total = 0;\n",
    );
    for number in 1..=8 {
        writeln!(source, "total += weave<{number}>();").expect("a String takes it");
    }
    source.push_str("std::cout << total << std::endl; }\n");
    source
}

/// The compiler's output is the same, and so is what the program that is made of it prints.
fn makes_the_same_program(test: &str, compiler: &str) {
    let Some(compiler) = installed(test, compiler) else { return };
    let directory = Scratch::new("compiler");
    let source = directory.write("heavy.cpp", &heavy_source());
    let assemble = |mut command: Command, name: &str| {
        let output = directory.join(name);
        command.args(["-std=c++17", "-O2", "-S", "-o"]).arg(&output).arg(&source);
        run(&mut command, "", LIMIT * 2).expect_success();
        output
    };
    let without = assemble(plain(&compiler), "without.s");
    let under = assemble(preloaded(&compiler), "under.s");
    let read = |path: &Path| fs::read(path).expect("the compiler's output");
    assert!(read(&without) == read(&under), "the compiler's output differs");
    // The assembler and the linker too.
    let program = directory.join("heavy");
    run(preloaded(&compiler).arg("-o").arg(&program).arg(&under), "", LIMIT).expect_success();
    same_under_library("heavy", &program, "", |_, _| {});
}

#[test]
fn gcc_makes_the_same_program() {
    makes_the_same_program("gcc_makes_the_same_program", "g++");
}

#[test]
fn clang_makes_the_same_program() {
    makes_the_same_program("clang_makes_the_same_program", "clang++");
}

#[test]
fn rust_program_of_many_threads_computes_the_same() {
    const TEST: &str = "rust_program_of_many_threads_computes_the_same";
    let Some(rustc) = installed(TEST, "rustc") else { return };
    let directory = Scratch::new("rust");
    let program = directory.join("threads");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rust/threads.rs");
    // The compiler is a large program of many threads itself.
    let mut compile = preloaded(rustc);
    compile.args(["--edition", "2024", "-O", source, "-o"]).arg(&program);
    run(&mut compile, "", LIMIT * 2).expect_success();
    for _ in 0..3 {
        same_under_library("threads", &program, "", |_, _| {});
    }
}
