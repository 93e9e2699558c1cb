//! The machine, and what the kernel has counted of this process where it is Linux.

use std::thread::available_parallelism;

use topspin_kernels::simd::Level;

/// Processor, cores that may be used, and vector instructions, in words.
pub fn description() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let name = name.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    let cores = available_parallelism().map_or(1, |cores| cores.get());
    format!("{name}, {cores} core{}, {}", if cores == 1 { "" } else { "s" }, Level::detect())
}

/// Largest resident set, in bytes.
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Has [`peak_rss_bytes`] begin anew from what is resident now, where the kernel allows it.
pub fn forget_peak() {
    // 5 is the peak; see proc_pid_clear_refs(5).
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Processor time of all threads, in seconds.
pub fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program stands in parentheses and may hold spaces.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11).map(|field| field.parse::<u64>().ok());
    let (user, system) = (fields.next()??, fields.next()??);
    // The unit that the kernel shows to programs is a hundredth of a second on all architectures.
    Some((user + system) as f64 / 100.0)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_counts() {
        assert!(peak_rss_bytes().unwrap() > 1 << 20);
        let before = cpu_seconds().unwrap();
        let mut x = 1_u64;
        while cpu_seconds().unwrap() < before + 0.02 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
    }
}
