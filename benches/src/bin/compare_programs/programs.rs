//! The programs, and what they do.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use slackwater_benches::comparing::contender::Contender;
use slackwater_benches::cores::pin;

use crate::process::{Taken, end, peak_kib, run, start};

/// A program and its load.
pub struct Program {
    /// Its name, on the command line and in the tables.
    pub name: &'static str,
    /// What has to be installed.
    needs: &'static [&'static str],
    /// Runs it once.
    pub run: fn(&Stage, &Contender) -> Result<Taken, String>,
}

pub static PROGRAMS: [Program; 6] = [
    Program { name: "start", needs: &["true", "cat"], run: starts },
    Program {
        name: "python3",
        needs: &["python3"],
        run: |stage, contender| run(python(stage, contender)?.env("PYTHONMALLOC", "pymalloc")),
    },
    Program {
        name: "python3_malloc",
        needs: &["python3"],
        run: |stage, contender| run(python(stage, contender)?.env("PYTHONMALLOC", "malloc")),
    },
    Program { name: "sqlite3", needs: &["sqlite3"], run: sqlite },
    Program { name: "compiler", needs: &["c++"], run: compiler },
    Program { name: "redis", needs: &["redis-server", "redis-benchmark"], run: redis },
];

impl Program {
    /// The first thing it needs that is not installed.
    pub fn missing(&self) -> Option<&'static str> {
        self.needs.iter().copied().find(|need| found(need).is_none())
    }
}

/// The file that a command of this name starts.
fn found(command: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(command)).find(|file| file.is_file())
}

/// Where programs are run.
pub struct Stage {
    built: PathBuf,
    /// Loads.
    workloads: PathBuf,
    /// Empty at first, and ours.
    scratch: PathBuf,
    /// The interpreter itself: what is found first may be a script that looks for it.
    python: PathBuf,
}

impl Stage {
    pub fn set_up(built: &Path) -> Result<Self, String> {
        let scratch = std::env::temp_dir().join(format!("slackwater-bench-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).map_err(|error| format!("{scratch:?}: {error}"))?;
        Ok(Stage {
            built: built.to_owned(),
            workloads: Path::new(env!("CARGO_MANIFEST_DIR")).join("programs"),
            scratch,
            python: interpreter().unwrap_or_else(|| PathBuf::from("python3")),
        })
    }

    /// `program` under a contender, on the first core.
    fn command(&self, contender: &Contender, program: impl AsRef<Path>) -> Result<Command, String> {
        pin(0);
        contender.command(&self.built, program.as_ref())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

fn interpreter() -> Option<PathBuf> {
    let script = "import sys; print(sys.executable)";
    let output = Command::new("python3").args(["-c", script]).output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

/// 300 starts and ends of a process that does nothing. Its peak is that of one that reads its own:
/// what the kernel says at the end counts in the process that forked.
fn starts(stage: &Stage, contender: &Contender) -> Result<Taken, String> {
    let mut command = stage.command(contender, "true")?;
    let mut all = Taken::default();
    for _ in 0..300 {
        all += run(&mut command)?;
    }
    let mut reader = stage.command(contender, "cat")?;
    let output = reader.arg("/proc/self/status").output();
    let output = output.map_err(|error| format!("cat: {error}"))?;
    let status = String::from_utf8_lossy(&output.stdout);
    all.peak_kib = peak_kib(&status).ok_or("cat does not know its peak RSS")?;
    Ok(all)
}

fn python(stage: &Stage, contender: &Contender) -> Result<Command, String> {
    let mut command = stage.command(contender, &stage.python)?;
    command.arg(stage.workloads.join("workload.py"));
    Ok(command)
}

fn sqlite(stage: &Stage, contender: &Contender) -> Result<Taken, String> {
    let script = format!(".read {}", stage.workloads.join("workload.sql").display());
    run(stage.command(contender, "sqlite3")?.args([":memory:", &script]))
}

fn compiler(stage: &Stage, contender: &Contender) -> Result<Taken, String> {
    let source = stage.workloads.join("compiled.cc");
    let object = stage.scratch.join("compiled.o");
    let mut command = stage.command(contender, "c++")?;
    run(command.args(["-std=c++17", "-O1", "-c"]).arg(source).arg("-o").arg(object))
}

/// The server under the contender on one core, and its benchmark, under none, on the next. The wall's
/// time is that of the benchmark, the processors' that of the server.
fn redis(stage: &Stage, contender: &Contender) -> Result<Taken, String> {
    let socket = stage.scratch.join("redis.sock");
    let mut server = stage.command(contender, "redis-server")?;
    server.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(&socket);
    let started = Instant::now();
    let mut server = start(server.current_dir(&stage.scratch))?;
    pin(1);
    let load = reachable(&socket).and_then(|()| {
        let mut load = Command::new("redis-benchmark");
        load.arg("-s").arg(&socket).args(["-q", "-P", "16", "-n", "100000", "-r", "100000"]);
        run(load.args(["-d", "100", "-t", "set,get,lpush,lpop,sadd,hset,zadd"]))
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id()));
    let stopped = Command::new("redis-cli")
        .arg("-s")
        .arg(&socket)
        .args(["shutdown", "nosave"])
        .stdout(Stdio::null())
        .status();
    if load.is_err() || !stopped.is_ok_and(|status| status.success()) {
        let _ = server.kill();
    }
    let served = end(server, started);
    let (load, served) = (load?, served?);
    let peak_kib = peak_kib(&status.unwrap_or_default()).unwrap_or(served.peak_kib);
    Ok(Taken { wall: load.wall, processors: served.processors, peak_kib })
}

/// Waits until a server listens.
fn reachable(socket: &Path) -> Result<(), String> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let since = Instant::now();
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        if since.elapsed() > PATIENCE {
            return Err("nobody listens".to_owned());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_needs_is_looked_for() {
        assert!(found("sh").is_some());
        let program = Program { name: "x", needs: &["sh", "no-such-program"], run: sqlite };
        assert_eq!(program.missing(), Some("no-such-program"));
    }
}
