//! What this machine gives a process: memory, cores, and what the process has used of them.

use std::time::Duration;

/// Memory that may be taken without swapping: the system's estimate, or what is left of a cgroup's limit where that is
/// less. `None` where the system does not say.
pub fn available_memory_bytes() -> Option<u64> {
    let system = meminfo("MemAvailable:");
    let cgroup = cgroup_room_bytes();
    match (system, cgroup) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Memory of the machine.
pub fn total_memory_bytes() -> Option<u64> {
    meminfo("MemTotal:")
}

/// A line of /proc/meminfo, in bytes.
fn meminfo(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The memory limit of this process's cgroup (version 2, else 1), the tightest on the way up, if there is one.
pub fn cgroup_limit_bytes() -> Option<u64> {
    cgroup_folders().iter().filter_map(|(f, limit, _)| number(&format!("{f}/{limit}"))).min()
}

/// What is left of the cgroup's limit. The page cache is counted in its use but gives way, so it is added back.
fn cgroup_room_bytes() -> Option<u64> {
    cgroup_folders()
        .iter()
        .filter_map(|(folder, limit, usage)| {
            let limit = number(&format!("{folder}/{limit}"))?;
            let used = number(&format!("{folder}/{usage}")).unwrap_or(0);
            let stat = std::fs::read_to_string(format!("{folder}/memory.stat")).unwrap_or_default();
            let cached = ["inactive_file ", "active_file ", "total_inactive_file ", "total_active_file "]
                .iter()
                .filter_map(|k| stat.lines().find_map(|l| l.strip_prefix(k))?.trim().parse::<u64>().ok())
                .sum::<u64>();
            Some(limit.saturating_sub(used.saturating_sub(cached)))
        })
        .min()
}

/// A file that holds one number; "max" and version 1's "no limit" are none.
fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok().filter(|&n: &u64| n < 1 << 60)
}

/// The folders of this process's memory cgroup and its parents, with the names of limit and usage there.
fn cgroup_folders() -> Vec<(String, &'static str, &'static str)> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut folders = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (root, limit, usage) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
            c if c.split(',').any(|c| c == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            folders.push((format!("{root}{path}"), limit, usage));
            match path.rfind('/') {
                Some(at) => path = &path[..at],
                None => break,
            }
        }
    }
    folders
}

/// Cores this process may use, cgroup quotas and affinity counted in.
pub fn core_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// The most resident memory this process has had.
pub fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Time this process has spent on cores, its threads and the kernel's work for it included.
pub fn cpu_time() -> Option<Duration> {
    #[cfg(target_os = "linux")]
    {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Some(Duration::new(u64::try_from(t.tv_sec).ok()?, u32::try_from(t.tv_nsec).ok()?))
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Time since this process started.
pub fn since_process_start() -> Option<Duration> {
    #[cfg(target_os = "linux")]
    {
        // Field 22 of /proc/self/stat, in ticks of the boot clock; the name before it may hold anything but ends with
        // the last parenthesis.
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let started: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now = Duration::new(u64::try_from(now.tv_sec).ok()?, u32::try_from(now.tv_nsec).ok()?);
        now.checked_sub(Duration::from_millis(started.checked_mul(1000)? / ticks))
    }
    #[cfg(not(target_os = "linux"))]
    None
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn the_machine_answers() {
        let total = total_memory_bytes().unwrap();
        assert!(available_memory_bytes().unwrap() <= total);
        assert!(peak_resident_bytes().unwrap() > 1 << 20);
        assert!(core_count() >= 1);
        assert!(cpu_time().unwrap() > Duration::ZERO);
        assert!(since_process_start().unwrap() < Duration::from_secs(3600));
    }
}
