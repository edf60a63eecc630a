//! PostgreSQL: its server with many sessions, its background and parallel workers, its compiler of queries, its
//! clients and tools, all of them an ordinary user's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::shared::{Nobody, Server, expect_same, installed_in};
use crate::support::{LIMIT, run};

/// The server forks a process for each session, and parallel workers for a scan of whatever size.
const SETTINGS: [&str; 11] = [
    "listen_addresses=",
    "fsync=off",
    "max_connections=60",
    "parallel_setup_cost=0",
    "parallel_tuple_cost=0",
    "min_parallel_table_scan_size=0",
    "max_parallel_workers_per_gather=2",
    "work_mem=1MB",
    "synchronize_seqscans=off",
    "autovacuum_naptime=1s",
    "log_min_messages=warning",
];

/// A cluster of the test's own, without the library or under it.
struct Postgres {
    server: Server,
    programs: PathBuf,
    user: Nobody,
    is_under: bool,
}

impl Postgres {
    fn start(programs: &Path, is_under: bool) -> Self {
        let user = Nobody::new("postgres");
        let command = |name: &str| command(&user, programs, is_under, name);
        let mut create = command("initdb");
        create.args(["-D", "data", "-U", "tide", "-A", "trust", "-E", "UTF8", "--locale=C"]);
        run(create.args(["--no-sync", "--no-instructions"]), "", LIMIT).expect_success();
        let mut start = command("postgres");
        start.args(["-D", "data", "-k"]).arg(&user.home.0);
        for setting in SETTINGS {
            start.args(["-c", setting]);
        }
        let server = Server::start(start, &user.home);
        server.wait_until("it takes connections", || {
            run(&mut command("pg_isready"), "", LIMIT).status.success()
        });
        Self { server, programs: programs.to_owned(), user, is_under }
    }

    /// What a client prints, as the test's user.
    fn client(&self, name: &str, arguments: &[&str], input: &str) -> String {
        let mut command = command(&self.user, &self.programs, self.is_under, name);
        run(command.args(arguments), input, LIMIT).expect_success().stdout
    }

    fn ask(&self, query: &str) -> String {
        self.client("psql", &["-XAtq", "-v", "ON_ERROR_STOP=1"], query)
    }

    /// The same statements in several sessions at once, each in a schema of its own, beside many short transactions.
    fn under_load(&self) -> String {
        const SESSIONS: [&str; 2] = ["flood", "ebb"];
        self.client("pgbench", &["-i", "-q", "-s", "1"], "");
        let printed = thread::scope(|scope| {
            let short = scope.spawn(|| {
                self.client("pgbench", &["-n", "-c", "20", "-j", "2", "-t", "100"], "");
                // A session for each transaction.
                self.client("pgbench", &["-n", "-C", "-S", "-c", "5", "-t", "30"], "");
            });
            let sessions = SESSIONS.map(|schema| {
                scope.spawn(move || {
                    let head = format!("CREATE SCHEMA {schema}; SET search_path = {schema};\n");
                    self.ask(&[&head, include_str!("sources/regress.sql")].concat())
                })
            });
            let printed = sessions.map(|session| session.join().expect("a session ends"));
            short.join().expect("the short transactions end");
            printed
        });
        assert_eq!(printed[0], printed[1], "sessions print the same");
        let [first, _] = printed;
        first
    }

    /// That no transaction was lost, and what is stored at the end.
    fn content(&self) -> String {
        const COUNTED: &str = "SELECT count(*) FROM pgbench_history;
            SELECT sum(delta) = (SELECT sum(abalance) FROM pgbench_accounts)
              AND sum(delta) = (SELECT sum(tbalance) FROM pgbench_tellers)
              AND sum(delta) = (SELECT sum(bbalance) FROM pgbench_branches) FROM pgbench_history;";
        let counted = self.ask(COUNTED);
        assert_eq!(counted, "2000\nt\n");
        self.client("pg_amcheck", &["--install-missing", "--heapallindexed"], "");
        let stored = self.client("pg_dump", &["-n", "flood"], "");
        // Newer versions put a random word around it.
        let is_word = |line: &&str| line.contains("restrict ");
        stored.split('\n').filter(|line| !is_word(line)).collect::<Vec<_>>().join("\n")
    }

    fn stop(self) {
        let Self { server, user, .. } = self;
        server.signal(libc::SIGINT);
        let log = user.home.join("log");
        server.expect_end();
        let said = fs::read_to_string(log).expect("the server has a log");
        for bad in ["was terminated by signal", "PANIC", "slackwater:"] {
            assert!(!said.contains(bad), "{bad}: {said}");
        }
    }
}

/// A program of PostgreSQL's, told where the server is and who asks.
fn command(user: &Nobody, programs: &Path, is_under: bool, name: &str) -> Command {
    let program = programs.join(name);
    let mut command = if is_under { user.preloaded(program) } else { user.plain(program) };
    for variable in ["PGPORT", "PGSERVICE", "PGOPTIONS", "PGDATA", "PGPASSFILE"] {
        command.env_remove(variable);
    }
    command.env("PGHOST", &user.home.0).env("PGUSER", "tide").env("PGDATABASE", "postgres");
    command
}

#[test]
fn postgres_answers_and_stores_the_same_under_load() {
    const TEST: &str = "postgres_answers_and_stores_the_same_under_load";
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    let Some(server) = installed_in(TEST, &folders, "postgres") else { return };
    // The first of a name may be a link to where the others stand as well.
    let server = fs::canonicalize(server).expect("it is there");
    let programs = server.parent().expect("a file stands in a folder");
    let [without, under] = [false, true].map(|is_under| {
        let postgres = Postgres::start(programs, is_under);
        if is_under {
            postgres.server.expect_library();
        }
        let printed = postgres.under_load();
        let content = postgres.content();
        postgres.stop();
        (printed, content)
    });
    expect_same("what sessions print", &without.0, &under.0);
    expect_same("what is stored", &without.1, &under.1);
}
