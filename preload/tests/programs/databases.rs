//! Redis under load, and SQLite.

use std::path::PathBuf;
use std::process::Command;
use std::thread;

use crate::shared::{Scratch, Server, same_under_library};
use crate::support::{LIMIT, installed, plain, preloaded, run};

/// A redis on a Unix socket in a directory of its own.
struct Redis {
    server: Server,
    socket: PathBuf,
}

impl Redis {
    fn start(mut command: Command, directory: &Scratch) -> Self {
        let socket = directory.join("socket");
        command.args(["--port", "0", "--save", "", "--daemonize", "no", "--appendonly", "no"]);
        command.args(["--enable-debug-command", "yes", "--dir"]).arg(&directory.0);
        command.arg("--unixsocket").arg(&socket);
        let redis = Self { server: Server::start(command, directory), socket };
        // It answers LOADING while it reads its dump.
        redis
            .server
            .wait_until("it answers", || redis.client("redis-cli", &["ping"]).trim() == "PONG");
        redis
    }

    /// What a client program prints; itself under the library.
    fn client(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = preloaded(program);
        command.arg("-s").arg(&self.socket).args(arguments);
        run(&mut command, "", LIMIT).stdout
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let answer = self.client("redis-cli", arguments).trim().to_owned();
        assert!(!answer.is_empty(), "{arguments:?}: no answer: {}", self.server.said());
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
        self.ask(&["bgsave"]);
        let persistence = || self.ask(&["info", "persistence"]);
        self.server
            .wait_until("it has saved", || persistence().contains("rdb_bgsave_in_progress:0"));
        assert!(persistence().contains("rdb_last_bgsave_status:ok"), "{}", self.server.said());
    }

    /// What the database holds: its size and a digest of every key and value.
    fn content(&self) -> (String, String) {
        (self.ask(&["dbsize"]), self.ask(&["debug", "digest"]))
    }

    fn stop(self, how: &str) {
        self.client("redis-cli", &["shutdown", how]);
        self.server.expect_end();
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
    redis.server.expect_library();

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
