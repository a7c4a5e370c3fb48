//! Wall time, processor time and peak memory of other programs.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What one run cost.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    pub wall: f64,
    /// User and system seconds, of all processes of the run.
    pub cpu: f64,
    /// Peak resident memory in bytes, of all processes together.
    pub rss: u64,
}

impl Cost {
    pub fn and(self, other: Self) -> Self {
        Self {
            wall: self.wall + other.wall,
            cpu: self.cpu + other.cpu,
            rss: self.rss.max(other.rss),
        }
    }
}

/// Runs a pipeline of programs, the first reading `input`, the last writing `output`.
pub fn pipeline(mut commands: Vec<Command>, input: Option<&Path>, output: Option<&Path>) -> Cost {
    let start = Instant::now();
    let mut children: Vec<Child> = Vec::new();
    let last = commands.len() - 1;
    for (at, command) in commands.iter_mut().enumerate() {
        let stdin = match (children.last_mut(), input) {
            (Some(before), _) => Stdio::from(before.stdout.take().unwrap()),
            (None, Some(path)) => Stdio::from(File::open(path).unwrap()),
            (None, None) => Stdio::null(),
        };
        let stdout = match output {
            _ if at < last => Stdio::piped(),
            Some(path) => Stdio::from(File::create(path).unwrap()),
            None => Stdio::null(),
        };
        children.push(command.stdin(stdin).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap());
    }
    watch(children, start)
}

/// Polls /proc until all have ended: memory is the kernel's own high-water mark, processor time the last seen.
fn watch(mut children: Vec<Child>, start: Instant) -> Cost {
    let mut seen = vec![(0.0, 0); children.len()];
    loop {
        let mut running = false;
        for (child, seen) in children.iter_mut().zip(&mut seen) {
            if let (Some(cpu), Some(rss)) = (cpu_seconds(child.id()), peak_rss(child.id())) {
                *seen = (cpu, rss.max(seen.1));
            }
            match child.try_wait().unwrap() {
                Some(status) if !status.success() => {
                    let mut error = String::new();
                    if let Some(mut stderr) = child.stderr.take() {
                        let _ = std::io::Read::read_to_string(&mut stderr, &mut error);
                    }
                    panic!("{status}: {error}");
                }
                Some(_) => {}
                None => running = true,
            }
        }
        if !running {
            let wall = start.elapsed().as_secs_f64();
            let cpu = seen.iter().map(|(cpu, _)| cpu).sum();
            return Cost { wall, cpu, rss: seen.iter().map(|(_, rss)| rss).sum() };
        }
        std::thread::sleep(Duration::from_millis(4));
    }
}

/// User and system time of a process, from /proc/PID/stat; ticks are hundredths on Linux.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((ticks(11)? + ticks(12)?) as f64 / 100.0)
}

fn peak_rss(pid: u32) -> Option<u64> {
    memory(pid, "VmHWM:")
}

/// Memory of a process that is in RAM now, in bytes.
pub fn resident(pid: u32) -> Option<u64> {
    memory(pid, "VmRSS:")
}

fn memory(pid: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Bytes of all files below `path`.
pub fn size(path: &Path) -> u64 {
    let meta = std::fs::metadata(path).unwrap();
    if meta.is_file() {
        return meta.len();
    }
    std::fs::read_dir(path).unwrap().map(|entry| size(&entry.unwrap().path())).sum()
}
