//! The GPUs, the bus they sit on, and what page-locked memory brings over it.

use crate::error::Result;
use std::path::Path;

use super::Measured;

/// A GPU, as its driver and the system describe it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gpu {
    /// Its number among those CUDA shows us.
    pub ordinal: u32,
    /// NVIDIA's name of it.
    pub name: String,
    /// `GPU-…` or `MIG-…`.
    pub uuid: String,
    /// `domain:bus:device.function`.
    pub pci_id: String,
    /// Compute capability, `9.0`.
    pub compute_capability: String,
    /// Memory of the device.
    pub memory_bytes: u64,
    /// Whether device and host share one memory.
    pub integrated: bool,
    /// The newest CUDA version that the driver serves, `13.0`.
    pub cuda_version: String,
    /// The driver's version, where the system tells.
    pub driver_version: Option<String>,
    /// The bus, where the system tells.
    pub link: Option<Link>,
    /// Whether this is a test double and not a GPU.
    pub emulated: bool,
}

/// A PCIe link, by generation and lanes. A link may rest at a lower speed than it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What it runs at now: generation (`5.0`), lanes.
    pub current: (String, u32),
    /// What it can.
    pub max: (String, u32),
    /// The memory node it hangs on, on a machine with several.
    pub numa_node: Option<u32>,
}

/// Why a driver that is there does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverFault {
    /// Its code.
    pub code: u32,
    /// The code's name.
    pub name: String,
    /// What failed, with both.
    pub message: String,
    /// The usual cause.
    pub cause: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

/// What page-locked memory brings.
#[derive(Debug, Clone)]
pub struct Pinned {
    /// Host to device, from the ring that a load uses.
    pub bytes_per_second: Measured,
    /// The ring's size.
    pub ring_bytes: u64,
    /// Bytes of it that are page-locked.
    pub registered_bytes: u64,
    /// Why they are not.
    pub refused: Option<String>,
    /// Device memory free, before the ring's copy was made there.
    pub free_bytes: Option<u64>,
    /// Seconds that opening the device and making the ring took: a load hides them behind the reading of headers.
    pub open_seconds: f64,
}

impl Default for Pinned {
    fn default() -> Pinned {
        Pinned {
            bytes_per_second: Err("not measured".into()),
            ring_bytes: 0,
            registered_bytes: 0,
            refused: None,
            free_bytes: None,
            open_seconds: 0.0,
        }
    }
}

/// The GPUs that CUDA shows us, or the driver's refusal. Without a driver, neither.
#[cfg(feature = "cuda")]
pub(super) fn list() -> (Vec<Gpu>, Option<DriverFault>) {
    use crate::sink::cuda::driver::{Fault, Presence, devices, presence};
    let refused = |fault: Fault| {
        let fault = DriverFault {
            code: fault.code,
            name: fault.name().to_owned(),
            message: fault.to_string(),
            cause: fault.cause().map(str::to_owned),
            hint: fault.hint().map(str::to_owned),
        };
        (Vec::new(), Some(fault))
    };
    match presence() {
        Presence::NoLibrary => return (Vec::new(), None),
        Presence::Refused(fault) => return refused(fault),
        Presence::Present { .. } => {}
    }
    let devices = match devices() {
        Ok(devices) => devices,
        Err(fault) => return refused(fault),
    };
    let gpu = |d: crate::sink::cuda::driver::DeviceFacts| Gpu {
        ordinal: d.ordinal,
        uuid: d.uuid,
        compute_capability: format!("{}.{}", d.compute_capability.0, d.compute_capability.1),
        memory_bytes: d.memory_bytes,
        integrated: d.integrated,
        cuda_version: format!("{}.{}", d.cuda_version / 1000, d.cuda_version % 1000 / 10),
        driver_version: if d.emulated { None } else { driver_version() },
        link: None,
        emulated: d.emulated,
        name: d.name,
        pci_id: d.pci_id,
    };
    (devices.into_iter().map(gpu).collect(), None)
}

/// This build knows no GPUs.
#[cfg(not(feature = "cuda"))]
pub(super) fn list() -> (Vec<Gpu>, Option<DriverFault>) {
    (Vec::new(), None)
}

/// Opens a device as a load does and measures.
#[cfg(feature = "cuda")]
pub(super) fn pinned(ordinal: u32) -> Result<Pinned> {
    use crate::sink::cuda as sink;
    use crate::sink::{GPU_CHUNK_BYTES, GPU_SLOT_COUNT, SLOT_MARGIN_BYTES};
    let slot_bytes = GPU_CHUNK_BYTES as usize + SLOT_MARGIN_BYTES;
    let started = std::time::Instant::now();
    let ring = sink::Pinned::ring()?;
    let mut ring = sink::Pinned::new(sink::driver::Gpu::open(ordinal)?, ring)?;
    let open_seconds = started.elapsed().as_secs_f64();
    let shared = ring.gpu().facts().integrated.then(crate::machine::available_memory_bytes).flatten();
    let free_bytes = shared.or_else(|| ring.gpu().memory().ok().map(|m| m.free_bytes));
    Ok(Pinned {
        bytes_per_second: ring.measure().map_err(|e| super::one_line(&e)),
        ring_bytes: (GPU_SLOT_COUNT * slot_bytes) as u64,
        registered_bytes: ring.pinned_bytes(),
        refused: ring.refused().map(str::to_owned),
        free_bytes,
        open_seconds,
    })
}

/// There is no device to open.
#[cfg(not(feature = "cuda"))]
pub(super) fn pinned(_ordinal: u32) -> Result<Pinned> {
    Err(crate::error::Error::unsupported("this build has no CUDA"))
}

/// The version of NVIDIA's kernel module.
#[cfg(feature = "cuda")]
fn driver_version() -> Option<String> {
    if let Ok(version) = std::fs::read_to_string("/sys/module/nvidia/version") {
        return Some(version.trim().to_owned()).filter(|v| !v.is_empty());
    }
    // NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue …
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let version = |w: &&str| {
        w.contains('.') && w.split('.').all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
    };
    text.lines().next()?.split_whitespace().find(version).map(str::to_owned)
}

/// What PCI's vendor is in sysfs: NVIDIA.
const NVIDIA: &str = "0x10de";

/// The speed of each generation, as sysfs writes it.
const GENERATIONS: &[(&str, &str)] = &[
    ("2.5 ", "1.0"),
    ("5.0 ", "2.0"),
    ("5 ", "2.0"),
    ("8.0 ", "3.0"),
    ("8 ", "3.0"),
    ("16.0 ", "4.0"),
    ("16 ", "4.0"),
    ("32.0 ", "5.0"),
    ("32 ", "5.0"),
    ("64.0 ", "6.0"),
    ("64 ", "6.0"),
];

/// The PCIe link of a GPU, from the system at `sys`. `None` where it does not tell (virtual machines, a test double).
pub(super) fn link(sys: &Path, pci_id: &str) -> Option<Link> {
    let folder = sys.join("bus/pci/devices").join(pci_id);
    let read = |name: &str| Some(std::fs::read_to_string(folder.join(name)).ok()?.trim().to_owned());
    if read("vendor")? != NVIDIA {
        return None;
    }
    let side = |side: &str| {
        let speed = read(&format!("{side}_link_speed"))?;
        let (_, generation) = GENERATIONS.iter().find(|(s, _)| speed.starts_with(s))?;
        let width =
            read(&format!("{side}_link_width"))?.parse().ok().filter(|&w: &u32| (1..=32).contains(&w))?;
        Some(((*generation).to_owned(), width))
    };
    let current = side("current")?;
    let max = side("max").unwrap_or_else(|| current.clone());
    // -1 on a machine with one node.
    Some(Link { current, max, numa_node: read("numa_node").and_then(|n| n.parse().ok()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        let sys = std::env::temp_dir().join(format!("hoist-link-{}", std::process::id()));
        let folder = sys.join("bus/pci/devices/0000:3b:00.0");
        std::fs::create_dir_all(&folder).unwrap();
        let write = |files: &[(&str, &str)]| {
            for (name, text) in files {
                std::fs::write(folder.join(name), format!("{text}\n")).unwrap();
            }
            link(&sys, "0000:3b:00.0")
        };
        assert_eq!(write(&[]), None);
        let full = [
            ("vendor", "0x10de"),
            ("current_link_speed", "32.0 GT/s PCIe"),
            ("current_link_width", "16"),
            ("max_link_speed", "32.0 GT/s PCIe"),
            ("max_link_width", "16"),
            ("numa_node", "1"),
        ];
        let five = ("5.0".to_owned(), 16);
        let expected = Link { current: five.clone(), max: five.clone(), numa_node: Some(1) };
        assert_eq!(write(&full), Some(expected.clone()));
        let got = write(&[
            ("current_link_speed", "2.5 GT/s PCIe"),
            ("current_link_width", "8"),
            ("numa_node", "-1"),
        ]);
        assert_eq!(got, Some(Link { current: ("1.0".into(), 8), numa_node: None, ..expected }));
        assert_eq!(write(&[("current_link_speed", "Unknown")]), None);
        assert_eq!(write(&[("current_link_speed", "8 GT/s"), ("current_link_width", "0")]), None);
        assert_eq!(write(&[("vendor", "0x1002")]), None);
        std::fs::remove_dir_all(&sys).unwrap();
    }
}
