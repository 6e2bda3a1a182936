//! How much memory the process holds.

/// The resident set in kilobytes, if the system provides it.
pub fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let entry = status
        .lines()
        .find_map(|entry| entry.strip_prefix("VmRSS:"))?;
    entry.trim().strip_suffix("kB")?.trim().parse().ok()
}
