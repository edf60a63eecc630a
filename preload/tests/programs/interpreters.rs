//! Interpreters: Python and its own tests, Perl, Ruby, the shell.

use std::env;
use std::path::PathBuf;

use crate::shared::{Scratch, expect_library_in, same_under_library};
use crate::support::{LIMIT, installed, plain, preloaded, run, skipped};

/// A Python that has the parts of its test suite that are run here: distributions ship them apart.
fn python_with_tests(test: &str, suites: &[&str]) -> Option<PathBuf> {
    let find = format!(
        "import sys, importlib.util as u\n\
         sys.exit(not all(u.find_spec('test.' + n) for n in {suites:?}))"
    );
    let on_path = env::split_paths(&env::var_os("PATH")?).map(|d| d.join("python3")).collect();
    let everywhere: [Vec<PathBuf>; 2] = [on_path, vec!["/usr/bin/python3".into()]];
    let found = everywhere
        .concat()
        .into_iter()
        .filter(|python| python.is_file())
        .find(|python| run(plain(python).args(["-c", &find]), "", LIMIT).status.success());
    if found.is_none() {
        skipped(test, "python3 with its own test suite (libpython3-testsuite) is not installed");
    }
    found
}

#[test]
fn python_passes_its_own_tests() {
    let suites = [
        "test_json",
        "test_dict",
        "test_list",
        "test_bytes",
        "test_re",
        "test_gc",
        "test_thread",
        "test_threading",
        "test_subprocess",
        "test_multiprocessing_fork",
    ];
    let Some(python) = python_with_tests("python_passes_its_own_tests", &suites) else { return };
    let directory = Scratch::new("python");
    let mut command = preloaded(python);
    // Python would serve its objects from pools of its own; so they come from malloc one by one.
    command.env("PYTHONMALLOC", "malloc").current_dir(&directory.0);
    // Tests that wait for a busy machine may fail once; they are run again, and must pass then.
    command.args(["-m", "test", "-j2", "-w"]).args(suites);
    let outcome = run(&mut command, "", LIMIT * 3).expect_success();
    for bad in ["slackwater:", "Segmentation fault", "Aborted", "crashed"] {
        assert!(!outcome.stdout.contains(bad), "{bad}: {}", outcome.said());
    }
}

#[test]
fn python_with_its_own_pools_computes_the_same() {
    const SCRIPT: &str = r"
import collections, hashlib, json, random, re, zlib
random.seed(7)
words = [''.join(random.choices('abcdefghij', k=random.randint(1, 40))) for _ in range(100000)]
table = collections.defaultdict(list)
for i, word in enumerate(words):
    table[word[:3]].append((i, word))
text = json.dumps(table, sort_keys=True)
again = json.loads(text)
assert json.dumps(again, sort_keys=True) == text
packed = zlib.compress(text.encode(), 6)
assert zlib.decompress(packed).decode() == text
big = 3 ** 40000
print(hashlib.sha256(text.encode()).hexdigest(), len(packed), str(big % 10**50))
print(sum(len(m) for m in re.findall(r'(?:ab|cd)+[e-h]*', text)))
grown = bytearray()
for i in range(3000):
    grown += bytes([i % 256]) * (i * 3)
print(len(grown), zlib.crc32(grown))
";
    const TEST: &str = "python_with_its_own_pools_computes_the_same";
    let Some(python) = installed(TEST, "python3") else { return };
    // Big numbers are printed only by leave of newer versions; these are cut short above.
    same_under_library("python", &python, SCRIPT, |command, _| {
        command.arg("-");
    });
}

#[test]
fn perl_computes_the_same() {
    const SCRIPT: &str = r#"
use strict; use warnings;
my ($state, %count, %lists) = (42);
sub draw { $state = ($state * 1103515245 + 12345) % 2147483648; return $state % shift; }
for my $i (1 .. 200000) {
    my $word = join '', map { chr(97 + draw(26)) } 1 .. 1 + draw(8);
    $count{$word}++;
    push @{ $lists{ substr $word, 0, 2 } }, $word if $i % 3 == 0;
}
my @sorted = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
printf "%d words, first %s\n", scalar @sorted, join ',', @sorted[0 .. 20];
my $text = join ' ', @sorted;
my $vowels = () = $text =~ /[aeiou]{2,}/g;
(my $changed = $text) =~ s/(\w+?)([aeiou])(\w*)/$3$2$1/g;
printf "%d %d %u %u\n", length $text, $vowels, unpack('%32C*', $text), unpack('%32C*', $changed);
delete $lists{$_} for grep { $_ lt 'm' } keys %lists;
printf "%s\n", join ' ', map { "$_=" . scalar @{ $lists{$_} } } (sort keys %lists)[0 .. 50];
my $grown = '';
$grown .= 'x' x ($_ % 1000) for 1 .. 20000;
print length $grown, "\n";
for my $child (1 .. 4) {
    my $pid = open(my $pipe, '-|') // die;
    if (!$pid) { my @list = map { $_ * $child } 1 .. 50000; print scalar(@list), " $list[-1]\n"; exit 0; }
    print while <$pipe>;
    close $pipe or die "child: $?";
}
"#;
    let Some(perl) = installed("perl_computes_the_same", "perl") else { return };
    same_under_library("perl", &perl, SCRIPT, |command, _| {
        // The same order of hashes in every run.
        command.env("PERL_HASH_SEED", "0").arg("-");
    });
}

#[test]
fn shell_pipelines_compute_the_same() {
    const SCRIPT: &str = r#"
set -euo pipefail
seq 1 200000 | awk '{ print ($1 * 7919) % 10007, $1 % 13 }' > numbers
sort -S 40M --parallel=2 -k1,1n -k2,2n numbers | uniq -c | sort -k1,1nr -k2,2n | head -n 20 || true
sort numbers | uniq | wc -l
awk '{ sum[$2] += $1; text[$1 % 500] = text[$1 % 500] $2 }
     END { for (k in sum) print k, sum[k]; for (k in text) print k, length(text[k]) }' numbers | sort | cksum
cut -d' ' -f1 numbers | tr 0-9 a-j | grep -E '^(ab|cd)' | sed 's/a\(.*\)/\1a/' | sort -u | cksum
tac numbers | split -l 20000 - part-
sort -m <(sort numbers) <(cat part-* | sort) | wc -lc
tar czf all.tar.gz part-*
tar xzOf all.tar.gz | cksum
gzip -9 < numbers | gunzip | cmp - numbers
find . -name 'part-*' | xargs -n 3 wc -l | tail -n 1 | awk '{ print $1 }'
declare -A seen=()
for word in $(seq 1 3000); do seen[$((word * 31 % 501))]+="$word "; done
for key in "${!seen[@]}"; do echo "$key ${#seen[$key]}"; done | sort -n | cksum
text=$(cat numbers); echo ${#text}
for i in $(seq 1 50); do echo "$i" | (read -r n; echo $((n * n))) & done | sort -n | tail -n 3
wait
"#;
    let Some(bash) = installed("shell_pipelines_compute_the_same", "bash") else { return };
    same_under_library("bash", &bash, SCRIPT, |command, _| {
        command.arg("-s");
    });
}

#[test]
fn shell_and_its_children_have_the_library() {
    let Some(bash) = installed("shell_and_its_children_have_the_library", "bash") else { return };
    for whose in ["$$", "self"] {
        let mut command = preloaded(&bash);
        command.args(["-c", &format!("cat /proc/{whose}/maps; true")]);
        expect_library_in(&run(&mut command, "", LIMIT).expect_success().stdout);
    }
}

#[test]
fn ruby_computes_the_same() {
    let Some(ruby) = installed("ruby_computes_the_same", "ruby") else { return };
    same_under_library("ruby", &ruby, include_str!("sources/churn.rb"), |command, _| {
        command.env_remove("RUBYOPT").arg("-");
    });
}
