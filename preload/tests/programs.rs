//! Real programs under the library do their work right: the same answers as without it, and nothing
//! lost on the way. Their children run under it too.

mod support;

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use support::{LIMIT, installed, library, plain, preloaded, run, skipped, unique_path};

/// A directory that is gone when the test is over.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = unique_path(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: a test that failed has more to say than this.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs what `prepare` makes of a fresh directory without the library and under it; both must
/// succeed and print the same, which is returned.
fn same_under_library(
    name: &str,
    program: &Path,
    input: &str,
    prepare: impl Fn(&mut Command, &Scratch),
) -> String {
    let [without, under] = [plain(program), preloaded(program)].map(|mut command| {
        let scratch = Scratch::new(name);
        prepare(command.current_dir(&scratch.0), &scratch);
        run(&mut command, input, LIMIT).expect_success().stdout
    });
    assert!(!without.is_empty(), "{name} prints something to compare");
    assert!(without == under, "{name}, without the library:\n{without}\nunder it:\n{under}");
    under
}

/// Whether the process has the library mapped: `LD_PRELOAD` alone proves nothing.
fn expect_library_in(maps: &str) {
    if let Some(library) = library() {
        let library = fs::canonicalize(library).expect("the library exists");
        let name = library.to_str().expect("a path in UTF-8");
        assert!(maps.contains(name), "{name} is not mapped:\n{maps}");
    }
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

/// A server of the test's own, on a Unix socket in a directory of its own.
struct Redis {
    server: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Redis {
    fn start(mut command: Command, directory: &Scratch) -> Self {
        let socket = directory.join("socket");
        let log = directory.join("log");
        let output = File::options().create(true).append(true).open(&log).expect("open the log");
        command.args(["--port", "0", "--save", "", "--daemonize", "no", "--appendonly", "no"]);
        command.args(["--enable-debug-command", "yes", "--dir"]).arg(&directory.0);
        command.arg("--unixsocket").arg(&socket);
        let server = command
            .stdout(output.try_clone().expect("duplicate a descriptor"))
            .stderr(output)
            .spawn()
            .expect("start redis-server");
        let redis = Self { server, socket, log };
        let deadline = Instant::now() + LIMIT;
        // It answers LOADING while it reads its dump.
        while redis.client("redis-cli", &["ping"]).trim() != "PONG" {
            assert!(Instant::now() < deadline, "no answer: {}", redis.said());
            thread::sleep(Duration::from_millis(20));
        }
        redis
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What a client program prints; itself under the library.
    fn client(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = preloaded(program);
        command.arg("-s").arg(&self.socket).args(arguments);
        run(&mut command, "", LIMIT).stdout
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let answer = self.client("redis-cli", arguments).trim().to_owned();
        assert!(!answer.is_empty(), "{arguments:?}: no answer: {}", self.said());
        answer
    }

    fn benchmark(&self, arguments: &[&str]) {
        let mut command = preloaded("redis-benchmark");
        command.arg("-s").arg(&self.socket).arg("-q").args(arguments);
        let outcome = run(&mut command, "", LIMIT).expect_success();
        let said = outcome.said();
        assert!(said.contains("requests per second"), "{arguments:?}: {said}");
        assert!(!said.contains("rror"), "{arguments:?}: {said}");
    }

    /// Forks a child that writes the dump, and waits until that is done.
    fn save_in_background(&self) {
        let deadline = Instant::now() + LIMIT;
        self.ask(&["bgsave"]);
        let persistence = loop {
            let persistence = self.ask(&["info", "persistence"]);
            if persistence.contains("rdb_bgsave_in_progress:0") {
                break persistence;
            }
            assert!(Instant::now() < deadline, "{persistence}");
            thread::sleep(Duration::from_millis(20));
        };
        assert!(persistence.contains("rdb_last_bgsave_status:ok"), "{}", self.said());
    }

    /// What the database holds: its size and a digest of every key and value.
    fn content(&self) -> (String, String) {
        (self.ask(&["dbsize"]), self.ask(&["debug", "digest"]))
    }

    fn expect_library(&self) {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.server.id()));
        expect_library_in(&maps.expect("the server runs"));
    }

    fn stop(mut self, how: &str) {
        self.client("redis-cli", &["shutdown", how]);
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.server.try_wait().expect("wait for redis-server") {
                break status;
            }
            assert!(Instant::now() < deadline, "does not stop: {}", self.said());
            thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success(), "{status}: {}", self.said());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // After stop() there is nothing to kill, and neither call minds.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn redis_serves_saves_and_restores() {
    const TEST: &str = "redis_serves_saves_and_restores";
    let tools = ["redis-server", "redis-benchmark", "redis-cli", "redis-check-rdb"];
    let [Some(server), Some(_), Some(_), Some(check)] = tools.map(|tool| installed(TEST, tool))
    else {
        return;
    };
    let directory = Scratch::new("redis");
    let dump = directory.join("dump.rdb");
    let redis = Redis::start(preloaded(&server), &directory);
    redis.expect_library();

    let commands = "set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,mset";
    let mut saves = 0;
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let shape = ["-c", "50", "-P", "16", "-n", "100000", "-r", "20000", "-t", commands];
            redis.benchmark(&shape);
            let large = ["-c", "10", "-P", "4", "-n", "10000", "-r", "2000", "-d", "10240"];
            redis.benchmark(&[&large[..], &["-t", "set,get,lpush,rpop,hset"]].concat());
            redis.benchmark(&["-c", "20", "-n", "20000", "-r", "5000", "-d", "700", "-t", "set"]);
        });
        // The server forks again and again while it is busiest.
        while !load.is_finished() {
            redis.save_in_background();
            saves += 1;
            let checked = run(preloaded(&check).arg(&dump), "", LIMIT).expect_success();
            assert!(checked.stdout.contains("RDB looks OK"), "{}", checked.said());
        }
    });
    assert!(saves > 0);
    // Much freed and much overwritten, on top of what the load left.
    redis.ask(&["debug", "populate", "50000", "filler", "300"]);
    redis.ask(&["eval", "for i=1,20000 do redis.call('del','filler:'..i) end return 1", "0"]);
    redis.save_in_background();
    let content = redis.content();
    assert!(content.0.parse::<u64>().is_ok_and(|keys| keys > 30_000), "{content:?}");
    redis.stop("nosave");

    let again = Redis::start(preloaded(&server), &directory);
    assert_eq!(again.content(), content, "from its own dump");
    again.stop("save");
    let without = Redis::start(plain(&server), &directory);
    assert_eq!(without.content(), content, "from the dump, without the library");
    without.stop("nosave");
}

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

/// A Python that counts the process's threads after a fork: 3.12 or later.
fn python_that_counts_threads(test: &str) -> Option<PathBuf> {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let versions = fs::read_dir(home.join(".pyenv/versions")).into_iter().flatten().flatten();
    let own = versions.map(|version| version.path().join("bin/python3"));
    let path = env::var_os("PATH")?;
    let on_path = env::split_paths(&path).map(|d| d.join("python3")).chain(own);
    let ask = "import sys; sys.exit(sys.version_info < (3, 12))";
    let found = on_path
        .filter(|python| python.is_file())
        .find(|python| run(plain(python).args(["-c", ask]), "", LIMIT).status.success());
    if found.is_none() {
        skipped(test, "python3 of version 3.12 or later is not installed");
    }
    found
}

#[test]
fn python_sees_one_thread_when_it_forks() {
    const SCRIPT: &str = r"
import os, warnings
rows = [{'id': i, 'name': str(i) * 3} for i in range(60000)]
warnings.simplefilter('error')
for turn in range(20):
    junk = [bytes(2000) for _ in range(8000)]
    del junk[::2]
    child = os.fork()
    if child == 0:
        junk = [bytes(2000) for _ in range(8000)]
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    del junk
print('no warning')
";
    let name = "python_sees_one_thread_when_it_forks";
    let Some(python) = python_that_counts_threads(name) else { return };
    same_under_library(name, &python, "", |command, _| {
        command.args(["-c", SCRIPT]);
    });
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
fn sqlite_computes_the_same() {
    const SCRIPT: &str = r"
PRAGMA journal_mode = WAL;
PRAGMA cache_size = -60000;
PRAGMA threads = 2;
CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, city TEXT, note BLOB);
CREATE TABLE sale (id INTEGER PRIMARY KEY, customer INTEGER, amount REAL, day TEXT, comment TEXT);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
  INSERT INTO customer SELECT i, printf('customer %d', i * 7919 % 20011),
    printf('city %d', i * 31 % 97), zeroblob(i * 13 % 3000) FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)
  INSERT INTO sale SELECT i, 1 + i * 7907 % 20000, i * 37 % 10007 / 7.0,
    date('2020-01-01', printf('+%d days', i % 1500)),
    substr('the quick brown fox jumps over the lazy dog', 1 + i % 20, i % 24) FROM n;
COMMIT;
CREATE INDEX sale_customer ON sale (customer, day);
CREATE INDEX sale_comment ON sale (comment);
CREATE INDEX customer_name ON customer (name COLLATE NOCASE);
ANALYZE;
SELECT city, count(*), printf('%.3f', sum(amount)), max(comment) FROM sale
  JOIN customer ON customer.id = sale.customer GROUP BY city ORDER BY city;
SELECT c.name, s.day, printf('%.4f', s.amount), rank() OVER (PARTITION BY c.city ORDER BY s.id)
  FROM sale s JOIN customer c ON c.id = s.customer WHERE s.id % 211 = 0 ORDER BY s.id;
UPDATE sale SET comment = comment || ' ' || upper(comment) WHERE id % 3 = 0;
DELETE FROM sale WHERE id % 5 = 0;
SELECT count(*), sum(length(comment)), count(DISTINCT comment) FROM sale;
SELECT length(group_concat(name, ';')), sum(length(note)), sum(length(hex(note))) FROM customer;
SELECT sum(length(json_object('id', id, 'day', day, 'comment', comment))) FROM sale;
VACUUM;
PRAGMA integrity_check;
SELECT count(*), printf('%.3f', total(amount)), min(comment), max(comment) FROM sale;
";
    let Some(sqlite) = installed("sqlite_computes_the_same", "sqlite3") else { return };
    let printed = same_under_library("sqlite", &sqlite, SCRIPT, |command, scratch| {
        command.args(["-batch", "-bail"]).arg(scratch.join("database"));
    });
    assert!(printed.lines().any(|line| line == "ok"), "integrity_check: {printed}");
    let in_memory = same_under_library("sqlite", &sqlite, SCRIPT, |command, _| {
        command.args(["-batch", "-bail", ":memory:"]);
    });
    // All but the journal mode, which is the first line.
    let answers = |printed: &str| printed.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(answers(&printed), answers(&in_memory));
}

/// Runs git in a directory under the library, as nobody in particular and with no one's settings.
fn git(program: &Path, settings: &Path, directory: &Path, arguments: &[&OsStr]) -> String {
    let mut command = preloaded(program);
    command.current_dir(directory).env("GIT_CONFIG_GLOBAL", settings);
    command.env("GIT_CONFIG_NOSYSTEM", "1").args(arguments);
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(variable);
    }
    run(&mut command, "", LIMIT).expect_success().stdout
}

#[test]
fn git_clones_packs_and_checks_this_repository() {
    const TEST: &str = "git_clones_packs_and_checks_this_repository";
    const SETTINGS: &str = "[safe]\n\tdirectory = *\n\
        [user]\n\tname = Tide\n\temail = tide@example.invalid\n[gc]\n\tauto = 0\n";
    let Some(program) = installed(TEST, "git") else { return };
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace above");
    if !here.join(".git").exists() {
        return skipped(TEST, "this is not a checkout by git");
    }
    let directory = Scratch::new("git");
    let settings = directory.write("settings", SETTINGS);
    let git = |directory: &Path, arguments: &[&str]| {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        git(&program, &settings, directory, &arguments)
    };
    let objects = |directory: &Path| {
        let listed = git(directory, &["rev-list", "--objects", "HEAD"]);
        let mut objects: Vec<String> = listed.lines().map(str::to_owned).collect();
        objects.sort();
        objects
    };
    let source = here.to_str().expect("a path in UTF-8");
    git(&directory.0, &["clone", "--quiet", "--no-local", source, "clone"]);
    let clone = directory.join("clone");
    assert_eq!(objects(&clone), objects(here));

    // A history of its own on top, so that there is something to pack.
    for commit in 0..20 {
        for file in 0..60 {
            let mut text = String::new();
            for line in 0..200 {
                let number = (line * 7 + file * 31 + line / (commit + 1)) % 997;
                writeln!(text, "{file} {line} {number}").expect("a String takes it");
            }
            fs::write(clone.join(format!("file-{file}")), text).expect("write into the clone");
        }
        git(&clone, &["add", "--all"]);
        git(&clone, &["commit", "--quiet", "--message", &format!("tide {commit}")]);
    }
    let before = objects(&clone);
    git(&clone, &["-c", "pack.threads=4", "gc", "--quiet", "--aggressive", "--prune=now"]);
    git(&clone, &["fsck", "--full", "--strict", "--no-dangling"]);
    assert_eq!(objects(&clone), before);
    assert_eq!(git(&clone, &["status", "--porcelain"]), "");
    assert!(git(&clone, &["log", "--patch", "--stat"]).len() > 100_000);
    git(&clone, &["grep", "-c", "99[0-9]$"]);
    git(&clone, &["blame", "file-7"]);
    git(&directory.0, &["clone", "--quiet", "--bare", "clone", "bare"]);
    assert_eq!(objects(&directory.join("bare")), before);
}

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

#[test]
fn compiler_makes_the_same_program() {
    let Some(compiler) = installed("compiler_makes_the_same_program", "g++") else { return };
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
